"""What is published of predictions, stream states, forecasts and alarms. Topics and payloads are a contract.

Predictions and forecasts say what was computed (`computed`): they leave at once and may be said again after a crash,
with the same numbers. States and alarms say what is committed (`committed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from pipeline import __version__
from pipeline.core.engine import Step
from pipeline.core.evidence import confirms, evidence, shown_mode
from pipeline.core.forecast import Forecast
from pipeline.core.quality import Quality
from pipeline.core.records import AlarmChange, FeatureRow, Prediction, StreamKey
from pipeline.core.severity import Limits, severity, velocity_rms_mm_s
from pipeline.core.state import StreamSpec, StreamState, budget_of

STATE_EVERY_S = (
    60.0  # an unchanged state is published again after this, so that a reader can tell it from an outdated one
)
STALE_AFTER_S = 60.0  # without a window, after which a stream is stale


class Publish(Protocol):
    """`pipeline.edges.ports.Publisher.publish`."""

    def __call__(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Send one message."""


@dataclass(slots=True)
class _Shown:
    """What was last published of a stream."""

    state: str
    mode: str | None
    at_s: float
    prediction: Prediction  # the newest, and its window
    row: FeatureRow | None
    budget: dict[str, Any] | None


@dataclass(slots=True)
class Results:
    """Publishes to `<base>/machines/<machine>/<point>/...` and `<base>/events/alarms`."""

    base: str
    publish: Publish
    model: str | None = None
    classes: tuple[str, ...] = ()
    limits_of: Callable[[StreamKey], Limits | None] = lambda key: None
    spec_of: Callable[[StreamKey], StreamSpec] | None = None  # None: nothing is said of the budget of false alarms
    shown: dict[StreamKey, _Shown] = field(default_factory=dict)
    up: dict[StreamKey, dict[str, dict[str, Any]]] = field(default_factory=dict)  # alarms, oldest first
    heard: dict[StreamKey, float] = field(default_factory=dict)  # when, by a monotonic clock; the longest ago first
    said: list[AlarmChange] = field(default_factory=list)  # published, and not noted as told in the journal

    def online(self, now_ns: int) -> None:
        """Publish the retained status, at every connection; its counterpart is the last will."""
        status = {"state": "online", "version": __version__, "model": self.model, "since": iso(now_ns)}
        self._send("status", status, 1, True)

    def computed(self, step: Step) -> None:
        """Publish the predictions and forecasts of a step, before its commit."""
        for prediction in step.predictions:
            self._send(f"{_path(prediction.key)}/prediction", self._prediction(prediction), 0, False)
        for forecast in step.forecasts:
            self._send(f"{_path(forecast.key)}/forecast", _forecast_document(forecast), 0, False)

    def committed(self, step: Step, now_s: float) -> None:
        """Publish the states and alarms of everything that a commit covered."""
        rows = {(row.key, row.session, row.window): row for row in step.features}
        for prediction in step.predictions:
            row = rows.get((prediction.key, prediction.session, prediction.window))
            self._state(prediction, row, step.states.get(prediction.key), now_s)
        newest = {row.key: row for row in step.features}
        for change in step.alarms:
            self._alarm(change, newest.get(change.key))

    def silence(self, now_s: float) -> None:
        """Publish that streams without a window for a while are stale."""
        while self.heard and now_s - next(iter(self.heard.values())) > STALE_AFTER_S:
            key = next(iter(self.heard))
            del self.heard[key]
            shown = self.shown[key]
            shown.state, shown.at_s = "stale", now_s
            document = self._document(shown.prediction, shown.row, shown.budget) | {"state": "stale"}
            self._send(f"{_path(key)}/state", document, 1, True)

    def told(self) -> tuple[AlarmChange, ...]:
        """Published changes of alarms that are not noted as told; settled means that the broker has them."""
        return tuple(self.said)

    def noted(self, told: Sequence[AlarmChange]) -> None:
        """The journal knows that these, the oldest, have been told."""
        del self.said[: len(told)]

    def _prediction(self, p: Prediction) -> dict[str, Any]:
        judged = p.mode is not None
        probabilities = dict(zip(self.classes, p.probabilities.tolist(), strict=True)) if judged else {}
        return {
            "ts": iso(p.end_ns),
            "session": p.session,
            "window": p.window,
            "mode": p.mode,
            "p": p.p if judged else None,
            "probs": {name: round(value, 6) for name, value in probabilities.items()},
            "state": p.state,
            "state_age": p.state_age,
            "model": p.model,
        }

    def _state(self, p: Prediction, row: FeatureRow | None, state: StreamState | None, now_s: float) -> None:
        """Publish on a change and every `STATE_EVERY_S`; only then is the evidence worked out."""
        self.heard.pop(p.key, None)
        self.heard[p.key] = now_s  # now the last
        shown = self.shown.get(p.key)
        if shown is not None and (shown.state, shown.mode) == (p.state, p.mode) and now_s - shown.at_s < STATE_EVERY_S:
            shown.prediction, shown.row = p, row
            return
        budget = self._budget(p.key, state)
        self.shown[p.key] = _Shown(p.state, p.mode, now_s, p, row, budget)
        self._send(f"{_path(p.key)}/state", self._document(p, row, budget), 1, True)

    def _budget(self, key: StreamKey, state: StreamState | None) -> dict[str, Any] | None:
        if self.spec_of is None or state is None:
            return None
        found = budget_of(self.spec_of(key), state)
        return {
            "state": found.state,
            "enter_p": round(found.enter_p, 4),
            "hours": round(found.hours, 2),
            "needs_h": None if found.needs_h is None else round(found.needs_h, 1),
            "text": found.text,
        }

    def _document(self, p: Prediction, row: FeatureRow | None, budget: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "ts": iso(p.end_ns),
            "expires_s": 2 * STATE_EVERY_S,
            "state": p.state,
            "mode": p.mode,
            "p": p.p if p.mode is not None else None,
            **self._physics(p, row),
            "budget": budget,
            "model": p.model,
        }

    def _physics(self, p: Prediction, row: FeatureRow | None) -> dict[str, Any]:
        """What the window itself shows, without the network."""
        if row is None:
            nothing = {"velocity_rms_mm_s": None, "zone": None, "zone_note": None}
            return nothing | {"evidence": [], "confirmed": None, "quality": []}
        quality = Quality(row.quality)
        found = severity(row, self.limits_of(p.key))
        return {
            "velocity_rms_mm_s": velocity_rms_mm_s(row),
            "zone": found.zone,
            "zone_note": found.note,
            "evidence": [statement.text for statement in evidence(row)],
            "confirmed": None if p.mode is None else confirms(p.mode, row),
            "quality": quality.words(),
        }

    def restore(self, alarms: Iterable[AlarmChange], untold: Sequence[AlarmChange] = ()) -> None:
        """Take over the alarms that are up, and publish again the changes that may not have reached the broker."""
        for change in alarms:
            acknowledged = {"acknowledged": iso(change.at_ns)} if change.type == "acked" else {}
            self.up.setdefault(change.key, {})[change.id] = self._document_of(change, None) | acknowledged
        for change in untold:  # first undo them
            if change.type == "raised":
                self.up.get(change.key, {}).pop(change.id, None)
            elif change.type == "acked":
                self.up.get(change.key, {}).get(change.id, {}).pop("acknowledged", None)
        for change in untold:
            self._alarm(change, None)

    def _document_of(self, change: AlarmChange, row: FeatureRow | None) -> dict[str, Any]:
        return {
            "id": change.id,
            "mode": change.mode,
            "shown": shown_mode(change.mode, row),
            "p": change.p,
            "at": iso(change.at_ns),
            "since": iso(change.since_ns),
        }

    def _alarm(self, change: AlarmChange, row: FeatureRow | None) -> None:
        alarm = self._document_of(change, row)
        up = self.up.setdefault(change.key, {})
        before, gone = up.pop(change.id, None), change.type in ("cleared", "revoked")
        if change.type == "acked":
            alarm = (before or alarm) | {"acknowledged": iso(change.at_ns)}
        if not gone:
            up[change.id] = alarm
        event = {
            "type": change.type,
            "id": change.id,
            "before": alarm if gone else before,
            "after": None if gone else alarm,
        }
        place = f"{self.base}/{_path(change.key)}/alarm"  # holds the newest alarm that is up
        newest = msgspec.json.encode(list(up.values())[-1]) if up else b""
        self.publish(place, newest, qos=1, retain=True)
        self._send("events/alarms", event | {"machine": change.key.machine, "point": change.key.point}, 1, False)
        self.said.append(change)

    def _send(self, topic: str, document: dict[str, Any], qos: int, retain: bool) -> None:
        self.publish(f"{self.base}/{topic}", msgspec.json.encode(document), qos=qos, retain=retain)


def _forecast_document(forecast: Forecast) -> dict[str, Any]:
    return {
        "ts": iso(forecast.end_ns),
        "session": forecast.session,
        "window": forecast.window,
        "futures": [
            {"modes": future.modes, "ends": future.ends, "p": future.p, "step_p": future.step_p}
            for future in forecast.futures
        ],
        "model": forecast.model,
    }


def iso(ns: int) -> str:
    """Nanoseconds since 1970 as ISO 8601 in UTC, to the microsecond."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def _path(key: StreamKey) -> str:
    return f"machines/{key.machine}/{key.point}"
