"""An alarm on one page: what it was, why, its trends and what had changed. One HTML file without script or link.

It is made from the archive and the journal alone, so the page and `thrumcast report` give the same. The pictures are
SVG within the file. Everything that comes from outside is escaped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import __version__
from pipeline.core.features.table import COLUMN, FEATURES, NAMES
from pipeline.core.records import FeatureRow, Float32, StreamKey
from pipeline.core.state import StreamSpec
from pipeline.edges.labels import LabelFile, active
from pipeline.page.live import reasons
from pipeline.page.views import NotFound, bucketed, whole_buckets

BEFORE_MS = 24 * 3_600_000  # of the trends
AFTER_MS = 3_600_000
USUAL = timedelta(hours=1)  # before the alarm's beginning: what is compared with
BUCKETS = 400
CHANGED = 12  # features in the table
CHARTS = 4
WIDTH, HEIGHT, LEFT = 760, 130, 60

STYLE = (
    "body{font:14px/1.4 sans-serif;color:#1c2026;max-width:800px;margin:20px auto;padding:0 12px}"
    "h1{font-size:20px;margin:0}h2{font-size:15px;margin:16px 0 2px}table{border-collapse:collapse}"
    "td,th{text-align:left;padding:1px 14px 1px 0;vertical-align:top}.n{text-align:right}svg{max-width:100%}"
    ".soft{color:#5a636e}@media print{body{margin:0}}"
)


@dataclass(frozen=True, slots=True)
class Alarm:
    """What the archive says of an alarm. Times are milliseconds since 1970."""

    id: str
    key: StreamKey
    mode: str
    p: float
    since: float
    raised: float
    ended: float | None
    changes: tuple[tuple[float, str], ...]


def alarm_report(data_dir: Path, alarm_id: str, spec_of: Callable[[StreamKey], StreamSpec]) -> str:
    """The report as HTML.

    Raises:
        NotFound: the archive has no such alarm.
        ArchiveError: the archive cannot be read.
    """
    alarm = _alarm(data_dir, alarm_id)
    rows = _rows(data_dir, alarm)
    spec = spec_of(alarm.key)
    at = [row for row in rows if row.end_ns <= 1e6 * alarm.raised + 1e3]
    row = at[-1] if at else None
    statements, confirmed, shown = reasons(alarm.mode, row) if row else ([], None, alarm.mode)
    unconfirmed = " (unconfirmed: the evidence does not bear it out)" if confirmed is False else ""
    named = "" if shown == alarm.mode else f"; the model names {alarm.mode}"
    changed = _changed(at, alarm) if row else []
    charted = list(dict.fromkeys(["velocity_rms", *(name for name, *_ in changed), "kurtosis"]))[:CHARTS]
    channel = row.channels[0] if row else "x"
    limits = spec.limits
    zones = () if limits is None else (limits.a_b_mm_s, limits.b_c_mm_s, limits.c_d_mm_s)
    speed = f"{spec.speed_rpm:g} rpm" if spec.speed_rpm else "not configured"
    facts = {
        "Machine": f"{alarm.key.machine}, point {alarm.key.point}",
        "Failure mode": f"{shown}{named}{unconfirmed}, p {alarm.p:.2f} when raised",
        "Begun": _iso(alarm.since),
        "Raised": _iso(alarm.raised),
        **{kind.capitalize(): _iso(when) for when, kind in alarm.changes if kind != "raised"},
        "Evidence": "; ".join(statements) or "no physical sign stands out",
        "Model": _model(data_dir, alarm) or "none",
        "Speed": speed,
        "Zone limits": f"{' / '.join(f'{z:g}' for z in zones)} mm/s, {limits.source}" if limits else "not assessable",
        "Labels": "; ".join(_labels(data_dir, alarm)) or "none in this interval",
    }
    if alarm.ended is None:
        facts["State"] = "open"
    parts = [f"<h1>Alarm: {escape(shown.replace('_', ' '))} at {escape(str(alarm.key))}</h1>", _table(facts)]
    parts += [_chart(data_dir, alarm, name, channel, zones if name == "velocity_rms" else ()) for name in charted]
    if changed:
        parts.append(f"<h2>What had changed, channel {escape(channel)}</h2>")
        parts.append(_changes(changed))
    parts.append(
        f'<p class="soft">{escape(alarm.id)} · made {_iso(1000 * time.time())} by thrumcast {__version__} from '
        "archived features. Trends show minimum to maximum (grey) and mean; the red line is when the alarm was raised. "
        "The samples of this moment are not in the archive, so there is no spectrum of it.</p>"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(alarm.id)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _alarm(data_dir: Path, alarm_id: str) -> Alarm:
    from pipeline.edges.store.read import read_kind

    changes = [row for row in read_kind(data_dir, "alarms").to_pylist() if row["id"] == alarm_id]
    raised = next((row for row in changes if row["type"] == "raised"), None)
    if raised is None:
        msg = f"expected the id of an alarm in the archive, found: {alarm_id}"
        raise NotFound(msg, hint="ids are in the column id of the archive's alarms, and at /api/v1/alarms")
    told = tuple((_ms(row["at"]), row["type"]) for row in changes)
    ended = next((at for at, kind in told if kind in ("cleared", "revoked")), None)
    key = StreamKey(raised["machine"], raised["point"])
    return Alarm(alarm_id, key, raised["mode"], raised["p"], _ms(raised["since"]), _ms(raised["at"]), ended, told)


def _rows(data_dir: Path, alarm: Alarm) -> Sequence[FeatureRow]:
    from pipeline.edges.store.read import read_features, rows_of

    start, end = _time(alarm.since) - USUAL, _time(alarm.raised) + timedelta(seconds=1)
    table = read_features(data_dir, machines={alarm.key.machine}, start=start, end=end)
    return rows_of(table, NAMES).get(alarm.key, [])


def _changed(rows: Sequence[FeatureRow], alarm: Alarm) -> list[tuple[str, float, float, float]]:
    """The features that differ most from before: name, value, median before, and how many times its usual spread."""
    before = np.array([row.values[0] for row in rows if row.end_ns < 1e6 * alarm.since])
    if len(before) < 10:
        return []
    now = rows[-1].values[0].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = np.median(before, axis=0)
        spread = 1.4826 * np.median(np.abs(before - middle), axis=0)
        score = np.abs(now - middle) / np.maximum(spread, 1e-9 + 0.01 * np.abs(middle))
    order = np.argsort(-np.nan_to_num(score, nan=-1.0, posinf=0.0))[:CHANGED]
    return [(NAMES[i], now[i], middle[i], score[i]) for i in order if np.isfinite(score[i]) and score[i] > 1]


def _chart(data_dir: Path, alarm: Alarm, feature: str, channel: str, limits: Sequence[float]) -> str:
    """A trend with its range and mean, as SVG."""
    from pipeline.edges.store.history import level_of, read_points

    from_ms, to_ms = (
        alarm.since - BEFORE_MS,
        min((alarm.ended or alarm.raised + BEFORE_MS) + AFTER_MS, 1000 * time.time()),
    )
    to_ms, count = max(to_ms, alarm.raised + AFTER_MS), BUCKETS
    level_s = level_of((to_ms - from_ms) / count / 1000)
    if level_s is not None:
        from_ms, to_ms, count = whole_buckets(from_ms, to_ms, count, 1000 * level_s)
    span_us = (int(1000 * from_ms), int(1000 * to_ms))
    points = read_points(data_dir, alarm.key, f"{channel}.{feature}", *span_us, level_s)
    low, high, mean = bucketed(points, from_ms, to_ms, count)
    about = FEATURES[COLUMN[feature]]
    title = f"<h2>{escape(', '.join(filter(None, (feature, about.unit))))} · {escape(channel)}</h2>"
    if not np.isfinite(mean).any():
        return f'{title}<p class="soft">no rows</p>'
    top, bottom = max(float(np.nanmax(high)), 1e-12), min(0.0, float(np.nanmin(low)))

    def x(ms: float) -> float:
        return round(LEFT + (WIDTH - LEFT) * (ms - from_ms) / (to_ms - from_ms), 1)

    def y(value: float) -> float:
        return round(HEIGHT - 20 - (HEIGHT - 28) * (value - bottom) / (top - bottom), 1)

    def path(values: Float32) -> list[str]:
        width = (to_ms - from_ms) / count
        return [f"{x(from_ms + (i + 0.5) * width)},{y(float(v))}" for i, v in enumerate(values) if np.isfinite(v)]

    marks = [f'<line x1="{x(alarm.raised)}" x2="{x(alarm.raised)}" y1="4" y2="{HEIGHT - 20}" stroke="#c8322b"/>']
    for limit in limits:
        if bottom < limit < top:
            line = f'x1="{LEFT}" x2="{WIDTH}" y1="{y(limit)}" y2="{y(limit)}"'
            marks.append(f'<line {line} stroke="#c77700" stroke-dasharray="4 3"/>')
    words = [f'<text x="{LEFT - 4}" y="{y(v) + 4}" text-anchor="end">{v:.3g}</text>' for v in (bottom, top)]
    words.append(f'<text x="{LEFT}" y="{HEIGHT - 4}">{_iso(from_ms)}</text>')
    words.append(f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{_iso(to_ms)}</text>')
    return (
        f'{title}<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-size="11" fill="#5a636e">'
        f'<path d="M{LEFT},4V{HEIGHT - 20}H{WIDTH}" fill="none" stroke="#9aa3ad"/>'
        f'<polygon points="{" ".join([*path(high), *reversed(path(low))])}" fill="#d5dae0"/>'
        f'<polyline points="{" ".join(path(mean))}" fill="none" stroke="#1c2430"/>{"".join([*marks, *words])}</svg>'
    )


def _changes(changed: Sequence[tuple[str, float, float, float]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{now:.4g}</td><td class=n>{before:.4g}</td><td>"
        f"{escape(FEATURES[COLUMN[name]].unit)}</td><td class=n>{score:.1f}</td></tr>"
        for name, now, before, score in changed
    )
    head = "".join(f"<th>{text}</th>" for text in ("Feature", "When raised", "Median 1 h before", "Unit", "Spreads"))
    return f"<table><tr>{head}</tr>{rows}</table>"


def _table(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in facts.items())
    return f"<table>{rows}</table>"


def _model(data_dir: Path, alarm: Alarm) -> str:
    from pipeline.edges.store.read import read_predictions

    start, end = _time(alarm.since), _time(alarm.raised) + timedelta(seconds=1)
    columns = ["point", "model"]
    said = read_predictions(data_dir, columns=columns, machines={alarm.key.machine}, start=start, end=end).to_pylist()
    models: dict[str, None] = {row["model"]: None for row in said if row["point"] == alarm.key.point}
    return ", ".join(models)


def _labels(data_dir: Path, alarm: Alarm) -> list[str]:
    end_ns = 1e6 * (alarm.ended or 1000 * time.time())
    return [
        f"{label.mode or label.verdict} by {label.author}, {_iso(label.start_ns / 1e6)} to {_iso(label.end_ns / 1e6)}"
        + (f": {label.note}" if label.note else "")
        for label in active(LabelFile(data_dir).events())
        if label.machine == alarm.key.machine and label.point in (None, alarm.key.point)
        if label.start_ns < end_ns and label.end_ns > 1e6 * alarm.since
    ]


def _ms(time_: Any) -> float:
    found: float = time_.timestamp() * 1000
    return found


def _time(ms: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def _iso(ms: float) -> str:
    return f"{_time(ms):%Y-%m-%d %H:%M:%S} UTC"
