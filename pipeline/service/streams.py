"""What is known of each stream at this moment, as gauges: worked out when somebody asks, not at every window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.core.engine import Step
from pipeline.core.records import FeatureRow, Prediction, Predictor, StreamKey
from pipeline.core.severity import velocity_rms_mm_s
from pipeline.drivers.intake import Batch
from pipeline.telemetry import MAX_LABELS, Telemetry

STATES = ("warming_up", "normal", "warning", "alarm", "unknown", "sensor_fault", "not_running")


@dataclass(slots=True)
class StreamGauges:
    """Keeps the newest window of each of the first 500 streams; more would be too many series for a scrape."""

    serving: Callable[[], Predictor | None]
    rows: dict[StreamKey, FeatureRow] = field(default_factory=dict)
    predictions: dict[StreamKey, Prediction] = field(default_factory=dict)

    def told(self, _: Batch, step: Step) -> None:
        """After a committed turn."""
        for row in step.features:
            if row.key in self.rows or len(self.rows) < MAX_LABELS:
                self.rows[row.key] = row
        for prediction in step.predictions:
            if prediction.key in self.rows:
                self.predictions[prediction.key] = prediction

    def show(self, telemetry: Telemetry) -> None:
        """At a scrape, on another thread than the loop's."""
        rows, predictions = dict(self.rows), dict(self.predictions)
        model = self.serving()
        velocities = {key: velocity_rms_mm_s(row) for key, row in rows.items()}
        telemetry.set_series(
            "velocity_rms_meters_per_second",
            {tuple(key): mm_s / 1000 for key, mm_s in velocities.items() if mm_s is not None},
        )
        telemetry.set_series(
            "machine_state",
            {(*key, state): float(p.state == state) for key, p in predictions.items() for state in STATES},
        )
        telemetry.set_series(
            "failure_probability_ratio",
            {
                (*key, mode): float(value)
                for key, p in predictions.items()
                if p.mode is not None and model is not None and p.model == model.version
                for mode, value in zip(model.classes, p.probabilities, strict=True)
            },
        )
