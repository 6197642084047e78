"""What every command shares: its standard options, and the Console it talks through.

The result of a command goes to stdout, everything else to stderr, so that `thrumcast ... --json | jq` always works.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from pipeline.config.sources import Resolved
    from pipeline.config.tables import Config
import os
from collections.abc import Sequence

P = ParamSpec("P")
R = TypeVar("R")


CLEAR = "\r\x1b[2K"  # what stands on the present line of a terminal


class Progress(Protocol):
    """A bar that grows."""

    def advance(self, n: int = 1) -> None:
        """Counts `n` more of the total as done."""


@dataclass(frozen=True, slots=True)
class _Bar:
    update: Callable[[int], None]

    def advance(self, n: int = 1) -> None:
        self.update(n)


@dataclass(frozen=True, slots=True)
class Console:
    """How a command reads its configuration and speaks to whoever called it."""

    config_file: Path | None = None
    json: bool = False
    quiet: bool = False
    verbose: int = 0

    def config(self, **flags: object) -> Config:
        """The configuration: flag > environment > file > default.

        Args:
            **flags: by dotted key, `console.config(**{"data.dir": data_dir})`; None means that the flag was not given.
        """
        return self.resolve(flags).config

    def resolve(self, flags: Mapping[str, object]) -> Resolved:
        """The configuration together with where each value comes from."""
        from pipeline.config.sources import load

        return load(self.config_file, {key: value for key, value in flags.items() if value is not None})

    def say(self, text: str) -> None:
        """Progress and remarks, to stderr; silent under --quiet."""
        if not self.quiet:
            self.status("")
            click.echo(text, err=True)

    def status(self, text: str) -> None:
        """One line that the next one replaces; silent under --quiet and --json, and where stderr is no terminal."""
        if not (self.quiet or self.json) and sys.stderr.isatty():
            sys.stderr.write(f"{CLEAR}{text[: shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()

    def detail(self, text: str) -> None:
        """Remarks for -v only, to stderr."""
        if self.verbose and not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Something is wrong but the command goes on; stderr, always."""
        self.status("")
        click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)

    def result(self, document: Mapping[str, Any], text: str) -> None:
        """What the command was asked for, to stdout: the document under --json, else the text.

        Raises:
            ValueError: the document holds NaN or an infinity, which JSON cannot say; use None.
        """
        self.status("")
        click.echo(json.dumps(document, ensure_ascii=False, allow_nan=False) if self.json else text)

    @contextlib.contextmanager
    def progress(self, total: int, label: str) -> Iterator[Progress]:
        """A progress bar on stderr; silent under --quiet and --json, and where stderr is no terminal."""
        hidden = self.quiet or self.json or not sys.stderr.isatty()
        with click.progressbar(length=total, label=label, file=sys.stderr, hidden=hidden) as bar:
            yield _Bar(bar.update)


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """What is refused in here was given on the command line and stands in no configuration: exit code 2.

    Raises:
        UsageError: instead of the ThrumcastError that was raised.
    """
    from pipeline.errors import ThrumcastError, UsageError

    try:
        yield
    except ThrumcastError as error:
        raise UsageError(error.message, hint=error.hint) from error


def with_console(function: Callable[Concatenate[Console, P], R]) -> Callable[P, R]:
    """Adds --config, --json, --quiet and -v to a command and hands it a Console as its first argument."""

    @click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        default=None,
        metavar="FILE",
        help="Configuration file [default: ./config.toml, then /etc/thrumcast/config.toml].",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
    @click.option("--quiet", "-q", is_flag=True, help="Only the result, warnings and errors.")
    @click.option("--verbose", "-v", count=True, help="Say more; give it twice for most.")
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        options: dict[str, Any] = kwargs
        console = Console(
            config_file=options.pop("config_file"),
            json=options.pop("as_json"),
            quiet=options.pop("quiet"),
            verbose=options.pop("verbose"),
        )
        return function(console, *args, **kwargs)

    return wrapper


# Where a process that runs for months gets its memory from.


def frugal() -> None:
    """Lets Arrow use the C library's memory, unless the environment says otherwise; before pyarrow is imported.

    Arrow's own allocator keeps what other threads gave back until it is asked for more, some 10 MB that come and go
    from roll to roll. The C library's is given back as a whole after each roll and merge.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


# Plain tables for the terminal.


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int | None = None) -> str:
    """Columns as wide as they must be; the first `left` of them to the left (all, if None), the others to the right."""
    edge = len(head) if left is None else left
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if n < edge else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


# What `backfill` and `replay` say of recordings that could not be taken as they are.


@contextlib.contextmanager
def troubles(console: Console) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Files that are taken in part and files that are skipped, path -> why; said at the end, also after Ctrl-C."""
    in_part: dict[str, str] = {}
    skipped: dict[str, str] = {}
    try:
        yield in_part, skipped
    finally:
        for remark in (*by_reason("took in part", in_part), *by_reason("skipped", skipped)):
            console.warn(remark)


def by_reason(what: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """One remark per reason, which names the first file it holds for: `skipped 21 files, the first of them: ...`."""
    alike: dict[str, list[str]] = {}
    for path, why in reasons.items():
        alike.setdefault(why.replace(path, ""), []).append(path)
    for first, *others in alike.values():
        why = reasons[first] if first in reasons[first] else f"{first}: {reasons[first]}"
        yield f"{what} {len(others) + 1} files, the first of them: {why}" if others else f"{what}: {why}"
