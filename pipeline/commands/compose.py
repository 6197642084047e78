"""Composition: how the rooms are put together for the commands that run the pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.engine import Engine
from pipeline.core.features.table import FEATURES
from pipeline.core.iso import floor
from pipeline.core.quality import Quality
from pipeline.edges.archive import Archive
from pipeline.edges.archive_schema import FeatureSchema
from pipeline.edges.journal import Journal
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.specs import feature_spec, stream_specs

if TYPE_CHECKING:
    from models.predictor import NumpyPredictor
    from pipeline.config import Config
    from pipeline.drivers.backfill import Worker


def feature_schema(config: Config) -> FeatureSchema:
    """The feature table as the archive wants it."""
    return FeatureSchema(
        name=feature_spec(config).schema,
        features=tuple(f.name for f in FEATURES),
        units=tuple(f.unit for f in FEATURES),
        sources=tuple(f"{f.formula} ({f.source})" for f in FEATURES),
        quality_bits=tuple(str(bit.name).lower() for bit in Quality if bit),
    )


@contextlib.contextmanager
def opened(config: Config) -> Iterator[tuple[Journal, Archive]]:
    """The data directory, for writing."""
    with Journal(config.data.path) as journal:
        yield journal, Archive(config.data.path, journal, feature_schema(config))


def predictor(config: Config, version: str | None = None) -> NumpyPredictor | None:
    """A version or alias, else the model that serves, if any; checked against the feature schema."""
    from models.predictor import NumpyPredictor
    from models.registry import Registry

    registry = Registry(config.data.path)
    if version is None and config.model.alias not in registry.aliases():
        return None
    bundle = registry.load(version or config.model.alias)
    bundle.check_fits(feature_spec(config).schema)
    return NumpyPredictor(bundle)


@dataclass(frozen=True, slots=True)
class MakeWorker:
    """Makes the engine of a backfill worker; a value that a worker process can be sent."""

    config: Config
    version: str | None  # None = features only
    finished: Mapping[str, str]

    def __call__(self) -> Worker:
        """In the worker process."""
        from pipeline.drivers.backfill import Worker

        model = None if self.version is None else predictor(self.config, self.version)
        known = MachinesFile(self.config.data.path / MACHINES_NAME).load()
        spec_of = stream_specs(self.config, known)
        engine = Engine(spec_of, model, zone_of=lambda row: floor(row, spec_of(row.key).limits))  # as the service
        return Worker(engine, self.config.modes.resolve, self.finished, feature_schema(self.config))


def folder(path: Path) -> str:
    """A path for messages: relative where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
