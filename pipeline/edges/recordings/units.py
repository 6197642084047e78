"""Units of recordings: any spelling -> a unit of the contract and a factor.

The only place in the recordings that knows conversions.
"""

from __future__ import annotations

import re

GRAVITY = 9.80665  # m/s2, the standard acceleration of gravity (3rd CGPM, 1901)
_FORMS = {
    "g": ("g", 1.0), "gn": ("g", 1.0), "g0": ("g", 1.0), "gs": ("g", 1.0), "gee": ("g", 1.0), "gpeak": ("g", 1.0),
    "mg": ("g", 1e-3), "mgn": ("g", 1e-3), "milli-g": ("g", 1e-3), "millig": ("g", 1e-3), "kg_n": ("g", 1e3),
    "ug": ("g", 1e-6),
    "m/s2": ("m/s2", 1.0), "m/s/s": ("m/s2", 1.0), "ms-2": ("m/s2", 1.0), "m.s-2": ("m/s2", 1.0),
    "m*s-2": ("m/s2", 1.0), "m/sec2": ("m/s2", 1.0), "mps2": ("m/s2", 1.0), "meterspersecondsquared": ("m/s2", 1.0),
    "mm/s2": ("m/s2", 1e-3), "mm/s/s": ("m/s2", 1e-3), "mm/sec2": ("m/s2", 1e-3), "cm/s2": ("m/s2", 1e-2),
    "gal": ("m/s2", 1e-2), "in/s2": ("m/s2", 0.0254), "ft/s2": ("m/s2", 0.3048), "um/s2": ("m/s2", 1e-6),
    "mm/s": ("mm/s", 1.0), "mm/sec": ("mm/s", 1.0), "mms-1": ("mm/s", 1.0), "m/s": ("mm/s", 1e3),
    "m/sec": ("mm/s", 1e3), "ms-1": ("mm/s", 1e3), "cm/s": ("mm/s", 10.0), "um/s": ("mm/s", 1e-3),
    "in/s": ("mm/s", 25.4), "ips": ("mm/s", 25.4), "in/sec": ("mm/s", 25.4), "inch/s": ("mm/s", 25.4),
    "v": ("V", 1.0), "volt": ("V", 1.0), "volts": ("V", 1.0), "mv": ("V", 1e-3), "uv": ("V", 1e-6),
    "kv": ("V", 1e3), "millivolt": ("V", 1e-3), "millivolts": ("V", 1e-3),
    "1": ("1", 1.0),
}  # fmt: skip
_KNOWN_BUT_NOT_OURS = {
    "um",
    "mm",
    "mil",
    "mils",
    "pa",
    "n",
    "nm",
    "a",
    "°c",
    "degc",
    "c",
    "rpm",
    "db",
    "counts",
    "count",
    "lsb",
    "raw",
    "%",
    "k",
    "hz",
    "bar",
    "kpa",
    "deg",
}


def _plain(text: str) -> str:
    """One spelling of a unit: no spaces, no signs of power, no words about peak or rms."""
    clean = text.strip().strip("[](){}").replace("µ", "u").replace("μ", "u").replace("²", "2").replace("⁻", "-")
    clean = clean.replace("¹", "1").replace("·", "*").replace("₀", "0").replace("ₙ", "n")
    clean = re.sub(r"[\s,_]*\(?\b(rms|peak|pk|p-p|pk-pk|0-p|0-pk)\)?$", "", clean, flags=re.IGNORECASE)
    clean = re.sub(r"\^|\*\*", "", clean).replace(" ", "").lower()
    clean = re.sub(r"(?<=/)(sec|second|seconds)(?=2|$)", "s", clean)
    return re.sub(r"\((-?\d)\)", r"\1", clean).replace("/(s2)", "/s2").replace("s*s", "s2")


def converted(text: str | None) -> tuple[str, float] | None:
    """A unit of the contract and the factor to it; None for an unknown unit."""
    return None if text is None else _FORMS.get(_plain(text))


def is_unit(text: str) -> bool:
    """Whether a word is the name of a unit, also of one that cannot be converted."""
    plain = _plain(text)
    return (plain in _FORMS and plain != "1") or plain in _KNOWN_BUT_NOT_OURS
