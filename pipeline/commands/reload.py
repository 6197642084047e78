"""SIGHUP: alarm thresholds, zone limits, which models serve and how much is logged change while the service runs.

Everything else is fixed when the service starts: a changed key is named in the log, and waits for a restart.
"""

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
