"""Archive upkeep while the service runs: it holds the data directory, so it is asked to do the work.

A request is a file DIR/upkeep/<id>.request, JSON, that appears whole; whoever may write the data directory may ask. The
service takes it by renaming it to .working, does the work beside the processing loop, and puts <id>.answer there. In
between it merges small parts by itself. Every step holds rolls off for a moment only; readings are never held up.
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
from pipeline.edges.store.compact import compact, prune
from pipeline.edges.store.database import view_journal
from pipeline.errors import ArchiveError, ThrumcastError
from pipeline.telemetry import Telemetry

log = logging.getLogger("thrumcast.upkeep")

FOLDER = "upkeep"
LOOK_EVERY_S = 0.5
COMPACT_EVERY_S = 60.0
END_S = 2.0  # for the step under way at the end; what is cut off is settled at the next start
ANSWER_KEPT_S = 3600.0  # for a client that was in no hurry


class Upkeep(threading.Thread):
    """The service's side."""

    def __init__(self, archive: Archive, data_dir: Path, telemetry: Telemetry, compact_parts: int = 0) -> None:
        """`compact_parts` small parts of one kind and day are merged without being asked; 0: never."""
        super().__init__(name="upkeep", daemon=True)
        self._archive, self._data_dir, self._telemetry = archive, data_dir, telemetry
        self._folder = data_dir / FOLDER
        self._least = compact_parts
        self._ending = threading.Event()
        self._compacted_s = float("-inf")

    def __enter__(self) -> Self:
        """Starts; what a former service had begun is answered as interrupted."""
        for path in self._folder.glob("*.working"):
            self._put(path.stem, {"error": "the service ended before it was done; ask again"})
            path.unlink(missing_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends after the step under way, unless that takes long."""
        self._ending.set()
        self.join(END_S)

    def run(self) -> None:
        """Until the end."""
        while not self._ending.wait(LOOK_EVERY_S):
            try:
                self.look()
            except (OSError, ThrumcastError) as error:  # a full disk: the loop knows, and it is tried again
                if self._ending.is_set():
                    return  # the journal has been let go
                log.error("upkeep_failed err=%s", error)

    def look(self) -> None:
        """Does what was asked for meanwhile, then what is due by itself."""
        for path in sorted(self._folder.glob("*.request")):
            self._serve(path)
        for path in self._folder.glob("*.answer"):
            if time.time() - path.stat().st_mtime > ANSWER_KEPT_S:
                path.unlink(missing_ok=True)
        if time.monotonic() - self._compacted_s >= COMPACT_EVERY_S:
            self._compacted_s = time.monotonic()
            if self._least:
                self._compact(self._least)
            view = view_journal(self._data_dir, ())
            self._telemetry.set("archive_parts", len(view.parts) if view else 0)

    def _serve(self, path: Path) -> None:
        working = path.with_suffix(".working")
        try:
            path.replace(working)
            request = json.loads(working.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return  # its client has thought better of it
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

    def _do(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        match request["action"]:
            case "compact":
                return self._compact(2)
            case "prune":
                return self._prune(date.fromisoformat(request["before"]))
            case other:
                msg = f"expected the action compact or prune, found: {other!r}"
                raise ValueError(msg)

    def _compact(self, least: int) -> list[dict[str, Any]]:
        done = []
        for one in compact(self._archive, least=least, stop=self._ending.is_set):
            log.info("compacted kind=%s date=%s parts=%d rows=%d", one.kind, one.date, one.parts, one.rows)
            self._telemetry.add("archive_compacted_parts_total", one.parts)
            done.append(asdict(one))
        return done

    def _prune(self, before: date) -> list[dict[str, Any]]:
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
) -> list[dict[str, Any]]:
    """Has the process that holds the data directory do it, and waits for its answer.

    Raises:
        ArchiveError: it does not take the request, or could not do it.
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
    done: list[dict[str, Any]] = answer["done"]
    return done


def _write(path: Path, document: dict[str, Any]) -> None:
    """A file that appears whole."""
    path.parent.mkdir(exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(document), encoding="utf-8")
    staged.replace(path)
