"""Soak test: a normal load for a long time, with memory, file handles, parts and latency over time.

`python -m benchmarks.studies.soak --minutes 60 --out DIR` writes DIR/soak.csv and, where matplotlib is installed,
DIR/soak.png. Exit code 1: the promise is broken.
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
from numpy.typing import NDArray

from pipeline.chaos.ground import Ground, ground
from pipeline.chaos.plant import RATE_HZ, SAMPLES, Plant
from pipeline.edges.mqtt import MqttConnection, MqttSettings

SAMPLE_EVERY_S = 10.0
TICK_S = 0.1
LOOK_EVERY_TICKS = 10  # a sample is the mean of these looks: the memory of a roll comes and goes within seconds
WARM_UP_SHARE = 0.3  # of the time: allocators and caches settle, the first roll and merge load their code
MOST_MB_PER_H = 1.0
SETTINGS = {
    "THRUMCAST_COMMIT__INTERVAL_S": "1.0",
    "THRUMCAST_ARCHIVE__ROLL_S": "60",
    "THRUMCAST_ARCHIVE__ROLL_ROWS": "10000",
    "THRUMCAST_ARCHIVE__COMPACT_PARTS": "12",  # an hour holds four merges, the first of them in the warm-up
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Measurements of ten seconds."""

    seconds: float
    rss_mb: float
    anonymous_mb: float  # resident memory without code and mapped files
    open_files: int
    parts: int
    predictions: int
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Slope:
    """Slope of a curve in MB/h by two estimators: steps bias a fit, and a late step does not move a median."""

    least_squares: float
    error: float  # standard error of the fit, corrected for correlated samples
    theil_sen: float  # median over all pairs of samples

    def text(self) -> str:
        """Both slopes."""
        return (
            f"{self.least_squares:+.2f} +/- {self.error:.2f} MB/h by least squares, {self.theil_sen:+.2f} by Theil-Sen"
        )

    @property
    def kept(self) -> bool:
        """Whether both slopes are below the limit. A fit with a large error fails only beyond two errors."""
        if self.error < MOST_MB_PER_H:
            return max(self.least_squares, self.theil_sen) < MOST_MB_PER_H
        return not self.least_squares - 2 * self.error > MOST_MB_PER_H  # NaN: too few samples to say anything


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of all samples after the warm-up."""

    resident: Slope
    anonymous: Slope
    files_least: int
    files_most: int
    p99_first_s: float  # median over the first half
    p99_last_s: float  # over the second

    @property
    def kept(self) -> bool:
        """Whether memory, file handles and latency are constant."""
        flat = self.p99_last_s < 1.5 * self.p99_first_s + 0.1
        return self.resident.kept and self.anonymous.kept and flat and self.files_most - self.files_least <= 3


@click.command()
@click.option("--minutes", type=click.FloatRange(min=1), default=60.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("soak"), show_default=True)
def main(minutes: float, out: Path) -> None:
    """Run eight streams with ten messages a second each."""
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
        f"{minutes:g} minutes: resident memory {found.resident.text()}, anonymous memory {found.anonymous.text()}, "
        f"file handles {found.files_least} to {found.files_most}, p99 {found.p99_first_s:.2f} s in the first half and "
        f"{found.p99_last_s:.2f} s in the second, parts {samples[-1].parts}, exit status {status}; {audited.text()}; "
        f"{scrapes.count} scrapes, imbalance {scrapes.largest_imbalance}"
    )
    if not found.kept or not audited.clean:
        raise SystemExit(1)


def _plant(seconds: float) -> Plant:
    return Plant(messages=int(seconds / TICK_S) * 8)


def run(world: Ground, seconds: float) -> list[Sample]:
    """Sends in real time and takes a sample every ten seconds."""
    plant = _plant(seconds)
    world.service.start_and_listen()
    settings = MqttSettings(client_id="watcher", host=world.broker.host, port=world.broker.port, clean_start=True)
    samples: list[Sample] = []
    latencies: list[float] = []
    looks: list[tuple[int, int]] = []  # bytes: resident, anonymous
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
            due = time.monotonic() - looked_s >= SAMPLE_EVERY_S
            if due or tick % LOOK_EVERY_TICKS == 0:
                looks.append((world.service.rss_bytes(), world.service.anonymous_bytes()))
            if due:
                looked_s = time.monotonic()
                samples.append(_sample(world, looked_s - began_s, looks, latencies))
                looks.clear()
                latencies.clear()
        world.publisher.drain()
    return samples


def _last_block(window: int) -> int:
    """The block that completes a window of 1 s every 0.5 s."""
    end = (window * 0.5 + 1.0) * RATE_HZ
    return math.ceil(end / SAMPLES) - 1


def _sample(world: Ground, seconds: float, looks: list[tuple[int, int]], latencies: list[float]) -> Sample:
    known = [latency for latency in latencies if not math.isnan(latency)]
    p50_s, p99_s = np.quantile(known, (0.5, 0.99)) if known else (math.nan, math.nan)
    rss_mb, anonymous_mb = np.mean(looks, axis=0) / 2**20
    return Sample(
        seconds=round(seconds, 1),
        rss_mb=round(float(rss_mb), 2),
        anonymous_mb=round(float(anonymous_mb), 2),
        open_files=world.service.open_files(),
        parts=len(list((world.data_dir / "archive").glob("*/date=*/*.parquet"))),
        predictions=len(latencies),
        p50_s=round(float(p50_s), 3),
        p99_s=round(float(p99_s), 3),
    )


def judge(samples: list[Sample]) -> Verdict:
    """Judges memory, file handles and latency after the warm-up."""
    settled = samples[int(WARM_UP_SHARE * len(samples)) :]
    hours = np.array([sample.seconds / 3600 for sample in settled])
    half = len(settled) // 2
    handles = [sample.open_files for sample in settled]
    return Verdict(
        resident=slope(hours, np.array([sample.rss_mb for sample in settled])),
        anonymous=slope(hours, np.array([sample.anonymous_mb for sample in settled])),
        files_least=min(handles),
        files_most=max(handles),
        p99_first_s=float(np.nanmedian([s.p99_s for s in settled[:half]])),
        p99_last_s=float(np.nanmedian([s.p99_s for s in settled[half:]])),
    )


def slope(hours: NDArray[np.float64], values: NDArray[np.float64]) -> Slope:
    """Slope of values over time; NaN for fewer than five values.

    The error of the fit is that of independent samples times sqrt((1 + r) / (1 - r)), where r is the correlation of
    neighbouring residuals. After a step many neighbouring samples are off the line; they count as few.
    """
    if len(values) < 5:
        return Slope(math.nan, math.nan, math.nan)
    fit, covariance = np.polyfit(hours, values, 1, cov=True)
    rest = values - np.polyval(fit, hours)
    r = float(np.clip(rest[1:] @ rest[:-1] / max(rest @ rest, 1e-12), 0.0, 0.99))
    first, second = np.triu_indices(len(values), 1)
    pairs = (values[second] - values[first]) / (hours[second] - hours[first])
    error = math.sqrt(covariance[0, 0] * (1 + r) / (1 - r))
    return Slope(float(fit[0]), error, float(np.median(pairs)))


def plot(samples: list[Sample], path: Path) -> None:
    """Draws the curves over time, if matplotlib is installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        click.echo("no plot: matplotlib is not installed (pip install 'thrumcast[plots]')", err=True)
        return
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    minutes = [sample.seconds / 60 for sample in samples]
    figure, axes = plt.subplots(5, 1, sharex=True, figsize=(8, 9), layout="constrained")
    curves = (
        ("resident, MB", [s.rss_mb for s in samples]),
        ("anonymous, MB", [s.anonymous_mb for s in samples]),
        ("open files", [s.open_files for s in samples]),
        ("Parquet parts", [s.parts for s in samples]),
        ("latency, s", [s.p99_s for s in samples]),
    )
    for axis, (label, values) in zip(axes, curves, strict=True):
        axis.plot(minutes, values, color="tab:blue", label="p99" if label.startswith("latency") else None)
        axis.set_ylabel(label)
        axis.grid(visible=True, alpha=0.3)
    axes[4].plot(minutes, [s.p50_s for s in samples], color="tab:orange", label="p50")
    axes[4].legend(loc="lower left", ncols=2)
    for axis in (axes[2], axes[4]):
        axis.set_ylim(bottom=0)
    axes[4].set_xlabel("minutes at 80 messages/s of 1,024 x 3 float32")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
