"""What people get wrong at the command line is named, with what to do; nothing ends in a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import run as run_command
from pipeline.commands import labels
from pipeline.edges.store.journal import Journal

HEAD = "machine,start,end,mode"
ROW = "pump-01,2026-01-01T00:00:00Z,2026-01-01T01:00:00Z,unbalance"


@pytest.mark.parametrize(
    ("content", "found", "advice"),
    [
        (f"{HEAD},note\n{ROW},Lager läuft heiß\n".encode("latin-1"), "in line 2 the byte 0xe4", "CSV UTF-8"),
        (f"{HEAD}\n{ROW}\n".replace(",", ";").encode(), "found no machine", "separate the columns by commas"),
        (f"{HEAD}\n{ROW}\n".replace(",", "\t").encode(), "found no machine", "separate the columns by commas"),
        (b"", "found no machine", "the first line names the columns"),
    ],
)
def test_a_table_of_labels_that_cannot_be_read_is_named_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, found: str, advice: str
) -> None:
    (tmp_path / "cmms.csv").write_bytes(content)
    assert run_command(["labels", "import", str(tmp_path / "cmms.csv"), "--data", str(tmp_path / "D")]) == 1
    err = capsys.readouterr().err
    assert found in err
    assert advice in err


def test_a_table_with_the_mark_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "cmms.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEAD}\n{ROW}\n".encode())
    assert _labels("import", str(tmp_path / "cmms.csv"), "--data", str(tmp_path / "D")).exit_code == 0


def test_labels_that_cannot_be_written_or_found_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["labels", "export", str(tmp_path / "no" / "x.csv"), "--data", str(tmp_path)]) == 1
    assert "its folder must exist" in capsys.readouterr().err
    assert run_command(["labels", "ls", "--data", str(tmp_path / "nowhere")]) == 1
    assert "check --data" in capsys.readouterr().err


def test_a_training_from_nothing_says_which_snapshot_or_time_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(tmp_path):
        pass
    assert run_command(["train", "--snapshot", "before", "--data", str(tmp_path)]) == 1
    assert "none called before" in capsys.readouterr().err
    assert run_command(["train", "--from", "2027-01-01", "--to", "2026-01-01", "--data", str(tmp_path)]) == 2
    assert "--from before --to" in capsys.readouterr().err
    assert run_command(["train", "--from", "2027-01-01", "--data", str(tmp_path)]) == 1
    assert "--from and --to" in capsys.readouterr().err


def _labels(*arguments: str) -> Result:
    return CliRunner().invoke(labels.command, arguments)
