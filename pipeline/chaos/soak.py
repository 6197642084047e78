"""Soak: the plain load for a long time, and what memory, file handles, parts and latency do meanwhile.

`python -m pipeline.chaos.soak --minutes 60 --out DIR` writes DIR/soak.csv and, where matplotlib is installed,
DIR/soak.png; exit 1 if the promise is broken.
"""

from __future__ import annotations

import csv
import math
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import click
import msgspec
import numpy as np

from pipeline.chaos.ground import Ground, ground
from pipeline.chaos.plant import RATE_HZ, SAMPLES, Plant
from pipeline.edges.mqtt import MqttConnection, MqttSettings

SAMPLE_EVERY_S = 10.0
TICK_S = 0.1
WARM_UP_SHARE = 0.3  # of the time: allocators, caches and the first roll settle
SETTINGS = {
    "THRUMCAST_COMMIT__INTERVAL_S": "1.0",
    "THRUMCAST_ARCHIVE__ROLL_S": "60",
    "THRUMCAST_ARCHIVE__ROLL_ROWS": "10000",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen in ten seconds."""

    seconds: float
    rss_mb: float
    open_files: int
    parts: int
    predictions: int
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of all samples after the warm-up."""

    slope_mb_per_h: float
    slope_error_mb_per_h: float  # standard error of the fit
    files_least: int
    files_most: int
    p99_first_s: float  # median over the first half
    p99_last_s: float  # over the second


@click.command()
@click.option("--minutes", type=click.FloatRange(min=1), default=60.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("soak"), show_default=True)
def main(minutes: float, out: Path) -> None:
    """Eight streams, ten messages a second each, for so many minutes."""
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="thrumcast-soak-") as folder,
        ground(Path(folder), settings=SETTINGS) as world,
    ):
        samples = run(world, minutes * 60)
        scrapes = world.service.scrapes
        expected = world.expected(_plant(minutes * 60).blocks())
        world.wait_for_windows(len(expected.features))
        status, _ = world.service.stop()
        audited = world.audit(expected)
    with (out / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Sample)])
        writer.writeheader()
        writer.writerows(asdict(sample) for sample in samples)
    found = judge(samples)
    plot(samples, out / "soak.png")
    click.echo(
        f"{minutes:g} minutes: memory {found.slope_mb_per_h:+.2f} +/- {found.slope_error_mb_per_h:.2f} MB/h, file "
        f"handles {found.files_least} to {found.files_most}, p99 {found.p99_first_s:.2f} s in the first half and "
        f"{found.p99_last_s:.2f} s in the second, parts {samples[-1].parts}, exit status {status}; {audited.text()}; "
        f"{scrapes.count} scrapes, imbalance {scrapes.largest_imbalance}"
    )
    flat = found.p99_last_s < 1.5 * found.p99_first_s + 0.1
    rising = found.slope_mb_per_h - 2 * found.slope_error_mb_per_h > 1.0
    if rising or not flat or not audited.clean or found.files_most - found.files_least > 3:
        raise SystemExit(1)


def _plant(seconds: float) -> Plant:
    return Plant(messages=int(seconds / TICK_S) * 8)


def run(world: Ground, seconds: float) -> list[Sample]:
    """Sends at the plant's pace and looks every ten seconds."""
    plant = _plant(seconds)
    world.service.start_and_listen()
    settings = MqttSettings(client_id="watcher", host=world.broker.host, port=world.broker.port, clean_start=True)
    samples: list[Sample] = []
    latencies: list[float] = []
    sent_s: dict[int, float] = {}  # block -> when it was sent
    began_s = time.monotonic()
    looked_s = began_s
    with MqttConnection(settings, subscriptions=["thrumcast/machines/+/+/prediction"]).connect() as watcher:
        for tick in range(plant.messages // plant.streams):
            sent_s[tick] = time.monotonic()
            for stream in range(plant.streams):
                world.publisher.publish(*plant.message(tick * plant.streams + stream))
            while (left_s := began_s + (tick + 1) * TICK_S - time.monotonic()) > 0:
                for message in watcher.take(1000, min(left_s, 0.02)):
                    block = _last_block(msgspec.json.decode(message.payload)["window"])
                    latencies.append(time.monotonic() - sent_s.get(block, math.nan))
                world.publisher.service(0.0)
            sent_s.pop(tick - 600, None)
            if time.monotonic() - looked_s >= SAMPLE_EVERY_S:
                looked_s = time.monotonic()
                samples.append(_sample(world, looked_s - began_s, latencies))
                latencies.clear()
        world.publisher.drain()
    return samples


def _last_block(window: int) -> int:
    """The block that completes a window of 1 s every 0.5 s."""
    end = (window * 0.5 + 1.0) * RATE_HZ
    return math.ceil(end / SAMPLES) - 1


def _sample(world: Ground, seconds: float, latencies: list[float]) -> Sample:
    known = [latency for latency in latencies if not math.isnan(latency)]
    p50_s, p99_s = np.quantile(known, (0.5, 0.99)) if known else (math.nan, math.nan)
    return Sample(
        seconds=round(seconds, 1),
        rss_mb=round(world.service.rss_bytes() / 2**20, 2),
        open_files=world.service.open_files(),
        parts=len(list((world.data_dir / "archive").glob("*/date=*/*.parquet"))),
        predictions=len(latencies),
        p50_s=round(float(p50_s), 3),
        p99_s=round(float(p99_s), 3),
    )


def judge(samples: list[Sample]) -> Verdict:
    """Slope of the memory by least squares, and the rest, after the warm-up."""
    settled = samples[int(WARM_UP_SHARE * len(samples)) :]
    hours = np.array([sample.seconds / 3600 for sample in settled])
    memory = np.array([sample.rss_mb for sample in settled])
    if len(settled) > 3:
        fit, covariance = np.polyfit(hours, memory, 1, cov=True)
        slope, error = float(fit[0]), float(np.sqrt(covariance[0, 0]))
    else:
        slope, error = math.nan, math.nan
    half = len(settled) // 2
    handles = [sample.open_files for sample in settled]
    return Verdict(
        slope_mb_per_h=slope,
        slope_error_mb_per_h=error,
        files_least=min(handles),
        files_most=max(handles),
        p99_first_s=float(np.nanmedian([s.p99_s for s in settled[:half]])),
        p99_last_s=float(np.nanmedian([s.p99_s for s in settled[half:]])),
    )


def plot(samples: list[Sample], path: Path) -> None:
    """Four curves over time; without matplotlib the CSV has to do."""
    try:
        import matplotlib as mpl
    except ImportError:
        click.echo("no plot: matplotlib is not installed (pip install 'thrumcast[plots]')", err=True)
        return
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    minutes = [sample.seconds / 60 for sample in samples]
    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(8, 8), layout="constrained")
    curves = (
        ("resident memory, MB", [s.rss_mb for s in samples]),
        ("open files", [s.open_files for s in samples]),
        ("Parquet parts", [s.parts for s in samples]),
        ("latency, s", [s.p99_s for s in samples]),
    )
    for axis, (label, values) in zip(axes, curves, strict=True):
        axis.plot(minutes, values, color="tab:blue", label="p99" if label.startswith("latency") else None)
        axis.set_ylabel(label)
        axis.grid(visible=True, alpha=0.3)
    axes[3].plot(minutes, [s.p50_s for s in samples], color="tab:orange", label="p50")
    axes[3].legend(loc="upper right")
    axes[3].set_ylim(bottom=0)
    axes[1].set_ylim(bottom=0)
    axes[3].set_xlabel("minutes at 80 messages/s of 1,024 x 3 float32")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
