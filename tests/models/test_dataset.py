"""Rows become the sequences that serving would have stepped through; folds share no group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_world import dataset_spec, sequence, table

from models.data.dataset import UNKNOWN, DatasetSpec, build, check_trainable
from models.data.splits import make_split
from pipeline.config.tables import ModesConfig
from pipeline.core.records import StreamKey
from pipeline.errors import ConfigError, SchemaError, ThrumcastError

MODES = ModesConfig()


def spec(**changes) -> DatasetSpec:
    return dataset_spec(MODES.names, MODES.resolve, **({"inputs": "all"} | changes))


def test_aliases_become_modes_and_classes_follow_the_taxonomy():
    data = build(table([{"truth": "outer_race"}, {"truth": "normal"}, {"truth": "healthy"}]), spec())
    assert data.classes == ("healthy", "bearing_outer")
    assert data.sequences[0].y.tolist() == [1, 0, 0]
    assert data.facts.windows_per_mode == {"healthy": 2, "bearing_outer": 1}


def test_everything_that_is_not_used_is_counted_with_its_reason():
    rows = [{}, {"truth": None}, {"truth": "gremlins"}, {"quality": 1}, {"quality": 6, "truth": None}, {}]
    facts = build(table(rows), spec()).facts
    assert facts.windows == 6
    assert facts.used == 2
    assert facts.ignored == {
        "no truth": 1,
        "truth is no known mode: gremlins": 1,
        "quality: incomplete": 1,
        "quality: non_finite and flatline": 1,
    }
    assert facts.used + sum(facts.ignored.values()) == facts.windows


def test_windows_without_truth_stay_for_the_state_and_bad_ones_leave():
    rows = [{"x.kurtosis": 1.0}, {"x.kurtosis": 2.0, "truth": None}, {"x.kurtosis": 3.0, "quality": 2}]
    (only,) = build(table(rows), spec()).sequences
    assert only.y.tolist() == [0, UNKNOWN]
    assert only.x[:, 1].tolist() == [1.0, 2.0]


def test_a_sequence_ends_where_nothing_came_for_too_long():
    starts = [0, 0.5, 10.5, 11.0, 100.0]
    data = build(table([{"start_s": start} for start in starts]), spec(max_gap_s=30.0))
    assert [len(part) for part in data.sequences] == [4, 1]
    data = build(table([{"start_s": start} for start in starts]), spec(max_gap_s=5.0))
    assert [len(part) for part in data.sequences] == [2, 2, 1]


def test_streams_never_share_a_sequence_and_rows_are_put_in_order():
    rows = [
        {"machine": "b", "start_s": 1.0},
        {"machine": "a", "start_s": 2.0, "x.kurtosis": 2.0},
        {"machine": "a", "start_s": 1.0, "x.kurtosis": 1.0},
        {"machine": "a", "point": "nde", "start_s": 3.0},
    ]
    data = build(table(rows), spec())
    assert [tuple(part.key) for part in data.sequences] == [("a", "de"), ("a", "nde"), ("b", "de")]
    assert data.sequences[0].x[:, 1].tolist() == [1.0, 2.0]


def test_a_sequence_goes_on_across_sessions():
    (only,) = build(table([{"session": 1}, {"session": 2}]), spec()).sequences
    assert only.session.tolist() == [1, 2]


def test_gain_free_inputs_are_the_default_and_names_may_be_chosen():
    rows = table([{"y.kurtosis": 1.0, "y.rms": 1.0}])
    assert build(rows, spec(inputs="gain_free")).inputs == ("x.kurtosis", "y.kurtosis")
    assert build(rows, spec(inputs="all")).inputs == ("x.rms", "x.kurtosis", "y.kurtosis", "y.rms")
    assert build(rows, spec(inputs="rms, y.kurtosis")).inputs == ("x.rms", "y.kurtosis", "y.rms")


def test_an_unknown_input_names_the_nearest():
    with pytest.raises(ConfigError, match="found: kurtossis") as refused:
        build(table([{}]), spec(inputs="kurtossis"))
    assert "kurtosis" in str(refused.value.hint)


def test_a_channel_that_most_windows_lack_is_left_out_with_the_reason():
    rows = [{"y.kurtosis": 1.0}, {}, {}, {"x.crest": None}]
    data = build(table(rows), spec())
    assert data.inputs == ("x.rms", "x.kurtosis")
    assert data.facts.inputs_ignored == {
        "y.kurtosis": "channel y is in 25% of the windows",
        "x.crest": "never there",
    }


def test_a_column_that_the_archive_lacks_is_missing_and_not_zero():
    data = build(table([{}]), spec(exact_inputs=("x.kurtosis", "z.kurtosis"), exact_classes=("healthy", "other")))
    assert data.sequences[0].x[0, 0] == 3.0
    assert np.isnan(data.sequences[0].x[0, 1])
    assert data.classes == ("healthy", "other")


def test_nothing_to_learn_from_is_said_in_words():
    with pytest.raises(ThrumcastError, match="expected feature windows in the archive, found: none"):
        build(table([{}]).slice(0, 0), spec())
    for rows, found in (([{}], "healthy"), ([{"truth": None}], "none")):
        with pytest.raises(ThrumcastError, match=f"at least two failure modes with known truth, found: {found}"):
            check_trainable(build(table(rows), spec()))


def test_two_feature_schemas_in_one_archive_are_refused_and_both_named():
    with pytest.raises(SchemaError, match="found: test-1, test-2"):
        build(table([{}, {"schema": "test-2"}]), spec())


@settings(max_examples=60, deadline=None)
@given(
    machines=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=20),
    folds=st.integers(2, 6),
)
def test_train_and_test_share_no_group_and_every_testable_window_is_tested_once(machines, folds):
    """machines: (class, specimen) of each."""
    sequences = [sequence([k] * 3, machine=f"m{n}") for n, (k, _) in enumerate(machines)]
    facts = {StreamKey(f"m{n}", "de"): {"specimen": f"s{s}"} for n, (_, s) in enumerate(machines)}
    names = [f"mode{k}" for k in range(4)]
    specimens_of = {k: {s for kind, s in machines if kind == k} for k in range(4)}
    if len({s for k, s in machines if len(specimens_of[k]) > 1}) < 2:
        with pytest.raises(ThrumcastError, match="two or more groups"):
            make_split(sequences, names, facts, "specimen", folds)
        return
    split = make_split(sequences, names, facts, "specimen", folds)
    again = make_split(sequences, names, facts, "specimen", folds)
    assert [fold.groups for fold in split.folds] == [fold.groups for fold in again.folds]
    tested: list[str] = []
    for fold in split.folds:
        sides = [{facts[part.key]["specimen"] for part in side} for side in (fold.train, fold.test)]
        assert not sides[0] & sides[1]
        assert len(fold.train) + len(fold.test) == len(sequences)
        tested += [part.key.machine for part in fold.test]
    assert len(set(tested)) == len(tested)
    must = {f"m{n}" for n, (k, _) in enumerate(machines) if k not in split.untested}
    assert must <= set(tested)
    assert set(split.untested) == {k for k in range(4) if len(specimens_of[k]) == 1}


def test_a_class_with_one_group_is_kept_in_training_and_that_is_said():
    sequences = [sequence([k] * 3, machine=f"m{n}") for n, k in enumerate([0, 1, 1])]
    split = make_split(sequences, ["healthy", "bearing_outer"], {}, "machine", 5)
    assert split.untested == (0,)
    assert all("m0" in {part.key.machine for part in fold.train} for fold in split.folds)
    assert any("healthy has one machine only" in remark for remark in split.remarks)


def points(facts: dict[str, dict[str, object]], field: str) -> tuple[list[set[str]], tuple[str, ...]]:
    """Streams "machine/point" with what is known of each -> the machines on both sides of every fold, and remarks."""
    keys = {name: StreamKey(*name.split("/")) for name in facts}
    sequences = [replace(sequence([int(key.machine[1:]) % 2] * 20), key=key) for key in keys.values()]
    split = make_split(sequences, ("healthy", "worn"), {keys[n]: known for n, known in facts.items()}, field, 5)
    both = []
    for fold in split.folds:
        train, test = ({part.key.machine for part in side} for side in (fold.train, fold.test))
        both.append(train & test)
    return both, split.remarks


@pytest.mark.parametrize("field", ["load_hp", "specimen"])
def test_a_field_known_of_one_point_only_does_not_put_a_machine_on_both_sides(field):
    facts = {f"m{n}/de": {field: n % 3} for n in range(1, 7)} | {f"m{n}/nde": {} for n in range(1, 7)}
    both, remarks = points(facts, field)
    assert len(both) >= 2
    assert not set().union(*both)
    assert remarks == ()


def test_points_of_which_nothing_is_known_stay_with_their_machine_and_its_specimens():
    facts = {"m1/a": {"specimen": "s"}, "m1/b": {}, "m2/a": {"specimen": "s"}, "m2/b": {"specimen": "t"}, "m3/a": {}}
    both, _ = points({**facts, "m4/a": {"load_hp": 1}, "m5/a": {"load_hp": 2}}, "load_hp")
    assert not set().union(*both)


def test_a_machine_that_a_field_tells_apart_is_on_both_sides_and_that_is_said():
    facts = {f"m{n}/{end}": {"end": end} for n in (1, 2) for end in ("de", "nde")}
    both, remarks = points(facts, "end")
    assert both == [{"m1", "m2"}] * 2
    assert remarks == (
        "2 of 2 machines are on both sides, under another end: m1, m2; this says nothing about a machine never seen",
    )


def test_a_stream_without_the_field_is_grouped_by_its_specimen():
    sequences = [sequence([n % 2] * 3, machine=f"m{n}") for n in range(6)]
    facts = {StreamKey(f"m{n}", "de"): {"load_hp": n // 2, "specimen": "a"} for n in range(4)}
    facts |= {StreamKey(f"m{n}", "de"): {"specimen": "b"} for n in (4, 5)}
    split = make_split(sequences, ["a", "b"], facts, "load_hp", 9)
    assert sorted(group for fold in split.folds for group in fold.groups) == ["load_hp 0", "load_hp 1", "specimen b"]


def test_an_unknown_field_names_those_there_are():
    with pytest.raises(ThrumcastError, match="found: lode_hp") as refused:
        make_split([sequence([0, 1])], ["a", "b"], {StreamKey("pump-01", "de"): {"load_hp": 1}}, "lode_hp", 5)
    assert "load_hp" in str(refused.value.hint)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(4, 80), min_size=1, max_size=6), hop_s=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
def test_no_window_of_a_split_by_time_overlaps_the_other_side(lengths, hop_s):
    sequences = [sequence([0] * n, machine=f"m{k}", hop_s=hop_s) for k, n in enumerate(lengths)]
    if all((n - max(1, round(n / 4))) * hop_s < 1.0 for n in lengths):
        with pytest.raises(ThrumcastError, match="long enough"):
            make_split(sequences, ["healthy"], {}, "time", 5)
        return
    (fold,) = make_split(sequences, ["healthy"], {}, "time", 5).folds
    for test in fold.test:
        (train,) = (part for part in fold.train if part.key == test.key)
        assert train.end_ns.max() <= test.start_ns.min()
