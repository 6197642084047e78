"""`thrumcast drift`: compares the present inputs of a model with its training data."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, data_option, table, with_console
from pipeline.core.faults import HEALTHY
from pipeline.errors import ThrumcastError

if TYPE_CHECKING:
    import numpy as np

    from models.drift import Shift
    from pipeline.config.tables import Config

SHOWN = 12


@click.command(name="drift")
@click.argument("version", required=False)
@click.option("--machine", help="Only this machine.")
@click.option(
    "--from",
    "start",
    type=click.DateTime(),
    help="Windows from this time, UTC [default: the end of the training data].",
)
@click.option("--to", "end", type=click.DateTime(), help="Windows before this time, UTC.")
@data_option
@with_console
def command(
    console: Console,
    version: str | None,
    machine: str | None,
    start: datetime | None,
    end: datetime | None,
    data_dir: Path | None,
) -> None:
    """Compare the inputs of VERSION [default: the champion] with its training data, per feature and speed regime.

    Uses good windows without a known fault, whatever the model predicted. Shows inputs that moved on most machines:
    retraining helps. Shows inputs that moved on one machine only: that machine or its sensor changed. Trains nothing.
    """
    config = console.config(**{"data.dir": data_dir})

    import numpy as np

    from models import drift
    from models.registry import CHAMPION, Registry

    model = Registry(config.data.path).load(version or CHAMPION)
    inputs, reference = model.spec.inputs, model.data.get("distribution")
    if reference is None:
        msg = f"{model.spec.version}: expected the distribution of its training data in data.json, found none"
        raise ThrumcastError(msg, hint="an older release trained it: train again")
    trained = [datetime.fromisoformat(model.data[name]) for name in ("from", "to")]
    since = _utc(start) or trained[1]
    now = _by_machine(config, since, _utc(end), machine, inputs)
    if not now:
        msg = f"expected good windows without a known fault from {since:%Y-%m-%d %H:%M:%S} UTC, found: none"
        hint = "--from names an earlier time"
        if machine is not None:
            msg, hint = f"{msg} of {machine}", f"{hint}; `thrumcast archive ls` shows which machines there are"
        raise ThrumcastError(msg, hint=hint)
    own = _by_machine(config, trained[0], min(trained[1], since), machine, inputs)
    shifts: dict[str, list[Shift]] = {}
    for regime in drift.speed_regimes(np.concatenate([x[:, -1] for x in now.values()])):
        inside = {name: x[regime.holds(x[:, -1])] for name, x in now.items()}
        inside = {name: x for name, x in inside.items() if len(x) >= drift.FEWEST_WINDOWS}
        before = {name: x[regime.holds(x[:, -1])] for name, x in own.items()}
        shifts[regime.name] = drift.shifts(reference, inside, before, inputs)
        if machine is None:
            shifts[regime.name] += drift.pooled(reference, inside, inputs)
    judged = drift.verdict([shift for some in shifts.values() for shift in some], len(now))
    document = {
        "version": model.spec.version,
        "from": since.isoformat(),
        "windows": sum(map(len, now.values())),
        "machines": sorted(now),
        "reference": {"windows": reference["windows"], "of": reference["of"]},
        "verdict": judged,
        "regimes": {
            name: [asdict(shift) | {"drifted": shift.drifted} for shift in some] for name, some in shifts.items()
        },
    }
    console.result(document, _text(document, shifts))


def _by_machine(
    config: Config, start: datetime, end: datetime | None, machine: str | None, inputs: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Machine -> inputs of its good windows without a known fault, and the shaft speed as last column: (N, F + 1)."""
    import numpy as np

    from models.data.dataset import columns_matrix, read
    from pipeline.core.quality import STOPS

    rows = read(config.data.path, start, end)
    names = np.array(rows.column("machine").to_pylist(), object)
    truths = rows.column("truth").to_pylist()
    healthy = np.array([truth is None or config.modes.resolve(truth) == HEALTHY for truth in truths], np.bool_)
    good = (rows.column("quality").to_numpy() & int(STOPS) == 0) & healthy
    if machine is not None:
        good &= names == machine
    speed = rows.column("speed_rpm").to_numpy(zero_copy_only=False).astype(np.float64)
    x = np.column_stack([columns_matrix(rows, inputs).astype(np.float64), speed])
    return {name: x[good & (names == name)] for name in sorted(set(names[good]))}


def _text(document: dict[str, Any], shifts: dict[str, list[Shift]]) -> str:
    from models.drift import FEWEST_WINDOWS

    judged, machines, reference = document["verdict"], len(document["machines"]), document["reference"]
    since = f"{datetime.fromisoformat(document['from']):%Y-%m-%d %H:%M:%S} UTC"
    count, of = reference["windows"], reference["of"]
    trained = f"all {count}" if of == "all" else f"{count} {of}"
    lines = [
        f"{document['version']}: {document['windows']} good windows without a known fault, of {machines} "
        f"machine{'' if machines == 1 else 's'}, since {since}; against {trained} training windows"
    ]
    for name, some in shifts.items():
        worst = sorted(some, key=lambda s: s.psi if s.psi is not None else s.outside, reverse=True)[:SHOWN]
        head = ("machine", "input", "PSI", "outside", "moved", "windows")
        cells = [
            (
                *(s.machine, s.column, "-" if s.psi is None else f"{s.psi:.2f}", f"{s.outside:.0%}"),
                *(("down", "-", "up")[s.sign + 1] + (" !" if s.drifted else ""), str(s.windows)),
            )
            for s in worst
        ]
        few = f"too few windows: {FEWEST_WINDOWS} per machine are needed"
        lines += ["", name, table(head, cells) if cells else few]
    if judged["suggestion"]:
        lines += ["", f"suggestion: {judged['suggestion']}"]
    elif any(shifts.values()):
        lines += ["", "no drift"]
    return "\n".join(lines)


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC)
