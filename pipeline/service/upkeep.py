"""Upkeep of the archive: merging small parts and removing old days, also while the service runs.

The process that holds the data directory does the work. `compacted` and `pruned` do it themselves if the directory is
free; otherwise they ask the service that holds it. A request is a JSON file DIR/upkeep/<id>.request that appears whole;
every process that may write the data directory may ask. The service's `Upkeep` thread renames the file to .working,
does the work beside the live loop, and writes <id>.answer. It also merges small parts by itself. A step of this work
holds off a roll only for a moment, and never a reading.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, Self

from pipeline.edges.store.archive import Archive
from pipeline.edges.store.compact import compact, older, prune
from pipeline.edges.store.database import JOURNAL_NAME, DirectoryHeld, view_journal
from pipeline.edges.store.journal import Journal
from pipeline.errors import ArchiveError, ThrumcastError
from pipeline.telemetry import Telemetry

log = logging.getLogger("thrumcast.upkeep")

FOLDER = "upkeep"
LOOK_EVERY_S = 0.5
COMPACT_EVERY_S = 60.0
TELL_EVERY_S = 10.0  # how often the log says how much is left of a long work
END_S = 2.0  # how long a stop waits for the current step; the next start completes or undoes what was cut off
ANSWER_KEPT_S = 3600.0  # how long an answer waits for its client

Rows = list[dict[str, Any]]  # what was done, one document per kind and day


class Upkeep(threading.Thread):
    """The thread of a running service that does upkeep when it is asked, and by itself."""

    def __init__(self, archive: Archive, data_dir: Path, telemetry: Telemetry, compact_parts: int = 0) -> None:
        """`compact_parts`: number of small parts of one kind and day that are merged without a request; 0 = never."""
        super().__init__(name="upkeep", daemon=True)
        self._archive, self._data_dir, self._telemetry = archive, data_dir, telemetry
        self._folder = data_dir / FOLDER
        self._least = compact_parts
        self._ending = threading.Event()
        self._compacted_s = float("-inf")

    def __enter__(self) -> Self:
        """Start; requests that a former service had begun are answered as interrupted."""
        for path in self._folder.glob("*.working"):
            self._put(path.stem, {"error": "the service ended before it was done; ask again"})
            path.unlink(missing_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End after the current step, unless that takes long."""
        self._ending.set()
        self.join(END_S)

    def run(self) -> None:
        """Look for work until the end."""
        while not self._ending.wait(LOOK_EVERY_S):
            try:
                self.look()
            except (OSError, ThrumcastError) as error:  # a full disk: the live loop reports it, and this is tried again
                if self._ending.is_set():
                    return  # the journal is closed
                log.error("upkeep_failed err=%s", error)

    def look(self) -> None:
        """Do what has been asked for, then what is due without a request."""
        for path in sorted(self._folder.glob("*.request")):
            self._handle(path)
        for path in self._folder.glob("*.answer"):
            if time.time() - path.stat().st_mtime > ANSWER_KEPT_S:
                path.unlink(missing_ok=True)
        looks = time.monotonic() - self._compacted_s >= COMPACT_EVERY_S
        if looks or self._archive.narrow_parts:
            self._widen()
        if looks:
            self._compacted_s = time.monotonic()
            if self._least:
                self._compact(self._least)
            view = view_journal(self._data_dir, ())
            self._telemetry.set("archive_parts", len(view.parts) if view else 0)

    def _handle(self, path: Path) -> None:
        working = path.with_suffix(".working")
        try:
            path.replace(working)
            request = json.loads(working.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return  # its client has withdrawn it
        except (ValueError, RecursionError) as error:
            self._put(path.stem, {"error": f"expected a JSON request, found: {error}"})
            working.unlink(missing_ok=True)
            return
        answer: dict[str, Any]
        try:
            answer = {"done": self._do(request)}
        except (ThrumcastError, ValueError, KeyError, TypeError) as error:
            log.error("upkeep_failed request=%s err=%s", path.stem, error)
            answer = {"error": error.message if isinstance(error, ThrumcastError) else f"{error!r}"}
        self._put(path.stem, answer)
        working.unlink(missing_ok=True)

    def _do(self, request: dict[str, Any]) -> Rows:
        match request["action"]:
            case "compact":
                return self._compact(2)
            case "prune":
                return self._prune(date.fromisoformat(request["before"]))
            case other:
                msg = f"expected the action compact or prune, found: {other!r}"
                raise ValueError(msg)

    def _widen(self) -> None:
        """Write older parts again that lack a new channel or class, a few per step."""
        told_s, began_s = float("-inf"), time.monotonic()
        while not self._ending.is_set() and self._archive.widen():
            self._telemetry.set("archive_narrow_parts", self._archive.narrow_parts)
            if time.monotonic() - told_s >= TELL_EVERY_S:
                told_s = time.monotonic()
                log.info("widening parts_left=%d", self._archive.narrow_parts)
        if told_s > began_s:
            log.info("widened seconds=%.1f", time.monotonic() - began_s)

    def _compact(self, least: int) -> Rows:
        done = []
        for one in compact(self._archive, least=least, stop=self._ending.is_set):
            log.info("compacted kind=%s date=%s parts=%d rows=%d", one.kind, one.date, one.parts, one.rows)
            self._telemetry.add("archive_compacted_parts_total", one.parts)
            done.append(asdict(one))
        return done

    def _prune(self, before: date) -> Rows:
        done = []
        for one in prune(self._archive, before, stop=self._ending.is_set):
            log.info("pruned kind=%s date=%s rows=%d", one.kind, one.date, one.rows)
            self._telemetry.add("archive_pruned_rows_total", one.rows)
            done.append(asdict(one))
        return done

    def _put(self, name: str, answer: dict[str, Any]) -> None:
        _write(self._folder / f"{name}.answer", answer)


def ask(
    data_dir: Path,
    request: dict[str, Any],
    *,
    pick_up_s: float = 15.0,
    patience: Callable[[], object] = lambda: time.sleep(0.1),
) -> Rows:
    """Let the process that holds the data directory do the work, and wait for its answer.

    Raises:
        ArchiveError: it did not take the request, or could not do the work.
    """
    folder, name = data_dir / FOLDER, secrets.token_hex(8)
    folder.mkdir(exist_ok=True)
    asked, answered = folder / f"{name}.request", folder / f"{name}.answer"
    _write(asked, request)
    until_s = time.monotonic() + pick_up_s
    try:
        while not answered.exists():
            if asked.exists() and time.monotonic() > until_s:
                msg = f"expected the process that holds {data_dir} to take the request, found no answer in: "
                msg += f"{pick_up_s:g} s"
                raise ArchiveError(msg, hint="only `thrumcast run` takes requests; a backfill has to end first")
            patience()
        answer = json.loads(answered.read_text(encoding="utf-8"))
    finally:
        asked.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)
    if "error" in answer:
        msg = f"expected the service to do it, found: {answer['error']}"
        raise ArchiveError(msg, hint="see the log of the service")
    done: Rows = answer["done"]
    return done


def compacted(directory: Path) -> Rows:
    """Merge every day's small parts."""
    return _by_holder(directory, {"action": "compact"}, _widened_and_compacted)


def _widened_and_compacted(archive: Archive) -> Rows:
    while archive.widen():
        pass
    return [asdict(one) for one in compact(archive)]


def pruned(directory: Path, before: date) -> Rows:
    """Remove the days before a date."""
    request = {"action": "prune", "before": before.isoformat()}
    return _by_holder(directory, request, lambda archive: [asdict(one) for one in prune(archive, before)])


def prunable(directory: Path, before: date) -> Rows:
    """What `pruned` would remove, without removing it."""
    _check(directory)
    view = view_journal(directory, ())
    days = {} if view is None else older(view.parts, before)
    return [
        {"kind": kind, "date": day, "parts": len(parts), "rows": sum(p.rows for p in parts),
         "bytes": sum(p.bytes for p in parts)}
        for (kind, day), parts in days.items()
    ]  # fmt: skip


def _by_holder(directory: Path, request: dict[str, Any], work: Callable[[Archive], Rows]) -> Rows:
    _check(directory)
    try:
        with Journal(directory) as journal:
            schema = journal.view(()).schema
            if schema is None:
                return []  # nothing has been written yet
            return work(Archive(directory, journal, schema))
    except DirectoryHeld:
        return ask(directory, request)


def _check(directory: Path) -> None:
    if not (directory / JOURNAL_NAME).exists():
        msg = f"expected a data directory with a journal, found none in: {directory}"
        raise ArchiveError(msg, hint="fill one with `thrumcast backfill` or `thrumcast run`, or check --data")


def _write(path: Path, document: dict[str, Any]) -> None:
    """Write a file that appears whole."""
    path.parent.mkdir(exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(document), encoding="utf-8")
    staged.replace(path)
