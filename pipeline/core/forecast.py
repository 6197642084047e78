"""Forecasts: which failure modes may come after the present one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.records import Float32, StreamKey


@dataclass(frozen=True, slots=True)
class Future:
    """Modes that may come after the present one, in order. `ends`: nothing else is expected after them."""

    modes: tuple[str, ...]
    ends: bool
    p: float  # of this future as a whole
    step_p: tuple[float, ...]  # of each step, and of the end where there is one


@dataclass(frozen=True, slots=True)
class Forecast:
    """What may come after a window, the most probable future first. It follows from the hidden state at that window."""

    key: StreamKey
    session: int
    window: int
    start_ns: int
    end_ns: int
    futures: tuple[Future, ...]
    model: str


Foretell = Callable[[Float32], list[list[Future]]]  # hidden states (B, L, H) -> futures of each stream, best first
