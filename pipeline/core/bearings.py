"""Rolling bearings: the one formula for their defect orders, and a small catalogue with the source of every row.

A bearing is listed only if its numbers were published with the geometry, or follow from it and agree with orders that
were published independently. Makers differ under one designation (the 6203 below by 0.6 % in BPFO and 2 % in BSF), so
the orders on the maker's data sheet are better than any catalogue.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
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


ORDERS = ("ftf", "bpfo", "bpfi", "bsf")
WHOLE = 0.02  # how far a number of elements may be from a whole one: measured frequencies contain the slip
AGREES = 0.03  # how far stated orders may be from those that follow from the others


@dataclass(frozen=True, slots=True)
class Completed:
    """Four defect orders, what of them was derived, and which stated values contradict each other."""

    orders: BearingOrders
    derived: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
        return self.derived + self.contradictions


def complete(known: Mapping[str, float], elements: int | None = None) -> Completed:
    """All defect orders from some of them, outer ring at rest.

    Two of FTF, BPFO, BPFI and the number of elements Z give g = (d/D) cos phi and with it the others:
    Z = BPFO + BPFI = BPFO / FTF, g = (BPFI - BPFO) / Z = 1 - 2 FTF. BSF follows for a contact angle of 0 degrees:
    (1 - g^2) / (2 g); a stated one may be smaller, by the angle. Some sheets state 2 x BSF, at which a damaged
    element strikes. Stated values stay as they are; one that contradicts the others is named.

    Args:
        known: Some of ORDERS, in multiples of the shaft speed.
        elements: Z, if it is stated.

    Raises:
        ConfigError: they do not determine the bearing, or there is no such bearing. All four are taken as they are.
    """
    ftf, bpfo, bpfi, bsf = (known.get(name) for name in ORDERS)
    if bpfo and bpfi:
        z, g, by = bpfo + bpfi, (bpfi - bpfo) / (bpfo + bpfi), "bpfo and bpfi"
    elif ftf and (bpfo or bpfi):
        z, g, by = (bpfo / ftf if bpfo else bpfi / (1 - ftf)), 1 - 2 * ftf, f"ftf and {'bpfo' if bpfo else 'bpfi'}"  # type: ignore[operator]
    elif elements and (ftf or bpfo or bpfi):
        z = float(elements)
        g = 1 - 2 * ftf if ftf else 1 - 2 * bpfo / z if bpfo else 2 * bpfi / z - 1  # type: ignore[operator]
        by = f"{elements} elements and {'ftf' if ftf else 'bpfo' if bpfo else 'bpfi'}"
    else:
        stated = ", ".join(name for name in ORDERS if known.get(name)) or "none"
        msg = f"expected two of ftf, bpfo, bpfi and the number of elements, found: {stated}"
        raise ConfigError(msg, hint="the others follow from two of them; the maker's data sheet has all four")
    whole = round(z)
    if whole < 3 or abs(z - whole) > max(WHOLE * z, 0.12) or not 0 < g < 1:
        msg = f"expected orders of one bearing, found by {by}: {z:.3g} elements, (d/D) cos phi {g:.3g}"
        if ftf and bpfo and bpfi and bsf:
            return Completed(BearingOrders(ftf, bpfo, bpfi, bsf), contradictions=(f"{msg}; they are used as they are",))
        raise ConfigError(msg, hint="orders are multiples of the shaft speed, not Hz, with the inner ring turning")
    follows = {
        "ftf": (1 - g) / 2,
        "bpfo": whole * (1 - g) / 2,
        "bpfi": whole * (1 + g) / 2,
        "bsf": (1 - g * g) / (2 * g),
    }
    derived, contradictions = [], []
    if elements and elements != whole:
        contradictions.append(f"{elements} elements contradict {by}, by which there are {whole}; {whole} is used")
    if bsf and 1.35 < bsf / follows["bsf"] < 2.15:
        derived.append(f"bsf {bsf:g} is taken for 2 x bsf, at which a damaged element strikes: bsf is {bsf / 2:.4g}")
        bsf = bsf / 2
    given = {"ftf": ftf, "bpfo": bpfo, "bpfi": bpfi, "bsf": bsf}
    missing = [name for name in ORDERS if not given[name]]
    if missing:
        values = ", ".join(f"{name} {follows[name]:.4g}" for name in missing)
        derived.append(f"{values} and {whole} elements follow from {by}")
    for name in ORDERS:
        least = follows[name] * (0.7 if name == "bsf" else 1 - AGREES)
        if (value := given[name]) and not least <= value <= follows[name] * (1 + AGREES):
            contradictions.append(
                f"{name} {value:g} contradicts {by}, by which it is {follows[name]:.4g}; {value:g} is used"
            )
    orders = BearingOrders(**{name: given[name] or follows[name] for name in ORDERS})
    return Completed(orders, tuple(derived), tuple(contradictions))


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
