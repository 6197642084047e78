"""What looks on or takes part in a turn: when it is called, on which thread, and what it can hold up."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness.live import BLOCKS, Broker, send, service, stop_when_idle

from pipeline.core.engine import Step
from pipeline.edges.ports import Batch, Companion, Onlooker, Publication, Work
from pipeline.errors import ArchiveError


@dataclass
class Diary(Onlooker):
    """Writes down every call and every piece of work, with what was acknowledged and published by then."""

    broker: Broker
    lines: list[str] = field(default_factory=list)
    holds: bool = False

    def work(self, name: str) -> Work:
        def done() -> Sequence[Publication]:
            assert threading.current_thread() is not threading.main_thread()
            self.lines.append(f"{name} on disk, acknowledged {len(self.broker.acknowledged)}")
            return [Publication(f"diary/{name}", b"")]

        assert threading.current_thread() is threading.main_thread()
        self.lines.append(f"{name}, acknowledged {len(self.broker.acknowledged)}")
        return done

    def before_turn(self) -> Work | None:
        return self.work("before")

    def stepped(self, batch: Batch, step: Step) -> None:
        self.work("stepped")
        if self.holds:
            batch.held += batch.messages[-1:]

    def committed(self, batch: Batch, step: Step) -> Work | None:
        return self.work("committed")

    def ended(self) -> Work | None:
        return self.work("ended")


@pytest.fixture
def broker() -> Broker:
    return Broker()


def test_a_companion_is_called_in_the_order_of_a_turn_and_its_work_runs_on_the_disks_thread(
    tmp_path: Path, broker: Broker
) -> None:
    live = service(tmp_path, broker)
    diary: Companion = Diary(broker, holds=True)
    live.companions = (diary,)
    send(broker, BLOCKS[:4])
    assert live.turn(lambda: False)
    assert isinstance(diary, Diary)
    on_disk = [line for line in diary.lines if "on disk" in line]
    assert [line for line in diary.lines if line not in on_disk] == [
        "before, acknowledged 0",
        "stepped, acknowledged 0",  # while the disk is at work, so before or after the first line below
        "committed, acknowledged 0",
    ]
    assert on_disk == [
        "before on disk, acknowledged 0",
        "committed on disk, acknowledged 3",  # what is held waits for the work, the others do not
    ]
    assert diary.lines.index(on_disk[0]) < diary.lines.index("committed, acknowledged 0")
    assert len(broker.acknowledged) == 4
    assert [topic for topic, *_ in broker.published if topic.startswith("diary")] == ["diary/before", "diary/committed"]
    live.run(lambda: True)
    assert diary.lines[-2:] == ["ended, acknowledged 4", "ended on disk, acknowledged 4"]
    assert broker.published[-1][0] == "diary/ended"


def test_work_that_the_disk_refuses_is_repeated_and_holds_back_what_is_held(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.drivers.disk.RETRY_S", 0.0)
    tries: list[int] = []

    class Refused(Onlooker):
        def stepped(self, batch: Batch, step: Step) -> None:
            batch.held += batch.messages

        def committed(self, batch: Batch, step: Step) -> Work | None:
            return self.write

        def write(self) -> Sequence[Publication]:
            tries.append(len(broker.acknowledged))
            if len(tries) < 3:
                msg = "no space left on device"
                raise ArchiveError(msg)
            return [Publication("sink/written", b"")]

    live = service(tmp_path, broker)
    live.companions = (Refused(),)
    send(broker, BLOCKS[:2])
    live.turn(lambda: False)
    assert tries == [0, 0, 0]
    assert len(broker.acknowledged) == 2
    assert [topic for topic, *_ in broker.published].count("sink/written") == 1


def test_what_a_companion_refuses_or_claims_is_in_the_commit_and_what_nobody_claims_is_quarantined(
    tmp_path: Path, broker: Broker
) -> None:
    claimed: list[str] = []

    class Clerk(Onlooker):
        def stepped(self, batch: Batch, step: Step) -> None:
            for message in batch.claim("desk/"):
                claimed.append(message.topic)
                if message.payload == b"bad":
                    batch.refuse(message, "clerk")

    live = service(tmp_path, broker)
    live.companions = (Clerk(),)
    for topic, payload in (("desk/a", b"good"), ("desk/b", b"bad"), ("elsewhere", b"good")):
        broker.send(topic, [payload])
    live.run(stop_when_idle(broker))
    assert claimed == ["desk/a", "desk/b"]
    assert (live.counts["committed"], live.counts["quarantined"], live.account.missing) == (1, 2, 0)
    assert len(broker.acknowledged) == 3
