"""Valid, and absurd: what one message, one commit and one data directory take, and what becomes of the rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import specs
from harness.live import BLOCKS, Broker, Commits, same_rows, send, service, stop_when_idle, stored, uninterrupted
from harness.streams import SPEC
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import run
from pipeline.core.records import Block, StreamKey
from pipeline.core.window import (
    LEAST_SAMPLES,
    MOST_WINDOWS,
    WindowState,
    is_too_slow,
    longest_block_s,
    most_windows,
    push,
)
from pipeline.drivers import intake
from pipeline.drivers.dates import Dates
from pipeline.drivers.intake import Admission, Channels
from pipeline.drivers.live import Live
from pipeline.edges.recordings.recording import write_recording
from pipeline.errors import DecodeError

rates = st.floats(1.0, 5000.0)
seconds = st.floats(0.02, 5.0)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def block(n: int, rate_hz: float, channels: tuple[str, ...] = ("x",), machine: str = "absurd") -> Block:
    samples = np.zeros((len(channels), n), np.float32)
    return Block(StreamKey(machine, "de"), 1, 0, 10**18, rate_hz, channels, "g", samples)


def admitting(directory: Path, broker: Broker, most_channels: int = 64) -> Live:
    """The service as it is put together for a plant, but for its broker."""
    live = service(directory, broker)
    known = Channels(most_channels, set(live.journal.view(()).extras["features"]))
    live.intake = replace(live.intake, admission=Admission(lambda key: SPEC.window, known))
    return live


def reasons(directory: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in (directory / "archive" / "quarantine").rglob("*.parquet"):
        found.update(pq.read_table(path, columns=["reason"])["reason"].to_pylist())
    return found


# -- one message -----------------------------------------------------------------------------------------------------


@given(rate_hz=rates, length_s=seconds, hop_s=seconds, parts=st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_no_block_completes_more_windows_than_it_is_taken_for(
    rate_hz: float, length_s: float, hop_s: float, parts: list[int]
) -> None:
    spec, state, index = specs.window(length_s=length_s, hop_s=hop_s), WindowState(), 0
    for n in parts:
        one = replace(block(n, rate_hz), index=index)
        state, windows = push(spec, state, [one], specs.stream())
        assert len(windows) <= most_windows(spec, one)
        index += n


@given(rate_hz=rates, length_s=seconds, hop_s=seconds, channels=st.integers(1, 64))
def test_the_longest_block_is_taken_and_twice_of_it_is_not(
    rate_hz: float, length_s: float, hop_s: float, channels: int
) -> None:
    spec = specs.window(length_s=length_s, hop_s=hop_s)
    n = max(1, round(longest_block_s(spec, rate_hz, channels) * rate_hz))
    names = tuple(f"c{i}" for i in range(channels))
    shape = (channels, n)
    longest = replace(block(1, rate_hz, names), samples=np.broadcast_to(np.float32(0), shape))
    twice = replace(longest, samples=np.broadcast_to(np.float32(0), (channels, 2 * n + 1)))
    assert most_windows(spec, longest) <= MOST_WINDOWS < most_windows(spec, twice)


def test_a_rate_at_which_a_window_holds_too_few_samples_is_too_slow() -> None:
    assert is_too_slow(specs.window(length_s=1.0, hop_s=0.5), LEAST_SAMPLES - 1.0)
    assert not is_too_slow(specs.window(length_s=1.0, hop_s=0.5), float(LEAST_SAMPLES))
    assert not is_too_slow(specs.window(length_s=60.0, hop_s=30.0), 1.0)  # of a slow process one looks at minutes


@pytest.mark.parametrize(
    ("absurd", "reason"),
    [
        (block(100_000, 1.0), "too_slow"),
        (block(MOST_WINDOWS * 128 + 1, 1000.0), "too_long"),
        (block(2000, 1000.0, tuple(f"q{i}" for i in range(64))), "too_many_channels"),
    ],
    ids=["slow", "long", "channels"],
)
def test_what_asks_for_too_much_is_quarantined_by_name_and_good_streams_beside_it_are_untouched(
    tmp_path: Path, broker: Broker, absurd: Block, reason: str
) -> None:
    live = admitting(tmp_path / "data", broker)
    live.intake = replace(live.intake, max_payload_bytes=2**22)
    send(broker, BLOCKS[:4])
    send(broker, [absurd])
    send(broker, BLOCKS[4:])
    live.run(stop_when_idle(broker))
    live.journal.close()
    assert reasons(tmp_path / "data") == {reason: 1}
    assert (live.counts["committed"], live.counts["quarantined"]) == (len(BLOCKS), 1)
    assert len(broker.acknowledged) == len(BLOCKS) + 1
    for found, expected in zip(stored(tmp_path / "data"), uninterrupted(tmp_path / "plain", BLOCKS), strict=True):
        assert same_rows(found, expected)


def test_a_recording_too_slow_for_its_window_is_skipped_by_name(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "slow.parquet"
    samples = rng.standard_normal((1, 4096)).astype(np.float32)
    write_recording(path, samples, ("x",), {"sample_rate_hz": 20.0, "recording": "slow"})
    command = ["backfill", str(path), "--data", str(tmp_path / "data"), "--workers", "1"]
    assert run(command) == 1
    assert f"expected at least 32 samples in a window of 1 s, found in {path}" in capsys.readouterr().err
    monkeypatch.setenv("THRUMCAST_WINDOW__LENGTH_S", "8")
    assert run(command) == 0


# -- one data directory ----------------------------------------------------------------------------------------------


def test_channel_names_are_taken_until_there_are_enough_and_those_that_are_known_for_ever(
    tmp_path: Path, broker: Broker
) -> None:
    names = [(f"q{i}", "x") for i in range(8)]
    streams = [block(600, 1000.0, pair, f"bad-{i}") for i, pair in enumerate(names)]
    live = admitting(tmp_path, broker, most_channels=4)
    send(broker, [*streams, *BLOCKS])  # of x and y
    live.run(stop_when_idle(broker))
    assert set(live.journal.view(()).extras["features"]) == {"x", "q0", "q1", "q2"}
    assert live.counts["quarantined"] == 5 + len(BLOCKS)
    live.journal.close()
    again = admitting(tmp_path, broker, most_channels=2)  # fewer than there are: they stay, and no more come
    send(broker, [replace(one, session=2) for one in streams])
    again.run(stop_when_idle(broker))
    assert (again.counts["committed"], again.counts["quarantined"]) == (3, 5)
    again.journal.close()
    assert {row["machine"] for row in stored(tmp_path)[0]} == {"bad-0", "bad-1", "bad-2"}
    assert reasons(tmp_path) == {"too_many_channels": 10 + len(BLOCKS)}


def test_a_message_that_is_refused_for_its_names_takes_no_room() -> None:
    admission = Admission(lambda key: SPEC.window, Channels(3, {"x"}))
    with pytest.raises(DecodeError):
        admission(block(300, 1000.0, ("a", "b", "c")))
    assert admission(block(300, 1000.0, ("a", "b"))) > 0


def test_far_dates_are_bounded_and_readings_of_today_and_of_admitted_dates_go_on(
    tmp_path: Path, broker: Broker
) -> None:
    now_s, day_ns = 1_700_000_000.0, 86_400 * 10**9
    live = service(tmp_path, broker)
    dates = Dates(40, lambda: now_s)
    live.intake = replace(live.intake, admission=Admission(lambda key: SPEC.window, dates=dates))
    far = [replace(block(1, 1000.0, machine=f"m-{i % 7}"), index=i, t0_ns=(12_000 + i) * day_ns) for i in range(6000)]
    near = [replace(block(1, 1000.0, machine=f"near-{i}"), t0_ns=round(now_s * 1e9) + i * day_ns) for i in (-2, 0, 2)]
    send(broker, [*far, *near, *far[:40]])
    live.run(stop_when_idle(broker))
    live.journal.close()
    assert reasons(tmp_path) == {"too_many_dates": 5960}
    assert live.counts["duplicate"] == 40
    assert dates.admit(12_000 * day_ns)
    assert not dates.admit(18_001 * day_ns)
    now_s += 3600
    assert dates.admit(18_001 * day_ns)


def test_any_number_of_dates_is_admitted_where_the_limit_is_off() -> None:
    dates = Dates(0)
    assert all(dates.admit(day * 86_400 * 10**9) for day in range(-3000, 3000))


# -- one commit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["bytes", "windows"])
def test_a_commit_is_bounded_and_what_is_left_is_in_the_next_one_and_in_the_account(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    live = admitting(tmp_path / "data", broker)
    live.rhythm = replace(live.rhythm, commit_messages=1000)
    size = 1600  # of samples: two or three blocks
    if bound == "bytes":
        monkeypatch.setattr(intake, "MOST_BYTES", size)
    else:
        monkeypatch.setattr(intake, "MOST_WINDOWS", 6)
    turns: list[int] = []
    missing: set[int] = set()
    live.companions = (
        Commits(lambda batch, step: turns.append(len(batch.messages))),
        Commits(lambda batch, step: missing.add(live.account.missing)),
    )
    send(broker, BLOCKS)
    live.run(lambda: len(broker.acknowledged) == len(BLOCKS))
    live.journal.close()
    assert max(turns) <= 4
    assert sum(turns) == len(BLOCKS)
    assert missing == {0}
    numbers = [message.receipt.number for message in broker.acknowledged]
    assert numbers == sorted(numbers)
    for found, expected in zip(stored(tmp_path / "data"), uninterrupted(tmp_path / "plain", BLOCKS), strict=True):
        assert same_rows(found, expected)


def test_a_stop_that_leaves_no_time_for_what_is_left_over_counts_it_as_dropped(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_WINDOWS", 6)  # as many as the largest block completes
    live = admitting(tmp_path, broker)
    live.rhythm = replace(live.rhythm, commit_messages=1000)
    send(broker, BLOCKS)
    stopping: list[bool] = []
    live.companions = (Commits(lambda batch, step: stopping.append(True)),)
    monkeypatch.setattr("pipeline.drivers.live.STOP_S", 0.0)  # no time for what is left
    live.run(lambda: bool(stopping))
    assert live.account.dropped == len(BLOCKS) - len(broker.acknowledged) > 0
    assert (live.account.missing, live.account.in_flight) == (0, 0)
    live.journal.close()
