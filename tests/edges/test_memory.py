"""Memory of a service that runs for months: rolls and merges leave nothing behind, and give back what they took."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path

import pyarrow as pa
import pytest
from archive_plant import Plant, feature_row

from pipeline.edges.store import archive
from pipeline.edges.store import compact as compaction
from pipeline.edges.store.compact import compact
from pipeline.edges.store.database import PendingRows

ROOT = Path(__file__).resolve().parents[2]
ROLLS = 3  # in a cycle
CYCLES = 4
WINDOWS = 100  # in a roll


def cycle(plant: Plant, number: int) -> None:
    """Some rolls, then a merge of all there is: the manifest is as long after each cycle as after the first."""
    for roll in range(ROLLS):
        first = 30 + (number * ROLLS + roll) * WINDOWS  # from midnight on: four weeks of minutes
        plant.add(*[feature_row(first % 1400 + i, session=number * ROLLS + roll) for i in range(WINDOWS)])
        plant.archive.roll()
    list(compact(plant.archive))


def held() -> tuple[int, int, int]:
    """Bytes of Arrow, bytes of Python, objects."""
    gc.collect()
    # A connection of sqlite3 sweeps out references to cursors that are gone after every 200 cursors only.
    objects = sum(type(one) is not weakref.ref for one in gc.get_objects())
    return pa.total_allocated_bytes(), tracemalloc.get_traced_memory()[0], objects


def test_rolls_and_merges_hold_as_much_after_eight_cycles_as_after_four(plant: Plant) -> None:
    tracemalloc.start()
    try:
        for number in range(CYCLES):
            cycle(plant, number)
        before = held()
        for number in range(CYCLES, 2 * CYCLES):
            cycle(plant, number)
        arrow, python, objects = (after - then for after, then in zip(held(), before, strict=True))
    finally:
        tracemalloc.stop()
    rolls = CYCLES * ROLLS
    assert arrow == 0
    assert objects < rolls  # not one for each roll
    assert python < rolls * WINDOWS * 32  # not the bytes of their rows


def test_nothing_holds_the_rows_when_memory_is_given_back(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, int]] = []

    def look() -> None:
        found.append((pa.total_allocated_bytes(), sum(type(one) is PendingRows for one in gc.get_objects())))

    monkeypatch.setattr(archive, "give_back", look)
    monkeypatch.setattr(compaction, "give_back", look)
    before = pa.total_allocated_bytes()
    cycle(plant, 0)
    assert found == [(before, 0)] * (ROLLS + 1)


def test_a_service_takes_arrows_memory_from_the_c_library_unless_told_otherwise() -> None:
    code = (
        "from pipeline import cli\n"
        "cli.run(['run', '--broker', 'nonsense://'])\n"
        "import pyarrow\n"
        "print(pyarrow.default_memory_pool().backend_name)"
    )

    def backend(**environment: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env | environment, check=True
        )
        return done.stdout.strip()

    assert backend() == "system"
    other = next(name for name in pa.supported_memory_backends() if name != "system")
    assert backend(ARROW_DEFAULT_MEMORY_POOL=other) == other
