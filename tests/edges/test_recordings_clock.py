"""Time columns: found by name and by shape, they give rate, start and gaps, and are never a channel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.recordings import joined
from scipy.io import savemat

from pipeline.edges.recordings.recording import Options, Recording, open_recordings, streams
from pipeline.errors import RecordingError

N = 400
START = datetime(2026, 5, 1, 10, tzinfo=UTC)
START_NS = int(START.timestamp()) * 10**9
VALUES = np.round(np.random.default_rng(5).standard_normal(N), 4)


def table(path: Path, name: str | None, stamp: Callable[[int], object], rows: int = N) -> Path:
    head = "" if name is None else f"{name},vibration\n"
    path.write_text(head + "".join(f"{stamp(i)},{VALUES[i % N]:.4f}\n" for i in range(rows)))
    return path


def opened(path: Path, **options: object) -> Recording:
    (recording,) = open_recordings(path, Options(**options))  # type: ignore[arg-type]
    return recording


@pytest.mark.parametrize(
    "name",
    [
        "time",
        "Time",
        "TIME",
        "Timestamp",
        "Time [s]",
        "Time (s)",
        "time_s",
        "#time",
        "Zeit",
        "Zeit [s]",
        "t",
        "T [s]",
        "elapsed",
        "Elapsed Time",
        "X_Value",
        "Tiempo",
        "Temps",
        "время",
        "时间",
        "seconds",
        "time (sec)",
        "Relative time",
        "recordingTime",
        None,
    ],
)
def test_seconds_under_any_name_and_under_none_are_time(tmp_path: Path, name: str | None) -> None:
    recording = opened(table(tmp_path / "a.csv", name, lambda i: f"{i / 1000:.4f}"))
    assert (recording.rate_hz, len(recording.channels)) == (1000.0, 1)
    np.testing.assert_array_equal(joined(streams(recording)[0])[0], VALUES.astype(np.float32))
    assert any("is time, not a channel" in note for note in recording.notes)


@pytest.mark.parametrize(
    ("name", "stamp", "start_ns"),
    [
        ("time_ms", lambda i: i * 2, None),
        ("Time [ms]", lambda i: f"{i * 2.0:.1f}", None),
        ("Time (us)", lambda i: i * 2000, None),
        ("t_ns", lambda i: i * 2_000_000, None),
        ("timestamp", lambda i: START_NS // 10**9 + i * 0.002, START_NS),
        ("ts", lambda i: START_NS // 10**6 + i * 2, START_NS),
        ("timestamp", lambda i: START_NS // 1000 + i * 2000, START_NS),
        ("timestamp", lambda i: START_NS + i * 2_000_000, START_NS),
        ("datetime", lambda i: (START + timedelta(milliseconds=2 * i)).isoformat(), START_NS),
        ("date", lambda i: (START + timedelta(milliseconds=2 * i)).strftime("%Y-%m-%d %H:%M:%S.%f"), START_NS),
        ("when", lambda i: (START + timedelta(milliseconds=2 * i)).strftime("%d.%m.%Y %H:%M:%S.%f"), START_NS),
        ("when", lambda i: (START + timedelta(milliseconds=2 * i)).strftime("%Y/%m/%d %H:%M:%S.%f"), START_NS),
        ("clock", lambda i: (START + timedelta(milliseconds=2 * i)).strftime("%H:%M:%S.%f"), None),
        (None, lambda i: (START + timedelta(milliseconds=2 * i)).isoformat(), START_NS),
        ("date", lambda i: f"{START_NS / 86400e9 + 25569 + i * 0.002 / 86400:.12f}", START_NS),
    ],
)
def test_every_form_of_time_gives_rate_and_start(
    tmp_path: Path, name: str | None, stamp: Callable[[int], object], start_ns: int | None
) -> None:
    recording = opened(table(tmp_path / "a.csv", name, stamp))
    assert recording.rate_hz == pytest.approx(500.0, rel=1e-3)
    assert len(recording.channels) == 1
    if start_ns is None:
        assert recording.start_from == "nominal"
    else:
        assert recording.start_ns() == pytest.approx(start_ns, abs=10**6)


def test_a_date_and_a_time_of_day_are_read_together_and_midnight_is_passed(tmp_path: Path) -> None:
    begin = datetime(2026, 5, 1, 23, 59, 59, 900_000, tzinfo=UTC)
    path = tmp_path / "a.csv"
    moments = [begin + timedelta(milliseconds=i) for i in range(N)]
    path.write_text(
        "Date;Time;x\n" + "".join(f"{m:%d.%m.%Y};{m:%H:%M:%S.%f};{v}\n" for m, v in zip(moments, VALUES, strict=True))
    )
    recording = opened(path)
    assert (recording.rate_hz, recording.channels) == (1000.0, ("x",))
    assert recording.start_ns() == int(begin.timestamp() * 1000) * 10**6
    path.write_text("Time;x\n" + "".join(f"{m:%H:%M:%S.%f};{v}\n" for m, v in zip(moments, VALUES, strict=True)))
    assert opened(path).rate_hz == 1000.0


@pytest.mark.parametrize("name", ["index", "Sample", "", "Unnamed: 0", "No.", "time"])
def test_a_counter_of_samples_is_no_channel_and_gives_no_rate(tmp_path: Path, name: str) -> None:
    path = table(tmp_path / "a.csv", name, lambda i: i)
    assert opened(path, rate_hz=1000.0).channels == ("vibration",)
    with pytest.raises(RecordingError, match="expected a sampling rate") as caught:
        opened(path)
    assert "--rate" in (caught.value.hint or "")


def test_a_rate_that_contradicts_the_time_column_is_an_error_with_both_values(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "time", lambda i: f"{i / 1000:.4f}")
    with pytest.raises(RecordingError, match=r"1000 Hz, found: --rate 500 Hz"):
        opened(path, rate_hz=500.0)
    assert opened(path, rate_hz=1004.0).rate_hz == 1004.0
    assert opened(path, rate_hz=500.0, uneven="ignore").rate_hz == 500.0
    path.write_text("Sampling Frequency: 5120\n\n" + path.read_text())
    with pytest.raises(RecordingError, match=r"1000 Hz, found: the line .*5120"):
        opened(path)


def test_a_date_that_contradicts_the_time_column_is_an_error_with_both_values(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "datetime", lambda i: (START + timedelta(milliseconds=i)).isoformat())
    path.write_text("Date: 2024-01-31\n\n" + path.read_text())
    with pytest.raises(RecordingError, match=r"2026-05-01T10:00:00, found above the numbers: 2024-01-31"):
        opened(path)


def test_single_gaps_become_gaps_and_many_are_refused_or_resampled(tmp_path: Path) -> None:
    few = [i for i in range(N) if i not in (100, 101, 250)]
    path = table(tmp_path / "a.csv", "time", lambda i: f"{few[i] / 1000:.4f}", rows=len(few))
    recording = opened(path)
    assert (recording.rate_hz, recording.timing.gaps) == (1000.0, ((100, 2), (248, 1)))  # type: ignore[union-attr]
    blocks = list(streams(recording)[0].blocks())
    assert [(block.index, block.samples.shape[1]) for block in blocks] == [(0, 100), (102, 148), (251, 149)]
    assert blocks[1].t0_ns - blocks[0].t0_ns == 102_000_000
    many = [i for i in range(2 * N) if i % 10 != 9][:N]
    path = table(tmp_path / "b.csv", "time", lambda i: f"{many[i] / 1000:.4f}")
    with pytest.raises(RecordingError, match="44 of 444 samples missing in 44 gaps at 1000 Hz"):
        opened(path)
    resampled = opened(path, uneven="resample")
    assert (resampled.rate_hz, resampled.samples) == (1000.0, many[-1] + 1)
    assert joined(streams(resampled)[0]).shape == (1, many[-1] + 1)


def test_a_wild_clock_is_refused_and_a_step_back_is_named(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(1).exponential(0.001, N))
    with pytest.raises(RecordingError, match="expected an even time column"):
        opened(table(tmp_path / "a.csv", "time", lambda i: f"{times[i]:.6f}"))
    assert opened(tmp_path / "a.csv", uneven="resample").rate_hz == pytest.approx(1000.0, rel=0.2)
    with pytest.raises(RecordingError, match="a step back in data row 201"):
        opened(table(tmp_path / "b.csv", "time", lambda i: f"{(i % 200) / 1000:.4f}"))


def test_jitter_is_reported_and_coarse_stamps_are_believed_on_average(tmp_path: Path) -> None:
    shift = np.random.default_rng(1).uniform(-0.2e-3, 0.2e-3, N)
    recording = opened(table(tmp_path / "a.csv", "time", lambda i: f"{i / 1000 + shift[i]:.7f}"))
    assert recording.rate_hz == pytest.approx(1000.0, rel=0.01)
    assert any("jitter" in note for note in recording.notes)
    coarse = opened(table(tmp_path / "b.csv", "time", lambda i: f"{int(i / 3.2) / 1000:.3f}"))
    assert coarse.rate_hz == pytest.approx(3200.0, rel=0.02)


def test_time_in_matlab_and_in_parquet_of_others_is_time_too(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"t": np.arange(N) / 1000, "x": VALUES})
    stamps = pa.array(START_NS + np.arange(N) * 10**6).cast(pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table({"when": stamps, "x": VALUES}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"Time (ms)": np.arange(N) * 1.0, "x": VALUES}), tmp_path / "c.parquet")
    for name in ("a.mat", "b.parquet", "c.parquet"):
        recording = opened(tmp_path / name)
        assert (recording.rate_hz, recording.channels) == (1000.0, ("x",))
    assert opened(tmp_path / "b.parquet").start_ns() == START_NS
    with pytest.raises(RecordingError, match="1000 Hz, found: --rate 500 Hz"):
        opened(tmp_path / "a.mat", rate_hz=500.0)


def test_a_ramp_under_the_name_of_an_axis_is_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"{i / 7:.6f},{i / 3:.6f}\n" for i in range(N)))
    assert opened(path, rate_hz=100.0).channels == ("x", "y")
