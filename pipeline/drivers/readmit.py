"""Taking refused messages again: through today's configuration, with states of their own.

The messages of one call are ordered and cut into windows as if they were all that ever came. The states of the service
are not touched: they are past these messages. So a window comes out only where the refused messages hold all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.core.engine import Engine, Step
from pipeline.core.records import Block, StreamKey
from pipeline.core.state import StreamState
from pipeline.drivers.intake import Intake, refuse_strangers, step_all
from pipeline.edges.ports import Message, Receipt
from pipeline.edges.store.quarantine import Refused
from pipeline.edges.store.schema import FeatureSchema, Rows, feature_tables, forecast_table, prediction_table


@dataclass(slots=True)
class Readmitted:
    """What became of refused messages."""

    steps: list[Step] = field(default_factory=list)
    taken: list[Refused] = field(default_factory=list)
    still: list[tuple[Refused, str, str]] = field(default_factory=list)  # message, reason and detail of today
    blocks: dict[StreamKey, Block] = field(default_factory=dict)  # the newest of each stream, for its facts

    def rows(self, engine: Engine, schema: FeatureSchema) -> list[Rows]:
        """All rows for the archive."""
        features = [row for step in self.steps for row in step.features]
        predictions = [row for step in self.steps for row in step.predictions]
        forecasts = [row for step in self.steps for row in step.forecasts]
        rows = [Rows("features", channels, table) for channels, table in feature_tables(features, schema)]
        if predictions and engine.predictor is not None:
            classes = engine.predictor.classes
            rows.append(Rows("predictions", classes, prediction_table(predictions, classes)))
        if forecasts:
            rows.append(Rows("forecast", (), forecast_table(forecasts)))
        return rows


def readmit(engine: Engine, intake: Intake, refused: Sequence[Refused]) -> Readmitted:
    """Decode and step whole messages, in the order in which they were refused."""
    found = Readmitted()
    states: dict[StreamKey, StreamState] = {}
    of = {number: one for number, one in enumerate(refused)}
    left = [Message(one.topic, one.payload, 1, None, False, Receipt(0, 1, number)) for number, one in of.items()]
    while left:
        batch = intake.read(left, 0)
        left = left[len(batch.messages) :]
        refuse_strangers(batch)
        step = step_all(engine, states, batch)
        states |= step.states
        found.steps.append(step)
        again = {id(message): (reason, detail) for message, reason, detail in batch.refused}
        for message in batch.messages:
            one = of[message.receipt.number]
            if id(message) in again:
                found.still.append((one, *again[id(message)]))
            else:
                found.taken.append(one)
        found.blocks |= {block.key: block for block in batch.blocks}
    found.steps.append(engine.flush(states))
    return found
