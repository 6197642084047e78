"""Who may read what is written, and where a link within a data directory may lead."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from journal_rows import SCHEMA, whole_commit

from pipeline.cli import UMASK
from pipeline.config.sources import load
from pipeline.edges.labels import LabelFile
from pipeline.edges.places import links_outside
from pipeline.edges.store.journal import Commit, Journal
from pipeline.errors import ArchiveError, ThrumcastError
from pipeline.service.checkup import look_at_access

ROOT = Path(__file__).parents[2]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    place.mkdir()
    (place / "file").write_bytes(b"not ours")
    return place


@pytest.mark.parametrize(
    "name",
    ["archive", "journal.db", "journal.db-wal", "journal.db-commit", ".journal", ".lock", "registry", "labels",
     "machines.jsonl", "archive/features/date=2024-01-01", "archive/.staging", "registry/v0001", "snapshots"],
)  # fmt: skip
def test_a_link_that_leads_outside_is_refused_by_name_and_nothing_behind_it_changes(
    tmp_path: Path, outside: Path, name: str
) -> None:
    link = tmp_path / "data" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / "file" if "." in name else outside)
    with pytest.raises(ArchiveError, match="which leads to") as caught:
        Journal(tmp_path / "data")
    assert str(link) in caught.value.message
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == b"not ours"
    status = {finding.check: finding.status for finding in look_at_access(config(tmp_path / "data"))}
    assert status["data:access"] == "fail"


def config(data: Path, **values: object):
    return load(None, {"data.dir": data, **values}, environment={}).config


def test_links_within_the_directory_and_a_directory_that_is_a_link_are_fine(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "link").symlink_to(outside)
    (outside / "other").symlink_to(outside / "file")
    Journal(tmp_path / "link").close()
    (outside / "aside").mkdir()
    (outside / "aside" / "old").symlink_to(tmp_path)  # nothing is written into a copy
    assert list(links_outside(tmp_path / "link")) == []


def test_labels_are_not_written_through_a_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels").symlink_to(outside)
    with pytest.raises(ArchiveError, match="a link to"), LabelFile(tmp_path / "data")._locked():
        pass
    assert [path.name for path in outside.iterdir()] == ["file"]


def test_a_registry_or_a_version_that_is_a_link_is_refused_and_a_lock_is_not_followed(
    tmp_path: Path, outside: Path
) -> None:
    from models.registry import Registry

    registry = Registry(tmp_path / "data")
    (tmp_path / "data").mkdir()
    registry.root.symlink_to(outside)
    with pytest.raises(ThrumcastError, match="a link to"), registry._locked():
        pass
    registry.root.unlink()
    registry.root.mkdir()
    (registry.root / "v0001").symlink_to(outside)
    with pytest.raises(ThrumcastError, match="a link to"):
        registry.load("v0001")
    (registry.root / ".lock").symlink_to(outside / "file")
    with pytest.raises(ThrumcastError, match="expected to write"), registry._locked():
        pass
    assert (outside / "file").read_bytes() == b"not ours"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o640), (0o000, 0o640), (0o077, 0o600)])
def test_what_a_command_writes_only_owner_and_group_may_read_and_a_stricter_umask_stays(
    tmp_path: Path, umask: int, mode: int
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from unittest.mock import patch\n"
        "import pipeline.cli as cli\n"
        "with patch.object(cli, 'run', lambda arguments: 0):\n"
        "    try: cli.main()\n"
        "    except SystemExit: pass\n"
        "from pipeline.edges.store.journal import Commit, Journal\n"
        "from pipeline.edges.labels import LabelFile\n"
        "journal = Journal(Path(sys.argv[1])); journal.commit(Commit(counters={'a': 1}))\n"
        "with LabelFile(Path(sys.argv[1]))._locked(): pass\n"
        "os._exit(0)\n"
    )
    data = tmp_path / "data"
    subprocess.run([sys.executable, "-c", code, str(data)], check=True, cwd=ROOT, umask=umask)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.rglob("*")}
    assert {"journal.db", "journal.db-wal", "journal.db-commit", ".journal", ".lock", "labels.jsonl"} <= found.keys()
    assert {n: oct(m) for n, m in found.items() if m != (mode | 0o110 if n == "labels" and mode == 0o640 else
                                                         mode | 0o100 if n == "labels" else mode)} == {}  # fmt: skip
    assert stat.S_IMODE(data.stat().st_mode) & 0o007 == 0
    assert UMASK == 0o027


@pytest.mark.parametrize(
    ("mode", "verb"), [(0o600, None), (0o640, None), (0o400, None), (0o644, "read"), (0o604, "read"), (0o620, "change")]
)
def test_a_secret_that_others_may_read_or_change_is_named(tmp_path: Path, mode: int, verb: str | None) -> None:
    secret = tmp_path / "password"
    secret.write_text("secret")
    secret.chmod(mode)
    for key in ("mqtt.password_file", "web.token_file", "web.read_token_file"):
        [found, *_] = look_at_access(config(tmp_path / "none", **{key: str(secret)}))
        assert found.status == ("pass" if verb is None else "warn")
        assert verb is None or f"{key}: {secret} has mode {mode:04o}, so others may {verb} it" in found.found


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ArchiveError, match="expected to write"):
            Journal(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_directory_that_everybody_may_write_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        journal.commit(whole_commit(1))
        journal.commit(Commit())
    tmp_path.chmod(0o777)
    assert [finding.status for finding in look_at_access(config(tmp_path))] == ["pass", "warn"]
