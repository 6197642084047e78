"""Quotas: how many machines and streams a data directory may have, and how much of it one machine may claim.

A stream costs memory, a row of the journal and files for ever, and whoever may publish readings may make up names. What
exceeds a quota goes to quarantine by name; streams that are known already are not touched. MQTT does not tell a reader
who has published, so the unit of a quota is the machine that the topic names. `deploy/mosquitto.acl` binds a sender to
its machine.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from pipeline.core.records import StreamKey
from pipeline.telemetry import few

PER_S = 3600.0
MOST_NAMED = 100  # pairs of quota and machine that the log names

log = logging.getLogger("thrumcast.live")


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits; 0: none."""

    machines: int = 0
    streams_per_machine: int = 0
    new_streams_per_hour: int = 0
    channels_per_machine: int = 0  # names new to the data directory that one machine may bring, while a service runs


@dataclass(slots=True)
class Names:
    """The streams of a data directory, also those that rest, and whether there is room for another."""

    quotas: Quotas
    known: set[StreamKey] = field(default_factory=set)
    clock: Callable[[], float] = time.monotonic
    refused: Counter[str] = field(default_factory=Counter)  # blocks by reason, since the service began
    _machines: Counter[str] = field(init=False)  # streams of each
    _new_s: deque[float] = field(default_factory=deque)  # when the streams of the last hour were first heard
    _brought: dict[str, set[str]] = field(default_factory=dict)  # machine -> channel names that it brought
    _named: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._machines = Counter(key.machine for key in self.known)

    @property
    def machines(self) -> int:
        """How many machines the known streams belong to."""
        return len(self._machines)

    def refusal(self, key: StreamKey, new_channels: Collection[str] = ()) -> tuple[str, str] | None:
        """Reason and sentence why a block of this stream is refused; None if there is room. Admits nothing.

        `new_channels` are the names in the block that the data directory does not have yet.
        """
        found = self._excess(key, new_channels) if new_channels or key not in self.known else None
        if found is not None:
            self.refused[found[0]] += 1
            if (named := (found[0], key.machine)) not in self._named and len(self._named) < MOST_NAMED:
                self._named.add(named)
                log.warning("quota_reached reason=%s machine=%s", *named)
        return found

    def _excess(self, key: StreamKey, new_channels: Collection[str]) -> tuple[str, str] | None:
        quotas = self.quotas
        brought = self._brought.get(key.machine, set()).union(new_channels)
        if 0 < quotas.channels_per_machine < len(brought):
            found = f"expected, found new: {few(sorted(new_channels))}"
            return "channels_quota", f"at most {quotas.channels_per_machine} new channel names of a machine {found}"
        if key in self.known:
            return None
        if key.machine not in self._machines and 0 < quotas.machines <= len(self._machines):
            return "machines_quota", f"at most {quotas.machines} machines expected, found another: {key.machine}"
        if 0 < quotas.streams_per_machine <= self._machines[key.machine]:
            found = f"expected, found another: {key}"
            return "streams_quota", f"at most {quotas.streams_per_machine} streams of a machine {found}"
        while self._new_s and self.clock() - self._new_s[0] >= PER_S:
            self._new_s.popleft()
        if 0 < quotas.new_streams_per_hour <= len(self._new_s):
            found = f"expected, found another: {key}"
            return "new_streams_quota", f"at most {quotas.new_streams_per_hour} new streams in an hour {found}"
        return None

    def admit(self, key: StreamKey, new_channels: Iterable[str] = ()) -> None:
        """The block is admitted: its names are known from now on."""
        if new_channels:
            self._brought.setdefault(key.machine, set()).update(new_channels)
        if key not in self.known:
            self.known.add(key)
            self._machines[key.machine] += 1
            self._new_s.append(self.clock())

    def forget(self, keys: Iterable[StreamKey]) -> None:
        """These streams are gone from the journal."""
        for key in self.known.intersection(keys):
            self.known.discard(key)
            self._machines[key.machine] -= 1
            if not self._machines[key.machine]:
                del self._machines[key.machine]
