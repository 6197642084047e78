"""A stop where the disk is slow: what it has no time for stays in the journal, or with the broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.live import BLOCKS, Broker, same_rows, send, service, stop_when_idle, stored, uninterrupted

from pipeline.edges.ports import Tally


class Arriving(Broker):
    """Some messages have come that nobody has taken, as over a network."""

    arrived = 0

    def tally(self) -> Tally:
        taken = super().tally()
        return Tally(taken.received + self.arrived, self.arrived)


@pytest.fixture
def broker() -> Arriving:
    return Arriving()


def test_a_stop_on_a_slow_disk_leaves_rows_to_the_journal_and_messages_to_the_broker(
    tmp_path: Path, broker: Arriving
) -> None:
    live = service(tmp_path, broker)
    send(broker, BLOCKS)
    live.turn(lambda: False)
    committed = live.counts["committed"]
    live.journal.slow = True
    broker.arrived = len(broker.waiting)
    live.run(lambda: True)
    assert 0 < live.counts["committed"] == committed < len(BLOCKS)
    assert live.pending_rows == live.journal.pending_rows() > 0
    assert (live.account.dropped, live.account.in_flight, live.account.missing) == (len(BLOCKS) - committed, 0, 0)
    live.journal.close()
    broker.restart()  # what was stepped ahead comes again
    again = service(tmp_path, broker)
    again.run(stop_when_idle(broker))
    again.journal.close()
    assert same_rows(stored(tmp_path)[0], uninterrupted(tmp_path / "other", BLOCKS)[0])
