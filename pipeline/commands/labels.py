"""`thrumcast labels`: the findings of people about the machines, for training and for the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, data_option, table, with_console
from pipeline.errors import ThrumcastError

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.edges.labels import LabelEvent


@click.group(name="labels")
def command() -> None:
    """List, add, retract, restore, import and export labels."""


@command.command(name="ls")
@click.option("--machine", help="Only this machine.")
@click.option("--all", "everything", is_flag=True, help="Also show retracted labels.")
@data_option
@with_console
def ls(console: Console, machine: str | None, everything: bool, data_dir: Path | None) -> None:
    """List the labels, oldest first."""
    from pipeline.edges.labels import LabelFile, active
    from pipeline.service.label_rows import not_in_model

    config = _config(console, data_dir)
    if not config.data.path.is_dir():
        msg = f"expected a data directory, found none: {config.data.path}"
        raise ThrumcastError(msg, hint="check --data; `thrumcast labels add` makes one")
    events = LabelFile(config.data.path).events()
    shown = [e for e in (events if everything else active(events)) if machine in (None, e.machine)]
    head = ("id", "op", "machine", "point", "start", "end", "verdict", "mode", "certainty", "source", "by")
    rows = [
        tuple(
            str(value)
            for value in (
                *(e.id, e.op, e.machine, e.point or "*", e.start, e.end),
                *(e.verdict, e.mode or "-", f"{e.certainty:g}", e.source, e.author),
            )
        )
        for e in shown
    ]
    waiting = not_in_model(config, active(events))
    text = table(head, rows) if rows else "no labels"
    if waiting:
        text += f"\n{len(waiting)} labels are in no model yet (`thrumcast train` uses them)"
    console.result({"labels": [asdict(e) for e in shown], "not_in_model": waiting}, text)


@command.command()
@click.argument("machine")
@click.argument("mode", required=False)
@click.option("--point", help="Only this point [default: all points of the machine].")
@click.option("--from", "start", required=True, help="Start, ISO 8601 in UTC.")
@click.option("--to", "end", required=True, help="End, ISO 8601 in UTC; not part of the interval.")
@click.option("--verdict", default="confirmed", help="confirmed, wrong_mode, false_alarm, missed or unsure.")
@click.option("--stage", help="incipient, developed, severe or failed.")
@click.option("--certainty", default="sure", help="sure, likely, guess, or a weight up to 1.")
@click.option("--source", default="operator", help="inspection, parts_replaced, analyst, ran_to_failure or operator.")
@click.option("--work-order", help="Number of the work order in the maintenance system.")
@click.option("--note", help="Free text.")
@click.option("--author", help="Author [default: the user].")
@click.option("--token", help="Idempotency token: a second label with the same token is not stored.")
@data_option
@with_console
def add(
    console: Console,
    /,
    machine: str,
    mode: str | None,
    data_dir: Path | None,
    token: str | None,
    certainty: str,
    **given: Any,
) -> None:
    """Record that MACHINE shows MODE (an id or alias of [modes]) from --from to --to.

    The verdict false_alarm means healthy unless a mode is given. Labels with the verdict unsure are not trained on.
    """
    from pipeline.service.label_rows import new_label, told

    config = _config(console, data_dir)
    label = new_label(
        config, {"machine": machine, "mode": mode, "certainty": certainty, "client_token": token, **given}
    )
    _save(console, config, [label], told)


@command.command()
@click.argument("label_id", metavar="ID")
@click.option("--author", help="Author [default: the user].")
@click.option("--note", help="The reason.")
@data_option
@with_console
def retract(console: Console, label_id: str, author: str | None, note: str | None, data_dir: Path | None) -> None:
    """Retract a label. It stays in the file but is not used."""
    from pipeline.edges.labels import LabelEvent, now_iso, who
    from pipeline.service.label_rows import told

    config = _config(console, data_dir)
    event = LabelEvent(
        id=label_id, client_token=f"retract-{label_id}", op="retract", author=who(author), note=note, created=now_iso()
    )
    _save(console, config, [event], told)


@command.command()
@click.argument("label_id", metavar="ID")
@click.option("--author", help="Author [default: that of the retracted label].")
@data_option
@with_console
def restore(console: Console, label_id: str, author: str | None, data_dir: Path | None) -> None:
    """Undo `retract`: store a retracted label once more, under a new id."""
    from pipeline.edges.labels import LabelFile
    from pipeline.service.label_rows import restored, retracted_label, told

    config = _config(console, data_dir)
    label = restored(retracted_label(LabelFile(config.data.path).events(), label_id))
    _save(console, config, [replace(label, author=author or label.author)], told)


@command.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--author", help="Author of rows without the column author [default: the user].")
@data_option
@with_console
def import_(console: Console, file: Path, author: str | None, data_dir: Path | None) -> None:
    """Import labels from a CSV or JSON file with at least machine, start, end and mode; all rows or none.

    FILE is read as JSON if its name ends with .json. A row is identified by its content, so importing a file twice
    changes nothing.
    """
    from pipeline.service.label_rows import read_labels, told

    config = _config(console, data_dir)
    _save(console, config, read_labels(config, file, author), told)


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@data_option
@with_console
def export(console: Console, file: Path, data_dir: Path | None) -> None:
    """Write all labels that are not retracted to FILE: .csv, .json, or .parquet with times as timestamps."""
    from pipeline.edges.labels import LabelFile
    from pipeline.service.label_rows import text_of, write_parquet

    labels = LabelFile(_config(console, data_dir).data.path).active()
    try:
        if file.suffix == ".parquet":
            write_parquet(labels, file)
        else:
            file.write_text(text_of(labels, file.suffix.lower().removeprefix(".")), encoding="utf-8", newline="")
    except OSError as error:
        msg = f"expected to write {file}, found: {error.strerror}"
        raise ThrumcastError(msg, hint="its folder must exist and be writable for this user") from error
    console.result({"labels": len(labels), "file": str(file)}, f"{len(labels)} labels in {file}")


def _config(console: Console, data_dir: Path | None) -> Config:
    return console.config(**{"data.dir": data_dir})


def _save(console: Console, config: Config, events: list[LabelEvent], told: Callable[[LabelEvent], str]) -> None:
    """Stores events and prints how many windows they cover."""
    from pipeline.edges.labels import LabelFile
    from pipeline.service.label_rows import coverage, never_seen, out_of_archive

    stored = LabelFile(config.data.path).add(events)
    new = [event for event, kept in zip(events, stored, strict=True) if event is kept]
    added = [event for event in stored if event.op == "add"]
    covered = coverage(config.data.path, added)
    idle = [event for event in added if not covered[event.id]]
    strangers = never_seen(config, idle)
    lines = [told(event) + (f": {covered[event.id]} windows" if event.id in covered else "") for event in stored]
    if len(new) < len(events):
        lines.append(f"{len(events) - len(new)} of them were stored before")
    document = {"labels": [asdict(event) for event in stored], "new": len(new), "windows": covered}
    console.result({**document, "never_seen": list(strangers)}, "\n".join(lines) or "nothing to add")
    for warning in strangers.values():
        console.warn(warning)
    for label_id, there in out_of_archive(config.data.path, idle).items():
        console.warn(
            f"{label_id} covers no archived window: it is kept for windows that may still arrive; there is {there}"
        )
