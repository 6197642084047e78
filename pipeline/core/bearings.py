"""Rolling bearings: the one formula for their defect orders, and a small catalogue with the source of every row.

A bearing is listed only if its numbers were published with the geometry, or follow from it and agree with orders that
were published independently. Makers differ under one designation (the 6203 below by 0.6 % in BPFO and 2 % in BSF), so
the orders on the maker's data sheet are better than any catalogue.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from pipeline.core.records import BearingOrders
from pipeline.errors import ConfigError, ThrumcastError

MM_PER_INCH = 25.4


@dataclass(frozen=True, slots=True)
class Geometry:
    """The numbers that the defect orders follow from; d and D in millimetres."""

    elements: int  # Z, of one row
    element_diameter_mm: float  # d
    pitch_diameter_mm: float  # D, between the centres of opposite elements; not the bore, the outside or their mean
    contact_angle_deg: float = 0.0

    def orders(self) -> BearingOrders:
        """Defect orders; see `orders_from_geometry`."""
        ratio = self.element_diameter_mm / self.pitch_diameter_mm
        return orders_from_geometry(self.elements, ratio, self.contact_angle_deg)


@dataclass(frozen=True, slots=True)
class Bearing:
    """A row of the catalogue."""

    name: str
    what: str
    geometry: Geometry
    source: str


def orders_from_geometry(elements: int, ratio: float, contact_angle_deg: float = 0.0) -> BearingOrders:
    """Defect frequencies in multiples of the shaft speed, outer ring at rest; g = (d/D) cos phi.

    FTF = (1 - g)/2, BPFO = Z (1 - g)/2, BPFI = Z (1 + g)/2, BSF = (1 - g^2) / (2 d/D): Norton and Karczub, eq. 8.4 ff.;
    Randall and Antoni, MSSP 25 (2011) 485, eq. 1 to 4. A damaged element strikes at 2 x BSF.
    `ratio` is d/D. 9 elements, 0.2034, 0 degrees -> BPFO 3.585 (6205).

    Raises:
        ConfigError: such elements are impossible, or do not fit round the pitch circle.
    """
    if elements < 3 or not 0 < ratio < 1 or not 0 <= contact_angle_deg < 90:
        msg = (
            "expected a bearing of at least 3 elements, 0 < d/D < 1 and a contact angle of 0 to 90 degrees, "
            f"found: {elements} elements, d/D {ratio:g}, {contact_angle_deg:g} degrees"
        )
        raise ConfigError(msg, hint="d is the element's diameter, D the pitch diameter, not the bore or the outside")
    if elements * math.asin(ratio) >= math.pi:
        room = int(math.pi / math.asin(ratio))
        msg = f"expected at most {room} elements of d/D {ratio:g}, as fit round the pitch circle, found: {elements}"
        raise ConfigError(msg, hint="check d and D: both in the same unit, elements of one row")
    g = ratio * math.cos(math.radians(contact_angle_deg))
    return BearingOrders(
        ftf=(1 - g) / 2, bpfo=elements * (1 - g) / 2, bpfi=elements * (1 + g) / 2, bsf=(1 - g * g) / (2 * ratio)
    )


def _inches(elements: int, element: float, pitch: float, contact_angle_deg: float = 0.0) -> Geometry:
    return Geometry(elements, element * MM_PER_INCH, pitch * MM_PER_INCH, contact_angle_deg)


CATALOGUE: tuple[Bearing, ...] = (
    Bearing(
        "6203", "SKF 6203-2RS JEM, deep groove", _inches(8, 0.2656, 1.122),
        "CWRU Bearing Data Center, fan end: d 0.2656 in, D 1.122 in, its orders 3.0530, 4.9469, 0.3817",
    ),
    Bearing(
        "6203-fag", "FAG 6203, deep groove", Geometry(8, 6.75, 28.55),
        "Lessmeier et al., PHM Society European Conference 2016, table 1: d 6.75 mm, D 28.55 mm",
    ),
    Bearing(
        "6203-mtk", "MTK 6203, deep groove", Geometry(8, 6.75, 29.05),
        "Paderborn KAt data center, fact sheets of the damaged bearings KA16, KI04 and others: d 6.75 mm, D 29.05 mm",
    ),
    Bearing(
        "6205", "SKF 6205-2RS JEM, deep groove", _inches(9, 0.3126, 1.537),
        "CWRU Bearing Data Center, drive end: d 0.3126 in, D 1.537 in, its orders 3.5848, 5.4152, 0.39828",
    ),
    Bearing(
        "mfpt-nice", "NICE, roller", _inches(8, 0.235, 1.245),
        "MFPT fault data sets: d 0.235 in, D 1.245 in; agrees with its 81.12 and 118.88 Hz at 25 Hz",
    ),
    Bearing(
        "pronostia", "test bearing of PRONOSTIA, ball", Geometry(13, 3.5, 25.6),
        "Nectoux et al., IEEE PHM 2012 (FEMTO-ST): 13 balls, d 3.5 mm, D 25.6 mm",
    ),
    Bearing(
        "uer204", "LDK UER204, insert, ball", Geometry(8, 7.92, 34.55),
        "Wang et al., IEEE Trans. Reliability 69 (2020) 401 (XJTU-SY): d 7.92 mm, D 34.55 mm; as its 107.9 Hz",
    ),
    Bearing(
        "za-2115", "Rexnord ZA-2115, double row, roller", _inches(16, 0.331, 2.815, 15.17),
        "Qiu et al., J. Sound Vib. 289 (2006) 1066 (IMS): d 0.331 in, D 2.815 in, 15.17 degrees; as 236.4 Hz",
    ),
)  # fmt: skip

_NAMES = {bearing.name: bearing for bearing in CATALOGUE}


def normalised(name: str) -> str:
    """A designation without the parts that do not change the geometry: case, blanks, seals, shields (`-2RS`, `-ZZ`)."""
    text = re.sub(r"[\s_/]+", "-", name.strip().lower())
    return re.sub(r"(?<=\d)-?(2rs1?|2rsh|rs|2z|zz|z)?(-?c[2-5])?$", "", text)


def find(name: str) -> Bearing:
    """The bearing of that name.

    Raises:
        ThrumcastError: the catalogue has none; the hint names the nearest.
    """
    found = _NAMES.get(normalised(name))
    if found is None:
        near = difflib.get_close_matches(normalised(name), _NAMES, n=3, cutoff=0.5)
        msg = f"a bearing of the catalogue expected ({', '.join(_NAMES)}), found: {name!r}"
        hint = "give its geometry or orders from the maker's data sheet"
        raise ThrumcastError(msg, hint=f"nearest: {', '.join(near)}; or {hint}" if near else hint)
    return found
