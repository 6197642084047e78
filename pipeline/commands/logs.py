"""Logging of the long-running commands: one line per event to stderr, as text on a terminal and as JSON elsewhere.

A message is `event key=value key=value`: the event is one of `pipeline.telemetry.EVENTS`, a value ends where the next
key starts. Warnings and errors that repeat within ten seconds are suppressed and counted.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from typing import Any, Final

import click

from pipeline.commands.common import Console

REPEAT_S: Final = 10.0
_FIELD: Final = re.compile(r"(\w+)=(.*?)(?= \w+=|$)", re.DOTALL)
_WORDS: Final = re.compile(r"(\w+)=%[sr]")  # in a format string: keys whose values are text
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?(e[+-]?\d{1,2})?", re.ASCII)
# syslog's numbers; journald takes `<4>` at the start of a line for the priority.
_PRIORITY: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

log_format_option = click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    help="Format of the log on stderr; auto: text on a terminal, JSON lines elsewhere.",
)


def fields(message: str) -> dict[str, str]:
    """The parts of a message: `event`, its keys, and as `detail` the text between the event and the first key."""
    event, _, rest = message.partition(" ")
    found = {key: value for key, value in _FIELD.findall(rest) if key not in ("ts", "level", "event")}
    detail = rest[: m.start()].strip() if (m := _FIELD.search(rest)) else rest.strip()
    return {"event": event} | ({"detail": detail} if detail else {}) | found


class JsonLines(logging.Formatter):
    """One JSON object per line: ts, level, logger, event, then the fields of the event, with numbers as numbers."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document: dict[str, Any] = {
            "ts": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **fields(record.getMessage()),
        }
        words = {*_WORDS.findall(str(record.msg)), "ts", "level", "logger", "event", "detail"}
        document |= {k: json.loads(v) for k, v in document.items() if k not in words and _NUMBER.fullmatch(v)}
        if (repeated := getattr(record, "repeated", 0)) > 0:
            document["repeated"] = repeated
        if record.exc_info:
            document["trace"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


class TextLines(logging.Formatter):
    """One line of text per event, for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        repeated = getattr(record, "repeated", 0)
        return super().format(record) + (f" repeated={repeated}" if repeated else "")


class RepeatFilter(logging.Filter):
    """Passes an event of a logger once in `every_s`; the next one that passes carries the number of suppressed ones."""

    def __init__(self, every_s: float = REPEAT_S) -> None:
        super().__init__()
        self._every_s = every_s
        # (logger, event, about) -> when it last passed, and how many were suppressed since; there are few
        self._seen: dict[tuple[str, str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key = (
            record.name,
            record.getMessage().partition(" ")[0],
            getattr(record, "about", ""),  # bounded by whoever sets it, as the set of events is
        )
        passed_s, held = self._seen.get(key, (float("-inf"), 0))
        if record.created - passed_s < self._every_s:
            self._seen[key] = passed_s, held + 1
            return False
        self._seen[key] = record.created, 0
        record.repeated = held
        return True


class _Priority(logging.Formatter):
    """For journald: the inner format, with the priority before each line."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        lines = self._inner.format(record).splitlines()
        return "\n".join(f"<{_PRIORITY.get(record.levelno, 6)}>{line}" for line in lines)


def start_logging(console: Console, log_format: str = "auto", level: str = "info") -> None:
    """Logs to stderr: text on a terminal, JSON lines elsewhere. --quiet and -v override `level`."""
    handler = logging.StreamHandler(sys.stderr)
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    formatter: logging.Formatter = TextLines() if as_text else JsonLines()
    handler.setFormatter(_Priority(formatter) if stderr_is_journal() else formatter)
    handler.addFilter(RepeatFilter())
    root = logging.getLogger("thrumcast")
    root.handlers[:] = [handler]
    root.propagate = False
    set_level(console, level)


def set_level(console: Console, level: str) -> None:
    """Sets the lowest level that is logged: warning under --quiet, debug under -v, else as configured."""
    configured = logging.getLevelNamesMapping()[level.upper()]
    chosen = logging.WARNING if console.quiet else logging.DEBUG if console.verbose else configured
    logging.getLogger("thrumcast").setLevel(chosen)


def stderr_is_journal() -> bool:
    """Whether stderr goes to journald (see JOURNAL_STREAM in systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    if not (device.isdecimal() and inode.isdecimal()):
        return False
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))
