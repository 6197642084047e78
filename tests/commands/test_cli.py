"""The frame of the command: help, exit codes, streams, and what a user sees when something is wrong."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from pipeline import __version__, cli
from pipeline.commands.common import Console, with_console
from pipeline.errors import ArchiveError, ConfigError, GateRefused, NotReachable, UsageError

ROOT = Path(__file__).resolve().parents[2]


def commands(group: click.Group = cli.group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


@pytest.fixture
def one_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[click.Command], None]:
    """Makes `thrumcast x` run the command it is given."""

    def install(command: click.Command) -> None:
        monkeypatch.setattr(cli.CommandGroup, "list_commands", lambda self, ctx: ["x"])
        monkeypatch.setattr(cli.CommandGroup, "get_command", lambda self, ctx, name: command if name == "x" else None)

    return install


def loaded(name: str) -> ModuleType:
    return importlib.import_module(f"pipeline.commands.{name}")


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


def test_help_lists_exactly_the_commands_whose_module_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "pipeline" / "commands"
    there = {path.stem for path in folder.glob("*.py") if hasattr(loaded(path.stem), "command")}
    assert cli.run(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    names = {line.split()[0] for line in listed.splitlines() if line.startswith("  ") and not line.startswith("   ")}
    assert names == there >= set(cli.ORDER)
    assert "config" in names


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: value if value is str else None)
def test_every_command_and_every_option_has_help(name: str, command: click.Command) -> None:
    assert command.help, name
    silent = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert silent == [], name


def test_version_is_the_version_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"thrumcast {__version__}\n"


@pytest.mark.parametrize("arguments", [["nosuch"], ["config", "nosuch"], ["config", "show", "--nosuch"], ["--nosuch"]])
def test_a_wrong_command_line_exits_with_2_and_says_why(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert "nosuch" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ArchiveError("disk full"), 1),
        (UsageError("no such bearing"), 2),
        (ConfigError("window.hop: unknown key"), 3),
        (NotReachable("no broker"), 4),
        (GateRefused("worse than the champion"), 5),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (click.UsageError("not both"), 2),
    ],
)
def test_an_error_ends_with_the_exit_code_of_its_kind(
    error: BaseException, code: int, one_command: Callable[[click.Command], None]
) -> None:
    one_command(raising(error))
    assert cli.run(["x"]) == code


def test_an_error_is_one_line_and_its_hint_another(
    one_command: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    one_command(raising(NotReachable("expected a broker at 127.0.0.1:1, found: nobody", hint="start one")))
    cli.run(["x"])
    captured = capsys.readouterr()
    assert captured.err == "error: expected a broker at 127.0.0.1:1, found: nobody\nhint: start one\n"
    assert captured.out == ""


def test_a_bug_is_not_hidden(one_command: Callable[[click.Command], None]) -> None:
    one_command(raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        cli.run(["x"])


def test_a_broken_pipe_of_our_own_is_not_taken_for_a_reader_that_left(
    one_command: Callable[[click.Command], None],
) -> None:
    one_command(raising(BrokenPipeError("a socket")))
    with pytest.raises(BrokenPipeError):
        cli.run(["x"])


def test_the_exit_code_of_a_command_is_kept_and_its_return_value_is_none(
    one_command: Callable[[click.Command], None],
) -> None:
    @click.command()
    @click.pass_context
    def command(ctx: click.Context) -> None:
        ctx.exit(4)

    one_command(command)
    assert cli.run(["x"]) == 4


def test_a_reader_that_leaves_early_ends_the_command_quietly() -> None:
    script = "import sys\nfrom pipeline.cli import run\nsys.stdin.read()\nsys.exit(run(['config', 'show']))"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()  # before the command has written anything
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


@click.command()
@with_console
def speak(console: Console) -> None:
    console.say("a remark")
    console.detail("a detail")
    console.warn("a warning")
    with console.progress(10, "work") as bar:
        bar.advance(10)
    console.result({"windows": 3}, "3 windows")


@pytest.mark.parametrize(
    ("flags", "out", "err"),
    [
        ([], "3 windows\n", "a remark\nwarning: a warning\n"),
        (["-v"], "3 windows\n", "a remark\na detail\nwarning: a warning\n"),
        (["--quiet"], "3 windows\n", "warning: a warning\n"),
        (["--quiet", "-v"], "3 windows\n", "warning: a warning\n"),
    ],
)
def test_the_result_goes_to_stdout_and_the_rest_to_stderr(
    flags: list[str],
    out: str,
    err: str,
    one_command: Callable[[click.Command], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one_command(speak)
    assert cli.run(["x", *flags]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (out, err)


def test_json_prints_one_document_and_nothing_else_on_stdout(
    one_command: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    one_command(speak)
    assert cli.run(["x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"windows": 3}


def test_a_document_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        Console(json=True).result({"share": float("nan")}, "nan")


def test_a_foreign_package_before_ours_is_explained(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    script = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nsys.path.insert(1, {str(ROOT)!r})\n"
    script += "from pipeline.cli import run\nsys.exit(run(['config', 'check']))"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert str(tmp_path / "models") in done.stderr
    assert "hint: install thrumcast in an environment of its own" in done.stderr
