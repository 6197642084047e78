"""The second copy of an archive: whole, verified, taken up again after a cut, and never made worse by damage."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from archive_plant import Plant, feature_row, fill, parts_of

from pipeline.edges.store import mirror as module
from pipeline.edges.store.check import verify
from pipeline.edges.store.compact import compact, prune
from pipeline.edges.store.mirror import mirror
from pipeline.edges.store.read import read_features
from pipeline.errors import ArchiveError


def test_a_mirror_is_a_data_directory_and_takes_only_what_is_new(plant: Plant, tmp_path: Path) -> None:
    fill(plant)
    (plant.data / "labels").mkdir()
    (plant.data / "labels/labels.jsonl").write_text("a label\n")
    url = f"file://{tmp_path}/second"
    first = mirror(plant.data, url)
    assert (first.copied, first.removed) == (first.files, 0)
    plant.add(feature_row(70))
    plant.archive.roll()
    here = read_features(plant.data)
    plant.add(feature_row(71))
    second = mirror(plant.data, url)
    assert (second.copied, second.files, second.pending_rows) == (1, first.files + 1, 1)
    assert read_features(tmp_path / "second").equals(here)
    assert verify(tmp_path / "second").problems == ()
    assert (tmp_path / "second/labels/labels.jsonl").read_text() == "a label\n"
    list(compact(plant.archive))
    list(prune(plant.archive, date(2024, 1, 1)))
    third = mirror(plant.data, url)
    assert len(parts_of(tmp_path / "second")) == len(parts_of(plant.data))
    assert third.removed > 0
    assert list((plant.data / "snapshots").iterdir()) == []


def test_a_mirror_that_was_cut_off_is_taken_up_and_copies_nothing_twice(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(plant)
    put, count = module._put, 0

    def cut(*arguments: object) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise OSError("the line is cut")
        put(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(module, "_put", cut)
        with pytest.raises(ArchiveError, match="the line is cut"):
            mirror(plant.data, str(tmp_path / "second"))
    done = mirror(plant.data, str(tmp_path / "second"))
    assert done.copied == done.files - 3
    assert verify(tmp_path / "second").problems == ()


def test_damage_is_not_copied_and_damage_of_the_mirror_is_mended(plant: Plant, tmp_path: Path) -> None:
    fill(plant)
    mirror(plant.data, str(tmp_path / "second"))
    copy = parts_of(tmp_path / "second")[0]
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert mirror(plant.data, str(tmp_path / "second")).copied == 0  # of the right size, and nobody has asked
    assert mirror(plant.data, str(tmp_path / "second"), check=True).copied == 1
    assert copy.read_bytes() == whole
    original = parts_of(plant.data)[0]
    original.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    copy.unlink()
    with pytest.raises(ArchiveError, match="expected the content that was written"):
        mirror(plant.data, str(tmp_path / "second"))
    assert not copy.exists()


@pytest.mark.parametrize("url", ["nothing://x/y", "/proc/1/nothing"])
def test_a_place_that_cannot_be_used_is_named(plant: Plant, url: str) -> None:
    fill(plant, turns=1)
    with pytest.raises(ArchiveError, match="expected to mirror the archive to"):
        mirror(plant.data, url)
