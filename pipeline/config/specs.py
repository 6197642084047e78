"""Specs: what core is told, made from the configuration and from what is known of a machine.

Core's specs have no defaults. The configuration has them all (`pipeline.config.tables`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pipeline.config.tables import Config
from pipeline.core.alarm import AlarmSpec
from pipeline.core.faults import impossible
from pipeline.core.features import FeatureSpec
from pipeline.core.order import OrderSpec
from pipeline.core.records import BearingOrders, StreamKey
from pipeline.core.state import StreamSpec
from pipeline.core.window import WindowSpec


def feature_spec(config: Config) -> FeatureSpec:
    """What the features mean under this configuration; the same for all streams of an archive."""
    return FeatureSpec(
        bandwidth_hz=config.features.bandwidth_hz,
        envelope_low_hz=config.features.envelope_low_hz,
        envelope_high_hz=config.features.envelope_high_hz,
        slip_tolerance=config.features.slip_tolerance,
        mains_hz=config.features.mains_hz,
        envelope_band=config.features.envelope_band,
        speed_confidence=config.features.speed_confidence,
        vector="complete",
    )


def alarm_spec(config: Config) -> AlarmSpec:
    """When a run of predictions becomes an alarm, in service and in evaluation alike."""
    alarm = config.alarm
    return AlarmSpec(
        alarm.enter_p, alarm.leave_p, alarm.enter_s, alarm.leave_s, alarm.cooldown_s, alarm.merge_s, alarm.rename_s
    )


def default_spec() -> StreamSpec:
    """The spec of a stream about which nothing is configured or known."""
    return stream_specs(Config(), {})(StreamKey("machine", "point"))


def stream_specs(config: Config, known: Mapping[StreamKey, Mapping[str, Any]]) -> Callable[[StreamKey], StreamSpec]:
    """Spec of a stream by its key: config.toml first, then what machines.jsonl knows, then the general values."""
    order = OrderSpec(config.order.max_wait_s, config.order.rate_tolerance)
    features, alarm = (
        feature_spec(config),
        alarm_spec(config),
    )  # shared, so they are compared at a glance

    @cache
    def window_spec(length_s: float, hop_s: float) -> WindowSpec:
        return WindowSpec(length_s, hop_s, config.order.max_time_step_s)

    @cache
    def spec_of(key: StreamKey) -> StreamSpec:
        machine = config.machine(key.machine, key.point)
        facts = known.get(key, {})
        teeth = machine.gear_teeth or _teeth(facts.get("gear_teeth"))
        return StreamSpec(
            order=order,
            window=window_spec(machine.window.length_s, machine.window.hop_s),
            features=features,
            alarm=alarm,
            speed_rpm=machine.speed_rpm or facts.get("speed_rpm"),
            speed_source=machine.speed_source,
            orders=machine.orders() or _orders(facts.get("orders")),
            unit=machine.unit,
            gear_teeth=teeth,
            impossible=impossible(machine.kind or str(facts.get("kind", "")), has_gears=bool(teeth)),
            speed_min_rpm=machine.speed_min_rpm,
            speed_max_rpm=machine.speed_max_rpm,
            commissioning_windows=machine.commissioning_windows,
            limits=machine.limits,
            max_gap_s=config.model.max_gap_s,
            warm_up_windows=config.model.warm_up_windows,
            false_alarms_per_year=config.alarm.false_alarms_per_machine_year,
        )

    return spec_of


def _teeth(said: object) -> tuple[int, ...]:
    """One wheel, as a sender may say with its first block; several need config.toml."""
    return (said,) if isinstance(said, int) and said > 1 else ()


def _orders(facts: Mapping[str, float] | None) -> BearingOrders | None:
    return None if facts is None else BearingOrders(**facts)
