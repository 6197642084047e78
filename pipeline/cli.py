"""The `thrumcast` command: a click group whose commands are modules of pipeline.commands, loaded when they are needed.

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

# In the order in which a newcomer meets them. Only those whose module is there are listed.
COMMANDS = (
    "demo", "run", "sim", "record", "replay", "backfill", "train", "evaluate", "promote", "rollback", "models",
    "labels", "archive", "state", "status", "doctor", "config", "chaos", "bench", "bearings", "features", "explain",
    "drift",
)  # fmt: skip

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class CommandGroup(click.Group):
    """Finds its commands as modules: `thrumcast NAME` is `pipeline.commands.NAME.command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        folder = Path(__file__).with_name("commands")
        return [name for name in COMMANDS if (folder / f"{name}.py").is_file() or (folder / name).is_dir()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"pipeline.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.command(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pipeline.__version__, prog_name="thrumcast", message="%(prog)s %(version)s")
def group() -> None:
    """Listens to rotating machines and says, window by window, what is going wrong with each of them.

    Start with `thrumcast demo`; it needs nothing set up. Every command takes --help.
    """


def main() -> NoReturn:
    """The entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; only a bug leaves as an exception."""
    color = False if os.environ.get("NO_COLOR") else None
    try:
        check_packages()
        # Without standalone mode click returns the code of ctx.exit(), which is what --help and --version end with.
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
    """Explains a foreign `models` or `sim` package that stands before ours on the path: the names are common ones.

    Raises:
        ThrumcastError: names both places.
    """
    home = Path(__file__).resolve().parents[1]
    for name in ("models", "sim"):
        spec = importlib.util.find_spec(name)
        folders = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if home / name not in folders[:1]:
            found = folders[0] if folders else spec.origin if spec is not None else "nothing"
            msg = f"expected the package {name!r} of thrumcast in {home / name}, found: {found}"
            hint = "install thrumcast in an environment of its own, and keep PYTHONPATH free of other projects"
            raise ThrumcastError(msg, hint=hint)


def _complain(message: str, hint: str | None, color: bool | None) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True, color=color)
    if hint is not None:
        click.echo(f"{click.style('hint:', fg='cyan')} {hint}", err=True, color=color)


def _stdout_is_closed() -> bool:
    """Whether it is our reader that went away (`thrumcast ... | head`), and not some socket of ours."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end; let that go nowhere instead of complaining.
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return True
    return False
