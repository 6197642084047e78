"""Spark: the engine's step for each stream, on any number of machines. Needs pyspark 4.3 and Java 17.

    parts of readings --names--> groupBy(stream) --StreamStep--> rows --BatchWriter--> archive

A row of the query's input is the path of a part of readings, not its samples: the task that owns the stream opens the
part itself. What a task keeps of a stream between two batches are the bytes of its `StreamState`, in Spark's state
store. What it hands to the sink are rows as packed Arrow tables, one per kind and stream, so that streams with any
channels share one query, and a window costs Spark nothing.

`stream` is the live query, with a checkpoint; `whole` computes a folder once and flushes every stream at its end. Both
write through `edges.store.batches`, which makes each batch exact for every reader.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as fn
from pyspark.sql.datasource import DataSource, DataSourceStreamWriter, DataSourceWriter, WriterCommitMessage
from pyspark.sql.streaming.query import StreamingQuery
from pyspark.sql.streaming.stateful_processor import StatefulProcessor, StatefulProcessorHandle
from pyspark.sql.types import BinaryType, StructField, StructType

from pipeline.core.engine import Engine, Step
from pipeline.core.records import Block, Rejected, StreamKey
from pipeline.core.state import StreamState, from_bytes, to_bytes
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.recordings.readings import blocks_of, place_of
from pipeline.edges.store.batches import BatchArchive, Share
from pipeline.edges.store.schema import (
    FeatureSchema,
    Quarantined,
    Rows,
    alarm_table,
    feature_tables,
    forecast_table,
    packed,
    prediction_table,
    quarantine_table,
    unpacked,
)
from pipeline.errors import RecordingError

STEP_SAMPLES = 1 << 20  # of all channels in one step of the engine: bounds the memory of a task
_PLACE = r"(?:^|/)~?([^/~]+)~([^/~]+)~-?\d+~\d+~-?\d+\.parquet$"
_FILE = "path string, modificationTime timestamp, length bigint, content binary"  # Spark reads what is selected
_OUTPUT = "kind string, extras string, content binary"
_STATE = StructType([StructField("bytes", BinaryType())])


@dataclass(frozen=True, slots=True)
class Recipe:
    """What every task needs: a value that can be sent to an executor."""

    name: str  # two recipes of one name make the same engine
    make: Callable[[], Engine]
    schema: FeatureSchema
    resolve: Callable[[str], str]  # names of failure modes -> the taxonomy
    facts: Callable[[Block], dict[str, Any]]  # what a block says of its machine


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go."""

    data_dir: Path
    schema: FeatureSchema

    @property
    def archive(self) -> BatchArchive:
        """The archive below it."""
        return BatchArchive(self.data_dir, self.schema)


# -- a stream --------------------------------------------------------------------------------------------------------

_ENGINES: dict[str, Engine] = {}  # of this worker process, which Spark uses again for the next batch


def _engine(recipe: Recipe) -> Engine:
    if recipe.name not in _ENGINES:
        _ENGINES.clear()
        _ENGINES[recipe.name] = recipe.make()
    return _ENGINES[recipe.name]


class StreamStep(StatefulProcessor):
    """One stream: reads its new parts in the order of their names, and steps the engine over their blocks."""

    def __init__(self, recipe: Recipe, *, ends: bool) -> None:
        self.recipe = recipe
        self.ends = ends  # no more parts will come: what is held back is used

    def init(self, handle: StatefulProcessorHandle) -> None:
        """See StatefulProcessor."""
        self._saved = handle.getValueState("stream", _STATE)

    def handleInputRows(self, key: Any, rows: Iterator[Row], timerValues: Any) -> Iterator[Row]:  # noqa: N802
        """Yields packed rows; the state is saved when all of them have been taken."""
        del timerValues
        paths = [row.path for row in rows]
        if not key[0]:  # names of no part of readings
            yield from _refused(paths, "a part of readings, machine~point~time~session~index.parquet")
            return
        stream, engine = StreamKey(*key[0].split("/")), _engine(self.recipe)
        spec = engine.spec_of(stream)
        found = self._saved.get()
        states: dict[StreamKey, StreamState] = {} if found is None else {stream: from_bytes(spec, bytes(found[0]))}
        facts: dict[str, Any] = {}
        for blocks in self._blocks(stream, paths):
            if isinstance(blocks, Row):
                yield blocks
                continue
            for block in blocks:
                if not facts or block.about is not None:
                    facts |= self.recipe.facts(block)
            step = engine.step(states, blocks)
            states |= step.states
            yield from packed_step(step, self.recipe, engine)
        if self.ends and states:
            step = engine.flush(states)
            states |= step.states
            yield from packed_step(step, self.recipe, engine)
        if facts:
            yield _row("facts", (), json.dumps([*stream, facts]).encode())
        if states:
            self._saved.update((to_bytes(spec, states[stream]),))

    def _blocks(self, stream: StreamKey, paths: Sequence[str]) -> Iterator[list[Block] | Row]:
        """The blocks of some parts, as many as one step takes; a refusal for a part that cannot be read."""
        held: list[Block] = []
        for path in sorted(paths, key=_order):
            try:
                found = list(read_part(path))
                if any(block.key != stream for block in found):
                    msg = f"expected readings of {stream} in {path}, found those of {found[0].key}"
                    raise RecordingError(msg)
            except RecordingError as error:
                yield from _refused([path], str(error))
                continue
            truth = self.recipe.resolve
            held += [one if one.truth is None else replace(one, truth=truth(one.truth)) for one in found]
            if sum(block.samples.size for block in held) >= STEP_SAMPLES:
                yield held
                held = []
        if held:
            yield held


def read_part(path: str) -> Iterator[Block]:
    """The blocks of a part, on any file system that pyarrow knows.

    Raises:
        RecordingError: it is not there, damaged, or no part of readings.
    """
    try:
        uri = path.replace("file:/", "file:///", 1) if path.startswith("file:/") and "://" not in path else path
        system, name = pa_fs.FileSystem.from_uri(uri) if "://" in uri else (pa_fs.LocalFileSystem(), uri)
        table = pq.read_table(name, filesystem=system, partitioning=None)
        yield from blocks_of(table, path)
    except RecordingError:
        raise
    except Exception as error:  # whatever is wrong with one file must not end the query
        msg = f"expected a readable part of readings, found {path}: {type(error).__name__}: {error}"
        raise RecordingError(msg) from error


def _order(path: str) -> tuple[int, int, int]:
    place = place_of(path.rpartition("/")[2])
    return (0, 0, 0) if place is None else place[1:]


def packed_step(step: Step, recipe: Recipe, engine: Engine) -> Iterator[Row]:
    """The rows of a step, one packed table per kind and set of columns, and how many troubles there were."""
    for channels, table in feature_tables(step.features, recipe.schema):
        yield _row("features", channels, packed(table))
    if step.predictions and engine.predictor is not None:
        classes = engine.predictor.classes
        yield _row("predictions", classes, packed(prediction_table(step.predictions, classes)))
    if step.forecasts:
        yield _row("forecast", (), packed(forecast_table(step.forecasts)))
    if step.alarms:
        yield _row("alarms", (), packed(alarm_table(step.alarms)))
    troubles = Counter(type(trouble).__name__.lower() for trouble in step.troubles)
    if troubles:
        yield _row("troubles", (), json.dumps(troubles).encode())
    rejected = [trouble for trouble in step.troubles if isinstance(trouble, Rejected)]
    if rejected:
        lines = [
            Quarantined(str(block.key), block.t0_ns, "session", b"", block.samples.nbytes, "it contradicts its session")
            for block in (trouble.block for trouble in rejected)
        ]
        yield _row("quarantine", (), packed(quarantine_table(lines)))


def _refused(paths: Iterable[str], detail: str) -> Iterator[Row]:
    """The files go to quarantine by their paths; the time is that of the part by its name, so that it never changes."""
    lines = [Quarantined(path, max(0, _order(path)[0]), "unreadable_part", b"", 0, detail) for path in paths]
    yield _row("quarantine", (), packed(quarantine_table(lines)))
    yield _row("troubles", (), json.dumps({"unreadable_part": len(lines)}).encode())


def _row(kind: str, extras: Sequence[str], content: bytes) -> Row:
    return Row(kind=kind, extras=json.dumps(list(extras)), content=content)


# -- the sink --------------------------------------------------------------------------------------------------------


@dataclass
class Written(WriterCommitMessage):
    """What a task tells the driver."""

    share: Share
    facts: list[tuple[str, str, dict[str, Any]]]


def write(target: Target, rows: Iterable[Row]) -> Written:
    """A task: its rows into staging."""
    found: list[Rows] = []
    troubles: Counter[str] = Counter()
    facts = []
    for row in rows:
        if row.kind == "facts":
            facts.append(tuple(json.loads(row.content)))
        elif row.kind == "troubles":
            troubles.update(json.loads(row.content))
        else:
            found.append(Rows(row.kind, tuple(json.loads(row.extras)), unpacked(bytes(row.content))))
    context = TaskContext.get()
    partition = 0 if context is None else context.partitionId()
    return Written(target.archive.put(partition, found, troubles), facts)


def commit(target: Target, written: Sequence[Written | None], batch: int) -> None:
    """The driver: facts first, which hold with or without these rows, then the batch."""
    done = [one for one in written if one is not None]
    facts = {StreamKey(machine, point): known for one in done for machine, point, known in one.facts}
    if facts:
        MachinesFile(target.data_dir / MACHINES_NAME).update_all(facts)
    target.archive.commit(batch, [one.share for one in done])


def sink(target: Target, whole_batch: int | None = None) -> type[DataSource]:
    """The data source that `writeStream` and `write` use. `whole_batch` is the number of what `write` writes."""

    class StreamWriter(DataSourceStreamWriter):
        def write(self, iterator: Iterator[Row]) -> WriterCommitMessage:
            return write(target, iterator)

        def commit(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
            commit(target, messages, batchId)

        def abort(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
            target.archive.drop([one.share for one in messages if isinstance(one, Written)])

    class WholeWriter(DataSourceWriter):
        def write(self, iterator: Iterator[Row]) -> WriterCommitMessage:
            return write(target, iterator)

        def commit(self, messages: list[WriterCommitMessage | None]) -> None:
            assert whole_batch is not None
            commit(target, messages, whole_batch)

        def abort(self, messages: list[WriterCommitMessage | None]) -> None:
            target.archive.drop([one.share for one in messages if isinstance(one, Written)])

    class ArchiveSink(DataSource):
        @classmethod
        def name(cls) -> str:
            return "thrumcast"

        def schema(self) -> str:
            return _OUTPUT

        def streamWriter(self, schema: StructType, overwrite: bool) -> DataSourceStreamWriter:  # noqa: N802
            return StreamWriter()

        def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:
            return WholeWriter()

    return ArchiveSink


# -- the query -------------------------------------------------------------------------------------------------------


def session(master: str, partitions: int, settings: Mapping[str, str] | None = None) -> SparkSession:
    """A session with the settings that this query needs; `settings` win over them."""
    local = master.startswith("local")
    if local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a task is one thread, and Spark runs as many as there are cores
    chosen = {
        "spark.sql.streaming.stateStore.providerClass": "org.apache.spark.sql.execution.streaming.state."
        "RocksDBStateStoreProvider",
        "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
        "spark.sql.streaming.minBatchesToRetain": "20",
        "spark.sql.streaming.noDataMicroBatches.enabled": "false",  # there are no timers
        "spark.sql.shuffle.partitions": str(partitions),
        "spark.sql.adaptive.enabled": "false",  # a partition keeps its number, from which names follow
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.ui.enabled": "false",
        **({"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"} if local else {}),
        **(settings or {}),
    }
    builder = SparkSession.builder.master(master).appName("thrumcast")
    for name, value in chosen.items():
        builder = builder.config(name, value)
    made: SparkSession = builder.getOrCreate()
    made.sparkContext.setLogLevel("WARN")
    return made


def stepped(files: DataFrame, recipe: Recipe, *, ends: bool) -> DataFrame:
    """Paths of parts -> packed rows."""
    machine, point = (fn.regexp_extract("path", _PLACE, group) for group in (1, 2))
    named = files.select(
        fn.when(machine != "", fn.concat_ws("/", machine, point)).otherwise("").alias("stream"), "path"
    )
    processor = StreamStep(recipe, ends=ends)
    return named.groupBy("stream").transformWithState(processor, _OUTPUT, "append", "None")


def _files(reader: Any, source: str) -> DataFrame:
    found = reader.format("binaryFile").option("pathGlobFilter", "*.parquet").option("recursiveFileLookup", "true")
    return found.schema(_FILE).load(source).select("path")


def stream(
    spark: SparkSession,
    recipe: Recipe,
    target: Target,
    source: str,
    checkpoint: str,
    *,
    every_s: float | None,
    files_per_batch: int,
) -> StreamingQuery:
    """Start the live query over a folder of readings that grows. `every_s` None: what is there now, then it ends."""
    spark.dataSource.register(sink(target))
    files = _files(spark.readStream.option("maxFilesPerTrigger", files_per_batch), source)
    writer = stepped(files, recipe, ends=False).writeStream.format("thrumcast").outputMode("append")
    writer = writer.option("checkpointLocation", checkpoint).queryName("thrumcast")
    once = {"availableNow": True} if every_s is None else {"processingTime": f"{every_s:g} seconds"}
    return writer.trigger(**once).start()


def whole(spark: SparkSession, recipe: Recipe, target: Target, source: str, batch: int) -> None:
    """Compute a folder of readings once, as one batch."""
    spark.dataSource.register(sink(target, batch))
    stepped(_files(spark.read, source), recipe, ends=True).write.format("thrumcast").mode("append").save()
