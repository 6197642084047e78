"""Labels: the file of events, the rules by which windows get them, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from harness.labels import at, label, retraction
from hypothesis import given
from hypothesis import strategies as st
from model_world import dataset_spec, network_config, table

from models.data.dataset import build
from models.data.labelling import WEIGHT, apply_labels, report_of
from pipeline.commands import labels as labels_command
from pipeline.config.tables import Config
from pipeline.core.records import StreamKey
from pipeline.edges.labels import LabelEvent, LabelFile, active, to_ns
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.errors import ThrumcastError
from pipeline.service.label_rows import never_seen, write_parquet


def truths(labels: list[LabelEvent], windows: int = 20, **more: object) -> list[str | None]:
    """Windows [0, 1), [0.5, 1.5), [1, 2) ... s of pump-01/de, healthy."""
    rows = table([dict(more) for _ in range(windows)])
    return apply_labels(rows, labels).column("truth").to_pylist()


def test_events_come_back_as_written_and_a_retraction_is_one_more_of_them(tmp_path: Path) -> None:
    file = LabelFile(tmp_path)
    assert file.events() == []
    file.add([label("a", 0, 10), label("b", 10, 20)])
    file.add([retraction("a")])
    assert [(e.op, e.id) for e in file.events()] == [("add", "a"), ("add", "b"), ("retract", "a")]
    assert file.active() == [label("b", 10, 20)]
    assert len(file.path.read_text().splitlines()) == 3


def test_the_same_token_is_written_once_and_the_first_event_stands(tmp_path: Path) -> None:
    file = LabelFile(tmp_path)
    first = label("a", 0, 10)
    (again,) = file.add([first]) and file.add([replace(first, id="other", mode="looseness")])
    assert again == first
    assert file.events() == [first]
    file.add([label("b", 0, 1), label("b", 0, 1)])
    assert [e.id for e in file.events()] == ["a", "b"]


def test_a_torn_last_line_is_dropped_and_a_line_that_is_no_event_is_skipped_by_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = LabelFile(tmp_path)
    file.add([label("a", 0, 10)])
    with file.path.open("ab") as end:
        end.write(b'{"id": "b", "cli')
    assert [e.id for e in file.events()] == ["a"]
    file.add([label("c", 0, 10)])
    assert [e.id for e in file.events()] == ["a", "c"]
    for line in (b"nonsense", b"\xff\xfe", b"[" * 20_000, b'{"id": 7}', b"", b'{"id": "a\\ud800"}'):
        caplog.clear()
        file.path.write_bytes(line + b"\n" + file.path.read_bytes())
        assert [e.id for e in file.events()] == ["a", "c"]
        assert "line=1 err=" in caplog.text
        file.add([label("c", 0, 10)])  # its token is still known
        assert [e.id for e in file.active()] == ["a", "c"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"machine": "../x"}, "expected a machine"),
        ({"end": at(0)}, "expected an end after its start"),
        ({"verdict": "maybe"}, "expected a verdict of"),
        ({"mode": None}, "expected a mode with the verdict confirmed"),
        ({"certainty": 0.0}, "expected a certainty"),
        ({"start": "yesterday"}, "expected a time"),
        ({"start": "0001-01-01T00:00:00+14:00"}, "expected a time in the years 1900 to 2261"),
        ({"end": "9999-12-31T23:59:59-12:00"}, "expected a time in the years 1900 to 2261"),
        ({"end": "2262-01-01"}, "expected a time in the years 1900 to 2261"),
        ({"op": "retract", "id": "nobody"}, "expected the id of a label, found: nobody"),
    ],
)
def test_a_label_that_could_not_be_used_is_refused_and_nothing_is_written(
    tmp_path: Path, wrong: dict[str, object], expected: str
) -> None:
    file = LabelFile(tmp_path)
    with pytest.raises(ThrumcastError, match=expected):
        file.add([label("good", 0, 1), replace(label("bad", 0, 10), **wrong)])
    assert file.events() == []


iso_times = st.one_of(
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    st.builds("{:%Y-%m-%dT%H:%M:%S}{:+03d}:00".format, st.datetimes(), st.integers(-23, 23)),
    st.sampled_from(["", "2024-W01", "2024-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]),
    st.text(max_size=12),
)


@given(start=iso_times, end=iso_times, certainty=st.floats(), p_at=st.none() | st.floats(), note=st.text(max_size=8))
def test_every_label_that_is_accepted_can_be_used(
    tmp_path_factory: pytest.TempPathFactory, start: str, end: str, certainty: float, p_at: float | None, note: str
) -> None:
    directory = tmp_path_factory.mktemp("labels")
    event = replace(label("a", 0, 10), start=start, end=end, certainty=certainty, p_at=p_at, note=note)
    try:
        LabelFile(directory).add([event])
    except ThrumcastError:
        return
    (kept,) = LabelFile(directory).active()
    assert len(truths([kept])) == 20
    write_parquet([kept], directory / "labels.parquet")


def test_a_label_that_lies_there_and_cannot_be_used_is_skipped_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = LabelFile(tmp_path)
    file.add([label("a", 0, 10)])
    poison = replace(label("poison\nid", 0, 10), start="0001-01-01T00:00:00+14:00")
    with file.path.open("ab") as end:
        end.write(msgspec.json.encode(poison) + b"\n")
    assert [event.id for event in file.active()] == ["a"]
    assert "label_skipped id=poison\\nid err=expected a time in the years" in caplog.text
    assert [event.id for event in file.events()] == ["a", "poison\nid"], "the file is shown as it is"


def test_a_window_is_labelled_by_half_its_length_and_touched_windows_lose_their_truth() -> None:
    # Windows start at 0, 0.5, 1 ...: [1, 2) and [1.5, 2.5) have a half in [1.5, 3.25), as has [2.5, 3.5).
    found = truths([label("a", 1.5, 3.25)], windows=9)
    assert found == [
        "healthy",
        "healthy",
        "unbalance",
        "unbalance",
        "unbalance",
        "unbalance",
        None,
        "healthy",
        "healthy",
    ]


def test_newer_beats_older_person_beats_data_and_unsure_says_nothing() -> None:
    older, newer = label("a", 0, 10), label("b", 4, 6, "looseness")
    found = truths([older, newer, label("c", 0, 10, None, verdict="unsure")])
    assert set(found[:7]) == {"unbalance"}
    assert set(found[8:11]) == {"looseness"}
    assert set(truths([newer, older])[:19]) == {"unbalance"}
    assert truths([label("f", 0, 20, None, verdict="false_alarm")], truth="unbalance") == ["healthy"] * 20


def test_a_retracted_label_is_as_if_it_had_never_been_given() -> None:
    events = [label("a", 0, 10), label("b", 4, 6, "looseness"), retraction("b")]
    assert truths(active(events)) == truths([label("a", 0, 10)])


def test_certainty_is_the_weight_and_the_report_says_what_became_of_every_label() -> None:
    rows = table([{} for _ in range(20)])
    labels = [
        label("old", 0, 2),
        label("new", 0, 4, "looseness", certainty=0.3),
        label("hm", 0, 4, None, verdict="unsure"),
        label("far", 100, 200),
        label("else", 0, 4, machine="fan-02"),
    ]
    labelled = apply_labels(rows, labels)
    weight = labelled.column(WEIGHT).to_numpy()
    assert set(np.round(weight[:7], 6)) == {np.float32(0.3)}
    assert set(weight[8:]) == {1.0}
    report = report_of(labelled)
    assert report["used"] == {"new": 8}
    assert report["ignored"] == {
        "old": "newer labels cover all of it",
        "hm": "unsure",
        "far": "no window lies in it by half",
        "else": "no windows of that machine and point",
    }


def test_a_run_to_failure_is_unlabelled_before_its_onset_and_not_healthy() -> None:
    found = truths([label("end", 5, 20, source="ran_to_failure")])
    assert set(found[:9]) == {None}
    assert set(found[10:]) == {"unbalance"}
    rows = table([{"truth": "healthy"} for _ in range(6)])
    seen = apply_labels(rows, [label("a", 0, 1, "healthy")], {StreamKey("pump-01", "de"): {"run_to_failure": True}})
    assert seen.column("truth").to_pylist() == ["healthy", "healthy", None, None, None, None]
    assert report_of(seen)["windows_before_failure"] == 4


spans = st.tuples(st.integers(0, 40), st.integers(1, 20)).map(lambda s: (s[0] / 4, (s[0] + s[1]) / 4))


@given(st.lists(st.tuples(spans, st.sampled_from(["unbalance", "looseness"])), max_size=6))
def test_every_window_has_the_newest_label_that_holds_half_of_it(
    given_labels: list[tuple[tuple[float, float], str]],
) -> None:
    labels = [label(f"l{i}", *span, mode) for i, (span, mode) in enumerate(given_labels)]
    for number, found in enumerate(truths(labels)):
        shares = [min(number / 2 + 1, end) - max(number / 2, start) for (start, end), _ in given_labels]
        covering = [mode for share, (_, mode) in zip(shares, given_labels, strict=True) if share >= 0.5]
        touched = any(share > 0 for share in shares)
        assert found == (covering[-1] if covering else None if touched else "healthy")


def test_labelled_windows_are_what_a_dataset_is_made_of_and_its_facts_say_so() -> None:
    rows = apply_labels(table([{} for _ in range(20)]), [label("a", 4.25, 8, "looseness")])
    dataset = build(rows, dataset_spec(("healthy", "looseness"), str))
    assert dataset.facts.windows_per_mode == {"healthy": 11, "looseness": 8}
    assert dataset.facts.document()["labels"]["used"] == {"a": 8}
    assert "1 used for 8 windows, 1 windows on their edges left out" in dataset.facts.text()


def test_the_certainty_of_a_label_is_how_much_its_windows_count_in_the_loss() -> None:
    import torch

    from models.settings import TrainSettings
    from models.training.loop import fit
    from models.training.objective import Example, ModeObjective

    rows = apply_labels(table([{} for _ in range(20)]), [label("a", 4.25, 8, "looseness", certainty=0.3)])
    (sequence,) = build(rows, dataset_spec(("healthy", "looseness"), str)).sequences
    assert sequence.weight is not None
    assert np.allclose(sequence.weight[sequence.y == 1], 0.3)
    assert np.allclose(sequence.cut(7, 9).weight, sequence.weight[7:9])
    assert build(table([{} for _ in range(3)]), dataset_spec(("healthy",), str)).sequences[0].weight is None

    objective = ModeObjective(torch.tensor([0.5, 2.0]), torch.zeros(2), 0.05)
    outputs, truth = torch.tensor([[1.0, 0.0], [0.2, 0.7], [0.0, 3.0]]), torch.tensor([0, 1, 1])
    whole, one = objective.loss(outputs, truth), objective.loss(outputs, truth, torch.ones(3))
    assert torch.allclose(torch.stack(whole), torch.stack(one))
    twice = objective.loss(outputs[[0, 1, 1, 2]], truth[[0, 1, 1, 2]])
    weighted = objective.loss(outputs, truth, torch.tensor([1.0, 2.0, 1.0]))
    assert torch.allclose(torch.stack(twice), torch.stack(weighted))

    # Two people contradict each other about the same signal: the surer one is believed.
    z = np.ones((40, 2), np.float32)
    sure, guess = np.full(40, 1.0, np.float32), np.full(40, 0.3, np.float32)
    settings = TrainSettings(hidden=4, epochs=30, dropout=0.0, batch=8, balance="none")
    for surer in (0, 1):
        examples = [
            Example(z, np.full(40, k, np.int64), sure if k == surer else guess) for k in (0, 1) for _ in range(4)
        ]
        network = fit(examples, network_config(inputs=2, outputs=2, hidden=4), settings, epochs=30)
        outputs, _ = network(torch.from_numpy(z[None]), network.initial(1))
        assert int(outputs[0, -1].argmax()) == surer


def test_the_command_adds_lists_retracts_exports_and_imports(tmp_path: Path) -> None:
    def run(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(labels_command.command, [*arguments, "--data", str(tmp_path / "d"), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    span = ("--from", "2026-05-01T10:00:00Z", "--to", "2026-05-01T12:00:00Z")
    first = run("add", "pump-01", "inner_race", *span, "--certainty", "likely", "--token", "k1", "--author", "jo")
    assert (first["new"], first["labels"][0]["mode"], first["labels"][0]["certainty"]) == (1, "bearing_inner", 0.6)
    assert run("add", "pump-01", "inner_race", *span, "--token", "k1")["new"] == 0
    second = run("add", "fan-02", *span, "--verdict", "false_alarm")
    assert second["labels"][0]["mode"] == "healthy"
    assert [row["machine"] for row in run("ls")["labels"]] == ["pump-01", "fan-02"]
    run("retract", second["labels"][0]["id"])
    assert [row["machine"] for row in run("ls")["labels"]] == ["pump-01"]
    assert len(run("ls", "--all")["labels"]) == 3
    run("export", str(tmp_path / "l.csv"))
    run("export", str(tmp_path / "l.parquet"))
    assert pq.read_table(tmp_path / "l.parquet").column("start").cast("int64").to_pylist() == [to_ns(span[1]) // 1000]
    (tmp_path / "cmms.csv").write_text("asset,from,to,fault,comment\npump-07,2026-05-01,2026-05-02,imbalance,belt\n")
    assert run("import", str(tmp_path / "cmms.csv"))["labels"][0]["mode"] == "unbalance"
    assert run("import", str(tmp_path / "cmms.csv"))["new"] == 0
    assert run("import", str(tmp_path / "l.csv"))["new"] == 0  # its own export has the tokens


def test_a_label_of_a_machine_that_nobody_has_seen_is_kept_with_a_warning_that_names_near_ones(tmp_path: Path) -> None:
    MachinesFile(tmp_path / MACHINES_NAME).update_all({StreamKey(name, "de"): {} for name in ("pump-01", "fan-02")})
    span = ("--from", "2026-05-01T10:00:00Z", "--to", "2026-05-01T12:00:00Z", "--data", str(tmp_path))

    def said(*arguments: str) -> tuple[list[str], str]:
        result = CliRunner().invoke(labels_command.command, ["add", *arguments, "unbalance", *span, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["never_seen"], result.stderr

    assert said("pump-01") == ([], "")
    assert said("pump-01", "--point", "de") == ([], "")
    names, warning = said("pump-1")
    assert names == ["pump-1"]
    assert "did you mean pump-01?" in warning
    names, warning = said("pump-01", "--point", "nde")
    assert names == ["pump-01/nde"]
    assert "did you mean de?" in warning
    assert "known: fan-02, pump-01" in said("zzz")[1]
    assert len(LabelFile(tmp_path).events()) == 5


def test_a_machine_of_the_configuration_is_no_stranger(tmp_path: Path) -> None:
    config = msgspec.convert({"data": {"dir": str(tmp_path)}, "machines": {"mill-03": {}}}, Config)
    assert never_seen(config, [label("a", 0, 1, machine="mill-03", point="de")]) == {}
    assert never_seen(config, [label("a", 0, 1)])["pump-01"].endswith("; known: mill-03")


def test_a_bad_row_of_a_csv_is_named_and_none_of_the_file_is_taken(tmp_path: Path) -> None:
    from pipeline.cli import run

    (tmp_path / "x.csv").write_text(
        "machine,start,end,mode\npump,2026-01-01,2026-01-02,unbalance\npump,2026-01-03,2026-01-04,rust\n"
    )
    data = tmp_path / "d"
    assert run(["labels", "import", str(tmp_path / "x.csv"), "--data", str(data)]) == 1
    assert LabelFile(data).events() == []
