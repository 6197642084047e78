"""Forecasts of the running service: from the live hidden state, published, archived, and only when they are wanted."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from click.testing import CliRunner
from harness.broker import PATIENCE_S, wait_until
from harness.live import BLOCKS, Broker, send, service, stop_when_idle
from harness.streams import ENGINE, SPEC
from harness.trained import fewer_steps
from model_world import bundle

from models.forecast import Forecaster
from models.registry import Registry
from pipeline.cli import group
from pipeline.config.specs import feature_spec
from pipeline.config.tables import CommitConfig, Config, DataConfig, ModelConfig, MqttConfig
from pipeline.core.forecast import Future
from pipeline.core.records import Float32
from pipeline.drivers.live import Live
from pipeline.drivers.switch import ModelSet
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.store.check import verify
from pipeline.edges.store.read import read_features, read_kind
from pipeline.service.compose import service as run_service
from pipeline.service.models import GuardedForecast, load_models


def told_by_the_state(h: Float32) -> list[list[Future]]:
    """Futures that name the state they come from."""
    return [[Future(("unbalance",), True, float(row.sum()), (0.5, float(row[0, 0])))] for row in h]


def foretelling(directory: Path, broker: Broker, every: int = 3) -> Live:
    live = service(directory, broker)
    live.engine = replace(live.engine, foretell=told_by_the_state, foretell_every=every)
    return live


def archived(directory: Path) -> list[dict[str, object]]:
    return read_kind(directory, "forecast").to_pylist()


def test_the_windows_that_are_foretold_are_the_same_however_the_blocks_come(tmp_path: Path) -> None:
    tables = []
    for name, messages in (("few", 4), ("many", 1000)):
        broker = Broker()
        live = foretelling(tmp_path / name, broker)
        live.rhythm = replace(live.rhythm, commit_messages=messages)
        send(broker, BLOCKS)
        live.run(stop_when_idle(broker))
        tables.append(archived(tmp_path / name))
        assert verify(tmp_path / name).problems == ()
    few, many = tables
    assert few
    assert all(row["window"] % 3 == 0 for row in few)
    assert [row["mode"] for row in few] == ["unbalance", "end"] * (len(few) // 2)
    for one, other in zip(few, many, strict=True):
        assert {k: v for k, v in one.items() if not k.startswith("p")} == {
            k: v for k, v in other.items() if not k.startswith("p")
        }
        assert one["p_future"] == pytest.approx(other["p_future"], abs=1e-5)


def test_a_forecast_is_of_the_state_after_its_window_and_waits_for_a_warm_memory() -> None:
    spec = replace(SPEC, warm_up_windows=2)
    engine = replace(ENGINE, spec_of=lambda key: spec, foretell=told_by_the_state)
    states, seen = {}, Counter[str]()
    for block in BLOCKS:
        step = engine.step(states, [block])
        states |= step.states
        assert len(step.features) < 2 or len(step.forecasts) == sum(p.state_age > 2 for p in step.predictions)
        for forecast in step.forecasts:
            seen[forecast.key.machine] += 1
        if step.forecasts:
            last = step.forecasts[-1]
            assert last.futures[0].p == pytest.approx(float(states[last.key].hidden.sum()))
    assert len(seen) == 2
    assert min(seen.values()) > 3


def test_a_forecast_that_fails_is_let_go_and_costs_no_block_nor_prediction() -> None:
    def broken(h: Float32) -> list[list[Future]]:
        raise ValueError(h.shape)

    spec = replace(SPEC, warm_up_windows=2)
    plain = replace(ENGINE, spec_of=lambda key: spec)
    guarded = GuardedForecast(broken)
    engine = replace(plain, foretell=guarded)
    states, usual = {}, {}
    for block in BLOCKS:
        step, other = engine.step(states, [block]), plain.step(usual, [block])
        states, usual = states | step.states, usual | other.states
        assert [p.mode for p in step.predictions] == [p.mode for p in other.predictions]
        assert all(forecast.futures == () for forecast in step.forecasts)
    assert guarded.failed


def test_another_model_foretells_what_it_can_and_no_more(tmp_path: Path) -> None:
    broker = Broker()
    live = foretelling(tmp_path, broker)
    live.serve(ModelSet(ENGINE.predictor))
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    assert archived(tmp_path) == []
    assert not [topic for topic, *_ in broker.published if topic.endswith("/forecast")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with machines that fail, and a champion that was trained to foretell."""
    data = str(tmp_path_factory.mktemp("forecast") / "D")
    plant = [
        "--machines",
        "4",
        "--seconds",
        "40",
        "--failing",
        "1",
        "--axes",
        "x",
        "--modes",
        "unbalance,bearing_outer",
    ]
    learn = ["epochs=3", "hidden=6", "members=1", "folds=2", "simulated=0", "forecast=3"]
    with pytest.MonkeyPatch.context() as patch:
        fewer_steps(patch)
        for command in (
            ["sim", "--archive", data, "--workers", "1", *plant],
            ["train", "--data", data, *(word for each in learn for word in ("--set", each))],
        ):
            result = CliRunner().invoke(group, command)
            assert result.exit_code == 0, result.output or result.exception
    return Path(data)


@pytest.mark.network
@pytest.mark.parametrize("modes", [2, 0])
def test_a_version_that_can_foretell_does_so_over_a_broker_when_it_is_wanted(
    trained: Path, broker: PrivateBroker, tmp_path: Path, modes: int
) -> None:
    data = tmp_path / "live"
    shutil.copytree(trained / "registry", data / "registry")
    heard: list[tuple[str, dict[str, Any]]] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _, __, message: heard.append((message.topic, json.loads(message.payload)))
    client.connect(broker.host, broker.port)
    client.subscribe("thrumcast/machines/+/+/forecast")
    client.loop_start()
    config = Config(
        data=DataConfig(dir=str(data)),
        mqtt=MqttConfig(host=broker.host, port=broker.port),
        model=ModelConfig(forecast_modes=modes, forecast_every_windows=4),
        commit=CommitConfig(interval_s=0.1),
    )
    plant = ["sim", "--broker", f"mqtt://{broker.host}:{broker.port}", "--machines", "2", "--seconds", "20", "--speed"]
    with run_service(config, wait=False) as (live, _, predictor):
        assert predictor is not None
        sent = CliRunner().invoke(group, [*plant, "0", "--axes", "x"])
        assert sent.exit_code == 0, sent.output
        deadline_s = time.monotonic() + PATIENCE_S
        live.run(lambda: live.counts["committed"] >= 2 * 80 or time.monotonic() > deadline_s)
        assert live.counts["committed"] >= 2 * 80
    rows = read_kind(data, "forecast").to_pylist()
    best = {(row["machine"], row["window"]) for row in rows if row["future"] == 0}
    wait_until(lambda: len(heard) >= len(best), lambda: time.sleep(0.02), "a forecast for every archived one")
    client.disconnect()
    client.loop_stop()
    if not modes:
        assert rows == heard == []
        return
    features = read_features(data, columns=["machine", "window"]).to_pylist()
    warm = {(row["machine"], row["window"]) for row in features if row["window"] % 4 == 0 and row["window"] > 4}
    assert best == warm
    assert len(heard) == len(best)
    assert verify(data).problems == ()
    forecaster = Forecaster(Registry(data).load("champion"))
    for topic, said in heard:
        machine, window = topic.split("/")[2], said["window"]
        mine = [r for r in rows if (r["machine"], r["window"], r["future"]) == (machine, window, 0)]
        future = said["futures"][0]
        assert [row["mode"] for row in mine] == [*future["modes"], *(["end"] if future["ends"] else [])]
        assert [row["p"] for row in mine] == pytest.approx(future["step_p"])
        assert future["p"] == pytest.approx(np.prod(future["step_p"]))
        assert 1 <= len(future["step_p"]) <= modes
        assert [each["p"] for each in said["futures"]] == sorted((each["p"] for each in said["futures"]), reverse=True)
    key, state = next(iter(live.states.items()))
    assert key.machine in {machine for machine, _ in warm}
    assert forecaster.beam(state.hidden[None], modes)[0][0].p > 0


def test_a_version_that_cannot_foretell_serves_all_the_same_and_the_log_says_so(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    model = bundle(rng)
    config = Config(data=DataConfig(dir=str(tmp_path)), model=ModelConfig(forecast_modes=3))
    schema = feature_spec(config).schema
    registry = Registry(tmp_path)
    registry.point(
        "champion", registry.add(replace(model, spec=replace(model.spec, feature_schema=schema))), why="test"
    )
    models = load_models(config)
    assert models.predictor is not None
    assert models.foretell is None
    assert "forecast_missing model=v0001" in caplog.text


@pytest.mark.parametrize(("trust", "warns"), [(0.0, True), (0.25, False)])
def test_the_log_says_that_a_decoder_has_no_skill(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture, trust: float, warns: bool
) -> None:
    model = bundle(rng)
    config = Config(data=DataConfig(dir=str(tmp_path)), model=ModelConfig(forecast_modes=3))
    schema, usual = feature_spec(config).schema, (0.25,) * (len(model.spec.classes) + 1)
    spec = replace(model.spec, decoder=8, feature_schema=schema, trust=trust, usual=usual)
    weights = {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in spec.shapes().items()}
    registry = Registry(tmp_path)
    registry.point("champion", registry.add(replace(model, spec=spec, weights=weights)), why="test")
    assert load_models(config).foretell is not None
    assert ("forecast_without_skill model=v0001 trust=0.000" in caplog.text) == warns
