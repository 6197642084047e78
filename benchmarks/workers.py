"""The live loop with engine processes beside it, and without: readings in memory to committed rows, in wall-clock time.

No broker and no sender take part, so that on a machine of two cores both are free. The loop decodes, commits to a
journal, writes Parquet and publishes into nothing, as the service does. CPU time is given by who used it: the loop's
thread, its disk, the engine processes. With a core for each of them, the busiest sets the rate.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.measure import Effort, median
from benchmarks.plant import cpu_s_of
from benchmarks.report import Row, Section
from benchmarks.throughput import MODEL
from benchmarks.vibration import CHANNELS, block, vibration
from models.bundle import load
from models.registry import CHAMPION, Registry
from pipeline.config.tables import Config
from pipeline.core.codec import encode
from pipeline.core.records import StreamKey
from pipeline.core.rehearsal import rehearse
from pipeline.drivers.engines import Engines
from pipeline.drivers.intake import Admission, Intake
from pipeline.drivers.live import Live
from pipeline.drivers.results import Results
from pipeline.drivers.span import Rhythm
from pipeline.edges.mqtt import TopicTemplate
from pipeline.edges.ports import LinkEvent, Message, Receipt, Tally
from pipeline.service.compose import Recipes, channels_of, engine, opened
from pipeline.service.models import LiveConfig, load_models

SHAPES = ((10_240.0, 1024, 16, 50), (25_600.0, 4096, 32, 10))  # rate, samples, streams, blocks of a stream per effort
COUNTS = (1, 2)
CYCLE = 16  # different blocks of samples, sent over and over


@dataclass
class Queue:
    """A `Connection` to messages that are all there."""

    waiting: deque[Message]
    received: int = 0
    settled: bool = True

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        taken = [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]
        self.received += len(taken)
        if not taken:
            time.sleep(timeout_s)
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Nobody waits for it."""

    def service(self, timeout_s: float = 0.0) -> None:
        time.sleep(timeout_s)

    def tally(self) -> Tally:
        return Tally(self.received, 0)

    def events(self) -> list[LinkEvent]:
        return []


@dataclass
class Run:
    """One run: its rate, and CPU microseconds per message."""

    msgs_per_s: float
    loop_us: float
    disk_us: float
    process_us: list[float] = field(default_factory=list)

    @property
    def sum_us(self) -> float:
        return self.loop_us + self.disk_us + sum(self.process_us)

    @property
    def busiest_us(self) -> float:
        return max(self.loop_us, self.disk_us, *self.process_us)


def run(effort: Effort) -> Section:
    """Both shapes with every number of processes, in turns."""
    rehearse()
    rows: list[Row] = []
    document: dict[str, Any] = {}
    for rate_hz, samples, streams, blocks in SHAPES:
        messages = _messages(rate_hz, samples, streams, blocks * effort.scale)
        done: dict[int, list[Run]] = {count: [] for count in COUNTS}
        for _ in range(effort.rounds):
            for count in COUNTS:
                done[count].append(_run(messages, count))
        one, two = (done[count] for count in COUNTS)
        ratio = median([b.msgs_per_s / a.msgs_per_s for a, b in zip(one, two, strict=True)])
        cores = median([a.busiest_us / b.busiest_us for a, b in zip(one, two, strict=True)])
        name = f"3 x {samples} at {rate_hz / 1000:g} kHz, {len(messages[0].payload) / 1000:.0f} kB"
        rows += [
            Row(f"{name}: 1 process", median([r.msgs_per_s for r in one]), "msg/s", _where(one)),
            Row(f"{name}: 2 engine processes", median([r.msgs_per_s for r in two]), "msg/s", _where(two), ratio),
            Row(
                "... the busiest of them", median([r.busiest_us for r in two]), "us/msg", "of 1 process, in time", cores
            ),
        ]
        document[f"blocks_of_{samples}"] = {
            "msgs_per_s": {str(count): median([r.msgs_per_s for r in done[count]]) for count in COUNTS},
            "cpu_us_per_msg": {str(count): median([r.sum_us for r in done[count]]) for count in COUNTS},
            "ratio": ratio,
            "busiest_ratio": cores,
        }
    return Section("workers: the loop with and without engine processes, no broker", rows, {"workers": document})


def _where(runs: list[Run]) -> str:
    loop, disk, whole = (median([getattr(r, name) for r in runs]) for name in ("loop_us", "disk_us", "sum_us"))
    each = ", ".join(f"{median(list(us)):.0f}" for us in zip(*(r.process_us for r in runs), strict=True))
    return f"CPU a message {whole:.0f} us: loop {loop:.0f}, disk {disk:.0f}" + (f", processes {each}" if each else "")


def _messages(rate_hz: float, samples: int, streams: int, blocks: int) -> list[Message]:
    topics = TopicTemplate(Config().mqtt.readings_topic)
    signal = np.split(vibration(len(CHANNELS), CYCLE * samples, rate_hz), CYCLE, axis=1)
    found = []
    for number in range(blocks):
        for i in range(streams):
            usual = block(StreamKey(f"machine-{i:02d}", "de"), 0, np.ascontiguousarray(signal[(number + i) % CYCLE]))
            start = number * samples
            sent = replace(usual, index=start, t0_ns=usual.t0_ns + round(start * 1e9 / rate_hz), rate_hz=rate_hz)
            topic = topics.format(machine=sent.key.machine, point=sent.key.point)
            found.append(Message(topic, encode(sent), 1, None, False, Receipt(1, 1, len(found))))
    return found


def _run(messages: list[Message], count: int) -> Run:
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="thrumcast-bench-"))
        usual = Config()
        config = msgspec.structs.replace(usual, data=msgspec.structs.replace(usual.data, dir=directory))
        registry = Registry(Path(directory))
        registry.point(CHAMPION, registry.add(load(MODEL)), why="benchmark")
        journal, archive = stack.enter_context(opened(config))
        live_config = LiveConfig(config, {}, lambda: config)
        core = engine(config, load_models(config), live_config.spec_of)
        engines = stack.enter_context(Engines(count, Recipes(live_config))) if count > 1 else None
        if engines is not None:
            engines.use(core)  # waits until they are ready
        topics, queue = TopicTemplate(config.mqtt.readings_topic), Queue(deque(messages))
        admission = Admission(lambda key: core.spec_of(key).window, channels_of(config, journal))
        live = Live(
            engine=core,
            source=queue,
            intake=Intake(topics.parse, config.accepts, config.mqtt.max_payload_bytes, admission),
            journal=journal,
            archive=archive,
            results=Results("bench", lambda *_, **__: None, "bench", core.predictor.classes if core.predictor else ()),
            rhythm=Rhythm(roll_s=2.0, first_messages=1000),
            engines=engines,
        )
        pids = [pid for pid, *_ in engines.figures] if engines is not None else []
        process_s = [cpu_s_of(pid) or 0.0 for pid in pids]
        began = time.monotonic(), time.thread_time(), time.process_time()
        live.run(lambda: not queue.waiting)
        wall_s, loop_s, cpu_s = (
            now - then
            for now, then in zip((time.monotonic(), time.thread_time(), time.process_time()), began, strict=True)
        )
        process_us = [
            1e6 * ((cpu_s_of(pid) or 0.0) - s) / len(messages) for pid, s in zip(pids, process_s, strict=True)
        ]
        us = 1e6 / len(messages)
        return Run(len(messages) / wall_s, us * loop_s, us * (cpu_s - loop_s), process_us)
