"""Explaining a prediction from the archive, the physical veto, and a look at the states."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from harness.live import BLOCKS, Broker, send, stop_when_idle
from harness.serving import service
from harness.streams import ENGINE, SPEC
from model_world import bundle
from msgspec.structs import replace

from models import unknown
from models.bundle import Bundle
from models.explain import explain
from models.predictor import NumpyPredictor
from models.registry import Registry
from models.scaling import Scaler
from pipeline.commands import explain as explain_command
from pipeline.commands import state as state_command
from pipeline.core.alarm import AlarmState, Episode
from pipeline.core.engine import Step
from pipeline.core.evidence import UNCONFIRMED, confirms, shown_mode
from pipeline.core.features.table import COLUMN
from pipeline.core.records import AlarmChange, FeatureRow, StreamKey
from pipeline.drivers.live import Live
from pipeline.drivers.results import Results
from pipeline.drivers.switch import ModelSet
from pipeline.edges.machines import MACHINES_NAME, MachinesFile

INPUTS = ("x.kurtosis", "x.crest", "x.band_01", "x.band_02", "y.kurtosis")
PUMP = StreamKey("pump-01", "de")


def model(seed: int = 0) -> Bundle:
    made = bundle(np.random.default_rng(seed), features=len(INPUTS))
    scaler = Scaler("standard", np.array([3, 4, -2, -2, 3], np.float32), np.ones(5, np.float32))
    spec = dataclasses.replace(made.spec, inputs=INPUTS, scaler=scaler, feature_schema=SPEC.features.schema)
    return dataclasses.replace(made, spec=dataclasses.replace(spec, classes=("healthy", "unbalance", "bearing_outer")))


def begun(directory: Path, version: str) -> tuple[Registry, Broker, Live]:
    """A registry whose champion is v0002, and a service under a version."""
    registry = Registry(directory)
    registry.add(model(0)), registry.add(model(1))
    registry.point("champion", "v0002", why="")
    broker = Broker()
    live = service(directory, broker, windows=4)
    live.engine = dataclasses.replace(ENGINE, predictor=NumpyPredictor(registry.load(version)))
    return registry, broker, live


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A service under v0001 that went on under v0002, and its archive."""
    registry, broker, live = begun(tmp_path, "v0001")
    half = len(BLOCKS) // 2
    send(broker, BLOCKS[:half])
    live.run(stop_when_idle(broker))
    live.serve(ModelSet(NumpyPredictor(registry.load("v0002"))))
    send(broker, BLOCKS[half:])
    live.run(stop_when_idle(broker))
    alarm = AlarmState(open=(Episode("unbalance", 5, 0.9, acked_ns=7),))
    live.states[PUMP] = replace(live.states[PUMP], alarm=alarm)
    live.engine = dataclasses.replace(live.engine, predictor=NumpyPredictor(model(3).named("v0003")))
    live.run(lambda: True)  # commits every state
    live.journal.close()
    return tmp_path


def run(command: Any, data: Path, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, [*arguments, "--data", str(data), "--json"])
    assert result.exit_code == 0, result.output or result.exception
    return json.loads(result.stdout)


def test_a_prediction_made_again_from_the_archive_is_the_same_before_and_after_a_switch(plant: Path) -> None:
    from pipeline.edges.store.read import read_predictions

    rows = [r for r in read_predictions(plant, machines=["pump-01"]).to_pylist() if r["mode"] is not None]
    assert {row["model"] for row in rows} == {"v0001", "v0002"}
    for row in rows:
        where = ("--machine", "pump-01", "--window", str(row["window"]), "--session", str(row["session"]))
        document = run(explain_command.command, plant, *where)
        assert document["model"] == row["model"]
        assert document["archived"]["same"] is True
        assert document["archived"]["largest_difference"] < 1e-6
        assert document["archived"]["state_age"] == document["stepped_windows"] == row["state_age"]
        assert document["p"] == pytest.approx(row["p"], abs=1e-6)


def test_an_explanation_has_every_input_with_its_value_and_what_it_adds(plant: Path) -> None:
    document = run(explain_command.command, plant, "--machine", "pump-01")
    assert {row["input"] for row in document["inputs"]} == set(INPUTS)
    adds = [abs(row["adds"]) for row in document["inputs"]]
    assert adds == sorted(adds, reverse=True)
    assert adds[0] > 0
    assert set(document["families"]) == {"band", "kurtosis"}
    text = CliRunner().invoke(explain_command.command, ["--machine", "pump-01", "--data", str(plant)]).stdout
    assert "the same, largest difference of a probability" in text
    other = run(explain_command.command, plant, "--machine", "pump-01", "--model", "v0001", "--mode", "healthy")
    assert (other["model"], other["explained_mode"], other["archived"]) == ("v0001", "healthy", None)


@pytest.mark.parametrize(("threshold", "verdict"), [(0.0, "unknown, most by"), (9.0, "known")])
def test_an_explanation_says_whether_a_window_is_unknown_and_in_what(
    plant: Path, threshold: float, verdict: str
) -> None:
    eye = np.eye(2).tolist()  # impulsiveness and low bands
    found = {"kind": unknown.KIND, "used": True, "inputs": list(INPUTS), "threshold": threshold, "size": 1.0}
    found |= {"centre": [0.0, 0.0], "whitening": eye, "modes": [[0.0, 0.0]]}
    Registry(plant).add(dataclasses.replace(model(2), data={"machines": [], "unknown": found}))
    where = ("--machine", "pump-01", "--model", "v0003")
    said = run(explain_command.command, plant, *where)["unknown"]
    assert said["is"] == (said["distance"] > threshold) == (verdict != "known")
    assert set(said["quantities"]) == {"impulsiveness", "low bands"}
    text = CliRunner().invoke(explain_command.command, [*where, "--data", str(plant)]).stdout
    assert f"unknown above {threshold:.2f}: {verdict}" in text
    assert run(explain_command.command, plant, "--machine", "pump-01")["unknown"] is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--machine", "nobody"), "expected a machine with archived windows, found: nobody"),
        (("--machine", "pump-01", "--point", "nde"), "expected a point of pump-01 with archived windows, found: nde"),
        (("--machine", "pump-01", "--window", "9999"), "expected an archived window 9999"),
        (("--machine", "pump-01", "--mode", "rust"), "expected a mode that v0002 knows, found: rust"),
    ],
)
def test_what_cannot_be_explained_is_said(plant: Path, arguments: tuple[str, ...], expected: str) -> None:
    result = CliRunner().invoke(explain_command.command, [*arguments, "--data", str(plant)])
    assert result.exit_code == 1
    assert expected in str(result.exception)


def test_an_unknown_machine_is_answered_with_the_names_that_come_near(plant: Path) -> None:
    MachinesFile(plant / MACHINES_NAME).update_all({StreamKey(name, "de"): {} for name in ("pump-01", "fan-02")})
    result = CliRunner().invoke(explain_command.command, ["--machine", "pump-1", "--data", str(plant)])
    assert result.exception.hint == "did you mean pump-01?"


def test_withholding_finds_the_input_that_the_network_listens_to() -> None:
    class Listener:
        """Says `unbalance` as far as its third input is high; the state is not used."""

        version, classes, inputs, hidden_shape = "v1", ("healthy", "unbalance"), ("x.a", "x.b", "x.c"), (1, 1)

        def step(self, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            p = 1 / (1 + np.exp(-np.nan_to_num(x[:, 2])))
            return np.stack([1 - p, p], axis=1).astype(np.float32), h

    found = explain(Listener(), np.array([[5.0, 5.0, 3.0]] * 30, np.float32))
    assert found.by_input[:2].tolist() == [0.0, 0.0]
    assert found.by_input[2] == pytest.approx(1 / (1 + np.exp(-3)) - 0.5, abs=1e-6)
    assert found.windows == 20
    assert explain(Listener(), np.zeros((3, 3), np.float32), "healthy").windows == 3


def row(**values: float) -> FeatureRow:
    features = np.full((2, len(COLUMN)), np.nan, np.float32)
    for name, value in values.items():
        features[1, COLUMN[name]] = value
    return FeatureRow(PUMP, 1, 0, 0, 10**9, 12e3, 1500.0, 1.0, 0, None, ("x", "y"), features, "s")


def test_a_place_in_a_bearing_needs_its_lines_and_without_orders_nothing_is_said() -> None:
    assert confirms("bearing_outer", row(env_bpfo=20.0)) is True
    assert confirms("bearing_outer", row(env_bpfo=3.0, env_bpfi=20.0)) is False
    assert confirms("bearing_outer", row()) is None
    assert shown_mode("bearing_inner", row(env_bpfi=2.0)) == UNCONFIRMED
    assert shown_mode("bearing_inner", row()) == UNCONFIRMED
    assert shown_mode("bearing_inner", None) == "bearing_inner"
    assert shown_mode("gear_wear", row(kurtosis=3.0)) == "gear_wear"


def test_an_alarm_is_published_with_what_the_evidence_leaves_of_it() -> None:
    broker = Broker()
    results = Results("thrumcast", broker.publish)
    change = AlarmChange(PUMP, "raised", "a", "bearing_outer", 0.9, 5, 1)
    results.committed(Step(features=[row(env_bpfo=1.0)], alarms=[change]), 0.0)
    alarm = msgspec.json.decode(broker.published[0][1])
    assert (alarm["mode"], alarm["shown"]) == ("bearing_outer", UNCONFIRMED)
    other = AlarmChange(PUMP, "raised", "b", "gear_wear", 0.9, 6, 2)
    results.committed(Step(alarms=[other]), 0.0)
    results.committed(Step(alarms=[dataclasses.replace(other, type="revoked")]), 0.0)
    retained = [payload for topic, payload, _, _ in broker.published if topic.endswith("/alarm")]
    assert msgspec.json.decode(retained[-1])["id"] == "a"  # the one that is still up
    results.committed(Step(alarms=[dataclasses.replace(change, type="cleared")]), 0.0)
    assert [payload for topic, payload, _, _ in broker.published if topic.endswith("/alarm")][-1] == b""


def test_alarms_that_were_up_before_a_restart_are_known_after_it() -> None:
    broker = Broker()
    results = Results("thrumcast", broker.publish)
    first = AlarmChange(PUMP, "acked", "a", "unbalance", 0.9, 5, 1)
    second = AlarmChange(PUMP, "raised", "b", "gear_wear", 0.9, 6, 2)
    results.restore([first, second])
    assert broker.published == []
    results.committed(Step(alarms=[dataclasses.replace(second, type="cleared")]), 0.0)
    retained = [payload for topic, payload, _, _ in broker.published if topic.endswith("/alarm")]
    left = msgspec.json.decode(retained[-1])
    assert (left["id"], left["acknowledged"]) == ("a", "1970-01-01T00:00:00.000000Z")


def test_states_are_shown_beside_whoever_holds_the_directory(plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.config.specs.stream_specs", lambda config, known: lambda key: SPEC)
    streams = run(state_command.command, plant, "show")["streams"]
    assert [stream["machine"] for stream in streams] == ["fan-02", "pump-01"]
    pump = streams[1]
    assert (pump["state"], pump["model"], pump["state_age"]) == ("alarm", "v0003", 4)
    assert [(alarm["mode"], alarm["acknowledged"] is not None) for alarm in pump["alarms"]] == [("unbalance", True)]
    assert pump["hidden_shape"] == [1, 7]
    assert run(state_command.command, plant, "show", "--machine", "fan-02")["streams"] == streams[:1]
    assert run(state_command.command, plant / "empty", "show") == {"streams": []}


def test_a_window_that_no_version_judged_is_explained_from_where_the_service_would_have_begun(tmp_path: Path) -> None:
    _, broker, live = begun(tmp_path, "v0002")
    hour_ns = 3600 * 10**9
    later = [
        dataclasses.replace(block, session=block.session + 1, t0_ns=block.t0_ns + hour_ns)
        for block in BLOCKS[: len(BLOCKS) // 2]
    ]
    send(broker, [*BLOCKS, *later])
    live.run(stop_when_idle(broker))
    live.journal.close()
    served = run(explain_command.command, tmp_path, "--machine", "pump-01")
    other = run(explain_command.command, tmp_path, "--machine", "pump-01", "--model", "v0001")
    assert served["archived"]["same"] is True
    assert other["archived"] is None
    assert other["stepped_windows"] == served["stepped_windows"] == served["archived"]["state_age"]
