"""A journal with its archive, rows to put in, and a run that tests kill: without the readers that the tests compare."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core.records import FeatureRow, Prediction, StreamKey
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Commit, Journal
from pipeline.edges.store.schema import FeatureSchema, Rows, feature_tables, prediction_table

SCHEMA = FeatureSchema("test-1", ("rms", "kurtosis"), ("g", "1"), ("ISO 20816", "moments"), ("gap", "flat"))
MIDNIGHT_NS = 1_704_067_200_000_000_000  # 2024-01-01T00:00:00Z
SECOND_NS = 1_000_000_000


def key_of(number: int) -> StreamKey:
    return StreamKey(f"pump-{number:02d}", "de")


def addresses(table: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(table[name].to_pylist() for name in ("machine", "session", "window")), strict=True))


def parts_of(data: Path, kind: str = "features") -> list[Path]:
    return sorted((data / "archive" / kind).rglob("*.parquet"))


def feature_row(window: int, number: int = 1, channels: tuple[str, ...] = ("x",), session: int = 7) -> FeatureRow:
    """Windows of one minute; window 0 begins half an hour before midnight."""
    values = np.arange(len(channels) * 2, dtype=np.float32).reshape(-1, 2) + window
    start_ns = MIDNIGHT_NS + (window - 30) * 60 * SECOND_NS
    end_ns = start_ns + 60 * SECOND_NS
    return FeatureRow(
        key_of(number), session, window, start_ns, end_ns, 12e3, 1500.0, 1.0, 0, None, channels, values, SCHEMA.name
    )


def prediction(window: int, number: int = 1, classes: int = 2, model: str = "v0001") -> Prediction:
    row = feature_row(window, number)
    p = np.full(classes, 1 / classes, np.float32)
    return Prediction(
        row.key, 7, window, row.start_ns, row.end_ns, "healthy", 0.5, p, "normal", window, model, SCHEMA.name
    )


class Plant:
    """A journal and its archive."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.schema = SCHEMA
        self.journal = Journal(data)
        try:
            self.archive = Archive(data, self.journal, SCHEMA)
        except BaseException:
            self.journal.close()
            raise

    def add(self, *rows: FeatureRow) -> None:
        self.journal.commit(Commit(features=rows))

    def close(self) -> None:
        self.journal.close()


def fill(plant: Plant, turns: int = 6, rows: int = 10) -> None:
    """One part a turn and day; window 30 is midnight, so both days get parts. Channels come later, too."""
    for turn in range(turns):
        windows = range(turn * rows, (turn + 1) * rows)
        channels = ("x", "y") if turn == turns - 1 else ("x",)
        plant.journal.commit(
            Commit(
                features=[feature_row(w, n, channels) for w in windows for n in (1, 2)],
                predictions=[prediction(w) for w in windows],
                classes=("healthy", "unbalance"),
            )
        )
        plant.archive.roll()


def run_turns(data: Path) -> None:
    """Four commits with a roll after each; takes up where a killed run ended.

    The second roll crosses midnight, the third and fourth bring a new channel and a new class.
    """
    plant = Plant(data)
    for turn in range(4):
        name = f"turn-{turn}"
        if name not in plant.journal.counters():
            windows = range(27 + 3 * turn, 30 + 3 * turn)
            channels = ("x", "c") if turn == 2 else ("x",)
            classes = ("healthy", "unbalance", "looseness")[: 3 if turn == 3 else 2]
            plant.journal.commit(
                Commit(
                    features=[feature_row(w, n, channels) for w in windows for n in (1, 2)],
                    predictions=[prediction(w, classes=len(classes)) for w in windows],
                    classes=classes,
                    counters={name: 1},
                )
            )
        plant.archive.roll()
    plant.close()


def append_turns(data: Path) -> None:
    """As `run_turns`, but rows are appended as a backfill does it, the last ones while others wait in the journal."""
    plant = Plant(data)
    for turn in range(4):
        if f"turn-{turn}" in plant.journal.inputs_done():
            continue
        windows = range(27 + 3 * turn, 30 + 3 * turn)
        channels = ("x", "c") if turn == 2 else ("x",)
        made = [feature_row(w, n, channels) for w in windows for n in (1, 2)]
        rows = [Rows("features", extras, table) for extras, table in feature_tables(made, SCHEMA)]
        classes = ("healthy", "unbalance", "looseness")[: 3 if turn == 3 else 2]
        judged = prediction_table([prediction(w, classes=len(classes)) for w in windows], classes)
        if turn == 3 and "beside" not in plant.journal.counters():
            plant.journal.commit(Commit(features=[feature_row(w, 3) for w in (28, 31)], counters={"beside": 1}))
        plant.archive.append([*rows, Rows("predictions", classes, judged)], {f"turn-{turn}": ""})
    plant.close()


def upkeep_turns(data: Path) -> None:
    """Fills and rolls, then compacts and prunes; takes up where a killed run ended."""
    from pipeline.edges.store.compact import compact, prune

    run_turns(data)
    plant = Plant(data)
    list(compact(plant.archive))
    list(prune(plant.archive, date(2024, 1, 1)))
    plant.close()
