"""Composition: how the rooms are put together for the commands that run the pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.specs import feature_spec, stream_specs
from pipeline.core.engine import Engine
from pipeline.core.features.table import FEATURES
from pipeline.core.quality import Quality
from pipeline.core.severity import floor
from pipeline.drivers.intake import Channels
from pipeline.drivers.serving import Extra, Serving
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.schema import FeatureSchema

if TYPE_CHECKING:
    from models.bundle import Bundle
    from pipeline.config.tables import Config
    from pipeline.core.records import StreamKey
    from pipeline.core.state import StreamSpec
    from pipeline.drivers.backfill import Worker
    from pipeline.edges.mqtt import MqttSettings


def feature_schema(config: Config) -> FeatureSchema:
    """The feature table as the archive wants it."""
    return FeatureSchema(
        name=feature_spec(config).schema,
        features=tuple(f.name for f in FEATURES),
        units=tuple(f.unit for f in FEATURES),
        sources=tuple(f"{f.formula} ({f.source})" for f in FEATURES),
        quality_bits=tuple(str(bit.name).lower() for bit in Quality if bit),
    )


def channels_of(config: Config, journal: Journal) -> Channels:
    """The channel names that the data directory has, and how many it may get."""
    return Channels(config.archive.max_channels, set(journal.view(()).extras["features"]))


@contextlib.contextmanager
def opened(config: Config) -> Iterator[tuple[Journal, Archive]]:
    """The data directory, for writing."""
    with Journal(config.data.path) as journal:
        yield journal, Archive(config.data.path, journal, feature_schema(config))


def model(config: Config, version: str | None = None) -> Bundle | None:
    """A version or alias, else the model that serves, if any; checked against the feature schema."""
    from models.registry import Registry

    registry = Registry(config.data.path)
    if version is None and config.model.alias not in registry.aliases():
        return None
    bundle = registry.load(version or config.model.alias)
    bundle.check_fits(feature_spec(config).schema)
    return bundle


def serving(config: Config, bundle: Bundle) -> Serving:
    """A version with all that it says: modes, what is unknown to it, and what comes next if that is wanted."""
    from models.predictor import NumpyPredictor
    from models.unknown import detector

    modes = config.model.forecast_modes
    foretell = None
    if modes and bundle.spec.decoder:
        from models.forecast import Forecaster

        forecaster = Forecaster(bundle)
        foretell = Extra(lambda h: forecaster.beam(h, modes))
    return Serving(NumpyPredictor(bundle), detector(bundle), foretell=foretell)


def engine(config: Config, models: Serving, spec_of: Callable[[StreamKey], StreamSpec]) -> Engine:
    """The engine of the service and of a backfill: the same answers to the same readings."""
    plain = Engine(
        spec_of,
        zone_of=lambda row: floor(row, spec_of(row.key).limits),
        foretell_every=config.model.forecast_every_windows,
    )
    return models.on(plain)


@dataclass(frozen=True, slots=True)
class MakeWorker:
    """Makes the engine of a backfill worker; a value that a worker process can be sent."""

    config: Config
    version: str | None  # None = features only
    finished: Mapping[str, str]

    def __call__(self) -> Worker:
        """In the worker process."""
        from pipeline.drivers.backfill import Worker

        bundle = None if self.version is None else model(self.config, self.version)
        models = Serving(None) if bundle is None else serving(self.config, bundle)
        known = MachinesFile(self.config.data.path / MACHINES_NAME).load()
        spec_of = stream_specs(self.config, known)
        return Worker(
            engine(self.config, models, spec_of), self.config.modes.resolve, self.finished, feature_schema(self.config)
        )


def folder(path: Path) -> str:
    """A path for messages: relative where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def mqtt_settings(config: Config, client_id: str | None = None) -> MqttSettings:
    """The connection that the configuration describes, under the service's client id or another one."""
    from pipeline.edges.mqtt import MqttSettings

    mqtt = config.mqtt
    return MqttSettings(
        client_id=client_id or mqtt.client_id,
        host=mqtt.host,
        port=mqtt.port,
        username=mqtt.username or None,
        password_file=mqtt.password_path(),
        tls=mqtt.tls,
        ca_file=_path(mqtt.tls_ca_file),
        cert_file=_path(mqtt.tls_cert_file),
        key_file=_path(mqtt.tls_key_file),
        keepalive_s=mqtt.keepalive_s,
        session_expiry_s=mqtt.session_expiry_s,
        receive_maximum=mqtt.receive_maximum,
        # A broker drops what is larger without a word; what is only too large for us is to be quarantined by name.
        maximum_packet_bytes=min(max(16 * 2**20, 4 * mqtt.max_payload_bytes), 268_435_455),
    )


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None
