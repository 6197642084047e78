"""A wire with weather: it delays, goes silent, loses, repeats and swaps packets.

Changes take effect at once, on open connections too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from harness.wire import PUBACK, PUBLISH, Session, Wire, kind


@dataclass
class Weather:
    """What happens to packets on their way; all calm by default."""

    delay_s: float = 0.0  # before each chunk, both ways
    silent: bool = False  # half-open: both sides think that they are connected, and nothing passes
    lose_pubacks: bool = False  # of the client: the broker will deliver again after the next connection
    repeat: int = 1  # how often each PUBLISH reaches the client
    swap: bool = False  # PUBLISH packets that come together reach the client in reverse order


class Proxy(Wire):
    """Relays `port` to `target_port`, as the weather lets it."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.weather = Weather()
        self.pubacks = 0  # that reached the broker
        self.lost_pubacks = 0
        self.repeated = 0

    @property
    def connections(self) -> int:
        return len(self.sessions)

    def to_broker(self, chunk: list[bytes], session: Session) -> Iterator[bytes]:
        self._wait()
        for packet in super().to_broker(chunk, session):
            if kind(packet) == PUBACK:
                if self.weather.lose_pubacks:
                    self.lost_pubacks += 1
                    continue
                self.pubacks += 1
            yield packet

    def to_client(self, chunk: list[bytes]) -> Iterator[bytes]:
        self._wait()
        published = [packet for packet in chunk if kind(packet) == PUBLISH]
        if self.weather.swap:
            published.reverse()
        turn = iter(published)
        for packet in chunk:
            if kind(packet) != PUBLISH:
                yield packet
                continue
            yield next(turn) * self.weather.repeat
            self.repeated += self.weather.repeat - 1

    def _wait(self) -> None:
        while self.weather.silent:
            time.sleep(0.01)
        if self.weather.delay_s:
            time.sleep(self.weather.delay_s)
