"""How many small faults in the code do the tests notice? `make mutants` prints a score per folder.

A mutant is the code with one fault: cosmic-ray's operators (another comparison, number, operator, a `not`, a decorator
less) and one of our own, a statement that is left out. All of them are numbered, and a seed draws `--each` per folder.
Those whose syntax tree is the old one but for annotations and docstrings are no mutants and are not drawn.

The tests that run against a mutant are the files that import its module, then the rest of the folder's tests, until one
fails. They run in a copy of the checkout, so nothing here is changed and several mutants are tried at once. A
mutant on which the tests take too long counts as killed.

    make mutants                                       12 per folder, half an hour on two idle cores
    make mutants EACH=100 FOLDERS=pipeline/edges/mqtt   the score to rely on; survivors and diffs in build/mutants.json

A survivor is mended by a test that it fails, or it is named below with the reason why it is equivalent.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = {  # the tests of each folder
    "pipeline/core": "core/test_*.py",
    "pipeline/core/features": "core/test_features*.py",
    "pipeline/edges/store": "edges/test_[aj][ro]*.py",
    "pipeline/edges/mqtt": "edges/test_mqtt*.py",
    "pipeline/drivers": "drivers/test_*.py",
}
LIMIT_S = 400.0  # per mutant; the kernels are compiled again for one in pipeline/core/features
COPIED = ("pipeline", "models", "sim", "tests", "benchmarks", "docs", "deploy", "examples")
COPIED_FILES = ("pyproject.toml", "config.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "constraints.txt")
# Lines on which a fault changes nothing that a program can rely on: words for people and what only costs time.
EQUIVALENT = re.compile(r"\blog\.\w+\(|^\s*(msg|hint) ?=|hint=|raise \w+Error\(|slots=True|gc=False|@cache\b|@override")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault."""

    folder: str
    path: str
    operator: str
    line: int
    diff: str
    code: str


def drawn(folder: str, each: int, seed: int) -> list[Mutant]:
    """So many mutants of a folder, each on a line of its own; the same for the same seed and code."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    makers: list[tuple[Path, str, Callable[[], str | None]]] = []
    sources = {path: path.read_text() for path in sorted((ROOT / folder).glob("*.py"))}
    for path, source in sources.items():
        nodes = list(ast_nodes(get_ast(source)))
        for name in sorted(operator_names()):
            operator: Any = get_operator(name)
            if operator.arguments():  # those that insert or replace a variable that is named to them
                continue
            count = sum(len(list(operator().mutation_positions(node))) for node in nodes)
            makers += [(path, name, partial(mutate_code, source, operator(), n)) for n in range(count)]
        makers += [(path, "statement left out", partial(str, code)) for code in _shortened(source)]
    chance = random.Random(f"{seed} {folder}")
    chance.shuffle(makers)
    kinds = defaultdict[str, list[Any]](list)  # in turn, or most mutants would be another arithmetic operator
    for maker in makers:
        kinds[maker[1].partition("_")[0]].append(maker)
    turns = chain.from_iterable(zip_longest(*chance.sample(list(kinds.values()), len(kinds))))
    found: dict[tuple[Path, int], Mutant] = {}
    for path, name, make in filter(None, turns):
        if len(found) == each:
            break
        with contextlib.suppress(AttributeError):  # cosmic-ray's own, on `except module.Error`
            for mutant in _mutant(path, folder, name.removeprefix("core/"), make() or "", sources[path]):
                found.setdefault((path, mutant.line), mutant)
    return list(found.values())


def _mutant(path: Path, folder: str, name: str, code: str, source: str) -> Iterator[Mutant]:
    before = source.splitlines()
    line = next((n for n, (a, b) in enumerate(zip(before, code.splitlines(), strict=False)) if a != b), len(before) - 1)
    if _essence(code) not in (_essence(source), "") and not EQUIVALENT.search(before[line]):
        diff = "\n".join([*difflib.unified_diff(before, code.splitlines(), lineterm="", n=0)][2:])
        yield Mutant(folder, str(path.relative_to(ROOT)), name, line + 1, diff, code)


def _shortened(source: str) -> Iterator[str]:
    """The source without one of its calls, deletions or assignments to attributes and items."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        plain = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        inner = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
        if plain or inner or isinstance(node, ast.Delete | ast.AugAssign):
            begin, end = node.lineno - 1, node.end_lineno
            yield "".join([*lines[:begin], " " * node.col_offset + "pass\n", *lines[end:]])


def _essence(source: str) -> str:
    """The syntax tree without annotations and docstrings; empty if it cannot be compiled."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `1 is 2`
            tree = ast.parse(source)
            compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]  # type: ignore[attr-defined]
    return ast.dump(tree)


def files_for(mutant: Mutant, root: Path) -> list[str]:
    """Test files that import the module, the folder's own first; then the rest of the folder's tests."""
    package, _, name = mutant.path.removesuffix(".py").replace("/", ".").rpartition(".")
    asked = re.compile(rf"{re.escape(package)}\.{name}\b|from {re.escape(package)} import [^\n]*\b{name}\b")
    own = [str(p.relative_to(root)) for p in sorted((root / "tests").glob(TESTS[mutant.folder]))]
    everywhere = [str(p.relative_to(root)) for p in sorted((root / "tests").glob("*/test_*.py"))]
    near = [p for p in [*own, *everywhere] if "promises" not in p and asked.search((root / p).read_text())]
    return list(dict.fromkeys([*near, *own]))


def survives(mutant: Mutant, copy: Path) -> bool:
    """Whether no test notices."""
    place = copy / mutant.path
    whole = place.read_text()
    place.write_text(mutant.code)
    try:
        return passes(files_for(mutant, copy), copy, LIMIT_S)
    finally:
        place.write_text(whole)


def passes(files: list[str], copy: Path, limit_s: float) -> bool:
    """Whether all tests of these files pass in the copy, in time."""
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = ["-x", "-q", "--import-mode=importlib", "-o", "addopts=", "-p", "no:cacheprovider", "-m", "not slow"]
    arguments += ["-p", "no:randomly", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    temporary = copy.with_name(f"{copy.name}-tmp")  # beside the copy: messages shorten paths below the present folder
    temporary.mkdir(exist_ok=True)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments, *files],
            cwd=copy,
            env=environment | {"TMPDIR": str(temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(limit_s) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copied(place: Path) -> Path:
    """A copy of the checkout in which a mutant may live."""
    for name in COPIED:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns(".pytest_cache"))
    for name in COPIED_FILES:
        shutil.copy2(ROOT / name, place / name)
    return place


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Try the mutants and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", default=list(TESTS), metavar="FOLDER")
    parser.add_argument("--each", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="mutants that are not begun by then are not tried")
    parser.add_argument("--at-least", type=float, default=0.0, help="share of killed ones below which this fails")
    asked = parser.parse_args()
    until_s = time.monotonic() + 60 * asked.minutes
    found: list[tuple[Mutant, bool]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory, ThreadPoolExecutor(asked.jobs) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(asked.jobs):
            copies.put(copied(Path(directory) / str(number)))

        def attempt(mutant: Mutant) -> None:
            copy = copies.get()
            try:
                if time.monotonic() < until_s:
                    began_s = time.monotonic()
                    alive = survives(mutant, copy)
                    found.append((mutant, alive))
                    word = "SURVIVED" if alive else "killed"
                    took_s = time.monotonic() - began_s
                    say(f"{word:8} {mutant.path}:{mutant.line}  {mutant.operator}  {took_s:.0f} s")
                    if alive:
                        say(mutant.diff)
            finally:
                copies.put(copy)

        chosen = [m for folder in asked.folders for m in drawn(folder, asked.each, asked.seed)]
        copy = copies.get()
        files = sorted({file for mutant in chosen for file in files_for(mutant, copy)})
        if not passes(files, copy, 3600):  # or every mutant would count as killed
            say("expected tests that pass without a fault, found one that fails")
            return 2
        copies.put(copy)
        list(pool.map(attempt, chosen))
    kept = True
    say("")
    for folder in asked.folders:
        alive = [survived for mutant, survived in found if mutant.folder == folder]
        share = 1 - sum(alive) / len(alive) if alive else 0.0
        kept &= share >= asked.at_least
        say(f"{folder:24} {len(alive) - sum(alive):4} of {len(alive):4} killed  {share:6.1%}")
    report = [{**asdict(m), "code": "", "survived": survived} for m, survived in found]
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build/mutants.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
