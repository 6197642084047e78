"""The benchmarks: fair timing on a clock of our own, and a quick run that gives every key of the contract."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.streams import SPEC
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure import CLEAN_WALL_PER_CPU, FEWEST_CLEAN, SAMPLE_S, interleaved
from benchmarks.report import Row, Section, table_text
from benchmarks.windows import largest_state_bytes
from pipeline.cli import run
from pipeline.core.records import Block, StreamKey
from pipeline.edges.broker import is_available

ROOT = Path(__file__).resolve().parents[2]

PROMISED = {
    "features": {"core_ratio_to_rfft", "full_ratio_to_rfft", "windows_per_s"},
    "decode_us": {"msgpack", "json", "arrow"},
    "model_step_us": {"1", "16", "256", "4096"},
    "ingest": {"receive_only_msgs_per_s", "service_msgs_per_s", "ratio"},
    "latency_ms": {"p50", "p99"},
    "backfill": {"windows_per_s", "ratio_to_kernels"},
    "archive": {"rows_per_s", "bytes_per_row"},
    "throughput": {"blocks_of_1024", "blocks_of_4096"},
    "recordings": {"cpu_us", "cpu_ratio_to_kernels", "peak_mib", "memory_growth"},
}


class Clock:
    """CPU and wall time that move only when a case works; disturbed work costs twice as much of both, and waits."""

    def __init__(self, disturbed: Iterator[bool]) -> None:
        self.cpu_s = self.wall_s = 0.0
        self._disturbed = disturbed

    def work(self, seconds: float) -> Callable[[], None]:
        def case() -> None:
            bad = next(self._disturbed)
            self.cpu_s += seconds * (2 if bad else 1)
            self.wall_s += seconds * (3 if bad else 1)

        return case

    def time(self, cases: dict[str, float], samples: int) -> Any:
        made = {name: self.work(seconds) for name, seconds in cases.items()}
        return interleaved(made, samples, cpu_s=lambda: self.cpu_s, wall_s=lambda: self.wall_s)


@given(disturbed=st.lists(st.booleans(), min_size=1, max_size=40).filter(lambda pattern: not all(pattern)))
def test_disturbed_samples_do_not_count_as_long_as_there_are_clean_ones(disturbed: list[bool]) -> None:
    pattern = (bad for _ in iter(int, 1) for bad in disturbed)  # again and again
    seconds = SAMPLE_S * 10  # one call is a sample
    timing = Clock(pattern).time({"work": seconds}, samples=9)["work"]
    if timing.clean >= FEWEST_CLEAN:
        assert not timing.dirty
        assert timing.median_s == pytest.approx(seconds)
    else:
        assert timing.dirty
        assert seconds <= timing.median_s * (1 + 1e-9) <= 2.1 * seconds


def test_a_case_that_is_always_disturbed_is_marked_dirty_and_still_timed() -> None:
    timings = Clock(iter(lambda: True, None)).time({"work": SAMPLE_S * 10}, samples=5)
    assert timings["work"].dirty
    assert timings["work"].clean == 0
    assert timings["work"].median_s == pytest.approx(SAMPLE_S * 20)


def test_a_short_case_is_repeated_until_a_sample_is_long_enough() -> None:
    clock = Clock(iter(lambda: False, None))
    timings = clock.time({"short": SAMPLE_S / 1000, "long": SAMPLE_S * 3}, samples=6)
    assert timings["short"].median_s == pytest.approx(SAMPLE_S / 1000)
    assert timings["long"].median_s == pytest.approx(SAMPLE_S * 3)
    assert CLEAN_WALL_PER_CPU > 1
    assert timings["short"].clean == timings["long"].clean == 6


def test_a_row_says_what_it_is_compared_with_and_whether_it_is_to_be_trusted() -> None:
    text = table_text([Section("title", [Row("name", 1234.5, "us", "a copy", 2.0, dirty=True)], {})])
    assert "title" in text
    assert "1,234 us" in text
    assert "2 x  a copy  (dirty)" in text


@pytest.mark.network
@pytest.mark.usefixtures("compiled")
def test_a_quick_run_gives_every_promised_key_and_each_number_is_finite_and_positive() -> None:
    if not (is_available("mosquitto") or is_available("iotcore")):
        pytest.skip("no broker on this machine: install mosquitto or iotcore")
    document = json.loads(_benchmarks("--json", "--quick").stdout)
    for key, inner in PROMISED.items():
        assert inner <= document[key].keys(), key
    assert {"cpu", "cores", "load_average", "load_average_after", "versions"} <= document["machine"].keys()
    measured = {key: document[key] for key in (*PROMISED, "state_bytes_per_stream")}
    for place, number in _numbers(measured, ""):
        assert math.isfinite(number), place
        assert number > 0, place


@pytest.mark.usefixtures("compiled")
def test_the_table_says_what_each_row_stands_beside_and_on_which_machine() -> None:
    found = _benchmarks("--quick", "--only", "codec", "--only", "windows")
    assert "load average" in found.stdout
    assert "decode msgpack" in found.stdout
    assert "one copy of the samples" in found.stdout
    assert "features:" not in found.stdout
    assert "measuring codec" in found.stderr


def test_the_command_prints_the_document_of_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--quick", "--json", "--quiet", "--only", "windows"]) == 0
    assert json.loads(capsys.readouterr().out)["state_bytes_per_stream"] > 0


def test_the_state_that_is_shown_is_the_largest_and_not_the_last_or_the_first() -> None:
    key = StreamKey("pump-01", "de")
    sizes = (100, 250, 100, 10)  # the tail of unfinished windows grows, and shrinks with every window
    given_ = [
        Block(key, 1, sum(sizes[:k]), k * 10**9, 1000.0, ("x",), "g", np.ones((1, size), np.float32), None)
        for k, size in enumerate(sizes)
    ]
    each = [largest_state_bytes(SPEC, given_[:k]) for k in range(1, len(given_) + 1)]
    assert each == sorted(each)
    assert each[0] < each[-1]


def test_the_command_names_the_parts_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--only", "nonsense"]) == 2
    said = capsys.readouterr().err
    assert "nonsense" in said
    assert "archive, backfill, codec, features, ingest, model, recordings, simulator, throughput, windows" in said


def test_without_a_source_checkout_the_command_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.commands.bench.ROOT", tmp_path)
    assert run(["bench"]) == 1
    assert "source checkout" in capsys.readouterr().err


def _benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    return found


def _numbers(value: Any, place: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{place}.{key}")
    elif not isinstance(value, bool):
        yield place, float(value)
