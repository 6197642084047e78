"""The `thrumcast` command: a click group. Each command is a module of pipeline.commands that defines `command`.

Adding a command means adding that one module: the group finds it in the folder and imports it when it is called.

Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration, 4 not reachable or not ready, 5 gate refused, 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

import pipeline
from pipeline.errors import ConfigError, ThrumcastError

# The order of the help: as a newcomer needs them. Commands that are not named here follow in alphabetical order.
ORDER = (
    "demo", "run", "sim", "record", "replay", "backfill", "train", "evaluate", "promote", "rollback", "models",
    "labels", "archive", "quarantine", "state", "status", "doctor", "config", "chaos", "bench", "bearings", "features",
    "explain", "drift", "report",
)  # fmt: skip

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
UMASK = 0o027


class CommandGroup(click.Group):
    """Finds its commands as modules: `thrumcast NAME` runs `pipeline.commands.NAME.command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Modules that define a function `command`. The source is searched, because importing all of them is slow."""
        paths = Path(__file__).with_name("commands").glob("*.py")
        names = sorted(path.stem for path in paths if "\ndef command(" in path.read_text(encoding="utf-8"))
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"pipeline.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.command(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(pipeline.__version__, prog_name="thrumcast", message="%(prog)s %(version)s")
def group() -> None:
    """Listens to rotating machines and names, window by window, the failure mode of each of them.

    Start with `thrumcast demo`; it needs no setup. Every command has --help.
    """


def main() -> NoReturn:
    """The entry point of the console script. What it writes, only owner and group may read; a stricter umask stays."""
    os.umask(os.umask(0o077) | UMASK)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. Only a bug raises an exception."""
    color = False if os.environ.get("NO_COLOR") else None
    try:
        check_packages()
        # Without standalone mode click returns the code of ctx.exit(), which --help and --version call.
        code = group.main(list(arguments), prog_name="thrumcast", standalone_mode=False, color=color)
    except ThrumcastError as error:
        others = error.others if isinstance(error, ConfigError) else ()
        for one in (error, *others):
            _complain(one.message, one.hint, color)
        if "--json" in arguments and not error.reported:
            found = [{"error": one.message, "hint": one.hint} for one in (error, *others)]
            click.echo(json.dumps({"ok": False, **found[0], "others": found[1:]}, ensure_ascii=False))
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def check_packages() -> None:
    """Checks that `models` and `sim` are our packages. The names are common, and another project may come first.

    Raises:
        ThrumcastError: another package comes first on the path; the message names both places.
    """
    home = Path(__file__).resolve().parents[1]
    for name in ("models", "sim"):
        spec = importlib.util.find_spec(name)
        folders = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if home / name not in folders[:1]:
            found = folders[0] if folders else spec.origin if spec is not None else "nothing"
            msg = f"expected the package {name!r} of thrumcast in {home / name}, found: {found}"
            hint = "install thrumcast in an environment of its own and remove other projects from PYTHONPATH"
            raise ThrumcastError(msg, hint=hint)


def _complain(message: str, hint: str | None, color: bool | None) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True, color=color)
    if hint is not None:
        click.echo(f"{click.style('hint:', fg='cyan')} {hint}", err=True, color=color)


def _stdout_is_closed() -> bool:
    """Whether the reader of stdout has gone (`thrumcast ... | head`), and not the other end of a socket."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it exits; send that to /dev/null, or it would print an error.
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return True
    return False
