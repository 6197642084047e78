"""Everything that the service says of itself: each metric and each log event stands in one of the tables below.

Metrics follow the rules of Prometheus: prefix `thrumcast_`, base units, `_total` for what only grows, labels only where
their values are bounded. One thread writes, any number may read.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

MAX_LABELS = 500  # of one metric; what comes after counts as "other"
OTHER = "other"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str  # without the prefix
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: tuple[Metric, ...] = (
    Metric("build_info", "gauge", "1; the label is the version of thrumcast", ("version",)),
    Metric("model_info", "gauge", "1; the label is the version of the model that serves", ("version",)),
    Metric("ready_ratio", "gauge", "1 if /readyz says yes, else 0"),
    # received = committed + duplicate + late + quarantined + dropped + in_flight, at every scrape
    Metric("messages_received_total", "counter", "messages that arrived since the process began"),
    Metric("messages_committed_total", "counter", "messages whose consequences are on disk"),
    Metric("messages_duplicate_total", "counter", "messages that had been committed before"),
    Metric("messages_late_total", "counter", "messages that came after their gap was declared"),
    Metric("messages_quarantined_total", "counter", "messages that were refused and kept aside"),
    Metric(
        "messages_dropped_total", "counter", "messages given up undecided at a stop; the broker delivers them again"
    ),
    Metric("messages_in_flight", "gauge", "messages that arrived and wait to be taken or committed"),
    Metric("quarantine_reasons_total", "counter", "refused messages by reason", ("reason",)),
    Metric("samples_received_total", "counter", "samples per channel in decoded blocks, by machine", ("machine",)),
    Metric("last_message_timestamp_seconds", "gauge", "time of the newest message, by machine", ("machine",)),
    Metric("gaps_total", "counter", "pieces of a stream that never came"),
    Metric("gap_samples_total", "counter", "samples per channel that never came"),
    Metric("windows_total", "counter", "windows that became feature rows, by machine", ("machine",)),
    Metric("predictions_total", "counter", "predictions by failure mode", ("mode",)),
    Metric("streams", "gauge", "streams by their state: warming_up, normal, warning, alarm, ...", ("state",)),
    Metric("alarm_changes_total", "counter", "alarms raised, updated and cleared", ("type",)),
    Metric("alarms_active", "gauge", "alarms that are open"),
    Metric("machine_state", "gauge", "1 for the state of a stream, else 0", ("machine", "point", "state")),
    Metric(
        "failure_probability_ratio",
        "gauge",
        "probability of each mode in a stream's newest window",
        ("machine", "point", "mode"),
    ),
    Metric(
        "velocity_rms_meters_per_second",
        "gauge",
        "vibration severity of a stream's newest window",
        ("machine", "point"),
    ),
    Metric("labels_total", "counter", "labels that people have given, by verdict", ("verdict",)),
    Metric("model_reloads_total", "counter", "other models that were to serve: loaded or refused", ("result",)),
    Metric("feature_seconds", "histogram", "of a turn: from decoded blocks to feature rows", (), _SECONDS),
    Metric("inference_seconds", "histogram", "of a turn: the network", (), _SECONDS),
    Metric("turn_seconds", "histogram", "from the last message taken to their acknowledgement", (), _SECONDS),
    Metric("end_to_end_seconds", "histogram", "from a window's last sample to its acknowledgement", (), _SECONDS),
    Metric("last_commit_timestamp_seconds", "gauge", "time of the newest commit"),
    Metric("uncommitted_seconds", "gauge", "age of the oldest message that is taken and not committed"),
    Metric("loop_beat_timestamp_seconds", "gauge", "time of the processing loop's last sign of life"),
    Metric("mqtt_connected", "gauge", "1 while the broker has accepted us"),
    Metric("mqtt_connections_total", "counter", "connections that were made"),
    Metric("mqtt_sessions_lost_total", "counter", "connections that found none of our earlier session"),
    Metric("mqtt_waiting_messages", "gauge", "messages that have arrived and not been taken"),
    Metric("mqtt_waiting_capacity_messages", "gauge", "at so many waiting messages the socket is not read any more"),
    Metric("results_unsent_total", "counter", "results that the broker did not take and that were given up"),
    Metric("archive_pending_rows", "gauge", "rows that are committed and not yet in a Parquet part"),
    Metric("archive_parts", "gauge", "Parquet parts in the manifest"),
    Metric("archive_compacted_parts_total", "counter", "parts that were merged into larger ones"),
    Metric("archive_pruned_rows_total", "counter", "rows that were removed because of their age"),
    Metric("disk_free_bytes", "gauge", "free space where the data directory is"),
    Metric("disk_refusing", "gauge", "1 while the disk refuses a commit, a note or a roll"),
    Metric("process_resident_memory_bytes", "gauge", "memory of the process"),
    Metric("process_open_fds", "gauge", "open files and sockets of the process"),
    Metric("process_start_time_seconds", "gauge", "when the process began"),
)
TABLE: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}

# Log events: name -> (level, when). A name is the first word of a log message, or stands before `_` + what happened.
EVENTS: Mapping[str, tuple[str, str]] = {
    "rehearsed": ("info", "a second of noise went through the engine, so that everything is compiled"),
    "stop_cut_short": ("warning", "the disk held up a stop; it ended as a kill would, which loses nothing"),
    "connected": ("info", "the broker accepted us"),
    "session_lost": ("info", "no session was found where there had been one: what the broker kept for us is gone"),
    "disconnected": ("info", "the connection ended"),
    "refused": ("info", "an attempt to connect failed"),
    "taken_over": ("info", "another client with our id took the session"),
    "commit_failed": ("error", "the disk refused a commit; it is tried again and nothing is acknowledged meanwhile"),
    "commit_resumed": ("warning", "the commit succeeded at last"),
    "note_failed": ("error", "the disk refused machines.jsonl"),
    "note_resumed": ("warning", "machines.jsonl was written at last"),
    "roll_failed": ("error", "the disk refused a Parquet part; its rows stay in the journal and turns go on"),
    "roll_resumed": ("warning", "the part was written at last"),
    "quarantined": ("warning", "messages of a turn were refused, by reason; some of their topics"),
    "channels_full": ("warning", "a message names new channels, and archive.max_channels are known already"),
    "gaps": ("warning", "pieces of streams never came"),
    "no_window": ("warning", "a stream's records are all shorter than a window"),
    "reloaded": ("info", "SIGHUP: these keys have new values from the next turn on"),
    "reload_refused": ("error", "SIGHUP: the configuration cannot be used; the one before goes on"),
    "restart_needed": ("warning", "SIGHUP: these keys have changed and wait for a restart"),
    "model_switched": ("info", "another version serves from the next commit on"),
    "model_refused": ("error", "a version that should serve cannot be used; the one before goes on"),
    "forecast_missing": ("warning", "forecasts are wanted, and the version that serves was not trained to make any"),
    "shadow_refused": ("error", "a version that should predict in the shadow cannot be used"),
    "memory_rebuilt": ("info", "hidden states were built again from the archive"),
    "memory_not_rebuilt": ("error", "the archive could not be read; hidden states begin from zero"),
    "forecast_failed": ("error", "the forecast raised something; none is made until a model is loaded again"),
    "shadow_failed": ("error", "the shadow model raised something and is let go"),
    "labels_unreadable": (
        "error",
        "labels.jsonl has a line that is no label; what is new in it is neither published nor counted",
    ),
    "label_waits": ("warning", "a label asked for over MQTT is kept, and nothing of its machine was ever archived"),
    "ready": ("info", "/readyz turned to 200"),
    "not_ready": ("warning", "/readyz turned to 503; the failing checks"),
    "web_listening": ("info", "the page and its endpoints are served"),
    "web_unavailable": ("warning", "the address of web.bind cannot be used; the service goes on without it"),
    "route_failed": ("error", "a path could not be answered: a bug"),
    "client_failed": ("debug", "an HTTP client went away in the middle"),
    "compacted": ("info", "parts were merged"),
    "pruned": ("info", "rows were removed because of their age"),
    "upkeep_failed": ("error", "a request for archive upkeep, or the compaction of the service itself, failed"),
    "manager_unreachable": ("debug", "NOTIFY_SOCKET cannot be reached"),
}


def few(names: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


@dataclass(slots=True)
class _Histogram:
    counts: list[int]
    total: int = 0
    sum: float = 0.0


@dataclass(slots=True)
class Telemetry:
    """The values of the table. Every plain counter and gauge is there from the start, as 0."""

    _values: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)  # name -> labels -> value
    _histograms: dict[str, _Histogram] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for metric in METRICS:
            if metric.kind == "histogram":
                self._histograms[metric.name] = _Histogram([0] * len(metric.buckets))
            else:
                self._values[metric.name] = {} if metric.labels else {(): 0}

    def add(self, name: str, n: float = 1, *labels: str) -> None:
        """A counter grows."""
        with self._lock:
            series, labels = self._series(name, labels)
            series[labels] = series.get(labels, 0) + n

    def set(self, name: str, value: float, *labels: str) -> None:
        """A gauge, or a counter that is kept elsewhere, has this value now."""
        with self._lock:
            series, labels = self._series(name, labels)
            series[labels] = value

    def set_all(self, values: Mapping[str, float]) -> None:
        """Several values without a label that belong to one moment: no reader sees some of them only."""
        with self._lock:
            for name, value in values.items():
                self._series(name, ())[0][()] = value

    def set_series(self, name: str, series: Mapping[tuple[str, ...], float]) -> None:
        """A metric has these values by their labels, and no others; bounding them is the caller's business."""
        with self._lock:
            self._values[name] = dict(series)

    def observe(self, name: str, seconds: float) -> None:
        """One more duration in a histogram; a negative one (a clock that is ahead) counts as 0."""
        seconds = max(seconds, 0.0)
        with self._lock:
            histogram = self._histograms[name]
            place = bisect.bisect_left(TABLE[name].buckets, seconds)
            if place < len(histogram.counts):
                histogram.counts[place] += 1
            histogram.total += 1
            histogram.sum += seconds

    def value(self, name: str, *labels: str) -> float:
        """The present value; 0 for labels that were never seen."""
        with self._lock:
            return self._values[name].get(labels, 0)

    def values(self) -> dict[str, float]:
        """Every value without a label."""
        with self._lock:
            return {name: series[()] for name, series in self._values.items() if () in series}

    def text(self) -> str:
        """All of it in the Prometheus text format 0.0.4."""
        with self._lock:
            values = {name: dict(series) for name, series in self._values.items()}
            histograms = {name: _Histogram(list(h.counts), h.total, h.sum) for name, h in self._histograms.items()}
        lines = []
        for metric in METRICS:
            full = f"thrumcast_{metric.name}"
            lines += [f"# HELP {full} {metric.help}", f"# TYPE {full} {metric.kind}"]
            if metric.kind == "histogram":
                lines += _histogram_lines(full, metric.buckets, histograms[metric.name])
                continue
            for labels, value in sorted(values[metric.name].items()):
                pairs = (f'{name}="{_escaped(label)}"' for name, label in zip(metric.labels, labels, strict=True))
                lines.append(f"{full}{{{','.join(pairs)}}} {_number(value)}" if labels else f"{full} {_number(value)}")
        return "\n".join(lines) + "\n"

    def _series(self, name: str, labels: tuple[str, ...]) -> tuple[dict[tuple[str, ...], float], tuple[str, ...]]:
        """The values of a metric, and under which labels one goes: the last one is `other` if there are too many."""
        metric = TABLE[name]  # a KeyError here is a metric that the table does not have
        if len(metric.labels) != len(labels) or "" in labels:
            msg = f"{name}: expected labels for {metric.labels}, found: {labels!r}"
            raise ValueError(msg)
        series = self._values[name]
        if labels and labels not in series and len(series) >= MAX_LABELS:
            labels = (*labels[:-1], OTHER)
        return series, labels


def _histogram_lines(full: str, buckets: tuple[float, ...], histogram: _Histogram) -> Iterator[str]:
    below = 0
    for bound, count in zip(buckets, histogram.counts, strict=True):
        below += count
        yield f'{full}_bucket{{le="{bound:g}"}} {below}'
    yield f'{full}_bucket{{le="+Inf"}} {histogram.total}'
    yield f"{full}_sum {_number(histogram.sum)}"
    yield f"{full}_count {histogram.total}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
