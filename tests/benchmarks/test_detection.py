"""FEMTO as detection: what counts as an alarm before the end, as lead time and as a false episode."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import specs
from model_world import sequence

from benchmarks import detection
from benchmarks.detection import Life, methods, numbers, own_baseline, rms_sigmas, watch
from benchmarks.results import events_markdown
from models.evaluation.events import Track, event_metrics
from pipeline.config.tables import Config
from pipeline.core.features.table import COLUMN, NAMES
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.service.compose import MakeWorker

SECOND_NS = 10**9


def life(rel_rms: list[float], *, to_the_end: bool = True, rms: list[float] | None = None, first: int = 10) -> Life:
    """Snapshots of 0.1 s every 10 s; rel_rms in sigma."""
    rows = []
    for number, sigma in enumerate(rel_rms):
        values = np.full((1, len(NAMES)), np.nan, np.float32)
        values[0, COLUMN["rel_rms"]] = sigma
        values[0, COLUMN["rms"]] = 1.0 if rms is None else rms[number]
        start = number * 10 * SECOND_NS
        end = start + SECOND_NS // 10
        rows.append(
            FeatureRow(StreamKey("b", "m"), number, 0, start, end, 25600.0, None, 1.0, 0, None, ("x",), values, "s")
        )
    return Life("b", rows, first, to_the_end)


def test_the_lead_time_is_that_of_the_alarm_that_is_up_at_the_end() -> None:
    watched = watch(life([0.0] * 30 + [20.0] * 5 + [0.0] * 20 + [20.0] * 15), own_baseline, specs.alarm(merge_s=0.0))
    assert watched.lead_s == pytest.approx(130.0, abs=0.2)  # raised at the second of the last fifteen snapshots
    assert watched.false_episodes == 1  # the first alarm was raised in the first half
    assert watched.early_s == pytest.approx(250.0)


def test_an_alarm_that_has_cleared_before_the_end_is_no_alarm_at_the_end() -> None:
    watched = watch(life([0.0] * 40 + [20.0] * 5 + [0.0] * 20), own_baseline, specs.alarm(merge_s=0.0))
    assert (watched.lead_s, watched.false_episodes) == (None, 0)


def test_lives_that_were_cut_count_for_false_episodes_only() -> None:
    lives = [life([0.0] * 40 + [20.0] * 10), life([0.0] * 15 + [20.0] * 35, to_the_end=False), life([0.0] * 50)]
    alarmed, lead, each, false, rate = numbers([watch(one, own_baseline, specs.alarm(merge_s=0.0)) for one in lives])
    assert (alarmed, each, false) == ("1 of 2", "80 -", "1 on 1 of 3")
    assert lead == "80"  # one lead time has no interval
    assert rate.startswith(f"{86_400 / 450:.1f} (0.0 to ")


def test_nothing_is_said_of_the_snapshots_that_make_the_baseline() -> None:
    watched = watch(life([20.0] * 10 + [0.0] * 40), own_baseline, specs.alarm(merge_s=0.0))
    assert (watched.lead_s, watched.false_episodes) == (None, 0)


def test_the_textbook_threshold_is_three_standard_deviations_over_the_first_part() -> None:
    rng = np.random.default_rng(0)
    calm = rng.normal(1.0, 0.1, detection.COMMISSIONING)
    limit = calm.mean() + 3 * calm.std()
    said = rms_sigmas(life([0.0] * 62, rms=[*calm, limit - 0.001, limit + 0.001]).rows)
    assert [p["other"] for p, _ in said][-2:] == [0.0, 1.0]


def test_the_table_of_alarms_keeps_what_is_too_short_apart_from_what_was_missed() -> None:
    y = np.array([1] * 40)
    p = np.tile([0.95, 0.05], (40, 1))
    tracks = [Track(sequence(y.tolist(), machine="a"), p), Track(sequence([1] * 4, machine="b"), p[:4])]
    events = event_metrics(tracks, ("healthy", "bearing_outer"), specs.alarm(merge_s=0.0), warm_up_windows=2)
    healthy = event_metrics([Track(sequence([0] * 40), p)], ("healthy", "bearing_outer"), specs.alarm(merge_s=0.0))
    rows = [{"protocol": "P", "method": "M", "events": events}, {"protocol": "Q", "method": "M", "events": healthy}]
    (line,) = events_markdown(rows).splitlines()[2:]  # a protocol without any fault has no line
    assert line == "| P | M | 1 | 1 | 0 | 0 | 0 | 1 | - | 0 | 0.0000 | - |"


def test_a_recording_of_snapshots_becomes_a_life_and_its_end_is_alarmed(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    count = detection.COMMISSIONING + 20
    loud = np.where(np.arange(count) < count - 8, 1.0, 6.0).repeat(2560)
    columns = {
        "snapshot": pa.array(np.arange(1, count + 1, dtype=np.int32).repeat(2560)),
        "time_of_day_s": pa.array((np.arange(count) * 10.0).repeat(2560)),
        **{name: pa.array((loud * rng.normal(0, 0.3, loud.size)).astype(np.float32)) for name in ("horiz", "vert")},
    }
    about = {
        "dataset": "test", "recording": "B1", "sample_rate_hz": 25600, "units": "g", "rpm": 1800,
        "snapshot_period_s": 10, "run_to_failure": True, "truncated": False,
    }  # fmt: skip
    (tmp_path / "femto").mkdir()
    table = pa.table(columns).replace_schema_metadata({"recording_metadata": json.dumps(about)})
    pq.write_table(table, tmp_path / "femto" / "B1.parquet")
    (bearing,), spec = detection.lives(tmp_path, detection.COMMISSIONING)
    assert (len(bearing.rows), bearing.to_the_end) == (count, True)
    watched = watch(bearing, own_baseline, spec)
    assert watched.lead_s == pytest.approx(60.0, abs=0.2)  # at the second of eight loud snapshots
    assert watched.false_episodes == 0


def test_a_backfill_has_the_floor_of_the_service_under_its_alarms() -> None:
    engine = MakeWorker(Config(), None, {})().engine
    assert engine.zone_of is not None
    assert [engine.zone_of(row) for row in life([0.0, 20.0]).rows] == ["A", "D"]


@pytest.mark.slow
def test_every_life_that_ran_to_its_end_is_alarmed_before_and_none_early(shared_data: Path) -> None:
    bearings, spec = detection.lives(shared_data, detection.COMMISSIONING)
    method, own = next(iter(methods(spec).values()))
    watched = [watch(one, method, own) for one in bearings]
    assert all(each.lead_s is not None and each.lead_s >= 100 for each in watched if each.life.to_the_end)
    assert sum(each.life.to_the_end for each in watched) == 4
    assert sum(each.false_episodes for each in watched) == 0
