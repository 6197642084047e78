"""`thrumcast backfill`: features and predictions of recordings, straight into the archive."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import PATH, Console, by_reason, data_option, recording_warnings, table, with_console
from pipeline.commands.recordings import by_note, reading_options, say_passed_over

if TYPE_CHECKING:
    from pipeline.edges.recordings.contents import Options


@click.command(name="backfill")
@click.argument("inputs", nargs=-1, required=True, type=PATH)
@data_option
@click.option("--channels", metavar="NAME[=AS],...", help="Channels to use, and their new names.")
@reading_options
@click.option("--dry-run", is_flag=True, help="Show what is understood of each recording, and store nothing.")
@click.option("--model", "version", help="Model version or alias [default: model.alias, if it exists].")
@click.option("--workers", type=click.IntRange(min=1), help="Processes [default: one per core].")
@with_console
def command(
    console: Console,
    inputs: tuple[Path, ...],
    data_dir: Path | None,
    channels: str | None,
    reading: Options,
    dry_run: bool,
    version: str | None,
    workers: int | None,
) -> None:
    """Compute the features of recordings (files or folders), and predictions if there is a model.

    Formats, dialects of text and presets of public data sets: docs/recordings.md. Begin with --dry-run.
    """
    import os
    import time

    if dry_run:
        _dry_run(console, inputs, channels, reading)
        return

    from pipeline.drivers.backfill_pool import prepare

    began_s = time.monotonic()
    if workers != 1:
        prepare()  # before this process loads its own libraries

    from pipeline.config.specs import feature_spec
    from pipeline.drivers.backfill import Job, Outcome, backfill
    from pipeline.edges.recordings.presets import runs
    from pipeline.edges.recordings.recording import parse_channels, places, search
    from pipeline.errors import RecordingError
    from pipeline.service.compose import MakeWorker, channels_of, folder, opened
    from pipeline.service.models import load_bundle

    config = console.config(**{"data.dir": data_dir})
    channel_map = parse_channels(channels) if channels else None
    bundle = load_bundle(config, version)
    serves, wanted = None if bundle is None else bundle.spec.version, config.model.forecast_modes
    context = f"{feature_spec(config).schema} {config.window} {serves or 'no model'}"
    if bundle is not None and wanted:
        if bundle.spec.decoder:
            context += " forecast"
        else:
            console.warn(f"no forecasts: {serves} was trained without them; train with --set forecast={wanted}")
    found = search(inputs, reading.preset)
    where = places(found.recordings, reading.machine_from, _taken(config.data.path))
    jobs = [
        Job(path, channel_map, reading.rate_hz, context, str(config.window), reading, where[path], tuple(more))
        for path, *more in runs(found.paths, reading.preset)
    ]
    console.say(f"{len(found.paths)} recordings -> {folder(config.data.path)}, model: {serves or 'none yet'}")

    notes: dict[str, Sequence[str]] = {}

    def show(done: Outcome) -> None:
        bar.advance()
        if done.notes:
            notes[str(done.path)] = done.notes
        if done.left_out:
            in_part[str(done.path)] = f"columns without numbers are ignored: {', '.join(done.left_out)}"
        if done.error is not None:
            skipped[str(done.path)] = done.error

    with (
        recording_warnings(console) as (in_part, skipped),
        opened(config) as (journal, archive),
        console.progress(len(found.paths), "recordings") as bar,
    ):
        make_worker = MakeWorker(config, serves, journal.inputs_done())
        report = backfill(
            jobs,
            make_worker,
            archive,
            workers=min(workers or os.cpu_count() or 1, max(1, len(jobs))),
            channels=channels_of(config, journal),
            on_done=show,
        )
    seconds = time.monotonic() - began_s
    for remark in by_note(notes):
        console.warn(remark)
    say_passed_over(console, found.passed_over)
    if report.empty:
        length_s = config.window.length_s
        samples = " or ".join(f"{length_s * rate:g} samples at {rate:g} Hz" for rate in sorted(report.empty_rates_hz))
        console.warn(
            f"{len(report.empty)} recordings gave no window: they are shorter than window.length_s = "
            f"{length_s:g} s, {samples} (for snapshots of 0.1 s: THRUMCAST_WINDOW__LENGTH_S=0.1 "
            "THRUMCAST_WINDOW__HOP_S=0.1, or [window] in config.toml)"
        )
    known = report.made - report.windows
    document = {
        "inputs": report.inputs,
        "already_done": report.known,
        "streams": len(report.streams),
        "windows": report.windows,
        "windows_known": known,
        "windows_not_judged": report.incomplete,
        "predictions": report.kept["predictions"],
        "forecast_rows": report.kept["forecast"],
        "seconds": round(seconds, 3),
        "windows_per_s": round(report.made / seconds, 1),
        "model": serves,
        "without_windows": report.empty,
        "skipped": [{"input": path, "reason": why} for path, why in report.skipped.items()],
        "passed_over": [{"input": path, "reason": why} for path, why in found.passed_over.items()],
        "notes": [{"input": path, "note": note} for path, said in notes.items() for note in said],
    }
    text = (
        f"{report.windows} windows of {len(report.streams)} streams in {seconds:.1f} s, "
        f"{report.kept['predictions']} predictions; {report.known} recordings were processed before, "
        f"{len(report.skipped)} skipped"
        + f", {len(found.passed_over)} files passed over" * bool(found.passed_over)
        + (f"; {known} windows were in the archive already and are unchanged" * bool(known))
    )
    if known and report.kept.total() == 0:
        console.warn(
            "nothing was stored: machine, point, session and number identify a window, its channel names do not; "
            "use another --data for other channel names"
        )
    console.result(document, text)
    if len(report.skipped) == report.inputs:
        msg = f"expected at least one readable recording, found: {len(report.skipped)} that cannot be read"
        raise RecordingError(msg, hint="see the reasons above", reported=True)
    if report.made or report.known:
        console.say(_next(config.data.path, folder(config.data.path), {key.machine for key in report.streams}))


def _taken(data_dir: Path) -> dict[str, str]:
    """Machines of earlier backfills that were named by their files, and the folders of these."""
    from pipeline.edges.machines import MACHINES_NAME, MachinesFile

    facts = MachinesFile(data_dir / MACHINES_NAME).load()
    return {key.machine: str(known["folder"]) for key, known in facts.items() if known.get("folder")}


def _dry_run(console: Console, inputs: tuple[Path, ...], channels: str | None, reading: Options) -> None:
    """Says what is understood of each recording."""
    from pipeline.edges.recordings.recording import open_recordings, parse_channels, places, search, understood
    from pipeline.errors import RecordingError

    channel_map = parse_channels(channels) if channels else None
    found = search(inputs, reading.preset)
    where = places(found.recordings, reading.machine_from)
    documents, skipped = [], dict[str, str]()
    with console.progress(len(found.paths), "recordings") as bar:
        for path in found.paths:
            try:
                documents += [understood(one, channel_map) for one in open_recordings(path, reading, where[path])]
            except RecordingError as error:
                skipped[str(path)] = str(error)
            bar.advance()
    for remark in by_reason("skipped", skipped):
        console.warn(remark)
    say_passed_over(console, found.passed_over)
    for remark in by_note({one["input"]: one["warnings"] for one in documents}):
        console.warn(remark)
    rows = [
        [
            one["input"], one["format"], f"{one['machine']}/{stream['point']}", " ".join(stream["channels"].values()),
            one["unit"], f"{one['rate_hz']:g}", one["rate_from"], one["start"], one["start_from"],
            f"{one['length_s']:g} s",
        ]
        for one in documents
        for stream in one["streams"]
    ]  # fmt: skip
    head = ["file", "format", "stream", "channels", "unit", "Hz", "rate from", "start", "start from", "length"]
    console.result(
        {
            "dry_run": True,
            "inputs": len(found.paths),
            "understood": documents,
            "skipped": [{"input": path, "reason": why} for path, why in skipped.items()],
            "passed_over": [{"input": path, "reason": why} for path, why in found.passed_over.items()],
        },
        table(head, rows) + "\nnothing was stored",
    )
    if not documents:
        msg = f"expected at least one readable recording, found: {len(skipped)} that cannot be read"
        raise RecordingError(msg, hint="see the reasons above", reported=True)


def _next(data_dir: Path, shown: str, machines: Set[str]) -> str:
    """The next step: training, or labels if the windows have no truth yet.

    The truth of a run to failure does not count, because it is unknown in which window the damage began.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.edges.labels import LabelFile
    from pipeline.edges.machines import MACHINES_NAME, MachinesFile
    from pipeline.edges.store.read import first_row

    train = f"thrumcast train --data {shown}"
    mine = pc.field("machine").isin(pa.array(sorted(machines), pa.string()))
    row = first_row(data_dir, "features", ("machine",), mine) or first_row(data_dir, "features", ("machine",))
    if row is None:
        return "nothing to train on: no recording is as long as a window"
    facts = MachinesFile(data_dir / MACHINES_NAME).load()
    runs = pa.array({key.machine for key, known in facts.items() if known.get("run_to_failure") is True}, pa.string())
    told = pc.field("truth").is_valid() & ~pc.field("machine").isin(runs)
    if LabelFile(data_dir).active() or first_row(data_dir, "features", ("machine",), told):
        return f"next: {train}"
    label = f"thrumcast labels add {row['machine']} MODE --from ... --to ... --data {shown}"
    return f"no window has a known failure mode yet\nnext: {label} (or `labels import`), then {train}"
