"""Part of `make results`: does the strongest envelope family alone name a bearing's fault? No learning anywhere.

    python -m benchmarks.envelope [--recordings FOLDER]

strongest family   the features of windows of 1 s; the family whose level is highest on the mean over the windows
plain envelope     what is usually done: high-pass at 500 Hz, Hilbert envelope of the whole recording, its spectrum;
                   the family whose first three lines (the largest within 1 %) are highest on the mean
plain, squared     the same of the squared envelope

The features are those of the configuration: THRUMCAST_FEATURES__ENVELOPE_LOW_HZ=500 tries another band.

Beside that, per window, the evidence: how often it confirms the true place, and how often another one. As a control the
same is done with invented bearings, whose lines stand where chance puts them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from pipeline.config.sources import load
from pipeline.config.specs import default_spec, feature_spec
from pipeline.core import features
from pipeline.core.bearings import orders_from_geometry
from pipeline.core.evidence import confirms
from pipeline.core.features import FeatureSpec
from pipeline.core.features.table import COLUMN
from pipeline.core.records import BearingOrders, FeatureRow, Float32, Window
from pipeline.core.window import length_and_hop
from pipeline.edges.recordings.recording import Recording, find_recordings, open_recording, parse_channels, streams

FAMILIES = {"inner_race": "env_bpfi", "outer_race": "env_bpfo", "ball": "env_2bsf"}  # as the recordings call the places
MODES = {"inner_race": "bearing_inner", "outer_race": "bearing_outer", "ball": "bearing_ball"}
FOLDERS = ("cwru", "hit_sm")
HEALTHY = "normal"
PLAIN_LOW_HZ, PLAIN_HARMONICS, PLAIN_TOLERANCE = 500.0, 3, 0.01
MADE_UP = 20  # bearings


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one recording says."""

    folder: str  # cwru or hit_sm
    rig: str  # the folder within
    name: str
    fault: str
    windows: int
    family: str | None  # the place that each method names; None for a sound machine
    plain: str | None
    squared: str | None
    confirmed: int  # windows in which the evidence confirms the true place
    elsewhere: int  # and another one; a window counts once for each place
    made_up: float  # places confirmed per window with a bearing that is not there
    level_db: float  # median of the true family over the windows (of the strongest where the machine is sound)
    made_up_db: float  # the same family of bearings that are not there


def verdicts(folder: Path, spec: FeatureSpec | None = None) -> Iterator[Verdict]:
    """One after the other, for all recordings of rigs whose bearings' faults are known."""
    for name in FOLDERS:
        for path in find_recordings([folder / name]):
            yield judge(path, name, spec or default_spec().features)


def judge(path: Path, folder: str, spec: FeatureSpec) -> Verdict:
    """Of the channel at the fault, or the first where the recording does not say where that is."""
    recording = open_recording(path)
    windows, samples = _read(recording)
    orders, rpm = windows[0].orders, windows[0].speed_rpm
    if orders is None or rpm is None:
        sys.exit(f"a recording with speed and bearing expected, found: {path}")
    fault = recording.truth or HEALTHY
    rows = _rows(spec, windows)
    levels = {place: _levels(rows, name) for place, name in FAMILIES.items()}
    strongest = max(levels, key=lambda place: float(np.nanmean(levels[place])))
    shown = fault if fault in FAMILIES else strongest
    others = [_rows(spec, [replace(w, orders=made_up) for w in windows]) for made_up in _made_up()]
    plain, squared = plain_families(samples, recording.rate_hz, rpm, orders)
    confirmed = {place: _confirmed(rows, place) for place in FAMILIES}
    known = fault in FAMILIES
    return Verdict(
        folder=folder,
        rig=path.parent.name,
        name=path.stem,
        fault=fault,
        windows=len(rows),
        family=strongest if known else None,
        plain=max(plain, key=plain.__getitem__) if known else None,
        squared=max(squared, key=squared.__getitem__) if known else None,
        confirmed=confirmed.get(fault, 0),
        elsewhere=sum(count for place, count in confirmed.items() if place != fault),
        made_up=float(np.mean([sum(_confirmed(them, place) for place in FAMILIES) for them in others])) / len(rows),
        level_db=float(np.nanmedian(levels[shown])),
        made_up_db=float(np.nanmedian(np.concatenate([_levels(them, FAMILIES[shown]) for them in others]))),
    )


def plain_families(
    x: Float32, rate_hz: float, rpm: float, orders: BearingOrders
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean amplitude of each family's lines in the spectrum of the envelope of x (n,), and of its square."""
    from scipy.signal import butter, hilbert, sosfiltfilt

    high_pass = butter(4, PLAIN_LOW_HZ, "highpass", fs=rate_hz, output="sos")
    envelope = np.abs(hilbert(sosfiltfilt(high_pass, x.astype(np.float64))))
    places = {"inner_race": orders.bpfi, "outer_race": orders.bpfo, "ball": 2 * orders.bsf}
    delta_f_hz = rate_hz / len(x)
    found = []
    for e in (envelope, envelope**2):
        amplitude = np.abs(np.fft.rfft((e - e.mean()) * np.hanning(len(e))))
        lines: dict[str, float] = {}
        for place, order in places.items():
            at_hz = order * rpm / 60 * np.arange(1, PLAIN_HARMONICS + 1)
            half_hz = np.maximum(delta_f_hz / 2, PLAIN_TOLERANCE * at_hz)
            first = np.ceil((at_hz - half_hz) / delta_f_hz).astype(int)
            last = np.floor((at_hz + half_hz) / delta_f_hz).astype(int)
            lines[place] = float(np.mean([amplitude[a : b + 1].max() for a, b in zip(first, last, strict=True)]))
        found.append(lines)
    return found[0], found[1]


def _read(recording: Recording) -> tuple[list[Window], Float32]:
    """Windows and samples of one channel."""
    place = recording.metadata.get("fault_location")
    channel = place if place in recording.channels else recording.channels[0]
    (stream,) = streams(recording, parse_channels(str(channel)))
    blocks = list(stream.blocks())
    x = np.concatenate([block.samples for block in blocks], axis=1)
    first, (length, hop) = blocks[0], length_and_hop(default_spec().window, recording.rate_hz)
    windows = [
        Window(
            key=first.key,
            session=first.session,
            number=number,
            start_ns=0,
            end_ns=0,
            rate_hz=first.rate_hz,
            channels=first.channels,
            unit=first.unit,
            samples=x[:, start : start + length],
            coverage=1.0,
            speed_rpm=first.speed_rpm,
            orders=first.orders,
            truth=first.truth,
        )
        for number, start in enumerate(range(0, x.shape[1] - length + 1, hop))
    ]
    return windows, x[0]


def _rows(spec: FeatureSpec, windows: Sequence[Window]) -> list[FeatureRow]:
    computed = zip(windows, features.compute(spec, windows), strict=True)
    return [
        FeatureRow(
            w.key, w.session, w.number, w.start_ns, w.end_ns, w.rate_hz, w.speed_rpm, w.coverage, 0, w.truth,
            w.channels, values, spec.schema,
        )
        for w, values in computed
    ]  # fmt: skip


def _levels(rows: Sequence[FeatureRow], name: str) -> Float32:
    return np.array([row.values[0, COLUMN[name]] for row in rows])


def _confirmed(rows: Sequence[FeatureRow], place: str) -> int:
    return sum(confirms(MODES[place], row) is True for row in rows)


@lru_cache(maxsize=1)
def _made_up() -> tuple[BearingOrders, ...]:
    """Bearings as they could be: 7 to 12 elements, d/D 0.15 to 0.24."""
    rng = np.random.default_rng(0)
    return tuple(orders_from_geometry(int(rng.integers(7, 13)), float(rng.uniform(0.15, 0.24))) for _ in range(MADE_UP))


def table(found: Sequence[Verdict]) -> str:
    """Counts for each rig and fault, as Markdown."""
    lines = [
        "| rig | fault | recordings | strongest family | plain envelope | plain, squared | windows | confirmed "
        "| another place | per window, made-up bearings | level dB | made-up dB |",
        "|---" * 12 + "|",
    ]
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for one in found:
        groups.setdefault((one.rig, one.fault), []).append(one)
    for (rig, fault), ones in groups.items():
        known = fault in FAMILIES
        named = [
            str(sum(getattr(one, how) == fault for one in ones)) if known else "-"
            for how in ("family", "plain", "squared")
        ]
        windows = sum(one.windows for one in ones)
        cells = [rig, fault, str(len(ones)), *named, str(windows)]
        cells.append(str(sum(one.confirmed for one in ones)) if known else "-")
        cells.append(str(sum(one.elsewhere for one in ones)))
        cells.append(f"{sum(one.made_up * one.windows for one in ones) / windows:.3f}")
        cells += [f"{np.median([one.level_db for one in ones]):.1f}"]
        cells += [f"{np.median([one.made_up_db for one in ones]):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(found: Sequence[Verdict]) -> list[str]:
    """The recordings on which the methods do not agree."""
    return [
        f"{one.rig}/{one.name} ({one.fault}): family {one.family}, plain {one.plain}, squared {one.squared}"
        for one in found
        if len({one.family, one.plain, one.squared}) > 1
    ]


def main() -> None:
    """Print the table and where the methods differ."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=Path(os.environ.get("THRUMCAST_SHARED_DATA", default)))
    chosen = parser.parse_args()
    if not chosen.recordings.is_dir():
        sys.exit(f"a folder of recordings expected, found nothing: {chosen.recordings}")
    found = list(verdicts(chosen.recordings, feature_spec(load().config)))
    print(table(found))
    print("\nWhere the methods differ:")
    print("\n".join(f"  {line}" for line in differences(found)))


if __name__ == "__main__":
    main()
