"""What the configuration may know of a machine: its bearing, speed, unit and window, per machine and per point."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pipeline.core.records import BearingOrders

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
        """Defect orders, multiples of the shaft speed; None if neither set of values is whole.

        With r = d/D cos(angle), n elements and a fixed outer ring: ftf = (1 - r)/2, bpfo = n (1 - r)/2,
        bpfi = n (1 + r)/2, bsf = D/(2 d) (1 - r^2). Source: Randall & Antoni 2011, MSSP 25, eq. (1) to (4).
        """
        if self.ftf and self.bpfo and self.bpfi and self.bsf:
            return BearingOrders(ftf=self.ftf, bpfo=self.bpfo, bpfi=self.bpfi, bsf=self.bsf)
        if not (self.elements and self.element_diameter_mm and self.pitch_diameter_mm):
            return None
        ratio = self.element_diameter_mm / self.pitch_diameter_mm
        r = ratio * math.cos(math.radians(self.contact_angle_deg or 0.0))
        half = self.elements / 2
        return BearingOrders(ftf=(1 - r) / 2, bpfo=half * (1 - r), bpfi=half * (1 + r), bsf=(1 - r * r) / (2 * ratio))


class WindowOverride(Table, frozen=True):
    """A machine's or point's own window; what is not given comes from [window]."""

    length_s: WindowSeconds | None = None
    hop_s: WindowSeconds | None = None


class PointTable(Table, frozen=True):
    """[machines.ID.points.POINT]: what differs at one point."""

    area: str = ""
    speed_rpm: SpeedRpm | None = None
    unit: Unit | None = None
    bearing: BearingConfig | None = None
    window: WindowOverride | None = None


class MachineTable(PointTable, frozen=True):
    """[machines.ID]: what is known of a machine, the same at all its points unless one of them says otherwise."""

    points: dict[str, PointTable] = msgspec.field(default_factory=dict)


class MachineConfig(Table, frozen=True):
    """What holds at one point of one machine: its point's table over the machine's over the general sections."""

    area: str
    speed_rpm: float | None
    unit: Unit | None
    bearing: BearingConfig | None
    window: WindowConfig
