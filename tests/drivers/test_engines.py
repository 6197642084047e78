"""Engine processes behind the live loop: the rows of one process, whatever their number and whatever dies when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.live import (
    Broker,
    same_rows,
    send,
    service,
    stop_when_idle,
    stored,
    uninterrupted,
)
from harness.streams import ENGINE, recording

from pipeline.core.engine import Engine
from pipeline.drivers.engines import Engines
from pipeline.drivers.live import Live

PLANT = [
    block
    for some in zip(*(recording(seed, machine=f"fan-{seed:02d}") for seed in range(1, 6)), strict=False)
    for block in some
]


def make() -> Engine:
    return ENGINE


@contextmanager
def serving(directory: Path, broker: Broker, workers: int, recipe: Callable[[], Engine] = make) -> Iterator[Live]:
    live = service(directory, broker)
    try:
        if workers == 1:
            yield live
            return
        with Engines(workers, lambda engine: recipe) as engines:
            live.engines = engines
            yield live
    finally:
        live.journal.close()


def run(directory: Path, broker: Broker, workers: int, stop: Callable[[], bool] | None = None) -> Live:
    with serving(directory, broker, workers) as live:
        live.run(stop or stop_when_idle(broker))
        return live


def test_any_number_of_processes_stores_the_rows_of_one(tmp_path: Path) -> None:
    expected = uninterrupted(tmp_path / "one", PLANT)
    for workers in (2, 3):
        broker = Broker()
        send(broker, PLANT)
        live = run(tmp_path / str(workers), broker, workers)
        assert same_rows(stored(tmp_path / str(workers))[0], expected[0])
        assert same_rows(stored(tmp_path / str(workers))[1], expected[1])
        assert [m.receipt.number for m in broker.acknowledged] == list(range(1, len(PLANT) + 1))
        assert live.account.missing == 0
        assert live.account.committed == len(PLANT)
