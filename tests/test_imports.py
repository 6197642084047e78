"""The walls of the house: who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "models", "sim")
# Who may import whom, by the longest prefix that names a module; its own room is always open, `pipeline.errors` and
# `pipeline` itself to all. What a room may import, its rooms within may import too.
STORE_AND_NOTES = ("pipeline.edges.store", "pipeline.edges.labels", "pipeline.edges.machines")
RULES: dict[str, tuple[str, ...]] = {
    "pipeline": (),
    "pipeline.errors": (),
    "pipeline.telemetry": (),
    "pipeline.core": (),
    "pipeline.config": ("pipeline.core",),
    "pipeline.edges": ("pipeline.core", "pipeline.edges.ports", "pipeline.edges.faults", "pipeline.edges.places"),
    "pipeline.drivers": ("pipeline.core", "pipeline.edges", "pipeline.telemetry"),
    "models": ("pipeline.core",),
    "models.unknown": ("models", "models.data", "pipeline.core"),
    "models.data": ("models", "pipeline.core", "pipeline.config", *STORE_AND_NOTES),
    "models.training": ("models", "pipeline.core"),
    "models.evaluation": ("models", "pipeline.core"),
    "models.jobs": ("models", "pipeline.core", "pipeline.config", "pipeline.edges.store"),
    "sim": ("pipeline.core", "pipeline.edges"),
    "pipeline.service": (
        "models", "pipeline.core", "pipeline.config", "pipeline.edges", "pipeline.drivers", "pipeline.telemetry",
        "pipeline.service",
    ),
    # The page stands above the service; only the composition, which puts both together, knows it.
    "pipeline.page": (
        "models", "pipeline.core", "pipeline.config", "pipeline.edges", "pipeline.drivers", "pipeline.service",
        "pipeline.telemetry",
    ),
    "pipeline.service.compose": (
        "models", "pipeline.core", "pipeline.config", "pipeline.edges", "pipeline.drivers", "pipeline.telemetry",
        "pipeline.service", "pipeline.page",
    ),
    "pipeline.chaos": (
        "models", "sim", "pipeline.core", "pipeline.config", "pipeline.edges", "pipeline.drivers", "pipeline.service",
    ),
    "pipeline.commands": ("pipeline", "models", "sim"),
    "pipeline.cli": ("pipeline.commands",),
    "pipeline.__main__": ("pipeline.cli",),
}  # fmt: skip
# The network and what serves it need no archive: only `models.jobs`, commands and the page, whose buttons are commands,
# may enter `models.jobs`.
CLOSED = {"models.jobs": ("models.jobs", "pipeline.commands", "pipeline.page")}

# Clocks, files, sockets, threads, randomness and logs: what the core must not know.
WORLD = {
    "asyncio", "concurrent", "ctypes", "logging", "multiprocessing", "os", "pathlib", "queue", "random", "secrets",
    "select", "selectors", "shutil", "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time",
    "uuid", "warnings",
}  # fmt: skip
CORE_LIBRARIES = {"numpy", "scipy", "numba", "llvmlite", "msgspec"}  # llvmlite is what numba compiles with
# The codec turns bytes into arrays with it; it touches nothing outside.
CODEC_LIBRARIES = {"pyarrow"}


def modules(*packages: str) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST, known: set[str]) -> set[str]:
    """Every module that is imported anywhere in the tree, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: imports are written in full"
            base = node.module or ""
            # `from pipeline.edges import journal` imports the module journal, `from x import y` else the module x.
            inner = {f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in known}
            found |= inner or {base}
    return found


MODULES = modules(*PACKAGES)
IMPORTS = {name: imports(ast.parse(path.read_text(encoding="utf-8")), set(MODULES)) for name, path in MODULES.items()}


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def room(name: str) -> str:
    """The entry of RULES that a module belongs to; each outside system under edges is a room of its own."""
    parts = name.split(".")
    if within(name, "pipeline.edges") and len(parts) > 2:
        return ".".join(parts[:3])
    return next(p for p in (".".join(parts[:n]) for n in range(len(parts), 0, -1)) if p in RULES)


def allowed(name: str, target: str) -> bool:
    """Whether module `name` may import our module `target`."""
    if target in ("pipeline", "pipeline.errors"):
        return name != "pipeline.errors"
    here, there = room(name), room(target)
    if any(within(there, closed) and not within(here, *keys) for closed, keys in CLOSED.items()):
        return False
    rule = RULES[here] if here in RULES else RULES["pipeline.edges"]
    return here == there or within(target, *rule)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_its_room_may_import(name: str) -> None:
    ours = {target for target in IMPORTS[name] if within(target, *PACKAGES)}
    assert sorted(target for target in ours if not allowed(name, target)) == []


@pytest.mark.parametrize("name", [name for name in sorted(MODULES) if within(name, "pipeline.core")])
def test_the_core_knows_no_clock_file_socket_thread_or_log(name: str) -> None:
    tops = {target.split(".")[0] for target in IMPORTS[name]} - {"pipeline", "__future__"}
    libraries = CORE_LIBRARIES | (CODEC_LIBRARIES if name.rpartition(".")[2].startswith("codec") else set())
    assert sorted(tops & WORLD) == []
    assert sorted(top for top in tops - libraries if top not in sys.stdlib_module_names) == []


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("pipeline.core.window", "pipeline.edges.mqtt"),
        ("pipeline.core.window", "pipeline.config.tables"),
        ("pipeline.edges.mqtt.connection", "pipeline.edges.store.journal"),
        ("pipeline.edges.store.read", "pipeline.edges.recordings.recording"),
        ("pipeline.edges.store.archive", "pipeline.drivers.live"),
        ("pipeline.drivers.live", "models.predictor"),
        ("pipeline.drivers.live", "pipeline.commands.run"),
        ("models.network", "pipeline.edges.store.archive"),
        ("models.network", "models.jobs.train"),
        ("models.jobs.train", "pipeline.commands.common"),
        ("models.jobs.train", "pipeline.service.compose"),
        ("models.jobs.train", "pipeline.drivers.live"),
        ("pipeline.service.compose", "pipeline.commands.common"),
        ("pipeline.drivers.live", "pipeline.service.compose"),
        ("pipeline.service.health", "pipeline.page.api"),
        ("pipeline.page.api", "pipeline.commands.common"),
        ("pipeline.edges.store.archive", "pipeline.config.tables"),
        ("sim.fleet", "models.network"),
        ("sim.machine", "pipeline.service.compose"),
        ("pipeline.errors", "pipeline.core.records"),
    ],
)
def test_the_rules_refuse_what_the_architecture_forbids(name: str, target: str) -> None:
    assert not allowed(name, target)


def test_an_import_inside_a_function_is_seen() -> None:
    tree = ast.parse("def f():\n    from pipeline.edges.store import journal\n    import torch.nn\n")
    assert imports(tree, {"pipeline.edges.store.journal"}) == {"pipeline.edges.store.journal", "torch.nn"}


def loaded_by(code: str, *candidates: str) -> list[str]:
    """Which of the candidates are loaded after a fresh interpreter has run `code`."""
    script = f"{code}\nimport sys\nprint([name for name in {candidates!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    names: list[str] = ast.literal_eval(done.stderr.strip().splitlines()[-1])
    return names


def test_importing_pipeline_loads_no_heavy_library() -> None:
    assert loaded_by("import pipeline", "torch", "pyarrow", "paho", "pandas", "scipy", "numba", "numpy") == []


def test_the_help_of_the_command_loads_no_heavy_library() -> None:
    code = "from pipeline.cli import run\nassert run(['--help']) == 0"
    assert loaded_by(code, "torch", "pyarrow", "paho", "pandas", "scipy", "numba") == []


def test_the_tables_of_a_service_load_no_pandas() -> None:
    code = (
        "from pipeline.commands.common import without_pandas\nwithout_pandas()\nimport pyarrow as pa\n"
        "assert pa.array(['a', None], pa.string()).null_count == 1"
    )
    assert loaded_by(code, "pandas") == []


def test_a_start_of_the_service_loads_nothing_that_serving_has_no_use_for() -> None:
    code = (
        "import pipeline.commands.run, pipeline.service.compose, pipeline.drivers.live, pipeline.service.health, "
        "pipeline.service.companions, pipeline.service.requests, pipeline.service.upkeep, models.predictor\n"
        "from pipeline.core.rehearsal import rehearse\n"
        "rehearse()"
    )
    heavy = ("torch", "pandas", "scipy.fft", "scipy.linalg", "scipy.signal", "scipy.special", "pyarrow.compute")
    loaded_by(code)  # compiles what is not on the disk yet
    assert loaded_by(code, *heavy, "numba.np.arraymath", "pipeline.drivers.backfill") == []
