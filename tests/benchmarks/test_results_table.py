"""The table of results: its intervals resample physical bearings."""

from __future__ import annotations

import numpy as np
import pytest
from model_world import dataset_spec, table

from benchmarks.results import NUMBERS, _intervals, _numbers, markdown
from models.data.dataset import Dataset, build
from models.evaluation.events import Track


def world() -> tuple[Dataset, list[Track]]:
    """Six machines: three say what is true, three the opposite."""
    rows = [
        {"machine": f"m{number}", "truth": ("healthy", "unbalance")[number % 2], "start_s": at / 2}
        for number in range(6)
        for at in range(10)
    ]
    data = build(table(rows), dataset_spec(("healthy", "unbalance"), str, inputs="all"))
    tracks = []
    for sequence in data.sequences:
        right = np.eye(2)[sequence.y]
        tracks.append(Track(sequence, right if sequence.key.machine in ("m0", "m1", "m2") else 1 - right))
    return data, tracks


def test_recordings_of_one_bearing_are_no_two_witnesses() -> None:
    data, tracks = world()
    alone = _intervals(tracks, data, {})
    paired = _intervals(tracks, data, {f"m{number}": "good" if number < 3 else "bad" for number in range(6)})
    assert _numbers(tracks, data.classes)["recording_accuracy"] == pytest.approx(0.5)
    assert 0 < alone["recording_accuracy"][0] < 0.5 < alone["recording_accuracy"][1] < 1
    assert paired["recording_accuracy"] == (0.0, 1.0)


def test_every_number_of_the_table_has_its_interval() -> None:
    data, tracks = world()
    row = {
        "protocol": "some", "split": "machine", "method": "GRU", "recordings": 6,
        **_numbers(tracks, data.classes), "interval_90": _intervals(tracks, data, {}),
    }  # fmt: skip
    line = markdown([row]).splitlines()[-1]
    assert line.count(" to ") == len(NUMBERS) == 4
