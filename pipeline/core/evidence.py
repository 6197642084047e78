"""Evidence: what physics alone says of a window, in an analyst's words, without the network.

Every statement reads a sign of the table of failure modes (`core/faults.py`), or one of the few features that say
something of no mode. Of several channels the one counts that shows a sign most. `confirms` asks the same signs whether
they bear out a failure mode that the network names. Where they do not, the mode is shown as unconfirmed; where the
features that would tell are missing, nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core import faults
from pipeline.core.faults import CHANGED_SIGMA, IMPULSIVE_KURTOSIS, FailureMode, Sign
from pipeline.core.features.table import COLUMN
from pipeline.core.records import FeatureRow, Float32

FAMILY_LEAD_DB = 3.0  # the strongest family explains those this far below it: lines of all families lie close together
LINE_DB = 15.0  # a shaft order over its local floor: lines of sound machines stand 10 dB high
DOUBLE_BELOW_DB = 3.0  # 2x may stand this far below 1x: a coupling works twice a turn
MOVES_MM_S = 1.4  # velocity RMS below which every machine is in zone A: its orders are those of a sound one
NOISE_FLATNESS_DB = -9.0  # the spectrum of flow noise is this flat
DEPARTED_SIGMA = 2 * CHANGED_SIGMA  # of the RMS over its baseline: inspect the machine, whatever the cause
HUM_SHARE = 0.3  # of the power at the mains frequency and its harmonics
TOP = 3  # statements for a line of the alarm table
UNCONFIRMED = "bearing, location unconfirmed"

_HARMONICS = 5  # the highest count that a family's feature reaches
_CHANGES = {"rel_rms": "RMS", "rel_velocity_rms": "velocity RMS", "rel_kurtosis": "kurtosis"}


@dataclass(frozen=True, slots=True, order=True)
class Evidence:
    """One statement. `strength` runs from 0, at its threshold, to 1; it compares statements of one window."""

    strength: float
    text: str


def evidence(row: FeatureRow, top: int = TOP) -> tuple[Evidence, ...]:
    """The strongest statements about a window, strongest first; none where nothing stands out or was computed."""
    signs = Signs(row)
    table = dict.fromkeys(sign for mode in faults.MODES.values() for sign in mode.signs if sign.text)
    found = [_statement(signs, sign) for sign in table if _stands(signs, sign)]
    found += [*_mains(signs), *_changes(signs)]
    return tuple(sorted(found, reverse=True)[:top])


def confirms(mode: str, row: FeatureRow) -> bool | None:
    """Whether the evidence bears out a failure mode; None where the mode has no sign or its features are missing."""
    known = faults.MODES.get(mode)
    return None if known is None else _borne_out(Signs(row), known)


def shown_mode(mode: str, row: FeatureRow | None) -> str:
    """How a mode is shown to people: a place in a bearing only where its lines stand.

    Each damaged part of a bearing makes its own family of lines in the envelope spectrum. Where the family does not
    stand, or nobody knows where it would, the bearing may be damaged all the same, but nothing says where, and nobody
    should order an inner ring. The probabilities stay as they are.
    """
    if row is not None and faults.family_of(mode) is not None and not confirms(mode, row):
        return UNCONFIRMED
    return mode


class Signs:
    """The features of one window by name: the largest over the channels, and which channel that is."""

    __slots__ = ("_best", "_row")

    def __init__(self, row: FeatureRow) -> None:
        self._row = row
        self._best = np.fmax.reduce(row.values, axis=0)  # NaN only where no channel has a number

    def __getitem__(self, name: str) -> float:
        return float(self._best[COLUMN[name]])

    def at(self, name: str) -> str:
        """` (x)` for a stream of several channels."""
        if len(self._row.channels) == 1:
            return ""
        column = self._row.values[:, COLUMN[name]]
        return f" ({self._row.channels[int(np.nanargmax(column))]})"

    def table(self, *names: str) -> Float32:
        """Some features of every channel: (C, len(names))."""
        return self._row.values[:, [COLUMN[name] for name in names]]

    def same_channel(self, name: str, where: str) -> float:
        """The feature `name` on the channel on which `where` is largest."""
        column = self._row.values[:, COLUMN[where]]
        return float(self._row.values[int(np.nanargmax(column)), COLUMN[name]])


def _borne_out(signs: Signs, mode: FailureMode) -> bool | None:
    """Whether any sign of the mode stands; None where none can be read."""
    if mode.bearing_explains and any(_stands(signs, sign) for sign in _families()):
        return False
    known = [found for sign in mode.signs if (found := _stands(signs, sign)) is not None]
    return any(known) if known else None


def _stands(signs: Signs, sign: Sign) -> bool | None:
    """Whether a sign stands out; None where its features are missing, or its absence proves nothing."""
    value = signs[sign.features[0]]
    if sign.rule == "noise":  # without a baseline, the absence of flow noise proves nothing
        return True if _flow_noise(signs, sign) else None
    if math.isnan(value):
        return None
    match sign.rule:
        case "family":
            return value >= _family_threshold_db(signs, sign)
        case "share":
            return value >= sign.least and _moves(signs)
        case "double":
            first_db = signs.same_channel(sign.features[1], sign.features[0])
            return value >= max(sign.least, first_db - DOUBLE_BELOW_DB) and _moves(signs)
        case "harmonics":
            return _standing(signs, sign) >= sign.least
        case _:
            return value >= sign.least


def _statement(signs: Signs, sign: Sign) -> Evidence:
    """What is said of a sign that stands."""
    name = sign.features[0]
    value, at = signs[name], signs.at(name)
    match sign.rule:
        case "level":
            text = f"{sign.text} {value:.0f} dB over floor{at}"
        case "family":
            harmonics = _harmonics(signs.same_channel(f"{name}_harmonics", name))
            text = f"envelope {sign.text}{harmonics}, {value:.0f} dB over floor{at}"
        case "share":
            text = f"{sign.text} is {100 * value:.0f} % of velocity{at}"
        case "double":
            first_db = signs.same_channel(sign.features[1], name)
            text = f"{sign.text} stands {value:.0f} dB over floor, 1x {first_db:.0f} dB{at}"
        case "harmonics":
            value = _standing(signs, sign)
            text = f"{value} of the {sign.text} stand more than {LINE_DB:.0f} dB over floor"
            return Evidence(_strength(value, sign.least - 1, sign.full) * sign.weight, text)
        case "noise":
            value = _high_share(signs, sign)
            text = f"{sign.text}: the highest bands hold {100 * value:.0f} % of the power"
        case "impulses":
            text = f"{sign.text} {value:.1f}, impulsive{at}"
            strength = _strength(math.log(value), math.log(sign.least), math.log(sign.full))
            return Evidence(strength * sign.weight, text)
    return Evidence(_strength(value, sign.least, sign.full) * sign.weight, text)


def _mains(signs: Signs) -> Iterator[Evidence]:
    if (hum := signs["mains_hum"]) >= HUM_SHARE:
        text = f"mains lines are {100 * hum:.0f} % of the power{signs.at('mains_hum')}"
        yield Evidence(_strength(hum, HUM_SHARE, 1.0), text)


def _changes(signs: Signs) -> Iterator[Evidence]:
    for name, what in _CHANGES.items():
        if (sigma := signs[name]) >= CHANGED_SIGMA:
            text = f"{what} {sigma:.0f} sigma above this machine's baseline{signs.at(name)}"
            yield Evidence(_strength(math.log(sigma), math.log(CHANGED_SIGMA), math.log(100.0)), text)


def _families() -> list[Sign]:
    """The signs that are families of bearing lines."""
    return [family for mode in faults.MODES.values() if (family := mode.family) is not None]


def _family_threshold_db(signs: Signs, sign: Sign) -> float:
    """What a family must reach, given how strong the others are."""
    levels_db = (signs[family.features[0]] for family in _families())
    strongest_db = max((db for db in levels_db if not math.isnan(db)), default=0.0)
    return max(sign.least, strongest_db - FAMILY_LEAD_DB)


def _harmonics(count: float) -> str:
    if math.isnan(count) or count < 1:
        return ""
    return f" x1 to x{_HARMONICS}" if count >= _HARMONICS else f" with {count:.0f} of {_HARMONICS} harmonics"


def _moves(signs: Signs) -> bool:
    """Whether the velocity is more than that of any sound machine, or is not known."""
    return not signs["velocity_rms"] < MOVES_MM_S


def _standing(signs: Signs, sign: Sign) -> int:
    """How many orders stand; none of a machine that hardly moves, because a bearing's strikes raise them too."""
    return sum(signs[name] >= LINE_DB for name in sign.features) if _moves(signs) else 0


def _flow_noise(signs: Signs, sign: Sign) -> bool:
    """Steady noise that fills the high bands."""
    flat = _high_share(signs, sign) >= sign.least and signs["flatness"] >= NOISE_FLATNESS_DB
    return flat and not signs["kurtosis"] >= IMPULSIVE_KURTOSIS


def _high_share(signs: Signs, sign: Sign) -> float:
    """Share of the power in the sign's bands, on the channel where it is largest."""
    bands = [name for name in sign.features if name.startswith("band_")]
    return float(np.fmax.reduce((10.0 ** np.minimum(signs.table(*bands), 0.0)).sum(axis=1)))


def _strength(value: float, threshold: float, full: float) -> float:
    return min(1.0, max(0.0, (value - threshold) / (full - threshold)))
