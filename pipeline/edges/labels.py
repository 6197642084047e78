"""Labels of the machines, DIR/labels/labels.jsonl: one event per line, append-only, each append flushed to disk.

A label states which failure mode a machine (or one of its points) shows in the half-open interval [start, end), how
certain that is and how it is known. Events are never changed or removed: a retraction is an event of its own, with op
`retract` and the id of the label. `client_token` makes saving idempotent: an event with a known token is not written
again, and the stored event is returned. A crash can tear only the last line, which was never confirmed.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pipeline import __version__
from pipeline.core.records import is_id
from pipeline.errors import ArchiveError, ThrumcastError

LABELS_NAME = "labels/labels.jsonl"
VERDICTS = ("confirmed", "wrong_mode", "false_alarm", "missed", "unsure")
STAGES = ("incipient", "developed", "severe", "failed")
SOURCES = ("inspection", "parts_replaced", "analyst", "ran_to_failure", "operator")
CERTAINTY = {"sure": 1.0, "likely": 0.6, "guess": 0.3}  # also the weight of a window in training
YEARS = range(1900, 2262)  # of a label, in UTC
_SPAN = tuple(datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC) for year in (YEARS.start, YEARS.stop))

log = logging.getLogger("thrumcast.labels")


@dataclass(frozen=True, slots=True)
class LabelEvent:
    """One line of the file. Times are ISO 8601 in UTC; `mode` is an id of the taxonomy."""

    id: str
    client_token: str
    op: str  # add or retract; a retraction has the id of the retracted label
    machine: str = ""
    point: str | None = None  # None: all points of the machine
    start: str = ""
    end: str = ""
    verdict: str = "confirmed"
    mode: str | None = None  # None with the verdict unsure
    stage: str | None = None
    certainty: float = 1.0
    source: str = "operator"
    work_order: str | None = None
    note: str | None = None
    author: str = ""
    created: str = ""
    model_at: str | None = None  # the model that served at the time, and its probability
    p_at: float | None = None
    app_version: str = __version__

    @property
    def start_ns(self) -> int:
        """Start of the interval."""
        return to_ns(self.start)

    @property
    def end_ns(self) -> int:
        """First time after the interval."""
        return to_ns(self.end)


class LabelFile:
    """The labels of one data directory. Any process may read and append."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / LABELS_NAME

    def events(self) -> list[LabelEvent]:
        """Every event, oldest first; none without a file. A line that is no event is left out and named in the log.

        Raises:
            ArchiveError: the file cannot be read.
        """
        events = []
        for number, line in enumerate(self._whole_lines(), 1):
            try:
                events.append(_DECODER.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                shown = f"{error}"[:200].encode("unicode_escape").decode()
                log.warning(
                    "label_skipped file=%s line=%d err=%s: correct or remove that line", self.path, number, shown
                )
        return events

    def active(self) -> list[LabelEvent]:
        """Labels that are not retracted, oldest first."""
        return active(self.events())

    def add(self, events: Sequence[LabelEvent]) -> list[LabelEvent]:
        """Appends events with one write and one flush; returns them as stored.

        Raises:
            ThrumcastError: an event is invalid or retracts an unknown label; nothing is written.
            ArchiveError: the file is not writable.
        """
        for event in events:
            check(event)
        with self._locked() as file:
            known = {event.client_token: event for event in self.events()}
            ids = {event.id for event in known.values() if event.op == "add"}
            new: dict[str, LabelEvent] = {}
            for event in events:
                if event.client_token in known or event.client_token in new:
                    continue
                if event.op == "retract" and event.id not in ids:
                    msg = f"expected the id of a label, found: {event.id}"
                    raise ThrumcastError(msg, hint="see `thrumcast labels ls`")
                new[event.client_token] = event
                ids.add(event.id)
            if new:
                lines = b"".join(msgspec.json.encode(event) + b"\n" for event in new.values())
                try:
                    os.ftruncate(file, self._whole_bytes())  # a torn last line was never confirmed
                    with open(file, "ab", closefd=False) as end:
                        end.write(lines)
                    os.fsync(file)
                except OSError as error:
                    raise self._refused(error) from error
        return [known.get(event.client_token) or new[event.client_token] for event in events]

    def _whole_lines(self) -> list[bytes]:
        content = self._content()
        return content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]

    def _whole_bytes(self) -> int:
        return self._content().rfind(b"\n") + 1

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            msg = f"expected to read {self.path}, found: {error}"
            raise ArchiveError(msg, hint="check the permissions of the data directory") from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The open file, locked against other writers."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_link(self.path)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise self._refused(error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    def _refused(self, error: OSError) -> ArchiveError:
        msg = f"expected to write {self.path}, found: {error}"
        return ArchiveError(msg, hint="check free space and permissions of the data directory")


def _refuse_link(path: Path) -> None:
    """Labels are written without the lock of the directory: a link that leads outside is refused here, too."""
    if not path.resolve().is_relative_to(path.parent.parent.resolve()):
        msg = f"expected {path} within the data directory, found: a link to {path.resolve()}"
        raise ArchiveError(msg, hint="move the file into the directory")


def active(events: Sequence[LabelEvent]) -> list[LabelEvent]:
    """Labels that are not retracted, oldest first. A label that cannot be used is left out and named in the log."""
    gone = {event.id for event in events if event.op == "retract"}
    return [event for event in events if event.op == "add" and event.id not in gone and _is_usable(event)]


def _is_usable(event: LabelEvent) -> bool:
    """Whether `check` would take the event. A file may hold others, written by hand or by an older release."""
    try:
        check(event)
    except ThrumcastError as error:
        shown = event.id[:64].encode("unicode_escape").decode()
        log.warning("label_skipped id=%s err=%s", shown, error.message)
        return False
    return True


def new_id() -> str:
    """A unique id for a label."""
    return uuid.uuid4().hex[:12]


def now_iso() -> str:
    """The present time in the format of the file."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_ns(text: str) -> int:
    """ISO 8601 -> ns since 1970. A time without a zone is UTC.

    Raises:
        ThrumcastError: the text is not a time, or is one outside the years `YEARS`.
    """
    try:
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        msg = f"expected a time such as 2026-05-01T12:00:00Z, found: {text!r}"
        raise ThrumcastError(msg, hint="ISO 8601, in UTC unless it names another zone") from error
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    if not _SPAN[0] <= since < _SPAN[1]:
        msg = f"expected a time in the years {YEARS.start} to {YEARS.stop - 1}, found: {text}"
        raise ThrumcastError(msg, hint="times are kept as ns since 1970 in 64 bits, which ends in 2262")
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def check(event: LabelEvent) -> None:
    """Checks the fields of an event.

    Raises:
        ThrumcastError: a field is invalid; the message names it.
    """
    if event.op == "retract":
        problems = [(bool(event.id), "the id of a label", "none")]
    else:
        needs_mode = event.verdict != "unsure"
        problems = [
            (event.op == "add", "op add or retract", event.op),
            (is_id(event.machine), "a machine", event.machine or "none"),
            (event.point is None or is_id(event.point), "a point", str(event.point)),
            (event.verdict in VERDICTS, f"a verdict of {', '.join(VERDICTS)}", event.verdict),
            (event.mode is not None or not needs_mode, f"a mode with the verdict {event.verdict}", "none"),
            (event.stage is None or event.stage in STAGES, f"a stage of {', '.join(STAGES)}", str(event.stage)),
            (event.source in SOURCES, f"a source of {', '.join(SOURCES)}", event.source),
            (0 < event.certainty <= 1, "a certainty above 0, at most 1", str(event.certainty)),
        ]
    for fine, expected, found in problems:
        if not fine:
            msg = f"label: expected {expected}, found: {found}"
            raise ThrumcastError(msg, hint="see `thrumcast labels add --help`")
    if event.op == "add" and not event.start_ns < event.end_ns:
        msg = f"label: expected an end after its start {event.start}, found: {event.end}"
        raise ThrumcastError(msg, hint="an interval includes its start and excludes its end")


_DECODER = msgspec.json.Decoder(LabelEvent)


def who(author: object) -> str:
    """The author as given, else the user name, else the user id: a container may have no name for its user."""
    if author:
        return str(author)
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
