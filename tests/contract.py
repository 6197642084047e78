"""The five laws, as one helper: what every operator and every driver must pass.

1 Cut        whole recording = block by block = sample by sample = any random cut
2 Restart    restoring from bytes after every block changes nothing
3 Repeat     delivering every block twice changes nothing but Duplicate events
4 Neighbour  interleaving streams in any order, and batching them, changes nothing per stream
5 Reference  equals tests/reference.py: the whole pipeline again, offline, slow, obvious

A *driver* here is a function from a list of blocks to an `Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import reference

from pipeline.core.engine import Engine, Step
from pipeline.core.features.table import NAMES
from pipeline.core.records import Block, Duplicate, FeatureRow, Gap, Prediction, StreamKey, Trouble
from pipeline.core.state import StreamSpec, StreamState, from_bytes, to_bytes


@dataclass(frozen=True)
class Outcome:
    """What came out of one stream, in a form that `==` compares bit by bit."""

    rows: tuple[tuple[object, ...], ...]
    troubles: tuple[Trouble, ...]
    probabilities: np.ndarray
    decisions: tuple[tuple[object, ...], ...]


Driver = Callable[[Sequence[Block]], dict[StreamKey, Outcome]]


def collect(steps: Iterable[Step]) -> dict[StreamKey, Outcome]:
    """Outcomes per stream of a sequence of engine steps."""
    steps = list(steps)
    features = [row for step in steps for row in step.features]
    predictions = [p for step in steps for p in step.predictions]
    troubles = [t for step in steps for t in step.troubles]
    keys = {item.key for item in [*features, *predictions, *troubles]}
    return {
        key: Outcome(
            rows=tuple(exact(row) for row in features if row.key == key),
            troubles=tuple(t for t in troubles if t.key == key),
            probabilities=np.array([p.probabilities for p in predictions if p.key == key]),
            decisions=tuple(decision(p) for p in predictions if p.key == key),
        )
        for key in keys
    }


def exact(row: FeatureRow) -> tuple[object, ...]:
    """A feature row as a tuple of everything, floats as their bits."""
    values = np.where(np.isnan(row.values), np.float32(np.nan), row.values)
    address = (row.session, row.window, row.start_ns, row.end_ns)
    context = (row.rate_hz, row.speed_rpm, row.coverage, row.quality, row.truth, row.channels, row.schema)
    return (*address, *context, values.tobytes())


def decision(prediction: Prediction) -> tuple[object, ...]:
    """A prediction without its floats."""
    return prediction.session, prediction.window, prediction.mode, prediction.state, prediction.state_age


def same(left: dict[StreamKey, Outcome], right: dict[StreamKey, Outcome], *, tolerance: float = 1e-6) -> None:
    """Features exactly, predictions within `tolerance`."""
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].rows == right[key].rows
        assert [t for t in left[key].troubles if isinstance(t, Gap)] == [
            t for t in right[key].troubles if isinstance(t, Gap)
        ]
        assert left[key].decisions == right[key].decisions
        np.testing.assert_allclose(left[key].probabilities, right[key].probabilities, atol=tolerance)


def cut(block: Block, at: Sequence[int]) -> list[Block]:
    """A block cut into pieces at the given sample offsets."""
    edges = [0, *sorted({a for a in at if 0 < a < block.samples.shape[1]}), block.samples.shape[1]]
    return [
        replace(
            block,
            index=block.index + a,
            t0_ns=block.t0_ns + round(a * 1e9 / block.rate_hz),
            samples=block.samples[:, a:b],
        )
        for a, b in pairwise(edges)
    ]


def one_step(engine: Engine) -> Driver:
    """Everything in a single step, then flush."""

    def drive(blocks: Sequence[Block]) -> dict[StreamKey, Outcome]:
        step = engine.step({}, blocks)
        return collect([step, engine.flush(step.states)])

    return drive


def block_by_block(engine: Engine, spec: StreamSpec | None = None) -> Driver:
    """One step a block; with a spec, every state goes through bytes after every step."""

    def drive(blocks: Sequence[Block]) -> dict[StreamKey, Outcome]:
        states: dict[StreamKey, StreamState] = {}
        steps = []
        for block in blocks:
            steps.append(engine.step(states, [block]))
            states |= steps[-1].states
            if spec is not None:
                states = {key: from_bytes(spec, to_bytes(spec, state)) for key, state in states.items()}
        return collect([*steps, engine.flush(states)])

    return drive


def law_cut(drive: Driver, blocks: Sequence[Block], cuts: Sequence[Sequence[int]]) -> None:
    """Law 1."""
    whole = drive(blocks)
    for at in cuts:
        same(whole, drive([piece for block in blocks for piece in cut(block, at)]))


def law_restart(drive: Driver, restarting: Driver, blocks: Sequence[Block]) -> None:
    """Law 2."""
    same(drive(blocks), restarting(blocks))


def law_repeat(drive: Driver, blocks: Sequence[Block]) -> None:
    """Law 3."""
    once, twice = drive(blocks), drive([copy for block in blocks for copy in (block, block)])
    same(once, twice)
    for key, outcome in twice.items():
        extra = [t for t in outcome.troubles if t not in once[key].troubles]
        assert len(extra) == sum(block.key == key for block in blocks)
        assert all(isinstance(t, Duplicate) for t in extra)


def law_neighbour(drive: Driver, streams: Sequence[Sequence[Block]], interleaved: Sequence[Block]) -> None:
    """Law 4: `interleaved` holds the blocks of all `streams`, each stream's in its own order."""
    alone: dict[StreamKey, Outcome] = {}
    for blocks in streams:
        alone |= drive(blocks)
    same(alone, drive(interleaved))


def law_reference(rows: Sequence[FeatureRow], known: reference.Recording, settings: reference.Settings) -> None:
    """Law 5, for the rows of one stream."""
    expected = reference.windows(known, settings)
    assert [(row.window, row.coverage) for row in rows] == [(number, coverage) for number, coverage, _ in expected]
    for row, (number, coverage, samples) in zip(rows, expected, strict=True):
        assert row.start_ns == known.t0_ns + round(number * settings.hop_s * 1e9)
        for channel in range(len(row.channels)):
            naive = reference.features(samples[channel], known, settings) if coverage == 1 else {}
            expected_values = [naive.get(name, np.nan) for name in NAMES]
            np.testing.assert_allclose(row.values[channel], expected_values, rtol=2e-4, atol=2e-4, err_msg=str(NAMES))
