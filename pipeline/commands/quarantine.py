"""`thrumcast quarantine`: what was refused and why, and how to take it again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, data_option, table, with_console

if TYPE_CHECKING:
    from pipeline.edges.store.quarantine import Refused

SHOWN = 20  # messages of `show`, by default
topic_option = click.option("--topic", help="Only this topic.")
reason_option = click.option("--reason", help="Only this reason.")


@click.group(name="quarantine")
def command() -> None:
    """List and show refused messages, and take them again."""


@command.command(name="ls")
@data_option
@with_console
def ls(console: Console, data_dir: Path | None) -> None:
    """List what was refused by topic and reason, with the newest detail and what to do."""
    from pipeline.core.remedies import remedy
    from pipeline.edges.store.quarantine import refusals
    from pipeline.edges.store.read import check_directory

    config = console.config(**{"data.dir": data_dir})
    check_directory(config.data.path)
    found = refusals(config.data.path)
    document = [
        asdict(one) | {"first": _time(one.first), "last": _time(one.last), "remedy": remedy(one.reason)}
        for one in found
    ]
    head = ("count", "topic", "reason", "first", "last")
    rows = [(str(one.count), _plain(one.topic), one.reason, _time(one.first), _time(one.last)) for one in found]
    lines = table(head, rows).split("\n") if rows else ["nothing was refused"]
    told = {(one.reason, one.detail): remedy(one.reason) for one in found}
    lines += [f"{reason}: {_plain(detail)}\n  -> {advice}" for (reason, detail), advice in told.items()]
    console.result({"refusals": document, "messages": sum(one.count for one in found)}, "\n".join(lines))


@command.command(name="show")
@topic_option
@reason_option
@click.option(
    "--last", type=click.IntRange(min=1), default=SHOWN, show_default=True, help="At most the newest so many."
)
@data_option
@with_console
def show(console: Console, topic: str | None, reason: str | None, last: int, data_dir: Path | None) -> None:
    """Show refused messages with their bytes: as text, or in base64 under --json."""
    import base64

    from pipeline.edges.store.quarantine import refused_messages

    config = console.config(**{"data.dir": data_dir})
    found = refused_messages(config.data.path, topic=topic, reason=reason)[-last:]
    document = [
        {
            "id": one.id, "topic": one.topic, "at": _time(one.at), "reason": one.reason, "detail": one.detail,
            "size_bytes": one.size_bytes, "whole": one.is_whole, "payload": base64.b64encode(one.payload).decode(),
        }
        for one in found
    ]  # fmt: skip
    console.result({"messages": document}, "\n".join(map(_shown, found)) or "nothing was refused")


@command.command(name="replay")
@topic_option
@reason_option
@click.option("--as", "stream", metavar="MACHINE/POINT", help="Store the messages as this stream.")
@click.option("--dry-run", is_flag=True, help="Say what would be taken; store nothing.")
@data_option
@with_console
def replay(
    console: Console, topic: str | None, reason: str | None, stream: str | None, dry_run: bool, data_dir: Path | None
) -> None:
    """Take refused messages again, through today's configuration, into the archive.

    Each message is taken once, however often the command runs: its id is noted in the same step that stores its rows.
    The service must be stopped, because it holds the data directory. Messages of two senders are taken only with --as.
    Exit code 1: nothing could be taken.
    """
    from pipeline.core.records import StreamKey, is_id
    from pipeline.drivers.intake import Admission, Intake
    from pipeline.drivers.readmit import readmit
    from pipeline.edges.machines import MACHINES_NAME, MachinesFile
    from pipeline.edges.mqtt import TopicTemplate
    from pipeline.edges.store.quarantine import refused_messages
    from pipeline.errors import ThrumcastError, UsageError
    from pipeline.service.companions import facts_of
    from pipeline.service.compose import MakeWorker, channels_of, opened
    from pipeline.service.models import load_bundle

    config = console.config(**{"data.dir": data_dir})
    machine, _, point = (stream or "").partition("/")
    if stream is not None and not (is_id(machine) and is_id(point)):
        msg = f"--as: expected MACHINE/POINT, both of [A-Za-z0-9_.-], found: {stream}"
        raise UsageError(msg, hint="for instance --as pump-01/de")
    bundle = load_bundle(config)
    with opened(config) as (journal, archive):
        found = refused_messages(config.data.path, topic=topic, reason=reason)
        done = journal.inputs_done()
        left_out: list[tuple[Refused, str]] = []
        fresh: dict[str, Refused] = {}
        known = 0
        for one in found:
            if _input(one) in done or one.id in fresh:
                known += 1
            elif not one.is_whole:
                left_out.append((one, f"only {len(one.payload)} of {one.size_bytes} bytes were kept"))
            elif one.reason == "two_senders" and stream is None:
                left_out.append((one, "two senders shared the topic: say whose readings these are with --as"))
            else:
                fresh[one.id] = one
        worker = MakeWorker(config, None if bundle is None else bundle.spec.version, {})()
        topics = TopicTemplate(config.mqtt.readings_topic)
        key = None if stream is None else StreamKey(machine, point)
        intake = Intake(
            (lambda _: key) if key else topics.parse,
            config.accepts,
            config.mqtt.max_payload_bytes,
            Admission(lambda each: worker.engine.spec_of(each).window, channels_of(config, journal)),
        )
        taken = readmit(worker.engine, intake, list(fresh.values()))
        rows = taken.rows(worker.engine, worker.schema)
        if not dry_run and taken.taken:
            MachinesFile(config.data.path / MACHINES_NAME).update_all(
                {each: facts_of(block) for each, block in taken.blocks.items()}
            )
            archive.append(rows, {_input(one): f"{one.topic} {_time(one.at)}" for one in taken.taken})
    left_out += [(one, f"{why}: {detail}") for one, why, detail in taken.still]
    windows = sum(len(step.features) for step in taken.steps)
    document: dict[str, Any] = {
        "messages": len(found), "taken": len(taken.taken), "taken_before": known, "windows": windows,
        "dry_run": dry_run, "streams": sorted(map(str, taken.blocks)),
        "left_out": [
            {"id": one.id, "topic": one.topic, "at": _time(one.at), "reason": why} for one, why in left_out
        ],
    }  # fmt: skip
    verb = "would be taken" if dry_run else "taken"
    lines = [f"{len(taken.taken)} of {len(found)} messages {verb}: {windows} windows; {known} were taken before"]
    lines += [f"  not taken: {one.id} {_plain(one.topic)}: {_plain(why)}" for one, why in left_out]
    console.result(document, "\n".join(lines))
    if found and not taken.taken and not known:
        msg = f"expected messages that can be taken, found none among {len(found)}"
        raise ThrumcastError(
            msg, hint="the reasons are above; `thrumcast quarantine ls` says what to change", reported=True
        )


def _input(one: Refused) -> str:
    """Under which name the journal notes that a message has been taken."""
    return f"quarantine-{one.id}"


def _time(at: Any) -> str:
    return str(at.isoformat(timespec="milliseconds")).replace("+00:00", "Z")


def _plain(text: str) -> str:
    """Text of strangers for a terminal: no control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _shown(one: Refused) -> str:
    body = _plain(one.payload.decode("utf-8", "replace")[:200])
    size = f"{one.size_bytes} bytes" + ("" if one.is_whole else f", {len(one.payload)} kept: cannot be taken again")
    return f"{one.id}  {_time(one.at)}  {_plain(one.topic)}\n  {one.reason}: {_plain(one.detail)}\n  {size}: {body}"
