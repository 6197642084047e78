"""What the API says, as plain functions: documents for JSON, and frames of float32 arrays.

Everything is read where it is true: the newest windows from the plant, trends from the archive and from what is not yet
in Parquet, labels from the label file, versions from the registry. Times in documents are milliseconds since 1970 UTC.

A *frame* is one answer with arrays: 4 bytes with the length of a JSON header (little-endian), the header, padding to a
multiple of 4 bytes, then the arrays one after the other as little-endian float32. The header says
`"arrays": [{"name", "length"}]` and everything else about them.
"""

from __future__ import annotations

import math
import struct
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pipeline import __version__
from pipeline.core.features.display import spectra
from pipeline.core.features.table import COLUMN, FAMILIES, FEATURES
from pipeline.core.records import FeatureRow, Float32, StreamKey
from pipeline.core.severity import Limits
from pipeline.core.state import budget_of
from pipeline.core.views import bearing_cursors
from pipeline.edges.labels import LabelEvent, LabelFile, active, now_iso, to_ns
from pipeline.errors import ArchiveError, ThrumcastError
from pipeline.page.live import Acknowledgement, Plant
from pipeline.service.label_rows import (
    coverage,
    labels_of,
    never_seen,
    new_label,
    not_in_model,
    restored,
    retracted_label,
    text_of,
)

if TYPE_CHECKING:
    from pipeline.config.sources import Setting
    from pipeline.config.tables import Config
    from pipeline.drivers.live import Live
    from pipeline.edges.store.history import Points
    from pipeline.service.health import Endpoints

MOST_BUCKETS = 2000
LATEST_MS = 9_214_646_400_000  # the end of 2261: times have 64 bits in nanoseconds
MOST_ROWS_MS = 8 * 3_600_000  # a longer trend has at most one bucket a minute, so that no whole day of rows is read
SHOWN_ROWS = 200  # of a list
ACKNOWLEDGE_S = 5.0  # how long to wait for the commit that covers an acknowledgement
FIRST_WINDOW_S = 3.0
SECRET = "********"


class NotFound(ThrumcastError):
    """There is no such thing."""


@dataclass(slots=True)
class Service:
    """The running service as the page sees it."""

    config: Config
    live: Live
    plant: Plant
    endpoints: Endpoints
    settings: Mapping[tuple[str, ...], Setting] | None = None

    @property
    def serving(self) -> str | None:
        """The model version that names the modes at this moment."""
        predictor = self.live.engine.predictor
        return None if predictor is None else predictor.version


def frame(header: Mapping[str, Any], arrays: Mapping[str, Float32]) -> bytes:
    """Arrays with their description, see the top of this module."""
    head = msgspec.json.encode({**header, "arrays": [{"name": n, "length": len(a)} for n, a in arrays.items()]})
    head += b" " * (-len(head) % 4)
    parts = [np.ascontiguousarray(array, "<f4").tobytes() for array in arrays.values()]
    return b"".join([struct.pack("<I", len(head)), head, *parts])


def unframe(data: bytes) -> tuple[dict[str, Any], dict[str, Float32]]:
    """The header and the arrays of a frame."""
    (length,) = struct.unpack_from("<I", data)
    header: dict[str, Any] = msgspec.json.decode(data[4 : 4 + length])
    place, arrays = 4 + length, {}
    for entry in header["arrays"]:
        arrays[entry["name"]] = np.frombuffer(data, "<f4", entry["length"], place)
        place += 4 * entry["length"]
    return header, arrays


# -- the fleet -------------------------------------------------------------------------------------------------------


def header(service: Service) -> dict[str, Any]:
    """The line at the top of the page."""
    live, now_s = service.live, time.time()
    predictor = live.engine.predictor
    heard = [known.heard_s for known in service.plant.fleet().values() if known.heard_s]
    vitals = service.endpoints.vitals(0.0)
    return {
        "version": __version__,
        "model": predictor.version if predictor else None,
        "alias": service.config.model.alias,
        "classes": list(predictor.classes) if predictor else [],
        "modes": list(service.config.modes.names),
        "broker": vitals.connected,
        "refusal": vitals.refusal or vitals.unwritable,
        "lag_s": round(now_s - min(heard), 1) if heard else None,
        "lost_turns": service.plant.hand_over.lost,
        "now": round(now_s * 1000),
    }


def fleet(service: Service) -> dict[str, Any]:
    """Everything that the fleet view and the header need."""
    now_s = time.time()
    return {
        "header": header(service),
        "streams": [service.plant.document(key, now_s) for key in sorted(service.plant.fleet())],
        "alarms": service.plant.alarm_documents(),
    }


def machine(service: Service, key: StreamKey) -> dict[str, Any]:
    """One stream in full.

    Raises:
        NotFound: nothing was heard of it.
    """
    known = _known(service, key)
    row, prediction = known.row, known.prediction
    spec = service.live.engine.spec_of(key)
    table = service.config.machine(key.machine, key.point)
    predictor = service.live.engine.predictor
    found = service.plant.document(key, time.time(), whole=True)
    state = service.live.states.get(key)
    probabilities: dict[str, float] = {}
    if prediction is not None and prediction.mode is not None and predictor and predictor.version == prediction.model:
        probabilities = {
            name: round(float(p), 4) for name, p in zip(predictor.classes, prediction.probabilities, strict=True)
        }
    since = None
    if prediction is not None and row is not None:
        since = (prediction.end_ns - round(prediction.state_age * spec.window.hop_s * 1e9)) // 1_000_000
    return found | {
        "probabilities": probabilities,
        "state_since": since,
        "budget": None if state is None else budget_of(spec, state).text,
        "limits": _limits(spec.limits),
        "speed_rpm": None if row is None else _speed(row) or spec.speed_rpm,
        "orders": None if spec.orders is None else asdict(spec.orders),
        "bearing": table.bearing if isinstance(table.bearing, str) else None,
        "gear_teeth": list(spec.gear_teeth),
        "rate_hz": None if row is None else row.rate_hz,
        "channels": [] if row is None else list(row.channels),
        "window_s": spec.window.length_s,
        "hop_s": spec.window.hop_s,
        "features": features(service, key),
        "session": None if row is None else str(row.session),
        "coverage": None if row is None else row.coverage,
    }


def features(service: Service, key: StreamKey) -> list[dict[str, Any]]:
    """The features of the newest window, channel by channel."""
    row = _known(service, key).row
    if row is None:
        return []
    return [
        {"name": f.name, "unit": f.unit, **{c: _number(row.values[i, n]) for i, c in enumerate(row.channels)}}
        for n, f in enumerate(FEATURES)
    ]


def window(service: Service, key: StreamKey, channel: str | None) -> bytes | None:
    """The last whole window of a stream: waveform, spectrum and envelope spectrum. None: there is none yet.

    The spectra are those that the features were computed from: `lines` gives for every marked line the feature that
    measures it, with the value that the archive has.

    Raises:
        NotFound: no such stream or channel.
    """
    row = _known(service, key).row
    if row is not None and channel is not None and channel not in row.channels:
        msg = f"expected a channel of {key} ({', '.join(row.channels)}), found: {channel}"
        raise NotFound(msg)
    seen = service.plant.window(key, FIRST_WINDOW_S)
    name = channel or (seen.channels[0] if seen is not None else "")
    if seen is None or seen.samples is None or name not in seen.channels:  # none, or of a session before
        return None
    spec = service.live.engine.spec_of(key)
    found = spectra(spec.features, seen, seen.channels.index(name))
    speed_rpm = float(found.values[COLUMN["speed_used"]])
    told = {
        "machine": key.machine,
        "point": key.point,
        "channel": name,
        "channels": list(seen.channels),
        "unit": seen.unit,
        "session": str(seen.session),
        "window": seen.number,
        "start": seen.start_ns / 1e6,
        "end": seen.end_ns / 1e6,
        "rate_hz": seen.rate_hz,
        "speed_rpm": _number(speed_rpm),
        "delta_f_hz": found.delta_f_hz,
        "slip": spec.features.slip_tolerance,
        "envelope_hz": [spec.features.envelope_low_hz, spec.features.envelope_high_hz],
        "mains_hz": spec.features.mains_hz,
        "values": {f.name: _number(v) for f, v in zip(FEATURES, found.values, strict=True)},
    }
    told["lines"] = _lines(seen.orders, speed_rpm, found.delta_f_hz, spec.features.slip_tolerance, found.values)
    samples = seen.samples[seen.channels.index(name)]
    return frame(told, {"waveform": samples, "power": found.power, "envelope": found.envelope})


def _lines(orders: Any, speed_rpm: float, delta_f_hz: float, slip: float, values: Float32) -> list[dict[str, Any]]:
    """Marks for the spectra: where each line should be, its feature, and what else is too near to tell it from."""
    if not speed_rpm > 0:
        return []
    shaft_hz = speed_rpm / 60
    lines: list[dict[str, Any]] = [
        {"label": f"{k}x", "family": "shaft", "hz": k * shaft_hz, "feature": f"ord_{k}", "near": ""} for k in (1, 2, 3)
    ]
    if orders is not None:
        measured = {family.id.upper(): family.feature for family in FAMILIES}
        lines += [
            {
                "label": cursor.label,
                "family": cursor.family,
                "hz": cursor.hz,
                "feature": measured[cursor.family] if cursor.label == cursor.family else None,
                "near": cursor.near,
            }
            for cursor in bearing_cursors(orders, speed_rpm, delta_f_hz, slip)
        ]
    for line in lines:
        line["db"] = None if line["feature"] is None else _number(values[COLUMN[line["feature"]]])
    return lines


# -- history ---------------------------------------------------------------------------------------------------------


def trend(
    service: Service, key: StreamKey, feature: str, channel: str | None, from_ms: float, to_ms: float, buckets: int
) -> bytes:
    """Minimum, maximum and mean of a feature in equal buckets, from Parquet, the journal and the history beside them.

    No sample is lost: every archived window is in the minimum and maximum of its bucket. A long range is widened to
    whole buckets of the history; the header says from when to when, and how many buckets there are.

    Raises:
        NotFound: no such feature.
        ThrumcastError: an interval that cannot be used.
    """
    from pipeline.edges.store.history import LEVELS_S, level_of, read_points

    if feature not in COLUMN:
        msg = f"expected a feature of the table, found: {feature}"
        raise NotFound(msg, hint="see /api/v1/features")
    if not (math.isfinite(from_ms) and math.isfinite(to_ms) and 0 <= from_ms < to_ms <= LATEST_MS):
        msg = "expected from < to in milliseconds since 1970, at most the year 2261"
        raise ThrumcastError(msg)
    known = _known(service, key)
    channels = () if known.row is None else known.row.channels
    name = channel or (channels[0] if channels else "x")
    count = max(1, min(MOST_BUCKETS, buckets))
    level_s = level_of(max((to_ms - from_ms) / count / 1000, LEVELS_S[0] if to_ms - from_ms > MOST_ROWS_MS else 0))
    if level_s is not None:
        from_ms, to_ms, count = whole_buckets(from_ms, to_ms, count, 1000 * level_s)
    data, start_us, end_us = service.config.data.path, math.floor(1000 * from_ms), math.ceil(1000 * to_ms)
    try:
        points = read_points(data, key, f"{name}.{feature}", start_us, end_us, level_s)
    except ArchiveError as error:
        if "column" not in error.message:
            raise
        msg = f"expected a channel that the archive has, found: {name}"
        raise NotFound(msg) from error
    judged = read_points(data, key, None, start_us, end_us, level_s)
    low, high, mean = bucketed(points, from_ms, to_ms, count)
    told = {
        "feature": feature,
        "channel": name,
        "unit": FEATURES[COLUMN[feature]].unit,
        "from": from_ms,
        "to": to_ms,
        "buckets": count,
        "level_s": level_s,
        "rows": int(points.rows.sum()),
        "marks": _marks(points, "session", start_us) + _marks(judged, "model", start_us),
        "limits": _limits(service.live.engine.spec_of(key).limits) if feature == "velocity_rms" else None,
    }
    return frame(told, {"min": low, "max": high, "mean": mean})


def whole_buckets(from_ms: float, to_ms: float, count: int, level_ms: int) -> tuple[float, float, int]:
    """The range widened so that each of its buckets, at most `MOST_BUCKETS`, is made of whole buckets of a level."""
    width = math.ceil((to_ms - from_ms) / count / level_ms) * level_ms
    first, end = math.floor(from_ms / width), math.ceil(to_ms / width)
    return float(first * width), float(end * width), end - first


def bucketed(points: Points, from_ms: float, to_ms: float, count: int) -> tuple[Float32, Float32, Float32]:
    """Minimum, maximum and mean of each of `count` equal buckets; NaN where a bucket has no finite value."""
    good = points.count > 0
    at_ms, n = points.at_us[good] / 1000, points.count[good]
    place = np.clip(((at_ms - from_ms) * (count / (to_ms - from_ms))).astype(np.int64), 0, count - 1)
    low, high = (np.full(count, edge, np.float32) for edge in (np.inf, -np.inf))
    np.minimum.at(low, place, points.low[good])
    np.maximum.at(high, place, points.high[good])
    total = np.bincount(place, n, minlength=count)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(place, points.mean[good].astype(np.float64) * n, minlength=count) / total
    low[total == 0] = high[total == 0] = np.nan
    return low, high, mean.astype(np.float32)


def _marks(points: Points, kind: str, start_us: int) -> list[dict[str, Any]]:
    """When another session began, or another model version began to serve."""
    return [
        {"at": at_us / 1000, "kind": kind, "text": "new session" if kind == "session" else f"model {value}"}
        for at_us, value in points.runs[1:]
        if at_us >= start_us
    ][:SHOWN_ROWS]


# -- alarms ----------------------------------------------------------------------------------------------------------


def alarms(service: Service) -> dict[str, Any]:
    """The open alarms, and those that have ended since the service began."""
    return {"open": service.plant.alarm_documents(), "ended": service.plant.ended_documents()[:SHOWN_ROWS]}


def acknowledge(service: Service, alarm_id: str) -> dict[str, Any]:
    """Acknowledge an open alarm, as a request over MQTT does; waits for the commit that covers it.

    Raises:
        NotFound: no such alarm is open.
    """
    raised = service.plant.alarms.get(alarm_id)
    if raised is None:
        msg = f"expected the id of an open alarm, found: {alarm_id}"
        raise NotFound(msg, hint="see /api/v1/alarms")
    if alarm_id in service.plant.acknowledged:
        return {"id": alarm_id, "acknowledged": service.plant.acknowledged[alarm_id], "pending": False}
    seen = Acknowledgement(raised.key, alarm_id)
    service.plant.hand_over.acknowledge(seen)
    if not seen.done.wait(ACKNOWLEDGE_S):
        return {"id": alarm_id, "acknowledged": None, "pending": True}  # covered by the next commit: nothing comes now
    service.plant.take()
    return {"id": alarm_id, "acknowledged": service.plant.acknowledged.get(alarm_id), "pending": False}


# -- labels ----------------------------------------------------------------------------------------------------------


def labels(service: Service, machine_id: str | None = None) -> dict[str, Any]:
    """All labels, newest first, and which of them no model has seen."""
    events = LabelFile(service.config.data.path).events()
    standing = active(events)
    ids = {event.id for event in standing}
    waiting = not_in_model(service.config, standing)
    shown = [e for e in events if e.op == "add" and machine_id in (None, e.machine)]
    return {
        "labels": [_label(event) | {"retracted": event.id not in ids} for event in reversed(shown)],
        "not_in_model": waiting,
    }


def add_label(service: Service, given: Mapping[str, Any], by: str) -> dict[str, Any]:
    """Store a label; the same `client_token` stores it once.

    Raises:
        ThrumcastError: a value that cannot be used.
    """
    if not given.get("client_token"):
        msg = "expected a client_token, found none"
        raise ThrumcastError(msg, hint="any text that is new for a new label; sending it again stores nothing twice")
    return _stored(service, new_label(service.config, {**given, "author": by}))


def _stored(service: Service, event: LabelEvent) -> dict[str, Any]:
    (kept,) = LabelFile(service.config.data.path).add([event])
    warnings = list(never_seen(service.config, [kept]).values())
    covered = coverage(service.config.data.path, [kept])[kept.id]
    return {"id": kept.id, "label": _label(kept), "new": kept is event, "windows": covered, "warnings": warnings}


def preview_label(service: Service, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a label would cover, and what the model said there."""
    from pipeline.edges.store.read import read_predictions

    event = new_label(service.config, {"author": "page", "verdict": "unsure", **given})
    covered = coverage(service.config.data.path, [event])[event.id]
    table = read_predictions(
        service.config.data.path,
        columns=["point", "mode", "p", "model"],
        machines={event.machine},
        start=_time(event.start_ns / 1e6),
        end=_time(event.end_ns / 1e6),
    ).to_pylist()
    said = [row for row in table if event.point in (None, row["point"]) and row["mode"] is not None]
    counts = Counter(row["mode"] for row in said)
    most = counts.most_common(1)
    return {
        "windows": covered,
        "said": most[0][0] if most else None,
        "share": round(most[0][1] / len(said), 3) if most else None,
        "last": said[-1]["mode"] if said else None,
        "last_p": round(float(said[-1]["p"]), 3) if said else None,
        "model": said[-1]["model"] if said else None,
    }


def retract_label(service: Service, label_id: str, by: str) -> dict[str, Any]:
    """Retract a label; it stays in the file and is not used.

    Raises:
        NotFound: no such label.
    """
    file = LabelFile(service.config.data.path)
    _there(file, label_id)
    file.add([LabelEvent(label_id, f"retract-{label_id}", "retract", author=by, created=now_iso())])
    return {"id": label_id, "retracted": True}


def restore_label(service: Service, label_id: str, by: str) -> dict[str, Any]:
    """Undo a retraction: the label is stored once more, under a new id.

    Raises:
        NotFound: no such label.
        ThrumcastError: it is not retracted.
    """
    events = _there(LabelFile(service.config.data.path), label_id)
    return _stored(service, replace(restored(retracted_label(events, label_id)), author=by))


def _there(file: LabelFile, label_id: str) -> list[LabelEvent]:
    events = file.events()
    if all(event.id != label_id for event in events):
        msg = f"expected the id of a label, found: {label_id}"
        raise NotFound(msg, hint="see /api/v1/labels")
    return events


def export_labels(service: Service, kind: str) -> str:
    """All labels that hold, as CSV or JSON.

    Raises:
        ThrumcastError: another kind.
    """
    return text_of(LabelFile(service.config.data.path).active(), _kind(kind))


def import_labels(service: Service, given: Mapping[str, Any], by: str, *, bound: bool) -> dict[str, Any]:
    """Store the labels of a CSV or JSON text, all or none; what is stored already is not stored twice.

    Args:
        service: Whose labels.
        given: `content` and `format`.
        by: Who imports.
        bound: Whether that name is that of a token. Then an author in the file stands behind it, never alone.

    Raises:
        ThrumcastError: the text or one of its rows cannot be used; the message names the row.
    """
    content = given.get("content")
    if not isinstance(content, str):
        msg = "expected the content of a file as a text, found none"
        raise ThrumcastError(msg, hint="`content` is the file, `format` is csv or json")
    events = labels_of(service.config, content.removeprefix("\ufeff"), _kind(given.get("format")), "the file", by)
    if bound:
        events = [replace(e, author=by if e.author == by else f"{by} for {e.author}") for e in events]
    stored = LabelFile(service.config.data.path).add(events)
    new = sum(event is kept for event, kept in zip(events, stored, strict=True))
    covered = coverage(service.config.data.path, stored)
    warnings = list(never_seen(service.config, [event for event in stored if not covered[event.id]]).values())
    return {"labels": len(stored), "new": new, "windows": sum(covered.values()), "warnings": warnings[:SHOWN_ROWS]}


def _kind(kind: object) -> str:
    if kind not in ("csv", "json"):
        msg = f"expected the format csv or json, found: {kind}"
        raise ThrumcastError(msg)
    return str(kind)


def _label(event: LabelEvent) -> dict[str, Any]:
    return asdict(event) | {"start_ms": event.start_ns / 1e6, "end_ms": event.end_ns / 1e6}


# -- quality, settings -----------------------------------------------------------------------------------------------


def quality(service: Service) -> dict[str, Any]:
    """What is wrong with the data: gaps, late blocks, quarantine by reason, remarks, ages."""
    from pipeline.edges.store.read import read_kind

    now_s = time.time()
    rows = read_kind(service.config.data.path, "quarantine", ["topic", "at", "reason", "size_bytes"]).to_pylist()
    streams = []
    for key, known in sorted(service.plant.fleet().items()):
        row = known.row
        streams.append(
            {
                "machine": key.machine,
                "point": key.point,
                "age_s": round(now_s - known.heard_s, 1) if known.heard_s else None,
                "windows": known.windows,
                "gaps": known.gaps,
                "missing_samples": known.missing_samples,
                "late": known.late,
                "coverage": None if row is None else round(row.coverage, 4),
                "remarks": dict(known.bad),
            }
        )
    account = asdict(service.live.account)
    return {
        "messages": account,
        "streams": streams,
        "quarantine": {
            "reasons": dict(Counter(row["reason"] for row in rows)),
            "newest": [row | {"at": row["at"].timestamp() * 1000} for row in rows[-SHOWN_ROWS:][::-1]],
        },
        "health": [asdict(check) for check in service.endpoints.ready(0.0)],
        "pending_rows": service.live.pending_rows,
    }


def settings(service: Service) -> dict[str, Any]:
    """Every setting with its source; where the sources are not known, the values alone."""
    from pipeline.config.keys import dotted, leaves

    if service.settings is not None:
        rows = {dotted(path): (s.value, s.source, s.place) for path, s in service.settings.items()}
    else:
        rows = {dotted(path): (value, "", "") for path, value in leaves(service.config)}
    return {
        "settings": [
            {"key": key, "value": SECRET if _secret(key, value) else _shown(value), "source": source, "place": place}
            for key, (value, source, place) in sorted(rows.items())
        ]
    }


def _secret(key: str, value: object) -> bool:
    return bool(value) and key.endswith("password")


def _shown(value: object) -> Any:
    plain = msgspec.to_builtins(value)
    return list(plain) if isinstance(plain, Sequence) and not isinstance(plain, str) else plain


def plain(value: Any) -> Any:
    """A document of JSON without NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def feature_table() -> dict[str, Any]:
    """Every feature with its unit and formula."""
    return {"features": [{"name": f.name, "unit": f.unit, "formula": f.formula, "source": f.source} for f in FEATURES]}


def _known(service: Service, key: StreamKey) -> Any:
    known = service.plant.known(key)
    if known is None:
        msg = f"expected a stream that was heard, found: {key}"
        raise NotFound(msg, hint="see /api/v1/fleet")
    return known


def _speed(row: FeatureRow) -> float | None:
    if row.speed_rpm is not None:
        return row.speed_rpm
    used = row.values[:, COLUMN["speed_used"]]
    return _number(used[np.isfinite(used)][0]) if np.isfinite(used).any() else None


def _limits(limits: Limits | None) -> dict[str, Any] | None:
    if limits is None:
        return None
    return {"mm_s": [limits.a_b_mm_s, limits.b_c_mm_s, limits.c_d_mm_s], "source": limits.source}


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _time(ms: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def parse_time(text: str) -> float:
    """Milliseconds since 1970, from a number of milliseconds or ISO 8601."""
    try:
        return float(text)
    except ValueError:
        return to_ns(text) / 1e6
