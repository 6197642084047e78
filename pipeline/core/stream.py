"""One stream: the verb of thrumcast.

    initial(spec)            -> StreamState
    step(spec, state, block) -> StreamState, events
    flush(spec, state)       -> StreamState, events

All functions are pure. They use no clock and no file, keep no memory of their own and change none of their arguments.
The engine does the same for many streams at once and adds the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from pipeline.core import features, order, speed, window
from pipeline.core.features.baseline import relate
from pipeline.core.quality import STOPS, Quality, incomplete, judge_alike, stands_still
from pipeline.core.records import Block, Contradiction, FeatureRow, Float32, Trouble, Window
from pipeline.core.state import StreamSpec, StreamState

Event = FeatureRow | Trouble

_STOPS, _NOT_RUNNING = int(STOPS), int(Quality.NOT_RUNNING)  # plain numbers: flags are slow


def initial(spec: StreamSpec) -> StreamState:
    """The state before the first block."""
    return StreamState()


def step(spec: StreamSpec, state: StreamState, block: Block) -> tuple[StreamState, list[Event]]:
    """Take one block. Return the rows of the windows that are now complete, and what went wrong."""
    state, windows, troubles = advance(spec, state, [block])
    return _finished(spec, state, windows, troubles)


def flush(spec: StreamSpec, state: StreamState) -> tuple[StreamState, list[Event]]:
    """Use the blocks that were held back, because no more will come. An incomplete last window gives no row."""
    state, windows, troubles = release(spec, state)
    return _finished(spec, state, windows, troubles)


def advance(
    spec: StreamSpec, state: StreamState, blocks: Iterable[Block]
) -> tuple[StreamState, list[Window], list[Trouble]]:
    """The first part of `step`, for several blocks: put them in order, then cut windows."""
    ordered, ready, troubles = order.push_all(spec.order, state.order, blocks)
    state, windows = _cut(spec, state, ordered, ready)
    return state, windows, troubles


def release(spec: StreamSpec, state: StreamState) -> tuple[StreamState, list[Window], list[Trouble]]:
    """The first part of `flush`."""
    ordered, ready, troubles = order.flush(state.order)
    state, windows = _cut(spec, state, ordered, ready)
    return state, windows, troubles


def feature_rows(spec: StreamSpec, windows: Sequence[Window]) -> list[FeatureRow]:
    """The second part: features and quality of all windows in one batch. The windows may be of several streams."""
    schema = spec.features.schema
    rows: dict[int, FeatureRow] = {}
    for alike in features.compute_alike(spec.features, windows):
        some = [windows[i] for i in alike.members]
        qualities = judge_alike(some, alike.length, alike.address, alike.values)
        for i, values, quality, found in zip(
            alike.members, alike.values, qualities, _middle(alike.found_rpm), strict=True
        ):
            rows[i] = _row(windows[i], values, quality, schema, found)
    return [
        rows.get(i) or _row(one, features.no_features(one), incomplete(one), schema) for i, one in enumerate(windows)
    ]


def related(spec: StreamSpec, state: StreamState, rows: Iterable[FeatureRow]) -> tuple[StreamState, list[FeatureRow]]:
    """The last part: compare the rows of one stream, in order, with its nominal speed and its baseline."""
    baseline = state.baseline
    found = []
    for row in rows:
        if stands_still(row, spec.speed_rpm, baseline):
            row = replace(row, quality=row.quality | _NOT_RUNNING)
        baseline, row = relate(spec.commissioning_windows, baseline, row, good=not row.quality & _STOPS)
        found.append(row)
    return (state if baseline is state.baseline else replace(state, baseline=baseline)), found


def doubted(state: StreamState, rows: Iterable[FeatureRow]) -> tuple[StreamState, list[Contradiction]]:
    """Beside the last part: whether the rows of one stream, in order, contradict their stated speed."""
    doubts, told = speed.doubted(state.speed_doubts, rows)
    return (state if doubts == state.speed_doubts else replace(state, speed_doubts=doubts)), told


def _finished(
    spec: StreamSpec, state: StreamState, windows: Sequence[Window], troubles: list[Trouble]
) -> tuple[StreamState, list[Event]]:
    state, rows = related(spec, state, feature_rows(spec, windows))
    state, doubts = doubted(state, rows)
    return state, [*troubles, *doubts, *rows]


def _middle(found_rpm: NDArray[np.float64]) -> list[float | None]:
    """The speed that the channels found, (windows, C) -> one per window: the lower median of those that found one."""
    if np.isnan(found_rpm).all():
        return [None] * len(found_rpm)
    known = [sorted(x for x in row if x == x) for row in found_rpm.tolist()]
    return [row[(len(row) - 1) // 2] if row else None for row in known]


def _cut(
    spec: StreamSpec, state: StreamState, ordered: order.OrderState, ready: list[Block]
) -> tuple[StreamState, list[Window]]:
    cut, windows = window.push(spec.window, state.window, ready, spec)
    return replace(state, order=ordered, window=cut), windows


def _row(window: Window, values: Float32, quality: int, schema: str, found_rpm: float | None = None) -> FeatureRow:
    return FeatureRow(
        key=window.key,
        session=window.session,
        window=window.number,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        rate_hz=window.rate_hz,
        speed_rpm=window.speed_rpm,
        coverage=window.coverage,
        quality=quality,
        truth=window.truth,
        channels=window.channels,
        values=values,
        schema=schema,
        speed_source=window.speed_source,
        speed_found_rpm=found_rpm,
    )
