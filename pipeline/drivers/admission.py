"""What a valid block may not ask for: too slow for a window, too many windows at once, channel names without end.

One such message used to hold the loop for minutes, or to widen every file of the archive. Each is refused by name, like
any other bad message, and what comes beside it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.core.records import Block, StreamKey
from pipeline.core.window import LEAST_SAMPLES, MOST_WINDOWS, WindowSpec, is_too_slow, most_windows
from pipeline.errors import DecodeError
from pipeline.telemetry import few


@dataclass(slots=True)
class Channels:
    """The channel names of one data directory. Each has a column per feature in every file, for ever."""

    most: int
    known: set[str]

    def admit(self, names: Iterable[str]) -> bool:
        """Whether there is room for them; then they are known. A directory that has more already keeps those."""
        new = set(names) - self.known
        if new and len(self.known) + len(new) > self.most:
            return False
        self.known |= new
        return True


@dataclass(frozen=True, slots=True)
class Admission:
    """Looks at blocks before the engine does."""

    window_of: Callable[[StreamKey], WindowSpec]
    channels: Channels | None = None  # None: there are no columns to be made

    def __call__(self, block: Block) -> int:
        """How many windows it can complete, counted per channel.

        Raises:
            DecodeError: too_slow, too_long or too_many_channels.
        """
        spec = self.window_of(block.key)
        windows = most_windows(spec, block)
        reason = None
        if is_too_slow(spec, block.rate_hz):
            least_hz = LEAST_SAMPLES / spec.length_s
            reason, msg = "too_slow", f"a rate of at least {least_hz:g} Hz expected, found: {block.rate_hz:g} Hz"
        elif windows > MOST_WINDOWS:
            reason, msg = "too_long", f"at most {MOST_WINDOWS} windows in a message expected, found: {windows}"
        elif self.channels is not None and not self.channels.admit(block.channels):
            names = few(sorted(set(block.channels) - self.channels.known))
            log.warning("channels_full known=%d refused=%s stream=%s", len(self.channels.known), names, block.key)
            reason, msg = "too_many_channels", f"at most {self.channels.most} names expected, found new: {names}"
        if reason is not None:
            raise DecodeError(reason, msg)
        return windows
