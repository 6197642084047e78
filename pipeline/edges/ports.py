"""The protocols between the live loop and the world.

* `Connection` is where messages come from.
* `Batch` is what one turn of the loop has in hand.
* `Companion` is everything else that takes part in a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from pipeline.core.engine import Step
    from pipeline.core.records import Block, StreamKey


class Receipt(NamedTuple):
    """Which delivery a message is; valid within one connection only, because a new one counts its ids afresh."""

    epoch: int  # connection number, from 1
    mid: int  # MQTT packet id; 0 at QoS 0
    number: int  # arrival number, ever growing


class Message(NamedTuple):
    """One message as it was delivered. A tuple, because one is made for every message."""

    topic: str
    payload: bytes
    qos: int
    content_type: str | None
    retained: bool
    receipt: Receipt


class Publication(NamedTuple):
    """One message to be published."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class Tally(NamedTuple):
    """How many messages a source has received since it began, and how many of them nobody has taken yet."""

    received: int
    untaken: int


EventKind = Literal["connected", "session_lost", "disconnected", "refused", "taken_over"]


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """Something that happened to the connection.

    `session_lost` follows a `connected` that found no session although there was one before, in this process or an
    earlier one.
    """

    kind: EventKind
    epoch: int  # connection number; 0 before the first
    detail: str = ""


class Source(Protocol):
    """Where messages come from: at least once, in arrival order."""

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """At most `limit` messages in arrival order; waits until there is one or the time is over."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tell the broker that exactly these are safe.

        Messages of QoS 0 and of a former connection are skipped: the broker will deliver the latter again.
        """


class Connection(Source, Protocol):
    """A source that can be kept alive during a wait and reports what happens to it and to what it publishes."""

    @property
    def settled(self) -> bool:
        """Whether the broker has confirmed everything that was published at QoS 1."""

    def service(self, timeout_s: float = 0.0) -> None:
        """Network housekeeping."""

    def tally(self) -> Tally:
        """Messages received so far, and those of them that nobody has taken."""

    def events(self) -> list[LinkEvent]:
        """What happened to the connection since the last call, oldest first."""


class Refusal(NamedTuple):
    """A message that is put into quarantine, and why."""

    message: Message
    reason: str  # one of a few fixed words
    detail: str = ""  # what was expected and found


@dataclass(slots=True)
class Batch:
    """Messages that are stepped together, and what became of each of them so far.

    A commit covers the sum of all batches since the last one. A message becomes a block, or is refused, or is a
    *stranger*: its topic names no stream. A companion may `claim` a stranger. Strangers that nobody has claimed are
    refused before the commit.
    """

    messages: list[Message]
    received_ns: int = 0
    blocks: list[Block] = field(default_factory=list)
    origin: list[Message] = field(default_factory=list)  # the message of each block
    strangers: list[Message] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    held: list[Message] = field(default_factory=list)  # acknowledged only after the companions' work for the disk
    alarms_seen: list[tuple[StreamKey, str]] = field(default_factory=list)  # stream and id: people acknowledge these
    feature_s: float = 0.0  # how long the step took without the network
    inference_s: float = 0.0  # how long the network took
    windows: int = 0  # that the blocks can complete, counted per channel
    size: int = 0  # bytes of all payloads

    def extend(self, other: Batch) -> None:
        """Append a batch that came later. `received_ns` stays that of the first."""
        self.received_ns = self.received_ns or other.received_ns
        self.messages += other.messages
        self.blocks += other.blocks
        self.origin += other.origin
        self.strangers += other.strangers
        self.refused += other.refused
        self.held += other.held
        self.alarms_seen += other.alarms_seen
        self.feature_s += other.feature_s
        self.inference_s += other.inference_s
        self.windows += other.windows
        self.size += other.size

    def claim(self, prefix: str) -> list[Message]:
        """Take the strangers whose topic begins like this; they are held until the companion's work is done."""
        claimed = [message for message in self.strangers if message.topic.startswith(prefix)]
        self.strangers = [message for message in self.strangers if not message.topic.startswith(prefix)]
        self.held += claimed
        return claimed

    def refuse(self, message: Message, reason: str, detail: str = "") -> None:
        """Put a message into quarantine with this commit."""
        self.refused.append(Refusal(message, reason, detail))

    def settled(self) -> list[Message]:
        """Messages whose consequences are all in the journal once the batch is committed."""
        held = {id(message) for message in self.held}
        return [message for message in self.messages if id(message) not in held]


# Work for the disk's thread. It returns what is to be published afterwards, by the thread of the connection.
Work = Callable[[], Sequence[Publication]]


class Companion(Protocol):
    """What takes part in the turns of the live loop: metrics, requests, labels, a page, another sink.

    The loop knows its list of companions and nothing else about them. It calls every method on the thread of the
    connection, in the order of the list, so each must be short and must not touch the disk. What needs the disk is
    returned as `Work`. The loop runs it on the disk's thread and then publishes what it returns.

    A turn has one commit and any number of steps. While the disk commits one turn, the loop steps ahead for the next:
    `stepped` may be called for messages of the next commit before `committed` is called for the last one.

    Three of the four methods may return work, because the wall between the two threads runs through all of them:
    labels are looked for between turns, machines are written after a commit, and what was told is noted at the end.
    """

    def before_turn(self) -> Work | None:
        """Called before each turn, whether or not messages come. The work runs once; its errors end the loop."""

    def stepped(self, batch: Batch, step: Step) -> None:
        """Called after each step of the engine, before the commit that covers what this adds to the batch.

        May claim, hold and refuse messages. If the service stops while the disk refuses the commit, the broker
        delivers the messages again.
        """

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Called once after each commit, before the acknowledgement of what is held, with the sum of all it covers.

        Work that raises ArchiveError is tried until it succeeds, so it must be repeatable. What may be lossy returns
        None and delays nothing.
        """

    def ended(self) -> Work | None:
        """Called when the loop has ended. The work is skipped at a stop on a slow disk."""


class Onlooker:
    """A companion that does nothing; a base class for those that need one or two of the methods."""

    __slots__ = ()

    def before_turn(self) -> Work | None:
        """See `Companion.before_turn`."""
        return None

    def stepped(self, batch: Batch, step: Step) -> None:
        """See `Companion.stepped`."""

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """See `Companion.committed`."""
        return None

    def ended(self) -> Work | None:
        """See `Companion.ended`."""
        return None
