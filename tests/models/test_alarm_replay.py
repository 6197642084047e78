"""Archived probabilities under other alarm settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import specs
from click.testing import CliRunner
from model_world import bundle, dataset_spec, sequence, table

from models.data.dataset import build
from models.evaluation.alarm_replay import archived_tracks, settings_of, trade_off, trade_off_text
from models.evaluation.events import Track, event_metrics
from models.evaluation.scoring import as_served, zones_of
from pipeline.core.features.table import COLUMN, NAMES
from pipeline.core.records import FeatureRow
from pipeline.errors import ConfigError

SPEC = specs.alarm(enter_p=0.8, leave_p=0.5, enter_s=2.0, leave_s=3.0, merge_s=0.0)
CLASSES = ("healthy", "unbalance")


def track(tops: str, truth: str) -> Track:
    """Windows of 1 s, one after the other."""
    y = ["hu".index(letter) for letter in truth]
    p = np.array([[0.95, 0.05] if letter == "h" else [0.05, 0.95] for letter in tops])
    return Track(sequence(y, hop_s=1.0), p)


def test_every_combination_is_tried_and_the_present_settings_come_first() -> None:
    settings = settings_of(SPEC, ["enter_s=1,10", "leave_p=0.3"])
    assert [s.name for s in settings] == ["as configured", "enter_s=1 leave_p=0.3", "enter_s=10 leave_p=0.3"]
    assert (settings[2].spec.enter_s, settings[2].spec.leave_p, settings[2].spec.leave_s) == (10.0, 0.3, 3.0)
    assert settings_of(SPEC, [])[0].spec is SPEC


@pytest.mark.parametrize(
    "bad", ["enter", "enter_s=", "enter_s=soon", "volume=3", "enter_s=-1", "leave_p=0.9", "enter_p=nan"]
)
def test_a_setting_that_cannot_be_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="--alarms: expected"):
        settings_of(SPEC, [bad])


def test_longer_persistence_trades_false_alarms_for_delay() -> None:
    tracks = [track("hhuuuhhhhhhh" + "u" * 12, "h" * 12 + "u" * 12)]
    now, slow = trade_off(tracks, CLASSES, settings_of(SPEC, ["enter_s=6"]))
    assert (now["events"]["false_alarms"], slow["events"]["false_alarms"]) == (1, 0)
    assert now["events"]["detection_delay_s"]["median"] == 2.0
    assert slow["events"]["detection_delay_s"]["median"] == 6.0
    text = trade_off_text([now, slow]).splitlines()
    assert text[0].startswith("alarms")
    assert text[2].startswith("enter_s=6")


def test_an_alarm_that_comes_back_is_one_false_alarm_where_episodes_are_merged() -> None:
    tracks = [track("uuhhhhuuhhhhuuhhhh", "h" * 18)]
    apart, merged = trade_off(tracks, CLASSES, settings_of(SPEC, ["merge_s=60"]))
    assert (apart["events"]["false_alarms"], merged["events"]["false_alarms"]) == (3, 1)


def test_a_revoked_alarm_ends_when_it_is_taken_back() -> None:
    classes = ("healthy", "unbalance", "looseness")
    p = np.array([[0.02, 0.96, 0.02]] * 4 + [[0.02, 0.02, 0.96]] * 6)
    found = event_metrics([Track(sequence([0] * 4 + [2] * 6, hop_s=1.0), p)], classes, SPEC)
    assert (found["detections"], found["misdiagnosed"], found["false_alarms"]) == (1, 0, 1)  # raised in health
    assert found["detection_delay_s"]["median"] == 5.0  # another name needs more evidence than the first one had


def predictions(rows: int, model: str = "v0001", **more: list[object]) -> pa.Table:
    kinds = {"start": pa.timestamp("us", tz="UTC")}
    columns = {
        "machine": ["pump-01"] * rows,
        "point": ["de"] * rows,
        "session": [1] * rows,
        "start": [round(0.5e6 * i) for i in range(rows)],
        "model": [model] * rows,
        "state_age": list(range(1, rows + 1)),
        "p_healthy": [0.9] * rows,
        "p_unbalance": [0.1] * rows,
    } | more
    return pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})


def test_archived_predictions_are_joined_by_window_version_and_warm_up() -> None:
    dataset = build(
        table([{} for _ in range(10)]), dataset_spec(CLASSES, str, exact_inputs=("x.rms",), exact_classes=CLASSES)
    )
    (found,) = archived_tracks(dataset, predictions(10), "v0001", CLASSES, 3)
    assert found.p.shape == (10, 2)
    assert found.of_alarms(0).tolist() == list(range(3, 10))
    assert archived_tracks(dataset, predictions(10, model="v0002"), "v0001", CLASSES, 3) == []
    silent = predictions(10, p_healthy=[None, *[0.9] * 9])
    assert archived_tracks(dataset, silent, "v0001", CLASSES, 0)[0].p.shape == (9, 2)


def test_a_fault_has_the_same_delay_by_archived_predictions_as_in_an_evaluation() -> None:
    dataset = build(
        table([{"truth": "unbalance"} for _ in range(40)]),
        dataset_spec(CLASSES, str, exact_inputs=("x.rms",), exact_classes=CLASSES),
    )
    said = predictions(40, p_healthy=[0.05] * 40, p_unbalance=[0.95] * 40)
    replayed = trade_off(archived_tracks(dataset, said, "v0001", CLASSES, 5), CLASSES, settings_of(SPEC, []))
    (windows,) = dataset.sequences
    evaluated = event_metrics([Track(windows, np.tile([0.05, 0.95], (40, 1)))], CLASSES, SPEC, warm_up_windows=5)
    assert replayed[0]["events"]["detection_delay_s"]["median"] == 4.5  # warm-up and persistence
    assert replayed[0]["events"] == evaluated


def test_what_fits_no_mode_raises_no_alarm_and_a_zone_that_lasts_raises_one_as_in_service() -> None:
    plain = track("u" * 12, "h" * 12)
    assert event_metrics([plain], CLASSES, SPEC)["false_alarms"] == 1
    strange = replace(plain, unknown=np.ones(12, np.bool_))
    assert event_metrics([strange], CLASSES, SPEC)["false_alarms"] == 0
    assert event_metrics([replace(strange, zone=["D"] * 12)], CLASSES, SPEC)["false_alarms"] == 1


def test_zones_and_the_detector_are_asked_of_every_archived_window(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((30, 1, len(NAMES)), np.float32)
    values[:, 0, COLUMN["rel_rms"]] = [0.0] * 20 + [50.0] * 10
    windows = sequence([0] * 30)
    rows = [
        FeatureRow(windows.key, 1, n, start, end, 12e3, None, 1.0, 0, "healthy", ("x",), values[n], "s")
        for n, (start, end) in enumerate(zip(windows.start_ns.tolist(), windows.end_ns.tolist(), strict=True))
    ]
    monkeypatch.setattr("models.evaluation.scoring.detector", lambda _: lambda x, p: p[:, 0] > 0.5)
    said = Track(windows, np.array([[0.9, 0.1], [0.2, 0.8]] * 15))
    (found,) = as_served([said], bundle(np.random.default_rng(0)), zones_of({windows.key: rows}, lambda _: None))
    assert found.zone == ["A"] * 20 + ["D"] * 10
    assert found.unknown is not None
    assert found.unknown.tolist() == [True, False] * 15


def test_the_command_replays_what_a_service_has_said(tmp_path: Path) -> None:
    import dataclasses

    from harness.live import BLOCKS, Broker, send, stop_when_idle
    from harness.serving import service
    from harness.streams import ENGINE

    from models.registry import Registry
    from pipeline.commands import evaluate as evaluate_command

    broker = Broker()
    live = service(tmp_path, broker)
    live.engine = dataclasses.replace(ENGINE, predictor=_Named())
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    live.journal.close()
    made = bundle(np.random.default_rng(0), features=len(ENGINE.predictor.inputs))
    spec = dataclasses.replace(made.spec, classes=ENGINE.predictor.classes, inputs=ENGINE.predictor.inputs)
    Registry(tmp_path).add(dataclasses.replace(made, spec=spec))
    command = ["--data", str(tmp_path), "--alarms", "enter_s=0,1000", "--alarms", "enter_p=0.5", "--json"]
    result = CliRunner().invoke(evaluate_command.command, command, env={"THRUMCAST_ALARM__LEAVE_P": "0.4"})
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["source"] == "archived predictions"
    assert [row["setting"] for row in document["settings"]][1:] == ["enter_s=0 enter_p=0.5", "enter_s=1000 enter_p=0.5"]
    assert document["settings"][2]["events"]["detections"] == 0


class _Named:
    """The reference network under the name of the first version of a registry."""

    def __init__(self) -> None:
        from harness.streams import ENGINE

        self.inner, self.version = ENGINE.predictor, "v0001"
        self.classes, self.inputs, self.hidden_shape = self.inner.classes, self.inner.inputs, self.inner.hidden_shape

    def step(self, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.inner.step(x, h)
