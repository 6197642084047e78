"""Which models the registry wants to serve: loaded at the start, and again whenever its aliases move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pipeline.config.keys import dotted, leaves
from pipeline.config.specs import stream_specs
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config.tables import Config, PointTable
    from pipeline.core.records import StreamKey
    from pipeline.core.state import StreamSpec
import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.core.features.table import NAMES
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.drivers.serving import ReadLast, Serving, Timed
from pipeline.edges.store.read import last_rows
from pipeline.errors import ThrumcastError
from pipeline.service.compose import model, serving

if TYPE_CHECKING:
    from pipeline.config.tables import Config

# SIGHUP: alarm thresholds, zone limits, which models serve and how much is logged change while the service runs.
#
# Everything else is fixed when the service starts: a changed key is named in the log, and waits for a restart.


LIMITS = ("iso_group", "support", "limits_mm_s", "limits_source")
Known = Mapping["StreamKey", Mapping[str, Any]]
T = TypeVar("T", bound="PointTable")


@dataclass(slots=True)
class Running:
    """The configuration of a running service, and the specs that follow from it."""

    config: Config
    known: Known
    read: Callable[[], Config]  # all sources again, as at the start
    set_level: Callable[[str], None] = lambda _: None
    _specs: Callable[[StreamKey], StreamSpec] = field(init=False)

    def __post_init__(self) -> None:
        self._specs = stream_specs(self.config, self.known)

    def spec_of(self, key: StreamKey) -> StreamSpec:
        """As the newest configuration has it."""
        return self._specs(key)

    def reload(self) -> None:
        """Between two turns: takes over what may change; a configuration that cannot be used changes nothing."""
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
    """The running configuration with those values of another one that may change while it runs."""
    replace = msgspec.structs.replace
    machines = {
        name: replace(
            _limited(table, wanted.machines.get(name, table)),
            points={
                point: _limited(own, wanted.machines.get(name, table).points.get(point, own))
                for point, own in table.points.items()
            },
        )
        for name, table in running.machines.items()
    }
    model = replace(running.model, alias=wanted.model.alias, shadow=wanted.model.shadow)
    return replace(running, alarm=wanted.alarm, log=wanted.log, model=model, machines=machines)


def _limited(table: T, wanted: PointTable) -> T:
    return msgspec.structs.replace(table, **{name: getattr(wanted, name) for name in LIMITS})


def different(one: Config, other: Config) -> list[str]:
    """Keys whose values differ, as one writes them."""
    left, right = dict(leaves(one)), dict(leaves(other))
    # A machine that is in one of them only has every key; those that say nothing are nothing new.
    changed = {path for path in left.keys() | right.keys() if (left.get(path) or None) != (right.get(path) or None)}
    return sorted(dotted(path) for path in changed)


log = logging.getLogger("thrumcast.serving")


def load_serving(config: Config) -> Serving:
    """The model of `model.alias`, what is unknown to it, and the shadow of `model.shadow`; without any, features only.

    A shadow that cannot be used is reported and left out.

    Raises:
        ModelError: the model that is to serve is damaged.
        SchemaError: it speaks another feature schema.
    """
    from models.registry import Registry

    bundle = model(config)
    if bundle is None:
        return Serving(None)
    version, wanted = bundle.spec.version, config.model
    if wanted.forecast_modes and not bundle.spec.decoder:
        log.warning("forecast_missing model=%s: train it with --set forecast=%d", version, wanted.forecast_modes)
    found = serving(config, bundle)
    shadow = None
    if Registry(config.data.path).aliases().get(wanted.shadow, version) != version:
        try:
            other = model(config, wanted.shadow)
            shadow = None if other is None else serving(config, other).predictor
        except ThrumcastError as error:
            log.error("shadow_refused alias=%s err=%s", wanted.shadow, error.message)
    return replace(found, predictor=found.predictor and Timed(found.predictor), shadow=shadow)


def reader(config: Config) -> ReadLast:
    """Reads what another model builds its memory from: `model.replay_windows` of a stream, fewer if they are rare."""
    windows = config.model.replay_windows
    span_s = 2 * windows * config.window.hop_s + config.model.max_gap_s

    def read(until_ns: Mapping[StreamKey, int]) -> dict[StreamKey, list[FeatureRow]]:
        return last_rows(config.data.path, until_ns, span_s, windows, NAMES) if windows else {}

    return read


@dataclass(slots=True)
class RegistryWatch:
    """Watches aliases.json: a `promote` or `rollback` beside the running service takes effect at its next commit."""

    running: Running
    _wanted: tuple[str | None, str | None] = (None, None)
    _seen: tuple[int, int, int] | None = None
    _look_again: bool = field(default=False)
    reloads: Counter[str] = field(default_factory=lambda: Counter(loaded=0, refused=0))

    @classmethod
    def after(cls, running: Running) -> RegistryWatch:
        """A watch that takes the registry as it is now for known."""
        watch = cls(running)
        watch._seen, watch._wanted = watch._signature(), watch._versions()
        return watch

    def look_again(self) -> None:
        """On SIGHUP: read the configuration, and load what the registry says, whether or not its file has changed."""
        self._look_again = True

    def due(self) -> Serving | None:
        """What is to serve, if that has changed; a version that cannot be used is reported, and the old one stays."""
        signature = self._signature()
        if signature == self._seen and not self._look_again:
            return None
        self._seen, forced, self._look_again = signature, self._look_again, False
        if forced:
            self.running.reload()
        try:
            wanted = self._versions()
            if wanted[0] is None or (wanted == self._wanted and not forced):
                return None
            loaded = load_serving(self.config)
        except ThrumcastError as error:
            log.error("model_refused alias=%s err=%s", self.config.model.alias, error.message)
            self.reloads["refused"] += 1
            return None
        self._wanted = wanted
        self.reloads["loaded"] += 1
        return loaded

    @property
    def config(self) -> Config:
        """As it is now."""
        return self.running.config

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            stat = (self.config.data.path / "registry" / "aliases.json").stat()
        except OSError:  # no registry yet
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def _versions(self) -> tuple[str | None, str | None]:
        from models.registry import Registry

        aliases = Registry(self.config.data.path).aliases()
        return aliases.get(self.config.model.alias), aliases.get(self.config.model.shadow)
