"""`thrumcast spark`: the pipeline on a Spark cluster, over folders of readings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from pipeline.commands.common import PATH, Console, data_option, with_console

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pipeline.config.tables import Config
    from pipeline.edges.store.batches import BatchArchive

F = TypeVar("F", bound=Callable[..., object])
LOOK_S = 0.5  # how often a running query is looked at


@click.group(name="spark")
def command() -> None:
    """Run on a Spark cluster: the same steps and rows as on one machine (docs/spark.md)."""


def _common(function: F) -> F:
    options = (
        click.option("--source", required=True, help="Folder of readings, as `land` and `record` write them."),
        data_option,
        click.option("--master", default="local[*]", help="Spark master."),
        click.option("--version", help="Version or alias of the model [default: that of model.alias]."),
        click.option(
            "--conf", "settings", multiple=True, metavar="KEY=VALUE", help="A Spark setting; may be repeated."
        ),
    )
    for option in reversed(options):
        function = option(function)  # type: ignore[assignment]
    return function


_checkpoint = click.option("--checkpoint", required=True, type=PATH, help="Folder of the state, on shared storage.")


@command.command()
@_common
@_checkpoint
@click.option("--partitions", type=click.IntRange(1, 10_000), help="Of the state [default: 4, or as before].")
@click.option("--every-s", default=5.0, type=click.FloatRange(min=0), help="Seconds between batches.")
@click.option("--available-now", is_flag=True, help="Take what is there now, then end.")
@click.option("--files-per-batch", default=1000, type=click.IntRange(min=1), help="Parts of readings in one batch.")
@with_console
def run(
    console: Console,
    source: str,
    data_dir: Path | None,
    master: str,
    version: str | None,
    settings: tuple[str, ...],
    checkpoint: Path,
    partitions: int | None,
    every_s: float,
    available_now: bool,
    files_per_batch: int,
) -> None:
    """Compute windows, features, predictions and alarms of a folder of readings that grows, until Ctrl-C or SIGTERM."""
    import signal
    import time

    config, archive = _prepared(console, data_dir, source)
    from pipeline.drivers import spark as driver
    from pipeline.service.distributed import paired, recipe_of

    recipe = recipe_of(config, version)
    pair = paired(archive, checkpoint, recipe.name, partitions)
    began_s, before = time.monotonic(), set(archive.batches())
    stopping = False

    def stop_soon(*_: object) -> None:
        nonlocal stopping
        stopping = True

    with _session(console, master, pair.partitions, settings) as spark:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop_soon)
        archive.sweep()
        target = driver.Target(config.data.path.resolve(), recipe.schema)
        query = driver.stream(
            spark, recipe, target, source, str(checkpoint),
            every_s=None if available_now else every_s, files_per_batch=files_per_batch,
        )  # fmt: skip
        console.say(f"{source} -> {config.data.path}, {recipe.name}, {pair.partitions} partitions on {master}")
        seen = set(before)
        while query.isActive and not stopping:
            query.awaitTermination(LOOK_S)
            _tell(console, archive, seen)
        query.stop()
        if query.exception() is not None:
            raise _failed(query.exception())
    _tell(console, archive, seen)
    _result(console, archive, seen - before, time.monotonic() - began_s)


@command.command()
@_common
@click.option("--partitions", default=4, type=click.IntRange(1, 10_000), help="Tasks that share the streams.")
@with_console
def backfill(
    console: Console,
    source: str,
    data_dir: Path | None,
    master: str,
    version: str | None,
    settings: tuple[str, ...],
    partitions: int,
) -> None:
    """Compute a folder of readings once, as one batch; --data must be new."""
    import time

    config, archive = _prepared(console, data_dir, source)
    from pipeline.drivers import spark as driver
    from pipeline.errors import ThrumcastError
    from pipeline.service.distributed import recipe_of

    recipe = recipe_of(config, version)
    archive.claim({"run": f"backfill of {source}", "recipe": recipe.name})
    began_s, new = time.monotonic(), set[int]()
    if archive.batches():
        console.warn(
            f"{source} was computed before into {config.data.path}: what has arrived since is not in it "
            "(another --data computes all of it, `spark run` follows a folder that grows)"
        )
    else:
        with _session(console, master, partitions, settings) as spark:
            archive.sweep()
            target = driver.Target(config.data.path.resolve(), recipe.schema)
            console.say(f"{source} -> {config.data.path}, {recipe.name}, {partitions} tasks on {master}")
            try:
                driver.whole(spark, recipe, target, source, 0)
            except Exception as error:
                if isinstance(error, ThrumcastError):
                    raise
                raise _failed(error) from error
            _tell(console, archive, new)
    _result(console, archive, new, time.monotonic() - began_s)


@command.command()
@_checkpoint
@click.option("--master", default="local[*]", help="Spark master.")
@click.option("--partitions", required=True, type=click.IntRange(1, 10_000), help="The new number.")
@with_console
def repartition(console: Console, checkpoint: Path, master: str, partitions: int) -> None:
    """Change the number of state partitions of a stopped run."""
    _needs()
    from pipeline.errors import ConfigError
    from pipeline.service.distributed import NAME, repartitioned

    if not (checkpoint / NAME).is_file() or not (checkpoint / "commits").is_dir():
        msg = f"expected the checkpoint of a run with at least one batch, found: {checkpoint}"
        raise ConfigError(msg, hint="`thrumcast spark run` makes one")
    with _session(console, master, partitions, ()) as spark:
        spark._streamingCheckpointManager.repartition(str(checkpoint), partitions)
    repartitioned(checkpoint, partitions)
    console.result({"checkpoint": str(checkpoint), "partitions": partitions}, f"{checkpoint}: {partitions} partitions")


def _needs() -> None:
    """Raises ConfigError without pyspark or Java."""
    import importlib.util

    from pipeline.errors import ConfigError
    from pipeline.service.distributed import check_java

    if importlib.util.find_spec("pyspark") is None:
        msg = "expected the package pyspark 4.3, found none"
        raise ConfigError(msg, hint="pip install 'thrumcast[spark]'")
    check_java()


def _prepared(console: Console, data_dir: Path | None, source: str) -> tuple[Config, BatchArchive]:
    """Everything that can be wrong is found before anything starts."""
    _needs()
    from pipeline.edges.store.batches import BatchArchive
    from pipeline.errors import UsageError
    from pipeline.service.compose import feature_schema

    config = console.config(**{"data.dir": data_dir})
    if "://" not in source and not Path(source).is_dir():
        msg = f"--source: expected a folder of readings, found none: {source}"
        raise UsageError(msg, hint="`thrumcast land` and `thrumcast record` write readings")
    hidden = [] if "://" in source else [path for path in Path(source).rglob("[_.]*.parquet") if "~" in path.name]
    if hidden:
        console.warn(
            f"{len(hidden)} parts have names that Spark does not show, such as {hidden[0].name}: they are left out. "
            "An earlier version wrote them; put a ~ before their names"
        )
    return config, BatchArchive(config.data.path, feature_schema(config))


class _session:  # noqa: N801  a context manager, used as a function
    """A Spark session that is stopped at the end."""

    def __init__(self, console: Console, master: str, partitions: int, settings: tuple[str, ...]) -> None:
        self.arguments = master, partitions, dict(_setting(one) for one in settings)
        self.console = console

    def __enter__(self) -> SparkSession:
        from pipeline.drivers.spark import session

        self.console.status("starting Spark ...")
        self.spark = session(*self.arguments)
        return self.spark

    def __exit__(self, *_: object) -> None:
        self.spark.stop()


def _setting(text: str) -> tuple[str, str]:
    from pipeline.errors import UsageError

    name, equals, value = text.partition("=")
    if not equals or not name:
        msg = f"--conf: expected KEY=VALUE, found: {text}"
        raise UsageError(msg)
    return name, value


def _tell(console: Console, archive: BatchArchive, seen: set[int]) -> None:
    """Says what new batches have brought; what was not used is a warning."""
    for batch in archive.batches(seen):
        seen.add(batch)
        counts = (archive.note(batch) or {}).get("counts", {})
        console.say(f"batch {batch}: {counts.get('features', 0)} windows, {counts.get('alarms', 0)} alarm changes")
        for name in ("unreadable_part", "late", "rejected", "contradiction"):
            if counts.get(name):
                console.warn(f"batch {batch}: {counts[name]} {name}")


def _result(console: Console, archive: BatchArchive, batches: set[int], seconds: float) -> None:
    total: dict[str, int] = {}
    for batch in batches:
        for name, count in (archive.note(batch) or {}).get("counts", {}).items():
            total[name] = total.get(name, 0) + count
    document = {"batches": len(batches), "seconds": round(seconds, 3), **total}
    said = ", ".join(f"{count} {name}" for name, count in sorted(total.items())) or "nothing new"
    console.result(document, f"{len(batches)} batches in {seconds:.1f} s: {said}")


def _failed(error: object) -> Exception:
    from pipeline.errors import ThrumcastError

    lines = [line for line in str(error).splitlines() if line.strip()]
    msg = f"expected a query that goes on, found: {next((x for x in reversed(lines) if 'rror' in x), lines[0])[:400]}"
    return ThrumcastError(msg, hint="the batch is repeated at the next start; see the log of Spark above")
