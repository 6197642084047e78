"""One stream: the verb of thrumcast.

    initial(spec)            -> StreamState
    step(spec, state, block) -> StreamState, events
    flush(spec, state)       -> StreamState, events

Pure: state in, state out; no clock, no file, no memory of its own. The engine does the same for many
streams at once and adds the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from pipeline.core import features, order, window
from pipeline.core.features.baseline import relate
from pipeline.core.quality import Quality, incomplete, judge_alike, stands_still
from pipeline.core.records import Block, FeatureRow, Float32, Trouble, Window
from pipeline.core.state import StreamSpec, StreamState

Event = FeatureRow | Trouble


def initial(spec: StreamSpec) -> StreamState:
    """Nothing has come yet."""
    return StreamState()


def step(spec: StreamSpec, state: StreamState, block: Block) -> tuple[StreamState, list[Event]]:
    """Take one block; return what became complete with it, and what went wrong."""
    state, windows, troubles = advance(spec, state, [block])
    rows = feature_rows(spec, windows)
    return related(spec, state, rows), [*troubles, *rows]


def flush(spec: StreamSpec, state: StreamState) -> tuple[StreamState, list[Event]]:
    """Nothing more will come: use what was held back. A window that is not complete by now is none."""
    state, windows, troubles = release(spec, state)
    rows = feature_rows(spec, windows)
    return related(spec, state, rows), [*troubles, *rows]


def advance(
    spec: StreamSpec, state: StreamState, blocks: Iterable[Block]
) -> tuple[StreamState, list[Window], list[Trouble]]:
    """The part of `step` before the features, for several blocks: order, then windows."""
    ordered, ready, troubles = order.push_all(spec.order, state.order, blocks)
    return _cut(spec, state, ordered, ready, troubles)


def release(spec: StreamSpec, state: StreamState) -> tuple[StreamState, list[Window], list[Trouble]]:
    """The part of `flush` before the features."""
    ordered, ready, troubles = order.flush(state.order)
    return _cut(spec, state, ordered, ready, troubles)


def feature_rows(spec: StreamSpec, windows: Sequence[Window]) -> list[FeatureRow]:
    """Judge windows and compute their features, in one batch."""
    schema = spec.features.schema
    rows: dict[int, FeatureRow] = {}
    for alike in features.compute_alike(spec.features, windows):
        some = [windows[i] for i in alike.members]
        qualities = judge_alike(some, alike.length, alike.address, alike.values)
        for i, values, quality in zip(alike.members, alike.values, qualities, strict=True):
            rows[i] = _row(windows[i], values, quality, schema)
    return [
        rows.get(i) or _row(one, features.no_features(one), incomplete(one), schema) for i, one in enumerate(windows)
    ]


def related(spec: StreamSpec, state: StreamState, rows: list[FeatureRow]) -> StreamState:
    """Fill in, in order, what the rows of one stream are relative to its nominal speed and its baseline.

    Changes the rows; returns the state that knows them.
    """
    baseline = state.baseline
    for i, row in enumerate(rows):
        if stands_still(row, spec.speed_rpm, baseline):
            row = rows[i] = replace(row, quality=row.quality | int(Quality.NOT_RUNNING))
        if spec.commissioning_windows > 0:
            baseline = relate(spec.commissioning_windows, baseline, row, good=not Quality(row.quality).stops)
    return state if baseline is state.baseline else replace(state, baseline=baseline)


def _cut(
    spec: StreamSpec, state: StreamState, ordered: order.OrderState, ready: list[Block], troubles: list[Trouble]
) -> tuple[StreamState, list[Window], list[Trouble]]:
    cut, windows = window.push(spec.window, state.window, ready, spec)
    return replace(state, order=ordered, window=cut), windows, troubles


def _row(window: Window, values: Float32, quality: int, schema: str) -> FeatureRow:
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
    )
