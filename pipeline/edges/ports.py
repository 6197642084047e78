"""What the drivers need of a message system, and its twin in memory for tests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol


class Receipt(NamedTuple):
    """Which delivery a message is; valid within one connection only, because a new one counts its ids afresh."""

    epoch: int  # connection number, from 1
    mid: int  # MQTT packet id; 0 at QoS 0
    number: int  # arrival number, ever growing


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was delivered."""

    topic: str
    payload: bytes
    qos: int
    content_type: str | None
    retained: bool
    receipt: Receipt


class Tally(NamedTuple):
    """What a source has received since it began, and how much of that nobody has taken yet."""

    received: int
    untaken: int


EventKind = Literal["connected", "session_lost", "disconnected", "refused", "taken_over"]


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """Something that happened to the connection.

    `session_lost` follows a `connected` that found no session, where there had been one, in this process or before.
    """

    kind: EventKind
    epoch: int  # connection number; 0 before the first
    detail: str = ""


class Source(Protocol):
    """Where messages come from; at least once, in arrival order."""

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """At most `limit` messages in arrival order; waits until there is one or the time is over."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tells the broker that exactly these are safe.

        Messages of QoS 0 and of a former connection are passed over: the latter will be delivered again.
        """


class Connection(Source, Protocol):
    """A source that can be kept alive during a wait, and tells what happens to it and to what is published over it."""

    @property
    def settled(self) -> bool:
        """Whether the broker has confirmed everything that was published at QoS 1."""

    def service(self, timeout_s: float = 0.0) -> None:
        """Network housekeeping."""

    def tally(self) -> Tally:
        """Messages received so far, and those of them that nobody has taken."""

    def events(self) -> list[LinkEvent]:
        """What happened to the connection since the last call, oldest first."""


class Publisher(Protocol):
    """Where results go."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Sends one message; returns before the broker has it."""


@dataclass(slots=True)
class MemoryBroker:
    """A broker with one persistent subscriber: a `Source` and a `Publisher` that a test can look into.

    `send` is the plant's side. `restart` is a lost connection: what was taken but not acknowledged comes again, before
    what has not been delivered yet, and receipts from before are worth nothing.
    """

    waiting: deque[Message] = field(default_factory=deque)
    unacknowledged: dict[int, Message] = field(default_factory=dict)  # by arrival number
    acknowledged: list[Message] = field(default_factory=list)  # in the order of acknowledgement
    published: list[tuple[str, bytes, int, bool]] = field(default_factory=list)  # topic, payload, qos, retain
    epoch: int = 1
    numbers: int = 0
    settled: bool = True

    def send(self, topic: str, payloads: Iterable[bytes], *, qos: int = 1, content_type: str | None = None) -> None:
        """The plant publishes these payloads to one topic."""
        for payload in payloads:
            self.waiting.append(Message(topic, payload, qos, content_type, False, Receipt(0, 0, 0)))

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """See `Source.take`; sleeps the whole time-out when nothing waits."""
        if not self.waiting:
            time.sleep(timeout_s)
        taken: list[Message] = []
        while self.waiting and len(taken) < limit:
            message = self.waiting.popleft()
            self.numbers += 1
            mid = self.numbers % 65535 + 1 if message.qos else 0
            message = replace(message, receipt=Receipt(self.epoch, mid, self.numbers))
            if message.qos:
                self.unacknowledged[self.numbers] = message
            taken.append(message)
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`."""
        for message in sorted(messages, key=lambda m: m.receipt.number):
            number = message.receipt.number
            if message.receipt.epoch == self.epoch and number in self.unacknowledged:
                self.acknowledged.append(self.unacknowledged.pop(number))

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """See `Publisher.publish`; kept in `published`."""
        self.published.append((topic, payload, qos, retain))

    def tally(self) -> Tally:
        """What was delivered; a message is taken at once."""
        return Tally(self.numbers, 0)

    def restart(self) -> None:
        """The connection is lost and made again."""
        self.waiting.extendleft(reversed(self.unacknowledged.values()))
        self.unacknowledged.clear()
        self.epoch += 1
