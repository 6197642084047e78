"""What the configuration may know of a machine: bearing, speed, unit, limits and window, per machine and per point."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pipeline.core.bearings import find, orders_from_geometry
from pipeline.core.records import BearingOrders
from pipeline.core.severity import Limits, Support, limits_of_class

Positive = Annotated[float, Meta(gt=0)]
WindowSeconds = Annotated[float, Meta(gt=0, le=86_400)]
SpeedRpm = Annotated[float, Meta(gt=0, le=1e6)]
Unit = Literal["g", "m/s2", "mm/s", "V", "1"]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of config.toml."""


class WindowConfig(Table, frozen=True):
    """[window]: how streams are cut."""

    length_s: WindowSeconds = 1.0
    hop_s: WindowSeconds = 0.5


class BearingConfig(Table, frozen=True):
    """A rolling bearing: either its four defect orders or the geometry they follow from."""

    ftf: Positive | None = None
    bpfo: Positive | None = None
    bpfi: Positive | None = None
    bsf: Positive | None = None
    elements: Annotated[int, Meta(ge=3)] | None = None
    element_diameter_mm: Positive | None = None
    pitch_diameter_mm: Positive | None = None
    contact_angle_deg: Annotated[float, Meta(ge=0, lt=90)] | None = None

    def orders(self) -> BearingOrders | None:
        """Defect orders, multiples of the shaft speed; None if neither set of values is whole."""
        if self.ftf and self.bpfo and self.bpfi and self.bsf:
            return BearingOrders(ftf=self.ftf, bpfo=self.bpfo, bpfi=self.bpfi, bsf=self.bsf)
        if not (self.elements and self.element_diameter_mm and self.pitch_diameter_mm):
            return None
        ratio = self.element_diameter_mm / self.pitch_diameter_mm
        return orders_from_geometry(self.elements, ratio, self.contact_angle_deg or 0.0)


class WindowOverride(Table, frozen=True):
    """A machine's or point's own window; what is not given comes from [window]."""

    length_s: WindowSeconds | None = None
    hop_s: WindowSeconds | None = None


class PointTable(Table, frozen=True):
    """[machines.ID.points.POINT]: what differs at one point."""

    area: str = ""
    speed_rpm: SpeedRpm | None = None
    unit: Unit | None = None
    bearing: BearingConfig | str | None = None  # a name is looked up in the catalogue
    window: WindowOverride | None = None
    iso_group: Literal[1, 2] | None = None
    support: Support | None = None
    limits_mm_s: tuple[Positive, Positive, Positive] | None = None  # velocity RMS of the zone boundaries A/B, B/C, C/D
    limits_source: str = ""
    gear_teeth: tuple[Annotated[int, Meta(ge=2)], ...] = ()  # of the gears on this shaft
    speed_min_rpm: SpeedRpm | None = None  # where nobody states the speed, it is looked for between these two
    speed_max_rpm: SpeedRpm | None = None
    commissioning_windows: Annotated[int, Meta(ge=0)] = 0  # healthy ones at the start, from which the baseline is made

    def limits(self) -> Limits | None:
        """Zone limits: those that are given, else those of the class; None where neither is."""
        if self.limits_mm_s is not None:
            return Limits(*self.limits_mm_s, self.limits_source)
        if self.iso_group is not None and self.support is not None:
            return limits_of_class(self.iso_group, self.support)
        return None


class MachineTable(PointTable, frozen=True):
    """[machines.ID]: what is known of a machine, the same at all its points unless one of them says otherwise."""

    points: dict[str, PointTable] = msgspec.field(default_factory=dict)


class MachineConfig(Table, frozen=True):
    """What holds at one point of one machine: its point's table over the machine's over the general sections."""

    area: str
    speed_rpm: float | None
    unit: Unit | None
    bearing: BearingConfig | str | None
    limits: Limits | None
    gear_teeth: tuple[int, ...]
    speed_min_rpm: float | None
    speed_max_rpm: float | None
    commissioning_windows: int
    window: WindowConfig

    def orders(self) -> BearingOrders | None:
        """Defect orders of its bearing; None where it has none."""
        if isinstance(self.bearing, str):
            return find(self.bearing).geometry.orders()
        return None if self.bearing is None else self.bearing.orders()
