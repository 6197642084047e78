"""The options of commands that read recordings: `backfill` and `replay`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from pipeline.commands.common import Console

P = ParamSpec("P")
R = TypeVar("R")
SHOWN = 8  # files that are named when more were passed over
# Written out, because importing the readers would make `--help` slow; a test compares them.
UNEVEN = ("refuse", "resample", "ignore")
PRESETS = ("cwru", "femto", "hust", "ims", "mfpt", "paderborn", "uored", "xjtu")


def reading_options(function: Callable[P, R]) -> Callable[P, R]:
    """Adds the options of a reading, which the command takes as `reading`: Options."""
    options = (
        click.option(
            "--rate",
            "rate_hz",
            type=float,
            help="Sampling rate in Hz of recordings that do not state it.",
        ),
        click.option("--unit", help="Unit of recordings that do not state it: g, mg, m/s2, mm/s, in/s, V, ..."),
        click.option("--preset", type=click.Choice(PRESETS), help="A public data set, read by its own layout."),
        click.option(
            "--separator",
            metavar="SIGN",
            help="Separator of a text: tab, comma, semicolon, space, or a sign.",
        ),
        click.option("--decimal", type=click.Choice([".", ","]), help="Decimal sign of a text."),
        click.option("--skip", type=click.IntRange(min=0), help="Lines of a text above the first row of numbers."),
        click.option("--columns", metavar="NAME,...", help="Names of all columns of a text."),
        click.option(
            "--uneven",
            type=click.Choice(UNEVEN),
            default="refuse",
            show_default=True,
            help="What to do with a time column that is irregular: refuse the file, interpolate, or ignore the column.",
        ),
        click.option(
            "--machine-from",
            type=click.Choice(["recording", "file", "folder"]),
            default="recording",
            show_default=True,
            help="Machine ids: from metadata, else folder and file name; from file names; or from folders.",
        ),
    )

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        from pipeline.edges.recordings.contents import Options

        given: dict[str, Any] = kwargs
        names = ("rate_hz", "unit", "preset", "separator", "decimal", "skip", "uneven", "machine_from")
        known = {name: given.pop(name) for name in names}
        columns = given.pop("columns")
        parts = None if columns is None else tuple(part.strip() for part in columns.split(","))
        given["reading"] = Options(columns=parts, **known)
        return function(*args, **kwargs)

    for option in reversed(options):
        wrapper = option(wrapper)
    return wrapper


def say_passed_over(console: Console, passed_over: Mapping[str, str]) -> None:
    """Names the files of folders that were not read, by their reasons."""
    reasons: dict[str, list[str]] = {}
    for path, why in passed_over.items():
        reasons.setdefault(why, []).append(path)
    for why, paths in reasons.items():
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        console.say(f"passed over: {len(paths)} files ({why}): {', '.join(paths[:SHOWN])}{more}")


def by_note(notes: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """One remark per note, with its files: `no unit is stated: 4 files, the first one: a.csv`."""
    files: dict[str, list[str]] = {}
    for path, said in notes.items():
        for note in said:
            files.setdefault(note, []).append(path)
    for note, paths in files.items():
        yield f"{paths[0]}: {note}" if len(paths) == 1 else f"{len(paths)} files, the first one: {paths[0]}: {note}"
