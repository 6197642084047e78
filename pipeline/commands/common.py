"""What the commands share: their standard options, the Console they speak through, and small texts for a terminal.

A command prints its result to stdout and everything else to stderr, so `thrumcast ... --json | jq` always works.
Importing this module is cheap: `thrumcast --help` imports it with every command.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import click

from pipeline.errors import ConfigError, ThrumcastError, UsageError

if TYPE_CHECKING:
    from pipeline.config.sources import Resolution
    from pipeline.config.tables import Config

P = ParamSpec("P")
R = TypeVar("R")
PATH = click.Path(path_type=Path)
CLEAR = "\r\x1b[2K"  # erases the present line of a terminal

# -- the Console -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """A progress bar."""

    update: Callable[[int], None]

    def advance(self, n: int = 1) -> None:
        """Marks `n` more items as done."""
        self.update(n)


@dataclass(frozen=True, slots=True)
class Console:
    """How a command reads its configuration and prints."""

    config_file: Path | None = None
    json: bool = False
    quiet: bool = False
    verbose: int = 0

    def config(self, **flags: object) -> Config:
        """The configuration. A flag wins over the environment, the environment over the file, the file over a default.

        Args:
            **flags: values by dotted key, as in `console.config(**{"data.dir": data_dir})`; None: the flag is absent.
        """
        return self.resolve(flags).config

    def resolve(self, flags: Mapping[str, object]) -> Resolution:
        """The configuration, and the source of every value."""
        from pipeline.config.sources import load

        return load(self.config_file, {key: value for key, value in flags.items() if value is not None})

    def say(self, text: str) -> None:
        """Prints a remark to stderr; nothing under --quiet."""
        if not self.quiet:
            self.status("")
            click.echo(text, err=True)

    def status(self, text: str) -> None:
        """Prints a line that the next line replaces; nothing under --quiet or --json, or without a terminal."""
        if not (self.quiet or self.json) and sys.stderr.isatty():
            sys.stderr.write(f"{CLEAR}{text[: shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()

    def detail(self, text: str) -> None:
        """Prints a remark to stderr under -v."""
        if self.verbose and not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Prints a warning to stderr, always. The command goes on."""
        self.status("")
        click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)

    def result(self, document: Mapping[str, Any], text: str) -> None:
        """Prints the result of the command to stdout: the document under --json, else the text.

        Raises:
            ValueError: the document contains NaN or an infinity. JSON has no such numbers; use None.
        """
        self.status("")
        click.echo(json.dumps(document, ensure_ascii=False, allow_nan=False) if self.json else text)

    @contextlib.contextmanager
    def progress(self, total: int, label: str) -> Iterator[Progress]:
        """Shows a progress bar on stderr; hidden under --quiet or --json, or without a terminal."""
        hidden = self.quiet or self.json or not sys.stderr.isatty()
        with click.progressbar(length=total, label=label, file=sys.stderr, hidden=hidden) as bar:
            yield Progress(bar.update)


# -- options ---------------------------------------------------------------------------------------------------------


def with_console(function: Callable[Concatenate[Console, P], R]) -> Callable[P, R]:
    """Adds --config, --json, --quiet and -v to a command and passes a Console as its first argument."""

    @click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Configuration file [default: ./config.toml, then /etc/thrumcast/config.toml].",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
    @click.option("--quiet", "-q", is_flag=True, help="Print only the result, warnings and errors.")
    @click.option("--verbose", "-v", count=True, show_default=False, help="Print more; give it twice for the most.")
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


def data_option(function: Callable[P, R]) -> Callable[P, R]:
    """Adds --data, which the command takes as `data_dir`: Path or None."""
    return click.option("--data", "data_dir", type=PATH, help="Data directory [default: data.dir].")(function)


def broker_option(function: Callable[P, R]) -> Callable[P, R]:
    """Adds --broker, which the command takes as `broker`: a URL for `broker_flags`, or None."""
    return click.option("--broker", metavar="URL", help="mqtt://HOST:PORT [default: mqtt.host and mqtt.port].")(
        function
    )


def broker_flags(url: str | None) -> dict[str, object]:
    """The configuration keys that a broker URL sets; none without a URL.

    Raises:
        ConfigError: the URL is not mqtt://HOST:PORT or mqtts://HOST:PORT.
    """
    if url is None:
        return {}
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad_url(url) from error
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/") or "@" in parts.netloc:
        raise _bad_url(url)
    secure = parts.scheme == "mqtts"
    return {"mqtt.host": parts.hostname, "mqtt.port": port or (8883 if secure else 1883), "mqtt.tls": secure or None}


def _bad_url(url: str) -> ConfigError:
    shown = url.rsplit("@", 1)[-1]  # never print a password
    msg = f"--broker: expected mqtt://HOST:PORT or mqtts://HOST:PORT, found: {shown}"
    if "//" not in url:
        return ConfigError(msg, hint=f"did you mean mqtt://{shown}?")
    return ConfigError(msg, hint="set the user and the password with mqtt.username and mqtt.password_file")


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turns errors about values of the command line into exit code 2. Use it where no configuration key is involved.

    Raises:
        UsageError: in place of any ThrumcastError.
    """
    try:
        yield
    except ThrumcastError as error:
        raise UsageError(error.message, hint=error.hint) from error


# -- texts -----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int | None = None) -> str:
    """A table of text, each column as wide as its widest cell.

    Args:
        head: titles of the columns.
        rows: cells, one per column.
        left: how many columns are left-aligned, the others are right-aligned; None: all.
    """
    edge = len(head) if left is None else left
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if n < edge else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


@contextlib.contextmanager
def recording_warnings(console: Console) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Two dictionaries, path -> reason: recordings read only in part, and recordings skipped.

    Prints them as warnings at the end, also after Ctrl-C.
    """
    in_part: dict[str, str] = {}
    skipped: dict[str, str] = {}
    try:
        yield in_part, skipped
    finally:
        for remark in (*by_reason("read only in part", in_part), *by_reason("skipped", skipped)):
            console.warn(remark)


def by_reason(what: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """One remark per reason, with the first file as the example: `skipped 21 files, the first one: ...`."""
    alike: dict[str, list[str]] = {}
    for path, why in reasons.items():
        alike.setdefault(why.replace(path, ""), []).append(path)
    for first, *others in alike.values():
        why = reasons[first] if first in reasons[first] else f"{first}: {reasons[first]}"
        yield f"{what}: {len(others) + 1} files, the first one: {why}" if others else f"{what}: {why}"


# -- the process -----------------------------------------------------------------------------------------------------


def use_one_thread() -> None:
    """Lets matrix products run on the calling thread. Call it before numpy is imported; the environment overrides it.

    The network's matrices are small. With two cores that work on other things, a step of 16 streams takes 22 ms on two
    threads of OpenBLAS, which wait for each other, and 0.5 ms on one.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            msg = "pandas is not loaded into a service"
            raise ModuleNotFoundError(msg, name=fullname)


def without_pandas() -> None:
    """Keeps pyarrow from importing pandas for its first table: 53 MB, and a second in the middle of a first commit."""
    sys.meta_path.insert(0, _NoPandas())


def use_system_allocator() -> None:
    """Lets Arrow allocate with the C library. Call it before pyarrow is imported; the environment can override it.

    Arrow's own allocator keeps memory that other threads have freed until it is needed again: about 10 MB that come
    and go from roll to roll. The C library returns its memory as a whole after each roll and merge.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
