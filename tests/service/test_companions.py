"""Labels are told to everybody, whoever wrote them and whenever, also after a restart."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from harness.live import BLOCKS, Broker, send
from harness.requests import LABEL, asked, events

from pipeline.edges.labels import LabelEvent, LabelFile, new_id, now_iso
from pipeline.edges.store.journal import Journal
from pipeline.errors import ArchiveError
from pipeline.service.companions import LabelNews


def test_a_label_is_told_before_it_is_noted_as_told_although_the_disk_refuses_what_came_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker()
    live = asked(tmp_path, broker)
    made = LabelEvent(
        new_id(), new_id(), "add", "fan-02", None, LABEL["from"], LABEL["to"], mode="healthy", created=now_iso()
    )
    LabelFile(tmp_path).add([made])
    send(broker, BLOCKS[4:6])
    refuses = ArchiveError("no space")
    monkeypatch.setattr(live.journal, "commit", lambda commit: (_ for _ in ()).throw(refuses))
    assert not live.turn(lambda: True)
    monkeypatch.undo()
    assert live.counts["dropped"] == 2
    assert [topic for topic, *_ in broker.published].count("thrumcast/events/labels") == 1


def test_labels_written_elsewhere_are_told_once_also_those_of_the_time_before(tmp_path: Path) -> None:
    def write(count: int) -> None:
        made = [
            LabelEvent(new_id(), new_id(), "add", "fan-02", None, LABEL["from"], LABEL["to"], mode="healthy",
                       created=now_iso())
            for _ in range(count)
        ]  # fmt: skip
        LabelFile(tmp_path).add(made)

    write(2)
    broker = Broker()
    live = asked(tmp_path, broker)
    assert len(events(broker, "labels")) == 2
    write(230)
    for _ in range(4):
        live.turn(lambda: True)
    told = [event["id"] for event in events(broker, "labels")]
    assert told == [event.id for event in LabelFile(tmp_path).events()]
    live.journal.close()
    write(1)
    another = Broker()
    asked(tmp_path, another)
    assert [event["id"] for event in events(another, "labels")] == [LabelFile(tmp_path).events()[-1].id]


def test_labels_are_told_although_a_line_was_taken_out_of_their_file_and_also_after_a_restart(tmp_path: Path) -> None:
    def write() -> str:
        made = LabelEvent(new_id(), new_id(), "add", "fan-02", None, LABEL["from"], LABEL["to"], mode="healthy",
                          created=now_iso())  # fmt: skip
        return LabelFile(tmp_path).add([made])[0].id

    told: list[str] = []

    with Journal(tmp_path) as journal:

        def look(news: LabelNews) -> None:
            told.extend(msgspec.json.decode(publication.payload)["id"] for publication in news.look())

        news = LabelNews.of(journal, "thrumcast")
        ids = [write() for _ in range(3)]
        look(news)
        file = LabelFile(tmp_path).path
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:1]))
        look(news)
        ids.append(write())
        look(news)
        assert LabelNews.of(journal, "thrumcast").told == 1, "the last one is noted after it was sent"
        look(news)
        look(LabelNews.of(journal, "thrumcast"))
    assert told == ids


def test_labels_told_are_counted_once_although_the_disk_refuses_after_it_has_taken_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path) as journal:
        made = LabelEvent(new_id(), new_id(), "add", "fan-02", None, LABEL["from"], LABEL["to"], mode="healthy")
        LabelFile(tmp_path).add([made])
        news = LabelNews.of(journal, "thrumcast")
        assert len(news.look()) == 1
        testify = journal._testify

        def refuses() -> None:
            raise ArchiveError("no space for the witness")

        monkeypatch.setattr(journal, "_testify", refuses)
        assert news.look() == ()
        monkeypatch.setattr(journal, "_testify", testify)
        assert news.look() == ()
        assert journal.counters()["labels_told"] == 1


def test_a_file_of_labels_that_cannot_be_read_is_logged_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "labels.jsonl").mkdir()
    broker = Broker()
    live = asked(tmp_path, broker)
    live.run(lambda: True)
    assert caplog.text.count("labels_unreadable") == 1
    assert live.counts["committed"] == 4
