"""A span: everything that was stepped since the last commit. One commit covers one span.

The loop steps often and commits seldom, so a span grows by many small steps. `Rhythm` says when it is due.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.core.engine import Engine, Step
from pipeline.core.records import StreamKey
from pipeline.core.state import to_bytes
from pipeline.drivers.disk import RETRY_S
from pipeline.drivers.intake import account, is_full, missing_samples, prefixed
from pipeline.drivers.switch import ModelSwitch
from pipeline.edges.ports import Batch
from pipeline.edges.store.journal import Commit
from pipeline.edges.store.schema import Quarantined


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When to commit and when to roll."""

    commit_interval_s: float = 1.0
    commit_messages: int = 1000  # at most, in one commit
    first_messages: int = 64  # at most, in the first commit: a start with a long queue soon shows that it works
    roll_s: float = 300.0
    roll_rows: int = 10_000

    @property
    def most_pending(self) -> int:
        """Rows that may wait in the journal while the disk refuses parts; a roll holds them in memory at once."""
        return 10 * self.roll_rows

    def is_due(self, pending_rows: int, since_s: float, *, refused: bool) -> bool:
        """Whether to roll, this long after the last attempt; an attempt that the disk refused is soon repeated."""
        if refused:
            return since_s >= RETRY_S
        return pending_rows >= self.roll_rows or (pending_rows > 0 and since_s >= self.roll_s)

    def most(self, *, first: bool) -> int:
        """Messages that a commit may cover."""
        return min(self.first_messages, self.commit_messages) if first else self.commit_messages


@dataclass(slots=True, eq=False)
class Span:
    """The messages of one commit and what became of them: the sum of several batches and their steps."""

    batch: Batch = field(default_factory=lambda: Batch([]))
    step: Step = field(default_factory=Step)
    saved: Mapping[StreamKey, bytes] | None = None  # the changed states, where other processes have them
    since_s: float | None = None  # time.monotonic() of the first batch; None: nothing was stepped

    def add(self, batch: Batch, step: Step, now_s: float) -> None:
        """Append a batch that was stepped."""
        if self.since_s is None:
            self.since_s = now_s
        self.batch.extend(batch)
        total = self.step
        total.states |= step.states
        total.features += step.features
        total.predictions += step.predictions
        total.forecasts += step.forecasts
        total.alarms += step.alarms
        total.troubles += step.troubles

    def room(self, most: int, begun: Sequence[Batch] = ()) -> int:
        """How many more messages the span takes, of `most`; none once it has windows or bytes enough.

        It will have the batches that are `begun`, too.
        """
        batches = [self.batch, *begun]
        full = is_full(sum(batch.windows for batch in batches), sum(batch.size for batch in batches))
        return 0 if full else max(0, most - sum(len(batch.messages) for batch in batches))

    def commit(self, engine: Engine, models: ModelSwitch, shadowed: Step) -> Commit:
        """What the journal is to write; each changed state is serialised once, however many steps changed it.

        Told alarms and counters of the connection are not a span's own: the loop adds them.
        """
        batch, step = self.batch, self.step
        predictions, classes = models.merged(engine, step, shadowed)
        return Commit(
            states={key: to_bytes(engine.spec_of(key), state) for key, state in step.states.items()}
            if self.saved is None
            else self.saved,
            features=step.features,
            predictions=predictions,
            classes=classes,
            forecasts=step.forecasts,
            alarms=step.alarms,
            quarantined=[
                Quarantined(message.topic, batch.received_ns, reason, message.payload, len(message.payload), detail)
                for message, reason, detail in batch.refused
            ],
            counters=prefixed(account(batch, step).items()) | missing_samples(step),
        )
