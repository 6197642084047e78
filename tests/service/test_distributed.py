"""A run on Spark that cannot be right is refused before anything starts: one line, one hint, exit 3. No JVM needed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from archive_plant import SCHEMA
from harness.batches import made

from pipeline.cli import run as run_command
from pipeline.edges.store.batches import BatchArchive
from pipeline.errors import ConfigError
from pipeline.service.distributed import NAME, paired, repartitioned

RECIPE = "schema-1, window 4096, model v0001"


def java(folder: Path, said: str) -> Path:
    """A JAVA_HOME whose Java says its version so."""
    program = folder / "jdk" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    program.chmod(0o755)
    return folder / "jdk"


def pyspark_is_there(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    find = importlib.util.find_spec
    spec = find("json") if there else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "pyspark" else find(name))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('openjdk version "11.0.2" 2019-01-15', "found: Java 11"),
        ('java version "1.8.0_392"', "found: Java 8"),
        ('openjdk version "25" 2025-09-16', "found: Java 25"),
        ("something else", "found: Java of no version"),
        (None, "found none"),
    ],
)
@pytest.mark.parametrize("name", ["run", "backfill"])
def test_a_java_that_spark_does_not_run_on_is_refused(tmp_path, monkeypatch, capsys, name, said, found):
    home = tmp_path / "nothing" if said is None else java(tmp_path, said)
    monkeypatch.setenv("JAVA_HOME", str(home))
    pyspark_is_there(monkeypatch, True)
    assert "Java 17" in refused(tmp_path, capsys, name, found)


def test_a_machine_without_pyspark_is_told_what_to_install(tmp_path, monkeypatch, capsys):
    pyspark_is_there(monkeypatch, False)
    assert "thrumcast[spark]" in refused(tmp_path, capsys, "run", "expected the package pyspark")


def refused(folder: Path, capsys: pytest.CaptureFixture[str], name: str, found: str) -> str:
    words = ["spark", name, "--source", str(folder), "--data", str(folder / "data")]
    words += ["--checkpoint", str(folder / "state")] if name == "run" else []
    assert run_command(words) == 3
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2, lines
    assert found in lines[0]
    assert not (folder / "data").exists()
    assert not (folder / "state").exists()
    return lines[1]


def test_a_run_goes_on_with_its_checkpoint_and_archive_and_with_new_partitions(tmp_path):
    archive, state = BatchArchive(tmp_path / "data", SCHEMA), tmp_path / "state"
    first = paired(archive, state, RECIPE, None)
    assert first.partitions == 4
    assert not first.begun
    archive.commit(0, made(archive, 0))
    (state / "commits").mkdir()
    again = paired(archive, state, RECIPE, None)
    assert (again.id, again.partitions, again.begun) == (first.id, 4, True)
    repartitioned(state, 8)
    assert paired(archive, state, RECIPE, 8).partitions == 8


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "expected a JSON object"),
        ("[]", "expected a JSON object"),
        ("{}", "expected a JSON object"),
        (json.dumps({"run": "another", "recipe": RECIPE, "partitions": 4}), "expected an archive of run another"),
        (json.dumps({"run": "one", "recipe": "schema-2, window 4096", "partitions": 4}), "found in .*: schema-2"),
        (json.dumps({"run": "one", "recipe": RECIPE, "partitions": 8}), "expected the 8 partitions"),
        (None, "expected the checkpoint of the rows"),
    ],
)
def test_a_checkpoint_that_does_not_belong_to_the_archive_and_the_model_is_refused(tmp_path, content, found):
    archive, state = BatchArchive(tmp_path / "data", SCHEMA), tmp_path / "state"
    archive.claim({"run": "one", "recipe": RECIPE})
    archive.commit(0, made(archive, 0))
    if content is not None:
        state.mkdir()
        (state / NAME).write_text(content)
    with pytest.raises(ConfigError, match=found) as error:
        paired(archive, state, RECIPE, 4)
    assert error.value.hint
    assert [path.read_text() for path in state.glob("*")] == ([content] if content is not None else [])


def test_a_folder_with_other_files_is_no_checkpoint(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ConfigError, match="with other files"):
        paired(BatchArchive(tmp_path / "data", SCHEMA), tmp_path, RECIPE, None)
    assert not (tmp_path / "data").exists()
