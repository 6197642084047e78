"""A backfill says what the service would have said: the same modes, states and forecasts of the same readings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from harness.live import TOPICS, Broker, send, stop_when_idle
from model_world import bundle

from models import unknown
from models.bundle import ModelSpec
from models.registry import Registry
from pipeline.cli import group
from pipeline.config.specs import feature_spec, stream_specs
from pipeline.config.tables import Config, DataConfig, ModelConfig
from pipeline.drivers.intake import Intake
from pipeline.drivers.live import Live
from pipeline.drivers.results import Results
from pipeline.drivers.span import Rhythm
from pipeline.edges.recordings.recording import open_recording, streams, write_recording
from pipeline.edges.store.read import read_kind, read_predictions
from pipeline.service import compose
from pipeline.service.models import load_models

RATE_HZ = 4096.0
CLASSES = ("healthy", "bearing_outer", "unbalance")
FORECASTS = {"THRUMCAST_MODEL__FORECAST_MODES": "2", "THRUMCAST_MODEL__FORECAST_EVERY_WINDOWS": "4"}


def config_of(data: Path) -> Config:
    """As a user has it who wants forecasts."""
    return Config(data=DataConfig(dir=str(data)), model=ModelConfig(forecast_modes=2, forecast_every_windows=4))


def with_champion(data: Path, rng: np.random.Generator, *, decoder: int = 8) -> None:
    """A registry whose champion has random weights, says modes and foretells."""
    model = bundle(rng, classes=3)
    spec: ModelSpec = replace(
        model.spec,
        classes=CLASSES,
        inputs=("x.kurtosis", "x.crest", "x.centroid"),
        feature_schema=feature_spec(config_of(data)).schema,
        scaler=replace(model.spec.scaler, center=np.zeros(3, np.float32), scale=np.ones(3, np.float32)),
        decoder=decoder,
        trust=0.5,
        usual=(0.1, 0.2, 0.3, 0.4),
    )
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in spec.shapes().items()}
    registry = Registry(data)
    registry.point("champion", registry.add(replace(model, spec=spec, weights=weights)), why="test")


@pytest.fixture
def recording(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Noise whose peaks grow, so that windows are told apart."""
    n = int(20 * RATE_HZ)
    samples = rng.standard_normal((1, n)).astype(np.float32) ** 3 * np.linspace(0.2, 2, n, dtype=np.float32)
    metadata = {"sample_rate_hz": RATE_HZ, "dataset": "lab", "recording": "r", "units": "g"}
    write_recording(tmp_path / "r.parquet", samples, ("x",), metadata)
    return tmp_path / "r.parquet"


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> None:
    """To every model is unknown what is spiky."""
    monkeypatch.setattr(unknown, "detector", lambda bundle: lambda x, p: x[:, 0] > np.float32(10.0))


def lived(data: Path, recording: Path) -> None:
    """The recording through the live driver, put together as the service is."""
    config, broker = config_of(data), Broker()
    with compose.opened(config) as (journal, archive):
        live = Live(
            engine=compose.engine(config, load_models(config), stream_specs(config, {})),
            source=broker,
            intake=Intake(TOPICS.parse, lambda machine: True, 1_000_000),
            journal=journal,
            archive=archive,
            results=Results("thrumcast", broker.publish, "v0001", CLASSES),
            rhythm=Rhythm(commit_interval_s=0.01, commit_messages=7),
            states={},
        )
        send(broker, list(streams(open_recording(recording), None)[0].blocks(0.5)))
        live.run(stop_when_idle(broker))


def backfilled(data: Path, recording: Path, **environment: str) -> Result:
    result = CliRunner().invoke(
        group, ["backfill", str(recording), "--data", str(data), "--workers", "1", "--json"], env=environment
    )
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.usefixtures("picky")
def test_states_and_forecasts_are_those_of_the_service(
    recording: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    one, other = tmp_path / "live", tmp_path / "backfill"
    for data in (one, other):
        with_champion(data, np.random.default_rng(1))
    lived(one, recording)
    document = json.loads(backfilled(other, recording, **FORECASTS).stdout)
    served, filled = (read_predictions(data).sort_by("window").to_pylist() for data in (one, other))
    assert len(served) == document["predictions"] > 30
    assert [row["state"] for row in filled] == [row["state"] for row in served]
    assert {"unknown", "warming_up"} < {row["state"] for row in served}
    for mine, theirs in zip(filled, served, strict=True):
        assert mine.keys() == theirs.keys()
        assert {name: v for name, v in mine.items() if not name.startswith("p")} == {
            name: v for name, v in theirs.items() if not name.startswith("p")
        } | {"session": mine["session"]}
        assert mine["p"] == pytest.approx(theirs["p"], abs=1e-5)
    foretold = [
        [
            (r["window"], r["future"], r["step"], r["mode"], round(r["p"], 4))
            for r in read_kind(data, "forecast").to_pylist()
        ]
        for data in (one, other)
    ]
    assert foretold[0] == foretold[1]
    assert document["forecast_rows"] == len(foretold[0]) > 20


def test_forecasts_that_are_wanted_later_are_made_and_nothing_else_changes(
    recording: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    with_champion(tmp_path / "d", rng)
    before = json.loads(backfilled(tmp_path / "d", recording).stdout)
    rows = read_predictions(tmp_path / "d").to_pylist()
    after = json.loads(backfilled(tmp_path / "d", recording, **FORECASTS).stdout)
    assert (before["forecast_rows"], after["already_done"]) == (0, 0)
    assert after["forecast_rows"] > 0
    assert (after["windows"], after["windows_known"], after["predictions"]) == (0, before["windows"], 0)
    assert repr(read_predictions(tmp_path / "d").to_pylist()) == repr(rows)
    again = json.loads(backfilled(tmp_path / "d", recording, **FORECASTS).stdout)
    assert (again["already_done"], again["forecast_rows"]) == (1, 0)


def test_a_version_that_cannot_foretell_is_named_once(
    recording: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    with_champion(tmp_path / "d", rng, decoder=0)
    result = backfilled(tmp_path / "d", recording, **FORECASTS)
    assert result.stderr.count("no forecasts: v0001 was trained without them") == 1
    assert json.loads(result.stdout)["forecast_rows"] == 0
