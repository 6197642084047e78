"""Alarms reach whoever listens at least once, wherever the service dies and whenever the broker is away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import specs
from harness.live import Broker, Operator, send, service
from harness.streams import SPEC, recording

from pipeline.core.engine import Engine
from pipeline.core.records import Float32, StreamKey
from pipeline.drivers.live import Live
from pipeline.edges.store.read import read_kind

KEY = StreamKey("pump-01", "de")
PLACES = ("turn_committed", "turn_noted", "turn_acknowledged", "turn_published")
RAISED, CLEARED, ACKED = "raised", "cleared", "acked"
SICK, WELL = recording(1), [replace(block, session=8) for block in recording(1)]


class Died(BaseException):
    """As after a kill, nothing that would have come next happens."""


class Fixed:
    """A network whose opinion a test chooses."""

    version, classes, inputs, hidden_shape = "fixed", ("healthy", "unbalance"), ("x.rms",), (1, 1)

    def __init__(self, p: float) -> None:
        self.p = p

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        return np.tile(np.array([1 - self.p, self.p], np.float32), (len(x), 1)), h


class Listener(Broker):
    """Whoever listens, over all lives of the service."""

    def changes(self) -> list[tuple[str, str]]:
        events = [
            msgspec.json.decode(payload) for topic, payload, *_ in self.published if topic.endswith("events/alarms")
        ]
        return [(event["type"], event["id"]) for event in events]

    def retained(self) -> dict[str, Any] | None:
        """What a client that comes later is told of the alarm."""
        topic = f"thrumcast/machines/{KEY}/alarm"
        newest = next((p for name, p, _, retain in reversed(self.published) if name == topic and retain), b"")
        return msgspec.json.decode(newest) if newest else None


@pytest.fixture
def broker() -> Listener:
    return Listener()


def started(directory: Path, broker: Listener, p: float) -> Live:
    """As the service starts: what the journal has is restored before anything else."""
    live = service(directory, broker)
    spec = replace(SPEC, alarm=specs.alarm(enter_s=0.2, leave_s=0.2, merge_s=0.0))
    live.engine = Engine(lambda key: spec, Fixed(p))
    live.results.classes = Fixed.classes
    live.results.restore(live.journal.open_alarms().values(), live.journal.untold_alarms())
    return live


def lived(live: Live) -> None:
    """Until everything is done that has come, and until what was said is known to have been heard."""
    turns = 0
    while live.turn(lambda: False) or turns < 2:
        turns += not live.source.waiting  # type: ignore[attr-defined]
    live.journal.close()


def until_the_alarm(directory: Path, broker: Listener) -> str:
    send(broker, SICK)
    lived(started(directory, broker, p=0.99))
    ((kind, alarm_id),) = broker.changes()
    assert kind == RAISED
    return alarm_id


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", [RAISED, ACKED, CLEARED])
def test_an_alarm_is_told_at_least_once_wherever_the_service_dies_after_its_commit(
    tmp_path: Path, broker: Listener, monkeypatch: pytest.MonkeyPatch, change: str, place: str
) -> None:
    """What was published when it died may have reached nobody: it is forgotten here, all but what stood before."""
    alarm_id = None if change == RAISED else until_the_alarm(tmp_path, broker)
    before = list(broker.published)
    broker.settled = False
    live = started(tmp_path, broker, p=0.01 if change == CLEARED else 0.99)
    send(broker, SICK if change == RAISED else WELL)

    def dies(name: str) -> None:
        pending = {row["type"] for row in read_kind(tmp_path, "alarms").to_pylist()}
        if name == place and change in pending:
            raise Died

    monkeypatch.setattr("pipeline.drivers.live.fault_point", dies)
    if change == ACKED and alarm_id is not None:
        live.companions = (Operator([(KEY, alarm_id)]),)
    with pytest.raises(Died):
        live.run(lambda: False)
    monkeypatch.undo()
    live.archive.roll()  # as whoever writes into the directory next may do
    live.journal.close()
    broker.published = before
    broker.restart()
    broker.waiting.clear()
    broker.settled = True

    lived(started(tmp_path, broker, p=0.5))
    told = [(kind, found) for kind, found in broker.changes() if kind == change]
    assert len(told) == 1
    assert alarm_id in (None, told[0][1])
    retained = broker.retained()
    assert (retained is None) == (change == CLEARED)
    assert change != ACKED or (retained is not None and "acknowledged" in retained)

    count = len(broker.published)
    lived(started(tmp_path, broker, p=0.5))  # the broker has it now, and the journal knows
    assert len(broker.published) == count


def test_what_the_broker_never_confirmed_is_said_again_after_an_orderly_stop(tmp_path: Path, broker: Listener) -> None:
    broker.settled = False
    send(broker, SICK)
    live = started(tmp_path, broker, p=0.99)
    live.run(lambda: not broker.waiting)
    assert live.journal.pending_rows() == 0
    live.journal.close()
    broker.published.clear()
    lived(started(tmp_path, broker, p=0.5))
    assert [kind for kind, _ in broker.changes()] == [RAISED]


def test_an_alarm_raised_seen_and_cleared_unheard_is_told_in_that_order(tmp_path: Path, broker: Listener) -> None:
    broker.settled = False
    alarm_id = until_the_alarm(tmp_path, broker)
    for p in (0.99, 0.01):
        live = started(tmp_path, broker, p)
        if p > 0.5:
            live.companions = (Operator([(KEY, alarm_id)]),)
            send(broker, SICK[:1])  # a Duplicate, whose commit covers the acknowledgement
        else:
            send(broker, WELL)
        lived(live)
    broker.published.clear()
    broker.settled = True
    lived(started(tmp_path, broker, p=0.5))
    assert broker.changes() == [(RAISED, alarm_id), (ACKED, alarm_id), (CLEARED, alarm_id)]
    assert broker.retained() is None
