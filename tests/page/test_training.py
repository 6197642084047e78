"""Train, promote and roll back from the page: a job of its own process, one at a time, bounded, and ended with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from harness.paged import Paged, archive_of_modes, paged
from harness.trained import QUICK, trained

from models.jobs.registration import only_training
from models.registry import Registry
from pipeline.cli import run
from pipeline.config.tables import Config, DataConfig, WebConfig
from pipeline.page.training import Training

QUICKLY = " ".join(f"{name}={value}" for name, value in QUICK.document().items() if value != "")


@pytest.fixture
def served(tmp_path: Path, rng: np.random.Generator) -> Iterator[Paged]:
    archive_of_modes(tmp_path, rng)
    with paged(tmp_path) as made:
        yield made


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    end_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def test_a_training_from_the_page_gives_a_challenger_that_is_promoted_and_rolled_back(
    served: Paged, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(served.directory, split="machine")
    label = {"machine": "pump-01", "start": "2024-01-01T00:00:00Z", "end": "2024-01-01T00:00:20Z",
             "mode": "bearing_inner", "client_token": "t"}  # fmt: skip
    served.post("labels", label)
    assert len(served.get("labels")["not_in_model"]) == 1
    begun = served.post("training", {"settings": QUICKLY, "split": "machine", "by": "jo"})
    assert begun.json()["state"] == "running"
    assert served.post("training", {}).status_code == 409  # one at a time
    until(lambda: served.get("training")["state"] != "running")
    found = served.get("training")
    assert (found["state"], found["version"], found["by"]) == ("done", "v0002", "jo"), found
    assert any("labels:  1 used" in line for line in found["log"])
    assert served.get("labels")["not_in_model"] == []
    versions = served.get("models")
    challenger, champion = versions["versions"]
    assert (challenger["aliases"], champion["aliases"]) == (["challenger"], ["champion"])
    assert 0 <= challenger["macro_f1"] <= 1
    assert challenger["gate"]["passes"] is (not challenger["gate"]["problems"])
    assert champion["gate"] is None
    assert served.post("models/v0002/promote", {"why": " ", "force": True}).status_code == 422  # no reason
    refused = served.post("models/v0002/promote", {"why": "it knows the inner race", "by": "jo"})
    assert (refused.status_code == 200) is challenger["gate"]["passes"]
    if refused.status_code != 200:
        assert refused.json()["title"].endswith("; ".join(challenger["gate"]["problems"]))
        served.post("models/v0002/promote", {"why": "it knows the inner race", "by": "jo", "force": True})
    assert Registry(served.directory).aliases()["champion"] == "v0002"
    back = served.post("models/rollback", {"why": "not yet", "by": "kim"})
    assert back.json()["champion"] == "v0001"
    moves = served.get("models")["history"]
    assert [(m["by"], m["to"]) for m in moves[:2]] == [("kim", "v0001"), ("jo", "v0002")]
    assert moves[1]["why"].startswith("it knows the inner race")
    picture = f"/api/v1/models/v0001/pictures/{champion['pictures'][0] if champion['pictures'] else 'none.png'}"
    assert served.client.get(picture).status_code == (200 if champion["pictures"] else 404)
    assert served.client.get("/api/v1/models/v0001/pictures/config.json").status_code == 404


def test_a_cancelled_training_registers_nothing_and_another_may_follow(served: Paged) -> None:
    served.post("training", {"settings": "epochs=100000 members=1 aim=new", "split": "machine"})
    until(lambda: "pass" in served.get("training")["status"])
    assert served.get("training")["log"]
    assert served.post("training/cancel", {}).json()["state"] == "cancelled"
    until(lambda: served.get("training")["ended"] is not None)
    assert served.get("models")["versions"] == []
    assert served.post("training/cancel", {}).status_code == 409
    with only_training(served.directory):
        pass  # the lock of the ended process is free


def test_a_training_that_another_process_runs_excludes_one_of_the_page_and_of_the_command(
    served: Paged, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_training(served.directory):
        served.post("training", {"settings": QUICKLY})
        until(lambda: served.get("training")["state"] == "failed")
        assert "found one that is running" in served.get("training")["failed"]
        assert run(["train", "--data", str(served.directory)]) == 1
    assert "found one that is running" in capsys.readouterr().err


def test_a_training_that_needs_more_memory_than_it_may_says_so(tmp_path: Path, rng: np.random.Generator) -> None:
    archive_of_modes(tmp_path, rng)
    with paged(tmp_path, WebConfig(training_memory_mib=256)) as served:
        served.post("training", {"settings": "hidden=20000 layers=2 members=1 aim=new epochs=1"})
        until(lambda: served.get("training")["state"] == "failed")
        found = served.get("training")
    assert "256 MiB of web.training_memory_mib" in found["failed"], found


def test_wrong_settings_are_said_and_what_a_process_says_last_is_kept(tmp_path: Path) -> None:
    with paged(tmp_path) as served:
        served.post("training", {"settings": "hiden=3"})
        until(lambda: served.get("training")["state"] == "failed")
        assert served.get("training")["hint"] == "did you mean hidden?"
    broken = Training(Config(data=DataConfig(dir=str(tmp_path))), command=("sh", "-c", "echo out of paper; exit 7"))
    broken.start("jo")
    until(lambda: broken.state == "failed")
    assert broken.failed == "the process ended with 7; its last words are in the log"
    assert list(broken.log) == ["out of paper"]


def test_a_training_ends_with_the_service(served: Paged) -> None:
    served.post("training", {"settings": "epochs=100000 members=1 aim=new", "split": "machine"})
    process = served.page.training._process
    assert process is not None
    until(lambda: "pass" in served.get("training")["status"])
    served.page.stop()
    assert process.wait(10.0) is not None


def test_labels_go_out_and_come_back_as_csv_and_json_once(served: Paged) -> None:
    rows = [
        {
            "machine": "pump-01",
            "start": "2024-01-01T00:00:00Z",
            "end": "2024-01-01T00:00:09Z",
            "mode": mode,
            "note": note,
        }
        for mode, note in (("inner_race", '<b>"a", b\nc'), ("unbalance", "=1+1"))
    ]
    first = served.post("labels/import", {"format": "json", "content": json.dumps(rows), "by": "jo"}).json()
    assert (first["labels"], first["new"]) == (2, 2)
    for kind in ("csv", "json"):
        text = served.client.get(f"/api/v1/labels/export?format={kind}").text
        again = served.post("labels/import", {"format": kind, "content": "\ufeff" + text}).json()
        assert (again["labels"], again["new"]) == (2, 0)
    kept = served.get("labels")["labels"]
    assert {(one["mode"], one["note"]) for one in kept} == {("bearing_inner", '<b>"a", b\nc'), ("unbalance", "=1+1")}
    assert all(one["author"] == "jo" for one in kept)
    for body in ({"format": "csv", "content": "a,b\n1,2"}, {"format": "xls", "content": ""}, {"format": "json"}):
        assert served.post("labels/import", body).status_code == 422


def test_a_retracted_label_is_restored_once_with_what_it_said(
    served: Paged, capsys: pytest.CaptureFixture[str]
) -> None:
    label = {"machine": "pump-01", "start": "2024-01-01T00:00:00Z", "end": "2024-01-01T00:00:09Z", "mode": "unbalance",
             "note": "seen", "client_token": "t"}  # fmt: skip
    one: dict[str, Any] = served.post("labels", label).json()["label"]
    assert served.post(f"labels/{one['id']}/restore", {}).status_code == 422  # it holds
    served.post(f"labels/{one['id']}/retract", {})
    again = served.post(f"labels/{one['id']}/restore", {}).json()["label"]
    assert again["id"] != one["id"]
    assert run(["labels", "restore", one["id"], "--data", str(served.directory), "--json"]) == 0
    (twice,) = msgspec.json.decode(capsys.readouterr().out)["labels"]
    assert twice["id"] == again["id"]
    holding = [one for one in served.get("labels")["labels"] if not one["retracted"]]
    assert [(one["mode"], one["note"]) for one in holding] == [("unbalance", "seen")]
    assert served.post("labels/nothing/restore", {}).status_code == 404
