"""docs/models.md: its Python runs as it stands, its settings exist, and the comparison prints its one table."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from model_world import archive_of_lives, archive_of_plant

from models.jobs.train import TrainRequest, train
from models.jobs.values import train_values
from models.registry import Registry
from models.settings import TrainSettings
from pipeline.commands import train as train_command
from pipeline.config.tables import Config
from pipeline.core.records import StreamKey
from pipeline.edges.machines import MachinesFile
from pipeline.edges.store.schema import part_path, row_schema

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()


def quiet(*_):
    return None


def test_the_examples_run_one_after_the_other(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Path("D")
    data.mkdir()
    archive_of_lives(data, rng)
    quick = TrainSettings(epochs=4, hidden=6, members=2, folds=2, forecast=2)
    train(TrainRequest(data, Config(), quick), say=quiet, warn=quiet)
    keys = [StreamKey(f"pump-{number:02d}", "de") for number in range(9)]
    MachinesFile(data / "machines.jsonl").update_all({key: {"run_to_failure": True} for key in keys})
    life = TrainSettings(task="life", epochs=2, hidden=6, members=1, folds=2)
    train_values(TrainRequest(data, Config(), life), say=quiet, warn=quiet)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
    assert names["seconds"].shape == (1, 1)  # type: ignore[attr-defined]
    assert names["p"].shape == (1, 3)  # type: ignore[attr-defined]


def test_the_query_of_forecasts_shows_every_column_in_a_terminal_of_80_characters(tmp_path, monkeypatch, capsys):
    row = {"machine": "gearbox-08", "point": "de", "session": 1, "window": 10, "start": 1_777_629_615_250_000}
    row |= {"end": row["start"] + 10**6, "mode": "bearing_outer", "p": 0.71234, "p_future": 0.6, "model": "v0001"}
    steps = [row | {"future": future, "step": step} for future in (0, 1) for step in (1, 2)]
    part = tmp_path / "D" / "archive" / part_path("forecast", "2026-05-01", 1)
    part.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(steps, row_schema("forecast", (), None)), part)
    monkeypatch.chdir(tmp_path)
    (query,) = re.findall(r'python -c "(import duckdb.*)"\n', TEXT)
    exec(query.replace('\\"', '"'), {})
    shown = capsys.readouterr().out
    assert shown.count("bearing_outer") == 2
    assert "0.71 " in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_every_setting_that_is_named_exists():
    named = set(re.findall(r"--set (\w+)=", TEXT)) - {"key"}
    assert named
    assert named <= {field.name for field in fields(TrainSettings)}


def test_cells_are_compared_on_one_split_in_one_table_and_nothing_is_registered(tmp_path, rng):
    archive_of_plant(tmp_path, rng)
    words = ["--set", "epochs=3", "--set", "hidden=5", "--set", "members=1", "--set", "folds=2"]
    cells = ["--compare", "gru,lstm,rnn_tanh,rnn_relu"]
    run = CliRunner().invoke(train_command.command, ["--data", str(tmp_path), *cells, *words, "--json"])
    assert run.exit_code == 0, run.output
    document = json.loads(run.stdout)
    assert [row["cell"] for row in document["cells"]] == ["gru", "lstm", "rnn_tanh", "rnn_relu"]
    assert all(0 <= row["macro_auroc"] <= 1 and row["step_us"] > 0 for row in document["cells"])
    assert Registry(tmp_path).versions() == []


@pytest.mark.parametrize(("cells", "words"), [("gru,gur", "found: gur"), ("", "expected some of")])
def test_a_cell_that_does_not_exist_is_named(tmp_path, cells, words):
    run = CliRunner().invoke(train_command.command, ["--data", str(tmp_path), "--compare", cells])
    assert words in str(run.exception)
