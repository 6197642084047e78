"""Which models serve, and which settings hold, while the service runs.

* `load_models` loads the models that the registry's aliases name, and `RegistryWatch` loads them again when an alias
  moves or SIGHUP arrives. `pipeline.drivers.switch` makes the loop use them.
* `LiveConfig` is the configuration of a running service. On SIGHUP it takes over alarm thresholds, zone limits, the
  aliases of the models and the level of the log. Everything else is fixed at the start: a changed key is named in the
  log and takes effect at the next start.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from pipeline.config.keys import dotted, leaves
from pipeline.config.specs import feature_spec, stream_specs
from pipeline.core.features.table import NAMES
from pipeline.core.forecast import Foretell, Future
from pipeline.core.records import FeatureRow, Float32, StreamKey
from pipeline.drivers.intake import TimedPredictor
from pipeline.drivers.switch import ModelSet, ReadLast
from pipeline.errors import ConfigError, ThrumcastError

if TYPE_CHECKING:
    from models.bundle import Bundle
    from pipeline.config.tables import Config, PointTable
    from pipeline.core.state import StreamSpec

log = logging.getLogger("thrumcast.serving")


# -- models ----------------------------------------------------------------------------------------------------------


LEAST_TRUST = 0.01  # in the decoder, below which a forecast says the same of every machine


@dataclass(slots=True)
class GuardedForecast:
    """Forecasts that cost no prediction: a model that fails at them is asked for no more, and that is logged."""

    inner: Foretell
    failed: bool = False

    def __call__(self, h: Float32) -> list[list[Future]]:
        """See `Foretell`; no futures once it has failed."""
        if not self.failed:
            try:
                return self.inner(h)
            except MemoryError:
                raise
            except Exception:
                log.exception("forecast_failed")
                self.failed = True
        return [[] for _ in h]


def load_bundle(config: Config, version: str | None = None) -> Bundle | None:
    """A version or alias, else that of `model.alias`; checked against the feature schema. None if there is none.

    Raises:
        ModelError: it is damaged, missing or not signed.
        ConfigError: the key for signatures cannot be read.
        SchemaError: it was trained on another feature schema.
    """
    from models.registry import Registry

    registry = Registry(config.data.path, config.model.signature_key())
    if version is None and config.model.alias not in registry.aliases():
        return None
    bundle = registry.load(version or config.model.alias)
    bundle.check_fits(feature_spec(config).schema)
    return bundle


def model_set(config: Config, bundle: Bundle) -> ModelSet:
    """A version with everything it can say: modes, what is unknown to it, and forecasts if they are configured.

    Raises:
        ModelError: it cannot be used; a version that fails at its first window is refused here.
    """
    from models.bundle import refused_by_name
    from models.predictor import NumpyPredictor
    from models.unknown import detector

    modes = config.model.forecast_modes
    foretell = None
    with refused_by_name(bundle.spec.version):
        if modes and bundle.spec.decoder:
            from models.forecast import Forecaster

            forecaster = Forecaster(bundle)
            foretell = GuardedForecast(lambda h: forecaster.beam(h, modes))
            if forecaster.trust < LEAST_TRUST:
                log.warning("forecast_without_skill model=%s trust=%.3f", bundle.spec.version, forecaster.trust)
        predictor, is_unknown = NumpyPredictor(bundle), detector(bundle)
        windows = np.zeros((2, len(bundle.spec.inputs)), np.float32)
        p, _ = predictor.step(windows, predictor.initial(len(windows)))
        if is_unknown is not None:
            is_unknown(windows, p)
    return ModelSet(predictor, is_unknown, foretell=foretell)


def load_models(config: Config) -> ModelSet:
    """The model of `model.alias` and the shadow of `model.shadow`; without a model, features only.

    A shadow that cannot be used is logged and left out.

    Raises:
        ModelError: the model of `model.alias` is damaged.
        SchemaError: it was trained on another feature schema.
    """
    from models.registry import Registry

    bundle = load_bundle(config)
    if bundle is None:
        return ModelSet(None)
    version, wanted = bundle.spec.version, config.model
    if wanted.forecast_modes and not bundle.spec.decoder:
        log.warning("forecast_missing model=%s: train it with --set forecast=%d", version, wanted.forecast_modes)
    found = model_set(config, bundle)
    shadow = None
    if Registry(config.data.path).aliases().get(wanted.shadow, version) != version:
        try:
            other = load_bundle(config, wanted.shadow)
            shadow = None if other is None else model_set(config, other).predictor
        except ThrumcastError as error:
            log.error("shadow_refused alias=%s err=%s", wanted.shadow, error.message)
    return replace(found, predictor=found.predictor and TimedPredictor(found.predictor), shadow=shadow)


def reader(config: Config) -> ReadLast:
    """Reads the rows from which another model builds its memory: the last `model.replay_windows` of each stream."""
    from pipeline.edges.store.read import last_rows

    windows = config.model.replay_windows
    span_s = 2 * windows * config.window.hop_s + config.model.max_gap_s

    def read(until_ns: Mapping[StreamKey, int]) -> dict[StreamKey, list[FeatureRow]]:
        return last_rows(config.data.path, until_ns, span_s, windows, NAMES) if windows else {}

    return read


# -- the configuration of a running service --------------------------------------------------------------------------

LIMITS = ("iso_group", "support", "limits_mm_s", "limits_source")
Facts = Mapping[StreamKey, Mapping[str, Any]]  # of the machines file
T = TypeVar("T", bound="PointTable")


@dataclass(slots=True)
class LiveConfig:
    """The configuration of a running service, and the specs that follow from it."""

    config: Config
    known: Facts
    read: Callable[[], Config]  # reads all sources again, as at the start
    set_level: Callable[[str], None] = lambda _: None
    _specs: Callable[[StreamKey], StreamSpec] = field(init=False)

    def __post_init__(self) -> None:
        self._specs = stream_specs(self.config, self.known)

    def spec_of(self, key: StreamKey) -> StreamSpec:
        """The spec of a stream under the newest configuration."""
        return self._specs(key)

    def reload(self) -> None:
        """Take over what may change, between two turns; a configuration that is not valid changes nothing."""
        try:
            wanted = self.read()
        except ConfigError as error:
            log.error("reload_refused err=%s", error.message)
            return
        before, self.config = self.config, taken_over(self.config, wanted)
        self._specs = stream_specs(self.config, self.known)
        self.set_level(self.config.log.level)
        log.info("reloaded keys=%s", ",".join(different(before, self.config)) or "none")
        if waiting := different(self.config, wanted):
            log.warning("restart_needed keys=%s", ",".join(waiting))


def taken_over(running: Config, wanted: Config) -> Config:
    """The running configuration with those values of the wanted one that may change while the service runs."""
    replace = msgspec.structs.replace
    machines = {
        name: replace(
            _with_limits(table, wanted.machines.get(name, table)),
            points={
                point: _with_limits(own, wanted.machines.get(name, table).points.get(point, own))
                for point, own in table.points.items()
            },
        )
        for name, table in running.machines.items()
    }
    model = replace(running.model, alias=wanted.model.alias, shadow=wanted.model.shadow)
    return replace(running, alarm=wanted.alarm, log=wanted.log, model=model, machines=machines)


def _with_limits(table: T, wanted: PointTable) -> T:
    return msgspec.structs.replace(table, **{name: getattr(wanted, name) for name in LIMITS})


def different(one: Config, other: Config) -> list[str]:
    """The dotted keys whose values differ."""
    left, right = dict(leaves(one)), dict(leaves(other))
    # A machine that only one of them names has every key there; empty values of it are no difference.
    changed = {path for path in left.keys() | right.keys() if (left.get(path) or None) != (right.get(path) or None)}
    return sorted(dotted(path) for path in changed)


@dataclass(slots=True)
class RegistryWatch:
    """Watches aliases.json: `promote` and `rollback` take effect in the running service before its next step."""

    live: LiveConfig
    _wanted: tuple[str | None, str | None] = (None, None)  # versions of model and shadow
    _seen: tuple[int, int, int] | None = None  # of the file: time, inode, size
    _look_again: bool = False
    refusal: str | None = None  # why the newest change was refused and the models before it go on serving
    reloads: Counter[str] = field(default_factory=lambda: Counter(loaded=0, refused=0))

    @classmethod
    def after(cls, live: LiveConfig) -> RegistryWatch:
        """A watch for which the present aliases are nothing new."""
        watch = cls(live)
        watch._seen, watch._wanted = watch._signature(), watch._versions()
        return watch

    def look_again(self) -> None:
        """On SIGHUP: read the configuration and load the models again, whether or not anything has changed."""
        self._look_again = True

    def due(self) -> ModelSet | None:
        """The models that are to serve, if they have changed; a version that cannot be used is logged and left out."""
        signature = self._signature()
        if signature == self._seen and not self._look_again:
            return None
        self._seen, forced, self._look_again = signature, self._look_again, False
        if forced:
            self.live.reload()
        try:
            wanted = self._versions()
            if wanted[0] is None or (wanted == self._wanted and not forced):
                self.refusal = None
                return None
            loaded = load_models(self.config)
        except ThrumcastError as error:
            self._refuse(error.message)
            return None
        except Exception as error:  # no file of the registry may end the service
            self._refuse(f"{type(error).__name__} {error}")
            return None
        self._wanted, self.refusal = wanted, None
        self.reloads["loaded"] += 1
        return loaded

    def _refuse(self, why: str) -> None:
        log.error("model_refused alias=%s err=%s", self.config.model.alias, why)
        self.refusal = why
        self.reloads["refused"] += 1

    @property
    def config(self) -> Config:
        """The present configuration."""
        return self.live.config

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            stat = (self.config.data.path / "registry" / "aliases.json").stat()
        except OSError:  # there is no registry yet
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def _versions(self) -> tuple[str | None, str | None]:
        from models.registry import Registry

        aliases = Registry(self.config.data.path).aliases()
        return aliases.get(self.config.model.alias), aliases.get(self.config.model.shadow)
