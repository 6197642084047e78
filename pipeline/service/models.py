"""Which models the registry wants to serve: loaded at the start, and again whenever its aliases move."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.commands.reload import Running
from pipeline.core.features.table import NAMES
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.drivers.serving import ReadLast, Serving, Timed
from pipeline.edges.archive_rows import last_rows
from pipeline.errors import ThrumcastError
from pipeline.service.compose import model, serving

if TYPE_CHECKING:
    from pipeline.config.tables import Config

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
