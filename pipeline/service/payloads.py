"""Other people's messages in the running service: the mappings of the configuration, and births of Sparkplug nodes.

Births are written to `sparkplug.json` in the data directory before they are acknowledged. So the data of a node can be
read after a restart, also those that the broker delivers again. A node whose birth has not been heard is asked for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.engine import Step
from pipeline.edges.payloads import MappingSpec, Nodes, Payloads, Place
from pipeline.edges.payloads.sparkplug import Births, births_from_json, births_to_json, rebirth_request
from pipeline.edges.ports import Batch, Onlooker, Publication, Work
from pipeline.errors import ArchiveError
from pipeline.service.whole_file import write_whole

if TYPE_CHECKING:
    from pipeline.config.tables import Config, PayloadTable
    from pipeline.core.records import StreamKey

BIRTHS_NAME = "sparkplug.json"
ASK_AGAIN_S = 60.0  # a node that does not answer is asked for its birth no more often

log = logging.getLogger("thrumcast.service")


def mapping_spec(table: PayloadTable) -> MappingSpec:
    """One [[payloads]] table as the mapping needs it."""
    return MappingSpec(**{name: getattr(table, name) for name in MappingSpec.__dataclass_fields__})


def payloads(config: Config, resume: Callable[[StreamKey], Place | None] = lambda key: None) -> Payloads:
    """All mappings of a configuration.

    Raises:
        ArchiveError: the births in the data directory are unreadable.
    """
    has_nodes = any(table.format == "sparkplug" for table in config.payloads)
    return Payloads(
        map(mapping_spec, config.payloads),
        max_payload_bytes=config.mqtt.max_payload_bytes,
        resume=resume,
        nodes=Nodes(_read(config.data.path / BIRTHS_NAME) if has_nodes else {}),
    )


@dataclass(slots=True)
class SparkplugNodes(Onlooker):
    """Writes births to disk before their messages are acknowledged, and asks for births that have not been heard."""

    nodes: Nodes
    path: Path
    asked: dict[str, float] = field(default_factory=dict)  # topic -> when, of time.monotonic()
    _written: Births | None = None

    def __post_init__(self) -> None:
        """What was read is written."""
        self._written = self.nodes.births

    def stepped(self, batch: Batch, step: Step) -> None:
        """Births are acknowledged when they are on disk."""
        if self.nodes.births is not self._written:
            refused = {id(refusal.message) for refusal in batch.refused}
            batch.held += [
                message
                for message in batch.messages
                if message.topic.startswith("spBv1.0/") and "BIRTH/" in message.topic and id(message) not in refused
            ]

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Write births; ask for others."""
        now_s = time.monotonic()
        topics = [topic for topic in self.nodes.unborn if now_s - self.asked.get(topic, -ASK_AGAIN_S) >= ASK_AGAIN_S]
        self.nodes.unborn.clear()
        births = self.nodes.births
        if births is self._written and not topics:
            return None
        self.asked |= dict.fromkeys(topics, now_s)
        return partial(self._write, births, topics)

    def _write(self, births: Births, topics: Sequence[str]) -> Sequence[Publication]:
        if births is not self._written:
            write_whole(self.path, births_to_json(births))
            self._written = births
        for topic in topics:
            log.info("rebirth_asked topic=%s", topic)
        request = rebirth_request(time.time_ns() // 10**6)
        return [Publication(topic, request, 0) for topic in topics]


def _read(path: Path) -> Births:
    try:
        return births_from_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        msg = f"expected births of Sparkplug nodes in {path}, found: {error}"
        raise ArchiveError(msg, hint="remove the file: the nodes are asked for their births again") from error
