"""What the service reports about itself: the table of its metrics, the table of its log events, and the metric values.

Metrics follow the rules of Prometheus: prefix `thrumcast_`, base units, `_total` for counters, and labels only where
the number of their values is bounded. The tables and the bound are ours; `prometheus_client` writes the text format. It
is imported at the first scrape, because its import costs more than the start of a small service should pay.

Writers and readers may be on different threads: one lock guards all values.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import Collector

Kind = Literal["counter", "gauge", "histogram"]

MAX_LABELS = 500  # label sets of one metric; further ones are counted under OTHER
OTHER = "other"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str  # without the prefix
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds in s, for a histogram


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
    Metric("messages_dropped_total", "counter", "messages given up at a stop; the broker delivers them again"),
    Metric("messages_in_flight", "gauge", "messages that arrived and wait to be taken or committed"),
    Metric("quarantine_reasons_total", "counter", "refused messages by reason", ("reason",)),
    Metric("streams_known", "gauge", "streams of the data directory, also those at rest"),
    Metric("machines_known", "gauge", "machines of the known streams"),
    Metric("streams_asleep", "gauge", "silent streams whose state is only in the journal"),
    Metric("streams_forgotten_total", "counter", "streams that rested for streams.forget_days and left the journal"),
    Metric(
        "contradictions_total",
        "counter",
        "blocks whose index, time, rate, unit or channels contradict their stream; they are kept",
        ("machine", "point", "kind"),
    ),
    Metric("samples_received_total", "counter", "samples per channel in decoded blocks, by machine", ("machine",)),
    Metric("last_message_timestamp_seconds", "gauge", "time of the newest message, by machine", ("machine",)),
    Metric("gaps_total", "counter", "pieces of a stream that never came"),
    Metric("gap_samples_total", "counter", "samples per channel that never came"),
    Metric(
        "messages_missing_total",
        "counter",
        "messages that never came, such as those a broker dropped, estimated from the senders' own sample counts",
    ),
    Metric("windows_total", "counter", "windows that became feature rows, by machine", ("machine",)),
    Metric("predictions_total", "counter", "predictions by failure mode", ("mode",)),
    Metric("streams", "gauge", "streams by their state: warming_up, normal, warning, alarm, ...", ("state",)),
    Metric("alarm_changes_total", "counter", "alarms raised, updated and cleared", ("type",)),
    Metric("alarms_active", "gauge", "alarms that are open"),
    Metric("machine_state", "gauge", "1 for the state of a stream, else 0", ("machine", "point", "state")),
    Metric("failure_probability_ratio", "gauge", "of each mode, in the newest window", ("machine", "point", "mode")),
    Metric("velocity_rms_meters_per_second", "gauge", "severity of the newest window", ("machine", "point")),
    Metric("labels_total", "counter", "labels that people have given, by verdict", ("verdict",)),
    Metric("model_reloads_total", "counter", "other models that were to serve: loaded or refused", ("result",)),
    Metric("feature_seconds", "histogram", "of a turn: from decoded blocks to feature rows", (), _SECONDS),
    Metric("inference_seconds", "histogram", "of a turn: the network", (), _SECONDS),
    Metric(
        "turn_seconds",
        "histogram",
        "stepping the messages of a turn, then from the last one to their acknowledgement",
        (),
        _SECONDS,
    ),
    Metric("end_to_end_seconds", "histogram", "from a window's last sample to its acknowledgement", (), _SECONDS),
    Metric("last_commit_timestamp_seconds", "gauge", "time of the newest commit"),
    Metric(
        "lag_seconds", "gauge", "time from the newest committed sample of the stream that is furthest behind to now"
    ),
    Metric("lag_messages", "gauge", "messages of these seconds, over all streams that are heard; an estimate"),
    Metric("uncommitted_seconds", "gauge", "age of the oldest message that is taken and not committed"),
    Metric("loop_beat_timestamp_seconds", "gauge", "time of the processing loop's last sign of life"),
    Metric("mqtt_connected", "gauge", "1 while the broker has accepted us"),
    Metric("mqtt_connections_total", "counter", "connections that were made"),
    Metric("mqtt_sessions_lost_total", "counter", "connections that found none of our earlier session"),
    Metric("mqtt_waiting_messages", "gauge", "messages that have arrived and not been taken"),
    Metric(
        "mqtt_waiting_capacity_messages", "gauge", "number of waiting messages at which the socket is no longer read"
    ),
    Metric("results_unsent_total", "counter", "results that the broker did not take and that were given up"),
    Metric("archive_pending_rows", "gauge", "rows that are committed and not yet in a Parquet part"),
    Metric("archive_parts", "gauge", "Parquet parts in the manifest"),
    Metric("archive_narrow_parts", "gauge", "Parquet parts that lack a new column and are to be written again"),
    Metric("archive_compacted_parts_total", "counter", "parts that were merged into larger ones"),
    Metric("archive_pruned_rows_total", "counter", "rows that were removed because of their age"),
    Metric("disk_free_bytes", "gauge", "free space where the data directory is"),
    Metric("disk_refusing", "gauge", "1 while the disk refuses a commit, a note or a roll"),
    Metric("engine_streams", "gauge", "streams of each engine process, with run.workers above 1", ("engine",)),
    Metric("engine_busy_seconds_total", "counter", "time that each engine process has stepped", ("engine",)),
    Metric("engine_resident_memory_bytes", "gauge", "memory of each engine process", ("engine",)),
    Metric("process_resident_memory_bytes", "gauge", "memory of the process"),
    Metric("process_open_fds", "gauge", "open files and sockets of the process"),
    Metric("process_start_time_seconds", "gauge", "when the process began"),
)
TABLE: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}

# Log events: name -> (level, when it is logged). The name is the first word of the log message.
EVENTS: Mapping[str, tuple[str, str]] = {
    "rehearsed": ("info", "the engine has run on a second of noise, so that all kernels are compiled"),
    "stop_cut_short": ("warning", "the disk held up a stop; the process ended as by a kill, which loses nothing"),
    "connected": ("info", "the broker accepted us"),
    "session_lost": ("info", "the broker no longer has our session; the messages it queued for us are lost"),
    "disconnected": ("info", "the connection ended"),
    "refused": ("info", "an attempt to connect failed"),
    "taken_over": ("info", "another client with our client id took over the session"),
    "commit_failed": ("error", "the disk refused a commit; nothing is acknowledged until another attempt succeeds"),
    "commit_resumed": ("warning", "a commit succeeded after commit_failed"),
    "note_failed": ("error", "the disk refused machines.jsonl"),
    "note_resumed": ("warning", "machines.jsonl was written after note_failed"),
    "roll_failed": ("error", "the disk refused a Parquet part; its rows stay in the journal and the service goes on"),
    "roll_resumed": ("warning", "the part was written after roll_failed"),
    "quarantined": ("warning", "messages were refused; counts by reason and some topics"),
    "refusal": (
        "warning",
        "the first message of a topic that was refused for this reason: what was expected and found, and what to do",
    ),
    "contradiction": (
        "warning",
        "the first time that a stream contradicts itself in this way: what was expected and found, and what to do",
    ),
    "notice_sent": ("info", "an alarm was told by webhook or e-mail"),
    "notice_failed": ("warning", "an alarm could not be told by webhook or e-mail; it is tried again"),
    "notices_full": ("error", "too many alarms wait to be told; the oldest was given up"),
    "rebirth_asked": ("info", "a Sparkplug node whose birth has not been heard was asked for it"),
    "channels_full": ("warning", "a message names new channels, but the archive already has archive.max_channels"),
    "secret_exposed": ("warning", "others may read or change a file with a password, token or key"),
    "quota_reached": (
        "warning",
        "a limit of [streams] was met; what exceeds it goes to quarantine. Named once a machine",
    ),
    "streams_rest": ("info", "silent streams left the memory; they come back from the journal when they speak"),
    "streams_forgotten": ("warning", "streams that had rested for streams.forget_days left the journal; rows stay"),
    "wake_failed": ("error", "the state of a stream that speaks again cannot be read; its messages wait"),
    "wake_resumed": ("warning", "the state was read after wake_failed"),
    "forget_failed": ("error", "the disk refused to note or forget streams that rest"),
    "forget_resumed": ("warning", "that succeeded after forget_failed"),
    "engines_started": ("info", "run.workers is above 1: the process ids of the engine processes"),
    "gaps": ("warning", "samples of some streams never arrived"),
    "no_window": ("warning", "all records of a stream are shorter than a window"),
    "reloaded": ("info", "SIGHUP: these keys have new values, which apply from the next turn"),
    "reload_refused": ("error", "SIGHUP: the new configuration is invalid; the service keeps the present one"),
    "restart_needed": ("warning", "SIGHUP: these keys have changed and apply only after a restart"),
    "model_switched": ("info", "another model version serves from the next commit"),
    "model_refused": ("error", "a model version that should serve is unusable; the present one keeps serving"),
    "forecast_without_skill": ("warning", "held out, the forecast was no better than what mostly comes, and says that"),
    "forecast_missing": ("warning", "forecasts are configured, but the model that serves was not trained to make them"),
    "shadow_refused": ("error", "a model version that should run as the shadow is unusable"),
    "memory_rebuilt": ("info", "hidden states were rebuilt from the archive"),
    "memory_not_rebuilt": ("error", "the archive is unreadable; hidden states start from zero"),
    "forecast_failed": ("error", "the forecast raised an error; it stays off until a model is loaded"),
    "shadow_failed": ("error", "the shadow model raised an error and was switched off"),
    "labels_unreadable": ("error", "labels.jsonl cannot be read; new labels are neither published nor counted"),
    "label_skipped": ("warning", "a label in the file cannot be used; trainings and lists leave it out"),
    "label_waits": ("warning", "a label sent over MQTT was stored, but the archive has no windows of its machine"),
    "ready": ("info", "/readyz turned to 200"),
    "not_ready": ("warning", "/readyz turned to 503; the failing checks"),
    "web_listening": ("info", "the web server is listening"),
    "web_unavailable": ("warning", "the address web.bind is unusable; the service runs without a web server"),
    "route_failed": ("error", "a request handler raised an error: a bug"),
    "page_changed": ("info", "somebody changed labels or alarms over HTTP: what, who, from where"),
    "history_built": ("info", "the page has the buckets of a finished day for long trends"),
    "history_failed": (
        "warning",
        "the buckets of a day could not be made; trends read its rows, and it is tried again",
    ),
    "page_refused": ("info", "somebody who may only look tried to change something over HTTP: what, who"),
    "audit_failed": ("error", "what somebody changed over HTTP could not be written into the audit"),
    "result_not_read": ("warning", "`thrumcast opcua`: a message on the results topics is none of ours"),
    "point_left_out": ("warning", "`thrumcast opcua`: there are too many points"),
    "widening": ("info", "parts that lack a new column are written again; how many are left"),
    "widened": ("info", "all parts have all columns"),
    "compacted": ("info", "parts were merged"),
    "pruned": ("info", "rows were removed because of their age"),
    "upkeep_failed": ("error", "a request for archive upkeep, or the compaction of the service itself, failed"),
    "manager_unreachable": ("debug", "NOTIFY_SOCKET is unreachable"),
}


def few(names: Sequence[str], most: int = 5) -> str:
    """The first `most` names, and how many more there are: for messages and logs."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


@dataclass(slots=True)
class _Histogram:
    counts: list[int]  # per bucket, not accumulated
    total: int = 0
    sum: float = 0.0


@dataclass(slots=True)
class Telemetry:
    """The values of the metrics in the table. Counters and gauges without labels start at 0."""

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
        """Adds to a counter."""
        with self._lock:
            series, labels = self._series(name, labels)
            series[labels] = series.get(labels, 0) + n

    def set(self, name: str, value: float, *labels: str) -> None:
        """Sets a gauge, or a counter that is counted elsewhere."""
        with self._lock:
            series, labels = self._series(name, labels)
            series[labels] = value

    def set_all(self, values: Mapping[str, float]) -> None:
        """Sets several metrics without labels at once: a reader sees all of the new values or none."""
        with self._lock:
            for name, value in values.items():
                self._series(name, ())[0][()] = value

    def set_series(self, name: str, series: Mapping[tuple[str, ...], float]) -> None:
        """Replaces all label sets of a metric. The caller bounds their number."""
        with self._lock:
            self._values[name] = dict(series)

    def observe(self, name: str, seconds: float) -> None:
        """Adds a duration to a histogram. A negative duration (a clock that is ahead) counts as 0."""
        seconds = max(seconds, 0.0)
        with self._lock:
            histogram = self._histograms[name]
            place = bisect.bisect_left(TABLE[name].buckets, seconds)
            if place < len(histogram.counts):
                histogram.counts[place] += 1
            histogram.total += 1
            histogram.sum += seconds

    def value(self, name: str, *labels: str) -> float:
        """The present value; 0 for labels that were never set."""
        with self._lock:
            return self._values[name].get(labels, 0)

    def values(self) -> dict[str, float]:
        """All values that have no label."""
        with self._lock:
            return {name: series[()] for name, series in self._values.items() if () in series}

    def text(self) -> str:
        """All metrics in the Prometheus text format 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(cast("Collector", self)).decode()

    def collect(self) -> Iterator[Family]:
        """All metrics of one moment, as `prometheus_client` asks a collector for them."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        with self._lock:
            values = {name: dict(series) for name, series in self._values.items()}
            histograms = {name: _Histogram(list(h.counts), h.total, h.sum) for name, h in self._histograms.items()}
        for metric in METRICS:
            name = f"thrumcast_{metric.name}"
            if metric.kind == "histogram":
                found = histograms[metric.name]
                bounds = (*(f"{bound:g}" for bound in metric.buckets), "+Inf")
                below = [*accumulate(found.counts), found.total]
                yield HistogramMetricFamily(
                    name, metric.help, buckets=list(zip(bounds, below, strict=True)), sum_value=found.sum
                )
                continue
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(name, metric.help, labels=metric.labels)
            for labels, value in sorted(values[metric.name].items()):
                family.add_metric(labels, value)
            yield family

    def _series(self, name: str, labels: tuple[str, ...]) -> tuple[dict[tuple[str, ...], float], tuple[str, ...]]:
        """The values of a metric, and the labels to use: the last label becomes OTHER when there are too many sets."""
        metric = TABLE[name]  # KeyError: the metric is missing from the table
        if len(metric.labels) != len(labels) or "" in labels:
            msg = f"{name}: expected labels for {metric.labels}, found: {labels!r}"
            raise ValueError(msg)
        series = self._values[name]
        if labels and labels not in series and len(series) >= MAX_LABELS:
            labels = (*labels[:-1], OTHER)
        return series, labels
