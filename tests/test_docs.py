"""README and docs name only what exists: links, paths, commands with their flags, modules, targets and keys."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipeline import cli
from pipeline.core.codec import decode
from pipeline.core.records import StreamKey

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
ROOMS = "pipeline|models|sim|tests|benchmarks|deploy|docs|examples"
# `core/order.py` is short for `pipeline/core/order.py`.
SHORT_ROOMS = "core|config|edges|drivers|service|commands|chaos"
MADE_BY_USERS = {"docs/results-table.md"}  # `make results` writes it; it is not kept

pages = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def codes(page: Path) -> Iterator[str]:
    """Every line of a fenced block and every inline code span of a page."""
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            yield line
        else:
            yield from re.findall(r"`([^`]+)`", line)


def exists(path: str) -> bool:
    return bool(list(ROOT.glob(path))) if "*" in path else (ROOT / path).exists()


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words after `thrumcast` call, and the words that are left."""
    context = click.Context(cli.group)
    command: click.Command = cli.group
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        inner = command.get_command(context, words[0])
        assert inner is not None, f"thrumcast has no command {words[0]!r} here"
        command, words = inner, words[1:]
    return command, words


def flags(command: click.Command) -> set[str]:
    return {"--help", *(flag for option in command.params for flag in (*option.opts, *option.secondary_opts))}


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pages
def test_every_path_of_the_repository_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    long = re.findall(rf"(?<![\w./-])(?:{ROOMS})/[\w*./-]*[\w*/]", text)
    short = re.findall(rf"(?<![\w./-])(?:{SHORT_ROOMS})/[\w/]+\.py", text)
    named = {path for path in long if path not in MADE_BY_USERS} | {f"pipeline/{path}" for path in short}
    assert sorted(path for path in named if not exists(path)) == []


@pages
def test_every_command_that_is_named_exists_with_its_flags(page: Path) -> None:
    for code in codes(page):
        for call in re.findall(r"\bthrumcast ((?:--?)?[a-z][^;&|#`]*)", code):
            command, words = resolve(call.split())
            unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - flags(command)
            assert unknown == set(), f"thrumcast {call}"


@pages
def test_every_module_that_is_run_and_every_target_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for code in codes(page):
        for module in re.findall(rf"python -m ((?:{ROOMS})[\w.]*)", code):
            path = module.replace(".", "/")
            assert exists(f"{path}.py") or exists(f"{path}/__main__.py"), code
        assert set(re.findall(r"(?:^|[\s(])make ([a-z]+)", code)) <= targets, code


@pages
def test_every_key_of_the_configuration_that_is_named_exists(page: Path) -> None:
    keys = tomllib.loads((ROOT / "config.toml").read_text(encoding="utf-8"))
    for code in codes(page):
        for section, key in re.findall(
            r"(?<![\w./\"'])([a-z]+)\.([a-z]+_[a-z_]+|alias|shadow|bind|hosts|dir)\b(?!\()", code
        ):
            assert section not in keys or key in keys[section], f"{section}.{key}"


def test_the_index_lists_every_document() -> None:
    listed = set(
        re.findall(r"^\| \[([\w-]+\.md)\]", (ROOT / "docs" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert listed == {page.name for page in DOCS} - {"README.md"}


def test_the_five_lines_of_the_readme_send_a_block_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    sent: list[tuple[str, bytes, int]] = []
    monkeypatch.setattr("paho.mqtt.publish.single", lambda topic, payload, qos: sent.append((topic, payload, qos)))
    exec(code, {})
    ((topic, payload, qos),) = sent
    assert (topic, qos) == ("plant/hall1/pump-01/de/vibration", 1)
    block = decode(payload, StreamKey("pump-01", "de"), max_payload_bytes=2 * 2**20)
    assert (block.samples.shape, block.channels, block.index) == ((3, 24000), ("x", "y", "z"), 0)
