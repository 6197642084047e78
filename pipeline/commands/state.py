"""`thrumcast state`: the stored state of every stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, data_option, table, with_console

if TYPE_CHECKING:
    from pipeline.core.records import StreamKey
    from pipeline.core.state import StreamState


@click.group(name="state")
def command() -> None:
    """Show the state of the streams, or go on after damage to the journal."""


@command.command()
@click.option("--machine", help="Only this machine.")
@click.option("--point", help="Only this point.")
@data_option
@with_console
def show(console: Console, machine: str | None, point: str | None, data_dir: Path | None) -> None:
    """Show model and age of the memory, last window and alarms of each stream.

    Works beside a running service and shows the state after its last commit.
    """
    import msgspec

    from pipeline.config.specs import stream_specs
    from pipeline.core.state import budget_of, from_bytes
    from pipeline.edges.machines import MACHINES_NAME, MachinesFile
    from pipeline.edges.store.database import view_states

    config = console.config(**{"data.dir": data_dir})
    spec_of = stream_specs(config, MachinesFile(config.data.path / MACHINES_NAME).load())
    rows = []
    for key, data in view_states(config.data.path).items():
        if machine in (None, key.machine) and point in (None, key.point):
            state = from_bytes(spec_of(key), data)
            budget = msgspec.structs.asdict(budget_of(spec_of(key), state))
            rows.append(_row(key, state, len(data)) | {"budget": budget})
    head = ("stream", "state", "mode", "model", "age", "last window", "hidden", "bytes", "false alarms")
    cells = [
        (
            f"{row['machine']}/{row['point']}",
            row["state"],
            row["suspected"] or ",".join(alarm["mode"] for alarm in row["alarms"]) or "-",
            row["model"] or "-",
            str(row["state_age"]),
            row["last_window_end"] or "-",
            "-" if row["hidden_norm"] is None else f"{row['hidden_norm']:.3f}",
            str(row["bytes"]),
            row["budget"]["text"],
        )
        for row in rows
    ]
    console.result({"streams": rows}, table(head, cells) if rows else f"no stream states in {config.data.path}")


@command.command(name="set-aside")
@click.option("--yes", is_flag=True, help="Confirm; nothing is moved without it.")
@data_option
@with_console
def set_aside(console: Console, yes: bool, data_dir: Path | None) -> None:
    """Start with an empty journal when the present one is damaged and has no backup.

    The journal is moved to DIR/aside, never deleted. It takes along the states of the streams and the rows that are in
    no Parquet part yet. Archive, models, labels and machine facts stay. No service may run at the same time.
    """
    from datetime import UTC, datetime

    from pipeline.edges.store.journal import set_aside as move

    if not yes:
        msg = "expected --yes: the journal takes along stream states and rows that are in no Parquet part yet"
        raise click.UsageError(msg)
    directory = console.config(**{"data.dir": data_dir}).data.path
    place = move(directory, datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"))
    console.result(
        {"data": str(directory), "aside": str(place)},
        f"the journal is in {place}; the next start begins with an empty one",
    )


@command.command(name="accept")
@click.option("--yes", is_flag=True, help="Confirm; nothing is changed without it.")
@data_option
@with_console
def accept_loss(console: Console, yes: bool, data_dir: Path | None) -> None:
    """Go on from a journal that holds less than was acknowledged, or from a backup.

    A start refuses such a journal. This command copies it to DIR/aside, records the loss in the counters and in the
    archive (kind quarantine, reason journal_loss), and lets the next start go on from what is there. What is missing
    stays missing; streams count it as gaps when they go on. No service may run at the same time.
    """
    import time
    from datetime import UTC, datetime

    from pipeline.edges.store.journal import accept

    if not yes:
        msg = "expected --yes: what the journal lacks is lost for good once the service goes on from it"
        raise click.UsageError(msg)
    directory = console.config(**{"data.dir": data_dir}).data.path
    done = accept(directory, datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"), time.time_ns())
    console.result(
        {
            "data": str(directory),
            "copy": str(done.copy),
            "reason": done.reason,
            "lost_commits": done.lost.commits,
            "lost_messages": done.lost.messages,
        },
        f"{done.lost.text}; the loss is recorded, the files as they were are in {done.copy}; the next start goes on",
    )


def _row(key: StreamKey, state: StreamState, size: int) -> dict[str, Any]:
    import numpy as np

    from pipeline.core.alarm import episode_id
    from pipeline.drivers.results import iso

    alarms = [
        {
            "id": episode_id(key, episode),
            "mode": episode.mode,
            "p": episode.p,
            "since": iso(episode.since_ns),
            "acknowledged": None if episode.acked_ns is None else iso(episode.acked_ns),
        }
        for episode in state.alarm.open
    ]
    return {
        "machine": key.machine,
        "point": key.point,
        "state": state.alarm.name,
        "suspected": None if state.alarm.suspicion is None else state.alarm.suspicion.mode,
        "alarms": alarms,
        "model": state.model,
        "state_age": state.state_age,
        "last_window_end": None if state.last_end_ns is None else iso(state.last_end_ns),
        "hidden_shape": None if state.hidden is None else list(state.hidden.shape),
        "hidden_norm": None if state.hidden is None else float(np.linalg.norm(state.hidden)),
        "bytes": size,
    }
