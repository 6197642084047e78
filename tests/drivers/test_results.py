"""What is published of a stream's state: severity zone, evidence, and whether the evidence bears out the mode."""

from __future__ import annotations

import json

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.core.engine import Step
from pipeline.core.features.table import COLUMN, NAMES
from pipeline.core.quality import Quality
from pipeline.core.records import FeatureRow, Prediction, StreamKey
from pipeline.core.severity import Limits, limits_of_class
from pipeline.drivers.results import STALE_AFTER_S, STATE_EVERY_S, Results

KEY = StreamKey("pump-01", "de")


def row(window: int = 0, **shown: float) -> FeatureRow:
    values = np.full((2, len(NAMES)), np.nan, np.float32)
    for name, value in shown.items():
        values[1, COLUMN[name]] = value
    return FeatureRow(
        KEY, 1, window, 0, 10**9, 12_000.0, 1800.0, 1.0, 0, None, ("x", "y"), values, "schema"
    )  # fmt: skip


def prediction(window: int = 0, mode: str | None = "bearing_outer", state: str = "alarm") -> Prediction:
    p = np.array([0.1, 0.9], np.float32)
    return Prediction(KEY, 1, window, 0, 10**9, mode, 0.9, p, state, 9, "v0001", "schema")


class Broker:
    def __init__(self, limits: Limits | None = None) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.results = Results("thrumcast", self, classes=("healthy", "bearing_outer"), limits_of=lambda key: limits)

    def __call__(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        self.sent.append((topic, payload))

    def step(self, features: FeatureRow, predicted: Prediction, now_s: float = 0.0) -> None:
        self.results.committed(Step(features=[features], predictions=[predicted]), now_s)

    def states(self) -> list[dict[str, object]]:
        return [json.loads(payload) for topic, payload in self.sent if topic.endswith("/state")]


def test_the_state_names_zone_and_evidence_and_that_it_bears_out_the_mode() -> None:
    broker = Broker(limits_of_class(2, "rigid"))
    broker.step(row(velocity_rms=3.1, env_bpfo=14.0, env_bpfo_harmonics=5), prediction())
    (state,) = broker.states()
    assert (state["velocity_rms_mm_s"], state["zone"]) == (pytest.approx(3.1), "C")
    assert state["zone_note"] == "ISO 10816-3:2009, group 2, rigid support"
    assert state["evidence"] == ["envelope BPFO x1 to x5, 14 dB over floor (y)"]
    assert state["confirmed"] is True
    assert state["quality"] == []


def test_a_mode_without_its_evidence_is_not_confirmed_and_no_class_means_no_zone() -> None:
    broker = Broker()
    broker.step(row(velocity_rms=3.1, env_bpfo=2.0), prediction())
    (state,) = broker.states()
    assert (state["zone"], state["evidence"], state["confirmed"]) == (None, [], False)
    assert str(state["zone_note"]).startswith("not assessable")


def test_a_drift_that_ruins_the_integration_leaves_no_velocity_and_no_zone() -> None:
    broker = Broker(limits_of_class(2, "rigid"))
    drifting = replace(row(velocity_rms=30.0), quality=int(Quality.SKI_SLOPE))
    broker.step(drifting, prediction())
    (state,) = broker.states()
    assert (state["velocity_rms_mm_s"], state["zone"], state["quality"]) == (None, None, ["ski_slope"])


def test_a_state_is_said_on_a_change_and_every_minute_and_last_as_it_was_when_it_went_silent() -> None:
    broker = Broker(limits_of_class(2, "rigid"))
    for second, state in ((0, "warning"), (1, "warning"), (2, "alarm"), (3, "alarm")):
        broker.step(row(second, velocity_rms=1.0 + second), prediction(second, state=state), float(second))
    assert [(s["state"], s["velocity_rms_mm_s"]) for s in broker.states()] == [("warning", 1.0), ("alarm", 3.0)]
    broker.step(row(9, velocity_rms=5.0), prediction(9), 2 + STATE_EVERY_S)
    broker.step(row(10, velocity_rms=6.0), prediction(10), 3 + STATE_EVERY_S)
    broker.results.silence(3 + STATE_EVERY_S + STALE_AFTER_S)
    assert len(broker.states()) == 3
    broker.results.silence(4 + STATE_EVERY_S + STALE_AFTER_S)
    last = broker.states()[-1]
    assert (last["state"], last["velocity_rms_mm_s"], last["zone"]) == ("stale", 6.0, "D")


def test_a_window_that_was_not_judged_has_nothing_to_confirm() -> None:
    broker = Broker()
    broker.step(replace(row(), quality=int(Quality.FLATLINE)), prediction(mode=None, state="sensor_fault"))
    (state,) = broker.states()
    assert (state["mode"], state["p"], state["confirmed"], state["quality"]) == (None, None, None, ["flatline"])
