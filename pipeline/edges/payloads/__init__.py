"""Other people's messages as blocks, by the [[payloads]] tables of the configuration.

    message ─topic─> Mapping ─reading─> Numbering ─> Block

`Payloads.decode` is the decoder of every message whose topic a table claims. Messages on `mqtt.readings_topic` are
thrumcast's own and go to `core.codec`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipeline.core.records import Block, StreamKey
from pipeline.edges.payloads.mapping import Mapping, MappingSpec, Reading
from pipeline.edges.payloads.numbering import Numbering, Place, place_of
from pipeline.edges.payloads.sparkplug import Nodes
from pipeline.edges.ports import Message
from pipeline.errors import DecodeError

__all__ = ["Mapping", "MappingSpec", "Nodes", "Payloads", "Place", "Reading", "place_of"]


class Payloads:
    """All mappings of a configuration, with what they remember: places of streams, and births of Sparkplug nodes."""

    def __init__(
        self,
        specs: Iterable[MappingSpec],
        *,
        max_payload_bytes: int,
        resume: Callable[[StreamKey], Place | None] = lambda key: None,
        nodes: Nodes | None = None,
    ) -> None:
        self.mappings = tuple(map(Mapping, specs))
        self.max_payload_bytes = max_payload_bytes
        self.nodes = nodes or Nodes()
        self._numbering = Numbering(resume)

    @property
    def subscriptions(self) -> list[str]:
        """What to subscribe to."""
        return list(dict.fromkeys(mapping.topic.subscription for mapping in self.mappings))

    def mapping_of(self, topic: str) -> Mapping | None:
        """The first table whose topic matches."""
        return next((mapping for mapping in self.mappings if mapping.topic.match(topic) is not None), None)

    def decode(self, message: Message, now_ns: int) -> list[Block] | None:
        """The blocks of a message; none for a birth or death of Sparkplug. None: no table claims the topic.

        Raises:
            DecodeError: what was expected, what was found and where.
        """
        mapping = self.mapping_of(message.topic)
        if mapping is None:
            return None
        try:
            if message.retained and mapping.spec.time == "arrival":
                msg = "a message that is not retained expected where time is the arrival: a retained one is old"
                raise DecodeError("time", msg)
            readings = self.readings(mapping, message.topic, message.payload, now_ns)
        except DecodeError as error:
            raise DecodeError(error.reason, f"{error.message} ([[payloads]] {mapping.spec.topic})") from None
        return [self._numbering.number(reading) for reading in readings]

    def readings(self, mapping: Mapping, topic: str, payload: bytes, now_ns: int) -> list[Reading]:
        """What a mapping makes of a message, before it is counted.

        Raises:
            DecodeError: what was expected, what was found and where.
        """
        if len(payload) > self.max_payload_bytes:
            msg = f"at most {self.max_payload_bytes} bytes (mqtt.max_payload_bytes) expected, found: {len(payload)}"
            raise DecodeError("oversize", msg)
        if mapping.spec.format != "sparkplug":
            return mapping.read(topic, payload, now_ns)
        document = self.nodes.read(topic, payload)
        return [] if document is None or not document["metrics"] else [mapping.reading(topic, document, now_ns)]
