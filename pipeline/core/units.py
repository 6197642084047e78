"""Units of vibration: from what people write to the units of the contract, with the factor between them.

    unit_of("mg")    -> Unit("g", 0.001)         unit_of("m/s²") -> Unit("m/s2", 1.0)
    unit_of("in/s")  -> Unit("mm/s", 25.4)       unit_of("furlong") -> Unit("unknown", 1.0)

A value in the contract's unit is value * factor. Acceleration stays in the family that was sent: mg becomes g and mm/s2
becomes m/s2, so no constant of gravity enters where none was used. Displacement is in um, which the contract has no
features for: it is kept as it is and not assessable, like an unknown unit.

Factors: 1 in = 25.4 mm exactly; 1 g = 9.80665 m/s2 exactly (CGPM 1901); 1 Gal = 1 cm/s2.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

UNITS: Final = ("g", "m/s2", "mm/s", "V", "1")
UNKNOWN: Final = "unknown"
G_M_S2: Final = 9.80665
MM_PER_IN: Final = 25.4


class Unit(NamedTuple):
    """A unit of the contract, or `unknown`, and what a value is to be multiplied by to have it."""

    name: str
    factor: float


_KNOWN: Final[dict[str, Unit]] = {
    **dict.fromkeys(("g", "gn", "g0", "g_n", "gs", "gee", "g-force", "gforce", "grms", "gpk", "gpeak"), Unit("g", 1.0)),
    **dict.fromkeys(("mg", "mgn", "milli-g", "millig"), Unit("g", 1e-3)),
    **dict.fromkeys(("ug", "ugn", "microg"), Unit("g", 1e-6)),
    **dict.fromkeys(("kg_n",), Unit("g", 1e3)),
    **dict.fromkeys(("m/s2", "m/s/s", "ms-2", "m.s-2", "m*s-2", "mps2", "metre/s2"), Unit("m/s2", 1.0)),
    **dict.fromkeys(("meterspersecondsquared",), Unit("m/s2", 1.0)),
    **dict.fromkeys(("mm/s2", "mm/s/s", "mms-2", "mm.s-2", "mm*s-2", "mmps2"), Unit("m/s2", 1e-3)),
    **dict.fromkeys(("cm/s2", "cm/s/s", "cms-2", "gal", "gals"), Unit("m/s2", 1e-2)),
    **dict.fromkeys(("um/s2", "um/s/s"), Unit("m/s2", 1e-6)),
    **dict.fromkeys(("in/s2", "in/s/s", "inch/s2", "ips2"), Unit("m/s2", MM_PER_IN / 1000)),
    **dict.fromkeys(("ft/s2", "ft/s/s"), Unit("m/s2", 12 * MM_PER_IN / 1000)),
    **dict.fromkeys(("mm/s", "mm/sec", "mms-1", "mm.s-1", "mm*s-1", "mmps"), Unit("mm/s", 1.0)),
    **dict.fromkeys(("m/s", "m/sec", "ms-1", "m.s-1", "m*s-1", "mps"), Unit("mm/s", 1000.0)),
    **dict.fromkeys(("cm/s", "cm/sec", "cms-1"), Unit("mm/s", 10.0)),
    **dict.fromkeys(("um/s", "um/sec"), Unit("mm/s", 1e-3)),
    **dict.fromkeys(("in/s", "in/sec", "inch/s", "inch/sec", "inches/s", "ips"), Unit("mm/s", MM_PER_IN)),
    **dict.fromkeys(("mil/s", "mils/s"), Unit("mm/s", MM_PER_IN / 1000)),
    **dict.fromkeys(("ft/s", "ft/sec"), Unit("mm/s", 12 * MM_PER_IN)),
    **dict.fromkeys(("v", "volt", "volts"), Unit("V", 1.0)),
    **dict.fromkeys(("mv", "millivolt", "millivolts"), Unit("V", 1e-3)),
    **dict.fromkeys(("uv", "microvolt", "microvolts"), Unit("V", 1e-6)),
    **dict.fromkeys(("1", "none", "dimensionless"), Unit("1", 1.0)),
}
# What a header may say of a column. The contract has no features for these.
_OTHERS: Final = {
    *("um", "mm", "mil", "mils", "pa", "bar", "kpa", "n", "nm", "a", "°c", "degc", "c", "k"),
    *("rpm", "hz", "deg", "db", "%", "counts", "count", "lsb", "raw"),
}
_WRITTEN: Final = str.maketrans(
    {"²": "2", "μ": "u", "µ": "u", "⁻": "-", "¹": "1", "·": ".", "⋅": ".", "×": "*", "₀": "0"}
)
_DETECTOR: Final = re.compile(r"[\s,_]+\(?(rms|peak|pk|0-p|0-pk|pk-pk|p-p)\)?$")
_SECOND: Final = re.compile(r"(?<=/)(sec|seconds?)(?=2|$)")


@lru_cache(maxsize=1024)
def unit_of(text: str) -> Unit:
    """The contract's unit of a text, and its factor. Case, blanks, brackets, ^, ** and superscripts do not matter.

    Samples are values of a signal, so a detector behind the unit ("mm/s rms") changes nothing.
    """
    return _KNOWN.get(_plain(text), Unit(UNKNOWN, 1.0))


def is_unit(text: str) -> bool:
    """Whether a word names a unit, also one that cannot be converted. "1" and "none" are no names of units."""
    plain = _plain(text)
    return plain in _OTHERS or (plain in _KNOWN and _KNOWN[plain].name != "1")


def _plain(text: str) -> str:
    """One spelling of a unit: lower case, without blanks, brackets, signs of power and detector."""
    plain = _DETECTOR.sub("", text.strip().strip("[](){}").strip().translate(_WRITTEN).lower())
    plain = re.sub(r"\*\*|[\^ ()]", "", plain)
    return _SECOND.sub("s", re.sub(r"s[*.]s$", "s2", plain))
