"""What the tests of the journal put into one."""

from __future__ import annotations

import numpy as np

from pipeline.core.records import AlarmChange, FeatureRow, Prediction, StreamKey
from pipeline.edges.store.journal import Commit, Journal
from pipeline.edges.store.schema import FeatureSchema, Quarantined

SCHEMA = FeatureSchema("test-1", ("rms", "kurtosis"), ("g", "1"))
CLASSES = ("healthy", "unbalance")
KEY = StreamKey("pump-01", "de")
SECOND_NS = 1_000_000_000


def feature_row(window: int, key: StreamKey = KEY, channels: tuple[str, ...] = ("x",), session: int = 7) -> FeatureRow:
    values = np.arange(len(channels) * 2, dtype=np.float32).reshape(-1, 2) + window
    start_ns = window * SECOND_NS
    end_ns = start_ns + SECOND_NS
    return FeatureRow(
        key, session, window, start_ns, end_ns, 12e3, None, 1.0, 0, "healthy", channels, values, SCHEMA.name
    )


def prediction(window: int, key: StreamKey = KEY) -> Prediction:
    start_ns = window * SECOND_NS
    p = np.array([0.25, 0.75], np.float32)
    return Prediction(
        key, 7, window, start_ns, start_ns + SECOND_NS, "unbalance", 0.75, p, "normal", window, "v0001", SCHEMA.name
    )


def alarm(change: str, number: str = "a1", at_ns: int = 5) -> AlarmChange:
    return AlarmChange(KEY, change, number, "unbalance", 0.9, at_ns, 4)


def whole_commit(window: int) -> Commit:
    return Commit(
        states={KEY: bytes([window % 256])},
        features=[feature_row(window)],
        predictions=[prediction(window)],
        classes=CLASSES,
        alarms=[alarm("raised", f"a{window}")],
        quarantined=[Quarantined("plant/x", window, "length", b"\x00" * 9000, 9000)],
        counters={"received": 2, "committed": 1},
    )


def content(journal: Journal) -> tuple[object, ...]:
    view = journal.view(("features", "predictions", "alarms", "quarantine"))
    rows = {kind: pending.table(view.arrow_schema(kind)).to_pylist() for kind, pending in view.pending.items()}
    return journal.states(), journal.counters(), journal.open_alarms(), rows, view.extras
