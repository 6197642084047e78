"""A bad network: it drops, duplicates, delays, swaps and corrupts messages. Pure, seeded, with counts.

A message has at most one of these fates, so the number of arriving messages follows from the counts. `Senders` come
before the network: their clocks step, and they reboot.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipeline.core.records import Block, StreamKey
from pipeline.errors import ConfigError


class Message(NamedTuple):
    """A message: topic, payload, and when it should arrive (ns of event time)."""

    topic: str
    payload: bytes
    due_ns: int


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities per message, with a sum of at most 1. At most `hold` later messages overtake a delayed one."""

    drop: float = 0.0
    duplicate: float = 0.0  # arrives again, up to `hold` messages later
    delay: float = 0.0  # arrives 1 to `hold` messages late
    reorder: float = 0.0  # is swapped with the next message
    corrupt: float = 0.0  # is truncated, or some of its bytes are changed
    hold: int = 8

    def __post_init__(self) -> None:
        """Checks the probabilities."""
        chances = self.chances()
        if not all(0 <= chance <= 1 for chance in chances) or sum(chances) > 1 + 1e-9:
            msg = f"expected chances of 0 to 1 that sum to at most 1, found: {', '.join(f'{c:g}' for c in chances)}"
            raise ConfigError(msg, hint="they are, in order: drop, duplicate, delay, reorder, corrupt")
        if self.hold < 1:
            msg = f"hold must be at least 1 message, found: {self.hold}"
            raise ConfigError(msg)

    def chances(self) -> tuple[float, ...]:
        """In the order of FATES."""
        return self.drop, self.duplicate, self.delay, self.reorder, self.corrupt


FATES = ("drop", "duplicate", "delay", "reorder", "corrupt")


@dataclass(slots=True)
class Counts:
    """Counts of messages. Once the channel is empty: arrived = sent - drop + duplicate."""

    sent: int = 0
    arrived: int = 0
    drop: int = 0
    duplicate: int = 0
    delay: int = 0
    reorder: int = 0
    corrupt: int = 0
    clock_step: int = 0
    reboot: int = 0


@dataclass(frozen=True, slots=True)
class Upsets:
    """Probabilities per block of a clock step and of a reboot of the sender."""

    clock_step: float = 0.0  # the clock is set: later times have another offset
    reboot: float = 0.0  # some blocks are lost, and a new session counts from 0
    step_s: float = 5.0  # standard deviation of a clock step
    away_blocks: int = 8  # most blocks that a reboot loses

    def __post_init__(self) -> None:
        """Checks the probabilities."""
        if not (0 <= self.clock_step <= 1 and 0 <= self.reboot <= 1):
            msg = f"expected chances of 0 to 1, found: clock_step {self.clock_step:g}, reboot {self.reboot:g}"
            raise ConfigError(msg)
        if not self.step_s >= 0 or self.away_blocks < 1:
            msg = f"expected step_s >= 0 and away_blocks >= 1, found: {self.step_s:g}, {self.away_blocks}"
            raise ConfigError(msg)


@dataclass(slots=True)
class _Sender:
    """The sender of one stream: its session and first sample, its clock offset, the blocks until it is back."""

    source: int  # the session number of the plant
    session: int
    first: int = 0
    off_ns: int = 0
    away: int = 0


class Senders:
    """Applies clock steps and reboots of senders to readings."""

    def __init__(self, upsets: Upsets, rng: np.random.Generator, counts: Counts) -> None:
        self.upsets = upsets
        self.rng = rng
        self.counts = counts
        self._of: dict[StreamKey, _Sender] = {}

    def send(self, block: Block) -> Block | None:
        """The block as its sender would send it; None during a reboot. Samples and truth are unchanged.

        After a reboot the number of the new session is the time of the sender's clock, as for its first session.
        """
        sender = self._of.get(block.key)
        if sender is None or sender.source != block.session:
            off_ns = 0 if sender is None else sender.off_ns
            sender = self._of[block.key] = _Sender(block.session, block.session, block.index, off_ns)
        step, reboot = self.rng.random(2) < (self.upsets.clock_step, self.upsets.reboot)
        if step and not sender.away:
            sender.off_ns += round(self.upsets.step_s * 1e9 * self.rng.standard_normal())
            self.counts.clock_step += 1
        if reboot and not sender.away:
            sender.away = int(self.rng.integers(1, self.upsets.away_blocks + 1))
            self.counts.reboot += 1
            sender.session = 0
        if sender.away:
            sender.away -= 1
            return None
        if sender.session == 0:
            sender.session, sender.first = block.t0_ns + sender.off_ns, block.index
        return replace(
            block, session=sender.session, index=block.index - sender.first, t0_ns=block.t0_ns + sender.off_ns
        )


def disturb(messages: Iterable[Message], faults: Faults, rng: np.random.Generator, counts: Counts) -> Iterator[Message]:
    """Messages as they arrive; updates `counts`. Messages that are still delayed at the end arrive then.

    A delayed message is due together with the message that overtook it, so `due_ns` never decreases.
    """
    edges = np.cumsum(faults.chances())
    held: list[tuple[float, int, Message]] = []  # the message number after which it arrives, a tie-break, the message
    ticket = 0
    latest_ns = 0
    for number, message in enumerate(messages):
        counts.sent += 1
        latest_ns = max(latest_ns, message.due_ns)
        fate = int(np.searchsorted(edges, rng.random(), side="right"))
        name = FATES[fate] if fate < len(FATES) else None
        if name is not None:
            setattr(counts, name, getattr(counts, name) + 1)
        comes: list[tuple[float, Message]] = []
        match name:
            case "drop":
                pass
            case "duplicate":
                comes = [(number, message), (number + int(rng.integers(0, faults.hold + 1)), message)]
            case "delay":
                comes = [(number + int(rng.integers(1, faults.hold + 1)) + 0.25, message)]
            case "reorder":
                comes = [(number + 1.25, message)]
            case "corrupt":
                comes = [(number, message._replace(payload=damaged(message.payload, rng)))]
            case _:
                comes = [(number, message)]
        for when, item in comes:
            heapq.heappush(held, (when, ticket, item))
            ticket += 1
        while held and held[0][0] <= number + 0.5:
            counts.arrived += 1
            yield heapq.heappop(held)[2]._replace(due_ns=latest_ns)
    while held:
        counts.arrived += 1
        yield heapq.heappop(held)[2]._replace(due_ns=latest_ns)


def damaged(payload: bytes, rng: np.random.Generator) -> bytes:
    """A damaged `payload`: truncated with probability 1/2, else one to eight bytes changed."""
    if not payload:
        return b"\x00"
    if rng.random() < 0.5:
        return payload[: int(rng.integers(0, len(payload)))]
    changed = bytearray(payload)
    for place in set(rng.integers(0, len(payload), int(rng.integers(1, 9))).tolist()):
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)
