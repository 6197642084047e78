"""Models change while the service runs: at a commit, with a memory, no alarm forgotten; and a shadow beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
import specs
from harness.live import BLOCKS, Broker, Commits, Operator, send, stop_when_idle
from harness.serving import Watch, service
from harness.streams import ENGINE, SPEC, recording
from msgspec.structs import replace

from pipeline.core.alarm import AlarmState, Episode, episode_id
from pipeline.core.engine import Engine
from pipeline.core.features.table import NAMES
from pipeline.core.records import Float32, StreamKey
from pipeline.core.state import from_bytes
from pipeline.drivers.switch import ModelSet, Shadow
from pipeline.edges.store.read import last_rows, read_features, read_predictions, rows_of

PUMP = StreamKey("pump-01", "de")


class Renamed:
    """The reference network under another version, and with other classes if wanted."""

    def __init__(self, version: str, classes: tuple[str, ...] | None = None) -> None:
        self.inner = ENGINE.predictor
        self.version = version
        self.classes = classes or self.inner.classes
        self.inputs, self.hidden_shape = self.inner.inputs, self.inner.hidden_shape
        self.seen = 0

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        self.seen += len(x)
        return self.inner.step(x, h)


def test_rows_come_back_from_the_archive_as_the_engine_made_them(tmp_path: Path) -> None:
    broker, made = Broker(), []
    live = service(tmp_path, broker)
    live.companions = (Commits(lambda batch, step: made.extend(step.features)),)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    back = rows_of(read_features(tmp_path), NAMES)
    assert {key: len(rows) for key, rows in back.items()} == {
        key: sum(row.key == key for row in made) for key in {row.key for row in made}
    }
    for row in made:
        same = next(r for r in back[row.key] if (r.session, r.window) == (row.session, row.window))
        assert same.channels == row.channels
        assert np.array_equal(same.values, row.values, equal_nan=True)
        assert (same.start_ns, same.end_ns) == (row.start_ns // 1000 * 1000, row.end_ns // 1000 * 1000)
        for name in ("rate_hz", "speed_rpm", "coverage", "quality", "truth", "schema"):
            assert getattr(same, name) == getattr(row, name)


def test_the_last_rows_of_a_stream_end_where_it_is_asked_to_and_are_no_more_than_asked(tmp_path: Path) -> None:
    broker = Broker()
    live = service(tmp_path, broker)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    rows = rows_of(read_features(tmp_path), NAMES)[PUMP]
    until = rows[-3].end_ns
    found = last_rows(tmp_path, {PUMP: until}, 1e6, 2, NAMES)
    assert [r.window for r in found[PUMP]] == [r.window for r in rows[-4:-2]]
    assert last_rows(tmp_path, {StreamKey("nobody", "de"): until}, 1e6, 2, NAMES) == {}


def test_the_memory_of_another_model_is_what_it_would_have_had_and_age_and_model_say_so(tmp_path: Path) -> None:
    """The first model and the one after it are the same network: the switch must not be seen in the probabilities."""
    whole, switched = Broker(), Broker()
    send(whole, BLOCKS)
    plain = service(tmp_path / "plain", whole)
    plain.run(stop_when_idle(whole))
    watch = Watch()
    live = service(tmp_path / "switched", switched, watch)
    half = len(BLOCKS) // 2
    send(switched, BLOCKS[:half])
    live.run(stop_when_idle(switched))
    ages = {key: state.state_age for key, state in live.states.items()}
    watch.next = ModelSet(Renamed("v2"))
    send(switched, BLOCKS[half:])
    live.run(stop_when_idle(switched))
    before, after = read_predictions(tmp_path / "plain"), read_predictions(tmp_path / "switched")
    assert set(after.column("model").to_pylist()) == {ENGINE.predictor.version, "v2"}
    for name in before.column_names:
        if name.startswith("p_") or name in ("p", "mode", "state_age", "window"):
            old, new = (
                before.column(name).to_numpy(zero_copy_only=False),
                after.column(name).to_numpy(zero_copy_only=False),
            )
            if old.dtype.kind == "f":
                np.testing.assert_allclose(old, new, atol=1e-6)
            else:
                assert old.tolist() == new.tolist()
    assert all(live.states[key].state_age > age > 0 for key, age in ages.items())
    status = [msgspec.json.decode(p) for topic, p, _, _ in switched.published if topic == "thrumcast/status"]
    assert status[-1]["model"] == "v2"


def test_a_memory_is_no_longer_than_the_windows_that_are_replayed(tmp_path: Path) -> None:
    broker, watch = Broker(), Watch()
    live = service(tmp_path, broker, watch, windows=3)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    live.serve(ModelSet(Renamed("v2")))
    assert {state.state_age for state in live.states.values()} == {3}
    assert {state.model for state in live.states.values()} == {"v2"}


def test_no_alarm_clears_because_of_a_switch_and_it_survives_a_restart(tmp_path: Path) -> None:
    broker = Broker()
    live = service(tmp_path, broker)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    up = Episode("cavitation", 5, 0.9, low_since_ns=7)
    live.states[PUMP] = replace(live.states[PUMP], alarm=AlarmState(open=(up,)))
    live.serve(ModelSet(Renamed("v2")))
    assert live.states[PUMP].alarm.open == (replace(up, low_since_ns=None),)
    live.journal.close()
    again = service(tmp_path, Broker())
    again.engine = dataclasses.replace(ENGINE, predictor=Renamed("v2"))
    assert again.states[PUMP].alarm.open == (replace(up, low_since_ns=None),)
    assert (again.states[PUMP].model, again.states[PUMP].alarm.name) == ("v2", "alarm")


def test_a_service_that_starts_under_another_model_builds_its_memory_first(tmp_path: Path) -> None:
    broker = Broker()
    live = service(tmp_path, broker)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    ages = {key: state.state_age for key, state in live.states.items()}
    live.journal.close()
    again = service(tmp_path, Broker())
    again.engine = dataclasses.replace(ENGINE, predictor=Renamed("v2"))
    again.run(lambda: True)
    assert {key: state.state_age for key, state in again.states.items()} == ages
    assert from_bytes(SPEC, again.journal.states()[PUMP]).model == "v2"


def test_a_shadow_is_archived_under_its_version_and_never_published(tmp_path: Path) -> None:
    broker = Broker()
    live = service(tmp_path, broker)
    other = Renamed("v9", ("healthy", "gear_wear", "unbalance"))
    live.models.shadow = Shadow(Engine(lambda key: SPEC, other), live.models.read_last)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    rows = read_predictions(tmp_path).to_pylist()
    mine = [row for row in rows if row["model"] == "v9"]
    served = [row for row in rows if row["model"] == ENGINE.predictor.version]
    assert len(mine) == len(served) > 0
    assert all(row["p_gear_wear"] is None for row in served)
    assert all(row["p_bearing_outer"] is None for row in mine)
    assert [row["state_age"] for row in mine] == [row["state_age"] for row in served]
    published = [msgspec.json.decode(p) for topic, p, _, _ in broker.published if p and "/machines/" in topic]
    assert published
    assert all(document.get("model") != "v9" for document in published)
    assert all("gear_wear" not in document.get("probs", {}) for document in published)
    assert all(state.model == ENGINE.predictor.version for state in live.states.values())


def test_a_shadow_that_was_away_remembers_from_the_archive(tmp_path: Path) -> None:
    broker, half = Broker(), len(BLOCKS) // 2
    live = service(tmp_path, broker)
    send(broker, BLOCKS[:half])
    live.run(stop_when_idle(broker))
    live.models.shadow = Shadow(Engine(lambda key: SPEC, Renamed("v9")), live.models.read_last)
    send(broker, BLOCKS[half:])
    live.run(stop_when_idle(broker))
    rows = read_predictions(tmp_path).to_pylist()
    served = {(r["machine"], r["session"], r["window"]): r for r in rows if r["model"] != "v9"}
    mine = [r for r in rows if r["model"] == "v9"]
    assert mine
    for row in mine:
        twin = served[(row["machine"], row["session"], row["window"])]
        assert row["state_age"] == twin["state_age"]
        assert row["p"] == pytest.approx(twin["p"], abs=1e-6)


def test_a_shadow_that_fails_is_let_go_and_the_service_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Renamed):
        def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
            raise FloatingPointError

    broker = Broker()
    live = service(tmp_path, broker)
    live.models.shadow = Shadow(Engine(lambda key: SPEC, Broken("v9")), live.models.read_last)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    assert live.models.shadow is not None
    assert live.models.shadow.failed
    assert live.counts["committed"] == len(BLOCKS)
    assert "shadow_failed model=v9" in caplog.text


def test_an_acknowledgement_is_committed_and_published_and_the_alarm_stays(tmp_path: Path) -> None:
    broker = Broker()
    live = service(tmp_path, broker)
    send(broker, BLOCKS[:4])
    live.run(stop_when_idle(broker))
    up = Episode("unbalance", 5, 0.9)
    live.states[PUMP] = replace(live.states[PUMP], alarm=AlarmState(open=(up,)))
    live.companions = (Operator([(PUMP, episode_id(PUMP, up)), (StreamKey("nobody", "de"), "x")]),)
    send(broker, BLOCKS[:1])  # a Duplicate, whose commit covers the acknowledgement
    live.run(lambda: True)
    assert live.states[PUMP].alarm.open[0].acked_ns is not None
    events = [msgspec.json.decode(p) for topic, p, _, _ in broker.published if topic == "thrumcast/events/alarms"]
    assert [event["type"] for event in events] == ["acked"]
    assert from_bytes(SPEC, live.journal.states()[PUMP]).alarm == live.states[PUMP].alarm


def test_windows_that_the_model_does_not_know_make_the_stream_unknown_and_raise_nothing(tmp_path: Path) -> None:
    spec = dataclasses.replace(
        SPEC, alarm=specs.alarm(enter_p=0.0, leave_p=0.0, enter_s=0.0, merge_s=0.0), warm_up_windows=0
    )
    engine = Engine(lambda key: spec, ENGINE.predictor, is_unknown=lambda x, p: np.ones(len(x), np.bool_))
    step = engine.step({}, recording(1))
    assert step.alarms == []
    assert {prediction.state for prediction in step.predictions} == {"unknown"}
    assert all(prediction.mode is not None for prediction in step.predictions)  # what the network said stays on record
