"""Scenario files: the examples run, flags win, and what cannot be is said clearly. Senders that start again, too."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import run
from pipeline.commands.sim import scenario_of
from pipeline.edges.mqtt import TopicTemplate
from pipeline.errors import ConfigError
from sim.channel import Counts, Senders, Upsets
from sim.publish import messages
from sim.recipe import Recipe, plant
from sim.scenario import build, parse, read

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))


def test_there_are_examples() -> None:
    names = {path.stem for path in EXAMPLES}
    assert names >= {"quiet_week", "failing_bearing", "bad_sensor_day", "plant_of_200"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_gives_a_plant_that_sends_what_its_title_says(path: Path) -> None:
    scenario = read(path)
    made = build(scenario)
    assert scenario.title
    assert scenario.plant.seconds is not None
    assert all(np.isfinite(block.samples).all() for block in islice(made.blocks(), 12))
    modes = {mode for machine in made.machines for mode in machine.life.modes}
    sensors = {event.kind for machine in made.machines for event in machine.events if event.family == "sensor"}
    match path.stem:
        case "quiet_week":
            assert (modes, sensors) == (set(), set())
            assert any(machine.events for machine in made.machines)
        case "failing_bearing":
            assert [m.life.modes for m in made.machines] == [("bearing_outer",), ()]
            assert made.machines[0].make.orders.bpfo == pytest.approx(3.585, abs=0.001)
        case "bad_sensor_day":
            assert len(sensors) == 12
            assert modes == set()
        case "plant_of_200":
            assert len(made.machines) == 200
            assert len(modes) == 11


@pytest.mark.parametrize(
    ("document", "message", "hint"),
    [
        ({"plnt": {}}, "plnt: unknown key", "plant"),
        ({"plant": {"rate": 1.0}}, "plant.rate: unknown key", "plant.rate_hz"),
        ({"machines": [{"speed": 1.0}]}, "machines[0].speed: unknown key", "machines[0].speed_rpm"),
        ({"machines": [{"faults": [{"mode": "unbalance", "end": 1.0}]}]}, "machines[0].faults[0].end", "end_s"),
        ({"plant": {"machines": "six"}}, "Expected `int`", "docs/simulator.md"),
        ({"machines": [{"faults": [{"mode": "unbalance"}]}]}, "end_s", "docs/simulator.md"),
    ],
)
def test_a_key_or_value_that_is_none_is_named_with_the_nearest(
    document: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parse(document, "week.toml")
    assert message in error.value.message
    assert hint in str(error.value.hint)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"machines": [{"bearing": {"elements": 20, "ratio": 0.3}}]}, "fit round the pitch circle"),
        ({"machines": [{"bearing": {"elements": 9, "ratio": 2.0}}]}, "0 < d/D < 1"),
        ({"machines": [{"speed_rpm": 1.0}]}, "60 to 12000"),
        ({"machines": [{"kind": "turbine"}]}, "kind must be one of"),
        ({"machines": [{"kind": "fan", "faults": [{"mode": "gear_wear", "end_s": 9.0}]}]}, "a fan can have"),
        ({"machines": [{"kind": "fan", "faults": [{"mode": "imbalance", "end_s": 9.0}]}]}, "failure mode"),
        (
            {"plant": {"rate_hz": 2000.0}, "machines": [{"faults": [{"mode": "bearing_cage", "end_s": 9.0}]}]},
            "at least",
        ),
        ({"plant": {"record_s": 2.0}}, "go together"),
        ({"plant": {"record_s": 20.0, "every_s": 10.0}}, "record_s <= every_s"),
        ({"events": [{"kind": "flatlin", "start_s": 0.0}]}, "an event must be one of"),
        ({"plant": {"seconds": 0.0}}, "more than 0"),
        ({"transport": {"drop": 1.5}}, "chances of 0 to 1"),
    ],
)
def test_a_plant_that_cannot_be_is_refused(document: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match="found") as error:
        build(parse(document))
    assert message in error.value.message


def test_flags_win_over_the_file_and_the_truth_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, truth = tmp_path / "s.toml", tmp_path / "truth.json"
    file.write_text('[plant]\nmachines = 3\nseconds = 900\n[[machines]]\nevents = [{kind = "bias", start_s = 0.5}]\n')
    flags = ["--seconds", "1", "--failing", "0", "--out", str(tmp_path / "plant"), "--truth", str(truth), "--json"]
    assert run(["sim", "--scenario", str(file), *flags]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["machine_seconds"] == 3
    told = json.loads(truth.read_text())
    assert [machine["id"] for machine in told["machines"]] == ["pump-01", "fan-02", "motor-03"]
    assert told["machines"][0]["events"][0] | {"size": 1.0} == {
        "label": "bias", "family": "sensor", "start_s": 0.5, "end_s": None, "size": 1.0,
    }  # fmt: skip
    assert {r["sensor"][0] for r in document["recordings"] if r["sensor"]} == {"bias"}


@pytest.mark.parametrize(
    ("file", "flags", "code", "word"),
    [
        ("[plant]\nmachnes = 3\n", [], 3, "machnes"),
        ("[plant]\nrate_hz = 500\n", [], 3, "rate_hz must be"),
        ("[plant]\nrate_hz = 500\n", ["--failing", "2"], 3, "rate_hz must be"),
        ("[plant]\nmachines = 3\n", ["--failing", "2"], 2, "share 'failing'"),
        ("[plant]\nmachines = 3\n", ["--axes", "w"], 2, "--axes"),
    ],
)
def test_a_scenario_that_cannot_be_is_an_error_of_configuration_and_a_flag_beside_it_one_of_usage(
    file: str, flags: list[str], code: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(file)
    assert run(["sim", "--scenario", str(path), "--out", str(tmp_path / "plant"), *flags]) == code
    assert word in capsys.readouterr().err


def test_fewer_machines_than_the_file_describes_are_its_first_ones(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[[machines]]\nkind = "motor"\n[[machines]]\nkind = "fan"\n[[machines]]\n')
    wanted = scenario_of(file, {"machines": 2}, "", files=True)
    assert [machine.id for machine in build(wanted).machines] == ["motor-01", "fan-02"]


def test_an_archive_of_features_can_be_trained_from_and_keeps_machines_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from models.data.dataset import read as read_rows
    from models.data.dataset import read_machines

    arguments = ["sim", "--machines", "2", "--seconds", "4", "--workers", "1", "--failing", "0", "--axes", "x"]
    assert run([*arguments, "--archive", str(tmp_path / "a"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = read_rows(tmp_path / "a")
    assert rows.num_rows == document["windows"] == 14
    assert set(rows.column("truth").to_pylist()) == {"healthy"}
    assert {name.split(".")[0] for name in rows.column_names if "." in name} == {"x"}
    assert len({facts["specimen"] for facts in read_machines(tmp_path / "a").values()}) == 2
    assert run([*arguments, "--archive", str(tmp_path / "b"), "--json"]) == 0
    again = read_rows(tmp_path / "b")
    assert again.column("x.rms").to_pylist() == rows.column("x.rms").to_pylist()
    capsys.readouterr()
    assert run([*arguments, "--seed", "2", "--archive", str(tmp_path / "a")]) == 1
    assert "machines of two plants have the same names" in capsys.readouterr().err


# senders


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.3), st.integers(0, 50))
def test_a_sender_that_starts_again_counts_from_0_in_a_new_session(chance: float, seed: int) -> None:
    made, counts = plant(2, 1, Recipe(failing=0.0), block_s=0.01), Counts()
    blocks = list(made.blocks(1.0))
    senders = Senders(Upsets(reboot=chance), np.random.default_rng(seed), counts)
    sent = [block for block in map(senders.send, blocks) if block is not None]
    assert {block.samples.tobytes() for block in sent} <= {block.samples.tobytes() for block in blocks}
    for machine in made.machines:
        own = [block for block in sent if block.key.machine == machine.id]
        sessions = list(dict.fromkeys(block.session for block in own))
        for session in sessions:
            part = [block for block in own if block.session == session]
            assert part[0].index == 0 or session == made.start_ns
            assert all(a.end == b.index for a, b in pairwise(part))
    assert (counts.reboot == 0) == (len(sent) == len(blocks))


def test_a_clock_step_moves_all_later_times_and_no_count() -> None:
    made, counts = plant(1, 1, Recipe(failing=0.0), block_s=0.01), Counts()
    blocks = list(made.blocks(2.0))
    senders = Senders(Upsets(clock_step=0.02), np.random.default_rng(2), counts)
    sent = [block for block in map(senders.send, blocks) if block is not None]
    off = [(b.t0_ns - a.t0_ns) for a, b in zip(blocks, sent, strict=True)]
    assert [b.index for b in sent] == [a.index for a in blocks]
    assert counts.clock_step > 0
    assert len(set(off)) == counts.clock_step + 1
    assert max(map(abs, off)) > 1e9


def test_a_wrong_clock_does_not_change_when_a_message_goes_out() -> None:
    made, topics = plant(1, 1, Recipe(failing=0.0), block_s=0.1), TopicTemplate("p/{area}/{machine}/{point}/v")
    senders = Senders(Upsets(clock_step=0.5), np.random.default_rng(2), Counts())
    wrong = [message.due_ns for message in messages(made.blocks(2.0), topics, senders=senders)]
    assert wrong == [message.due_ns for message in messages(made.blocks(2.0), topics)]


@pytest.mark.parametrize("wrong", [{"reboot": 1.5}, {"clock_step": -0.1}, {"away_blocks": 0}, {"step_s": -1.0}])
def test_upsets_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="found"):
        Upsets(**wrong)  # type: ignore[arg-type]
