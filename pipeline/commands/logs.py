"""Logging of the long-running commands: one line per event to stderr, JSON where nobody is watching."""

from __future__ import annotations

import json
import logging
import sys
import time

from pipeline.commands.common import Console


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event, _, rest = record.getMessage().partition(" ")
        document = {
            "ts": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
        }
        return json.dumps(document | ({"detail": rest} if rest else {}), ensure_ascii=False)


def start_logging(console: Console) -> None:
    """To stderr: text on a terminal, JSON lines elsewhere; warnings only under --quiet."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(text if sys.stderr.isatty() else _Json())
    root = logging.getLogger("thrumcast")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(logging.WARNING if console.quiet else logging.DEBUG if console.verbose else logging.INFO)
