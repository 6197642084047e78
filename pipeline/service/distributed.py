"""A run on Spark, seen from outside Spark: what must be true before it starts, and what it has done so far.

Archive and checkpoint belong together: the one has the rows of the batches that the other counts. Both carry the id of
their run and the recipe of its engine, and a start compares them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.store.batches import BatchArchive
from pipeline.errors import ConfigError
from pipeline.service.companions import facts_of
from pipeline.service.compose import MakeEngine, feature_schema
from pipeline.service.models import load_bundle
from pipeline.service.whole_file import write_whole

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.drivers.spark import Recipe

NAME = "thrumcast.json"  # in the checkpoint
LEAST_JAVA, MOST_JAVA = 17, 21  # what pyspark 4.3 runs on


def check_java() -> None:
    """Raises ConfigError unless there is a Java that Spark runs on."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    hint = f"install Java {LEAST_JAVA} (Debian: openjdk-17-jre-headless), or let JAVA_HOME point to one"
    try:
        said = subprocess.run([java or "java", "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        msg = f"expected Java {LEAST_JAVA} to {MOST_JAVA} for Spark, found none"
        raise ConfigError(msg, hint=hint) from error
    match = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    version = int(match[1]) if match else 0
    if not LEAST_JAVA <= version <= MOST_JAVA:
        msg = f"expected Java {LEAST_JAVA} to {MOST_JAVA} for Spark, found: Java {version or 'of no version'}"
        raise ConfigError(msg, hint=hint)


def recipe_of(config: Config, version: str | None) -> Recipe:
    """How tasks make the engine: with a model's version, or that of `model.alias`, or none yet.

    Raises:
        ModelError: the version is damaged or missing.
        SchemaError: it was trained on another feature schema.
    """
    from pipeline.drivers.spark import Recipe

    bundle = load_bundle(config, version)
    serves = None if bundle is None else bundle.spec.version
    schema = feature_schema(config)
    name = f"{schema.name}, {config.window}, {f'model {serves}' if serves else 'no model'}"
    known = MachinesFile(config.data.path / MACHINES_NAME).load()
    return Recipe(name, MakeEngine(config, known, serves), schema, config.modes.resolve, facts_of)


@dataclass(frozen=True, slots=True)
class Run:
    """A live run: its archive and its checkpoint."""

    id: str
    partitions: int
    begun: bool  # whether the checkpoint has batches already


def paired(archive: BatchArchive, checkpoint: Path, recipe: str, partitions: int | None) -> Run:
    """Makes sure that archive and checkpoint are of one run and this recipe, and begins a run where there is none.

    Raises:
        ConfigError: they are of different runs, schemas, models or numbers of partitions.
    """
    path = checkpoint / NAME
    found = _read(path)
    if found is None and checkpoint.is_dir() and any(checkpoint.iterdir()):
        msg = f"expected an empty folder or a checkpoint of thrumcast, found {checkpoint} with other files"
        raise ConfigError(msg, hint="use another --checkpoint")
    if found is None and archive.batches():
        msg = f"expected the checkpoint of the rows in {archive.root}, found {checkpoint} without one"
        raise ConfigError(msg, hint="give the --checkpoint of that run, or another --data")
    if found is not None and found.get("recipe") != recipe:
        msg = f"expected a checkpoint of {recipe}, found in {path}: {found.get('recipe')}"
        hint = "a model or window has its own run: use a new --checkpoint and --data and let it read the readings again"
        raise ConfigError(msg, hint=hint)
    if found is None:
        found = {"run": uuid.uuid4().hex, "recipe": recipe, "partitions": partitions or 4}
        checkpoint.mkdir(parents=True, exist_ok=True)
    elif partitions is not None and partitions != found["partitions"]:
        msg = f"expected the {found['partitions']} partitions of the checkpoint, found: {partitions}"
        raise ConfigError(msg, hint=f"`thrumcast spark repartition --partitions {partitions}` changes a stopped run")
    if not path.exists():  # before the archive is claimed: nobody could use the archive of a run that has no note
        write_whole(path, json.dumps(found, indent=1).encode())
    archive.claim({"run": found["run"], "recipe": recipe})
    return Run(found["run"], int(found["partitions"]), (checkpoint / "commits").is_dir())


def repartitioned(checkpoint: Path, partitions: int) -> None:
    """Notes the new number of partitions of a checkpoint."""
    found = dict(_read(checkpoint / NAME) or {})
    write_whole(checkpoint / NAME, json.dumps(found | {"partitions": partitions}, indent=1).encode())


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        wrong = str(error)
    else:
        if isinstance(found, dict) and found.keys() >= {"run", "recipe", "partitions"}:
            return found
        wrong = "one without run, recipe and partitions"
    msg = f"expected a JSON object in {path}, found: {wrong}"
    raise ConfigError(msg, hint="restore the checkpoint from a backup, or use a new one")
