"""Upkeep on request: the same command works whether or not a service holds the data directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from archive_plant import Plant, fill, parts_of
from click.testing import CliRunner

from pipeline.commands import archive as archive_command
from pipeline.edges.store.check import verify
from pipeline.edges.store.read import read_features
from pipeline.errors import ArchiveError
from pipeline.service import upkeep
from pipeline.service.upkeep import Upkeep, ask
from pipeline.telemetry import Telemetry


@pytest.fixture
def serving(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upkeep]:
    """A service that holds the data directory and takes requests."""
    monkeypatch.setattr(upkeep, "LOOK_EVERY_S", 0.01)
    fill(plant)
    with Upkeep(plant.archive, plant.data, Telemetry()) as made:
        yield made


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(archive_command.command, arguments)
    if code:
        assert result.exit_code == code or isinstance(result.exception, ArchiveError), result.output
        return result.output
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_running_service_does_what_it_is_asked_for(plant: Plant, serving: Upkeep) -> None:
    before = read_features(plant.data)
    done = json.loads(run("compact", "--data", str(plant.data), "--json"))["compacted"]
    assert {one["kind"] for one in done} == {"features", "predictions"}
    assert len(parts_of(plant.data)) == 2
    assert read_features(plant.data).equals(before)
    assert verify(plant.data).problems == ()
    assert list((plant.data / upkeep.FOLDER).iterdir()) == []
    assert serving.is_alive()


def test_without_a_service_the_command_does_it_itself(plant: Plant) -> None:
    fill(plant)
    plant.journal.close()
    assert "7 files" in run("compact", "--data", str(plant.data)) or len(parts_of(plant.data)) == 2
    assert "nothing to merge" in run("compact", "--data", str(plant.data))
    assert not (plant.data / upkeep.FOLDER).exists()


@pytest.mark.parametrize("served", [True, False])
def test_pruning_wants_a_yes_and_says_before_what_it_would_remove(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    monkeypatch.setattr(upkeep, "LOOK_EVERY_S", 0.01)
    fill(plant)
    days = (datetime.now(UTC) - datetime(2024, 1, 1, tzinfo=UTC)) // timedelta(days=1)
    arguments = ("prune", "--data", str(plant.data), "--keep", f"{days}d")
    rows = read_features(plant.data).num_rows
    assert "expected --yes" in run(*arguments, code=2)
    if served:
        with Upkeep(plant.archive, plant.data, Telemetry()):
            planned = json.loads(run(*arguments, "--dry-run", "--json"))
            assert read_features(plant.data).num_rows == rows
            done = json.loads(run(*arguments, "--yes", "--json"))
    else:
        plant.journal.close()
        planned = json.loads(run(*arguments, "--dry-run", "--json"))
        done = json.loads(run(*arguments, "--yes", "--json"))
    assert planned["pruned"] == done["pruned"] != []
    assert (planned["before"], planned["dry_run"], done["dry_run"]) == ("2024-01-01", True, False)
    assert read_features(plant.data).num_rows == rows - 58


@pytest.mark.parametrize("keep", ["", "d", "0d", "-3d", "1.5d", "90 weeks"])
def test_an_odd_age_is_refused(plant: Plant, keep: str) -> None:
    fill(plant, turns=1)
    assert "such as 90d" in run("prune", "--data", str(plant.data), "--keep", keep, "--dry-run", code=2)


def test_a_holder_that_takes_no_requests_is_named(plant: Plant) -> None:
    fill(plant)
    with pytest.raises(ArchiveError, match="to take the request"):
        ask(plant.data, {"action": "compact"}, pick_up_s=0.0)
    assert list((plant.data / upkeep.FOLDER).iterdir()) == []


@pytest.mark.parametrize(
    "request_", [{"action": "format"}, {"action": "prune"}, {"action": "prune", "before": "x"}, {}]
)
def test_a_request_that_makes_no_sense_is_answered_and_ends_nothing(
    plant: Plant, serving: Upkeep, request_: dict[str, str]
) -> None:
    with pytest.raises(ArchiveError, match="found"):
        ask(plant.data, request_)
    (plant.data / upkeep.FOLDER / "broken.request").write_text("{")
    (plant.data / upkeep.FOLDER / "deep.request").write_text("[" * 100_000)
    assert ask(plant.data, {"action": "compact"})
    assert serving.is_alive()


def test_what_a_former_service_had_begun_is_answered_as_interrupted(plant: Plant) -> None:
    folder = plant.data / upkeep.FOLDER
    folder.mkdir()
    (folder / "abc.working").write_text("{}")
    with Upkeep(plant.archive, plant.data, Telemetry()):
        assert "ended before" in json.loads((folder / "abc.answer").read_text())["error"]


def test_the_service_merges_by_itself_once_there_are_enough_small_parts(plant: Plant) -> None:
    fill(plant)
    telemetry = Telemetry()
    Upkeep(plant.archive, plant.data, telemetry, compact_parts=5).look()
    assert len(parts_of(plant.data)) == 7  # at most four on a day
    Upkeep(plant.archive, plant.data, telemetry, compact_parts=4).look()
    assert len(parts_of(plant.data)) == 4
    assert telemetry.value("archive_compacted_parts_total") == 4 + 4 * (len(parts_of(plant.data, "predictions")) == 4)
    assert telemetry.value("archive_parts") == len(plant.journal.view(()).parts)
