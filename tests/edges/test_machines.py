"""What is known of machines: the newest facts count, and a crash costs nothing that was acknowledged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.records import BearingOrders, StreamKey
from pipeline.edges.machines import MACHINES_NAME, MachinesFile, recording_facts, specimen
from pipeline.edges.recordings.recording import find_recordings, open_recording
from pipeline.errors import ArchiveError

KEY = StreamKey("pump-01", "de")
FACTS = st.dictionaries(st.sampled_from(["unit", "load_hp", "note"]), st.integers() | st.text(max_size=5))
IMPOSSIBLE = (
    *[{"speed_rpm": rpm} for rpm in ("x", True, -1)],
    *[
        {"orders": orders}
        for orders in (
            1.5,
            [],
            {},
            {"ftf": 1, "bpfo": 1, "bpfi": 1},
            dict.fromkeys(["ftf", "bpfo", "bpfi", "bsf"], "1"),
        )
    ],
)


@settings(max_examples=40, deadline=None)
@given(updates=st.lists(st.tuples(st.sampled_from(["a", "b"]), FACTS), max_size=12))
def test_the_file_says_the_same_as_a_dictionary_that_is_updated(tmp_path_factory, updates):
    path = tmp_path_factory.mktemp("machines") / "machines.jsonl"
    expected: dict[StreamKey, dict[str, object]] = {}
    for machine, facts in updates:
        key = StreamKey(machine, "de")
        before = dict(expected.get(key, {}))
        changed = MachinesFile(path).update(key, facts)
        assert changed == (key not in expected or before | facts != before)
        expected[key] = before | facts
    assert MachinesFile(path).load() == expected


def test_facts_that_do_not_change_add_no_line(tmp_path):
    file = MachinesFile(tmp_path / "data" / "machines.jsonl")
    assert file.load() == {}
    orders = BearingOrders(0.4, 3.5, 5.4, 2.3)
    facts = recording_facts({"load_hp": 2}, "m", rate_hz=12000, unit="g", speed_rpm=1750.0, orders=orders)
    assert file.update(KEY, facts)
    assert not file.update(KEY, facts)
    assert not file.update(KEY, {"load_hp": 2})
    assert len(file.path.read_text().splitlines()) == 1
    assert file.load()[KEY]["orders"] == {"ftf": 0.4, "bpfo": 3.5, "bpfi": 5.4, "bsf": 2.3}
    assert file.update(KEY, {"load_hp": 3})
    assert file.load()[KEY]["load_hp"] == 3
    assert file.load()[KEY]["unit"] == "g"


@pytest.mark.parametrize("facts", IMPOSSIBLE, ids=repr)
def test_what_nobody_could_calculate_with_is_not_written_and_is_named_where_it_stands(tmp_path, facts):
    file = MachinesFile(tmp_path / "machines.jsonl")
    file.update(KEY, {"unit": "g"})
    with pytest.raises(ValueError, match=next(iter(facts))):
        file.update(KEY, facts)
    assert file.load() == {KEY: {"unit": "g"}}
    with file.path.open("a") as lines:
        lines.write(json.dumps({"machine": "fan-02", "point": "de", **facts}) + "\n")
    with pytest.raises(ArchiveError, match=r"line 2.*" + next(iter(facts))):
        file.load()


def test_a_fact_never_becomes_a_fact_of_another_machine(tmp_path):
    file = MachinesFile(tmp_path / "machines.jsonl")
    for name in ("machine", "point"):
        with pytest.raises(ValueError, match=name):
            file.update(KEY, {name: "victim"})
    assert file.load() == {}


def test_a_line_nested_a_hundred_thousand_deep_is_named(tmp_path):
    file = MachinesFile(tmp_path / "machines.jsonl")
    file.path.write_text("[" * 100_000 + "\n")
    with pytest.raises(ArchiveError, match="line 1"):
        file.load()


def test_what_a_recording_says_of_machine_and_speed_in_its_own_words_is_no_fact():
    told = {"machine": "x", "point": "y", "orders": "many", "speed_rpm": "slow", "load_hp": 2}
    assert recording_facts(told, "m", rate_hz=12000, unit="g") == {
        "load_hp": 2, "rate_hz": 12000, "unit": "g", "specimen": "m",
    }  # fmt: skip


def test_many_streams_are_written_at_once(tmp_path):
    file = MachinesFile(tmp_path / "machines.jsonl")
    assert file.update_all({KEY: {"unit": "g"}, StreamKey("pump-02", "de"): {"unit": "V"}}) == 2
    assert file.update_all({KEY: {"unit": "g"}, StreamKey("pump-02", "de"): {"unit": "g"}}) == 1
    assert [facts["unit"] for facts in file.load().values()] == ["g", "g"]


def test_a_line_torn_by_a_crash_at_any_byte_is_forgotten(tmp_path):
    path = tmp_path / "machines.jsonl"
    MachinesFile(path).update(KEY, {"unit": "g"})
    whole = path.read_bytes()
    MachinesFile(path).update(StreamKey("ü", "de"), {"note": "ä"})
    content = path.read_bytes()
    for cut in range(len(whole), len(content)):
        path.write_bytes(content[:cut])
        assert MachinesFile(path).load() == {KEY: {"unit": "g"}}
    MachinesFile(path).update(KEY, {"unit": "V"})
    assert MachinesFile(path).load() == {KEY: {"unit": "V"}}
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize("line", ["{", "[]", "1", '{"machine": "a"}', "null"])
def test_a_line_that_is_no_fact_is_named(tmp_path, line):
    path = tmp_path / "machines.jsonl"
    path.write_text(f'{{"machine": "a", "point": "b"}}\n{line}\n{{"machine": "c", "point": "d"}}\n')
    with pytest.raises(ArchiveError, match="line 2"):
        MachinesFile(path).load()


def test_a_place_that_cannot_be_written_is_an_error_with_a_hint(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match="expected to") as caught:
        MachinesFile(tmp_path / "file" / "machines.jsonl").update(KEY, {"unit": "g"})
    assert caught.value.hint is not None


def test_loads_and_speeds_of_one_bearing_share_a_specimen():
    base = {"dataset": "D", "bearing": "6205", "fault_location": "drive_end", "fault_class": "ball"}
    small = [specimen(base | {"fault_size_mil": 7, "load_hp": load, "rpm": 1797 - load}, "m") for load in range(3)]
    assert len(set(small)) == 1
    assert specimen(base | {"fault_size_mil": 14}, "m") not in small
    assert specimen({"bearing_id": "B1", **base}, "m") == "B1"


def test_a_healthy_dataset_is_one_specimen_and_a_nameless_recording_its_own():
    assert specimen({"dataset": "D", "fault_class": "normal", "fault_location": "none"}, "m1") == "D/normal"
    assert specimen({"dataset": "D", "fault_class": "ball"}, "m1") == "m1"
    assert specimen({}, "m2") == "m2"


def test_real_recordings_fall_into_as_many_specimens_as_there_are_bearings():
    folder = Path(os.environ.get("THRUMCAST_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}")
    for name, count in (("cwru/12k_drive_end", 9), ("hit_sm", 7), ("femto", 7)):
        found = {specimen(r.metadata, r.machine) for r in map(open_recording, find_recordings([folder / name]))}
        assert len(found) == count, sorted(found)


def test_a_file_that_nobody_else_has_changed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MachinesFile(tmp_path / MACHINES_NAME)
    key = StreamKey("pump-01", "de")
    reads: list[int] = []
    read = MachinesFile._read
    monkeypatch.setattr(MachinesFile, "_read", lambda self: reads.append(1) or read(self))
    for value in range(50):
        assert file.update(key, {"batch": value})
    assert len(reads) == 1
    assert MachinesFile(file.path).load() == {key: {"batch": 49}} == file.load()
    assert len(file.path.read_text().splitlines()) == 50


def test_what_somebody_else_writes_into_the_file_is_seen_and_a_torn_line_goes(tmp_path: Path) -> None:
    file, other = (MachinesFile(tmp_path / MACHINES_NAME) for _ in range(2))
    first, second = StreamKey("pump-01", "de"), StreamKey("pump-02", "de")
    file.update(first, {"a": 1})
    other.update(second, {"b": 2})
    assert file.load() == {first: {"a": 1}, second: {"b": 2}}
    with file.path.open("ab") as end:
        end.write(b'{"machine": "torn')
    file.update(first, {"a": 3})
    assert MachinesFile(file.path).load() == {first: {"a": 3}, second: {"b": 2}}
    file.load()[first]["a"] = 4
    assert file.load()[first] == {"a": 3}, "what a caller does with its copy changes nothing"
