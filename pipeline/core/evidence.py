"""Evidence: what physics alone says of a window, in the words of an analyst, without the network.

Every statement is one rule over a few features of the table, with a named threshold (`pipeline.core.evidence`). Of several
channels the one counts that shows it most. `confirms` asks the same rules whether they bear out a failure mode that the
network names: where they do not, the mode is shown as unconfirmed; where the features that would tell are not there,
nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.features.table import BAND_COUNT, COLUMN, ORDERS
from pipeline.core.records import FeatureRow, Float32

# Signs: the features of one window by name, over all channels, and the thresholds at which one of them stands out.
#
# Levels in dB are over a local floor. Thresholds were set on simulated machines of many make-ups and looked at on real
# recordings: nine windows of ten of sound machines stay below.


FAMILY_DB = 11.0  # an envelope family over its local floor; nine windows of ten of sound machines stay below 9 dB ...
CAGE_DB = 8.0  # ... and the cage's, whose lines are narrow, below 5 dB
FAMILY_LEAD_DB = 3.0  # a family so far below the strongest one is explained by it: lines of all families lie close
LINE_DB = 15.0  # a shaft order over its local floor: deterministic lines of sound machines stand 10 dB high
DOUBLE_DB = 20.0  # 2x over its local floor
DOUBLE_BELOW_DB = 3.0  # that 2x may stand below 1x: the coupling works twice a turn
SUBHARMONIC_DB = 12.0  # 0.5x and 1.5x: sound machines have none
VELOCITY_SHARE = 0.6  # of 1x in the velocity's mean square
MOVES_MM_S = 1.4  # velocity RMS below which every machine is in zone A: its orders are those of a sound one
LOOSE_HARMONICS = 5  # of 3x to 10x over LINE_DB
MESH_DB = 12.0  # gear mesh and its sidebands over the local floor
CEPSTRUM_DB = 11.0  # cepstrum at the shaft period over its local floor
IMPULSIVE_KURTOSIS = 4.5  # a Gaussian has 3
HIGH_BANDS = 3  # the highest of the log bands ...
HIGH_SHARE = 0.8  # ... hold so much of the power, and ...
NOISE_FLATNESS_DB = -9.0  # ... the spectrum is that flat: flow noise
CHANGED_SIGMA = 6.0  # robust standard deviations from the stream's own baseline: worth a remark ...
DEPARTED_SIGMA = 2 * CHANGED_SIGMA  # ... and of the RMS: whatever the cause, somebody should look

FAMILIES = {  # failure mode -> feature and name of its envelope family
    "bearing_outer": ("env_bpfo", "BPFO"),
    "bearing_inner": ("env_bpfi", "BPFI"),
    "bearing_ball": ("env_2bsf", "2xBSF"),
    "bearing_cage": ("env_ftf", "FTF"),
}


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


def family_least_db(name: str) -> float:
    """What an envelope family must reach alone."""
    return CAGE_DB if name == "env_ftf" else FAMILY_DB


def family_threshold_db(signs: Signs, name: str) -> float:
    """What an envelope family must reach, given how strong the others are."""
    strongest_db = max((db for one, _ in FAMILIES.values() if not math.isnan(db := signs[one])), default=0.0)
    return max(family_least_db(name), strongest_db - FAMILY_LEAD_DB)


def order_name(order: float) -> str:
    """0.5 -> ord_0_5."""
    return f"ord_{order:g}".replace(".", "_")


def double(signs: Signs) -> bool | None:
    """2x stands, and not far below 1x."""
    second = signs["ord_2"]
    if math.isnan(second):
        return None
    return second >= max(DOUBLE_DB, signs.same_channel("ord_1", "ord_2") - DOUBLE_BELOW_DB) and moves(signs)


def moves(signs: Signs) -> bool:
    """Whether the velocity is more than that of any sound machine, or is not known."""
    return not signs["velocity_rms"] < MOVES_MM_S


def high_orders(signs: Signs) -> int:
    """How many of 3x to 10x stand; none of a machine that hardly moves: a bearing's strikes raise them too."""
    if not moves(signs):
        return 0
    return sum(signs[order_name(order)] >= LINE_DB for order in ORDERS if order >= 3)


def high_share(signs: Signs) -> float:
    """Share of the power in the highest bands, on the channel where it is largest."""
    logs = signs.table(*(f"band_{k:02d}" for k in range(BAND_COUNT - HIGH_BANDS, BAND_COUNT)))
    return float(np.fmax.reduce((10.0 ** np.minimum(logs, 0.0)).sum(axis=1)))


def flow_noise(signs: Signs) -> bool:
    """Steady noise that fills the high bands."""
    flat = high_share(signs) >= HIGH_SHARE and signs["flatness"] >= NOISE_FLATNESS_DB
    return flat and not signs["kurtosis"] >= IMPULSIVE_KURTOSIS


TOP = 3  # statements for a line of the alarm table
HUM_SHARE = 0.3  # of the power at the mains frequency and its harmonics
FULL_DB = 20.0  # so many dB above its threshold a line has the full strength

_HARMONICS = 5  # that a family's count goes to
_CHANGES = {"rel_rms": "RMS", "rel_velocity_rms": "velocity RMS", "rel_kurtosis": "kurtosis"}


@dataclass(frozen=True, slots=True, order=True)
class Evidence:
    """One statement. `strength` runs from 0, at its threshold, to 1; it compares statements of one window."""

    strength: float
    text: str


def evidence(row: FeatureRow, top: int = TOP) -> tuple[Evidence, ...]:
    """The strongest statements about a window, strongest first; none where nothing stands out or was computed."""
    signs = Signs(row)
    found = [statement for rule in _RULES for statement in rule(signs)]
    return tuple(sorted(found, reverse=True)[:top])


def confirms(mode: str, row: FeatureRow) -> bool | None:
    """Whether the evidence bears out a failure mode; None where no rule speaks of it or its features are missing."""
    signs = Signs(row)
    if mode in FAMILIES:
        name, _ = FAMILIES[mode]
        return _at_least(signs[name], family_threshold_db(signs, name))
    rule = _MODES.get(mode)
    return None if rule is None else rule(signs)


def _at_least(value: float, threshold: float) -> bool | None:
    return None if math.isnan(value) else value >= threshold


def _any(*found: bool | None) -> bool | None:
    known = [one for one in found if one is not None]
    return any(known) if known else None


def _strength(value: float, threshold: float, full: float) -> float:
    return min(1.0, max(0.0, (value - threshold) / (full - threshold)))


def _envelope(signs: Signs) -> Iterator[Evidence]:
    for name, label in FAMILIES.values():
        if (db := signs[name]) >= family_threshold_db(signs, name):
            count, least_db = signs.same_channel(f"{name}_harmonics", name), family_least_db(name)
            yield Evidence(
                _strength(db, least_db, least_db + FULL_DB),
                f"envelope {label}{_lines(count)}, {db:.0f} dB over floor{signs.at(name)}",
            )


def _lines(count: float) -> str:
    if math.isnan(count) or count < 1:
        return ""
    return f" x1 to x{_HARMONICS}" if count >= _HARMONICS else f" with {count:.0f} of {_HARMONICS} harmonics"


def _velocity(signs: Signs) -> Iterator[Evidence]:
    share = signs["ord_1_velocity_share"]
    if share >= VELOCITY_SHARE and moves(signs):
        text = f"1x is {100 * share:.0f} % of velocity{signs.at('ord_1_velocity_share')}"
        yield Evidence(_strength(share, VELOCITY_SHARE, 1.0) * 0.8, text)


def _orders(signs: Signs) -> Iterator[Evidence]:
    for order in (0.5, 1.5):
        name = order_name(order)
        if (db := signs[name]) >= SUBHARMONIC_DB:
            text = f"{order:g}x stands {db:.0f} dB over floor{signs.at(name)}"
            yield Evidence(_strength(db, SUBHARMONIC_DB, SUBHARMONIC_DB + FULL_DB), text)
    second = signs["ord_2"]
    if double(signs):
        text = f"2x stands {second:.0f} dB over floor, 1x {signs.same_channel('ord_1', 'ord_2'):.0f} dB"
        yield Evidence(_strength(second, DOUBLE_DB, DOUBLE_DB + FULL_DB), f"{text}{signs.at('ord_2')}")
    if (count := high_orders(signs)) >= LOOSE_HARMONICS:
        text = f"{count} of the orders 3x to 10x stand more than {LINE_DB:.0f} dB over floor"
        yield Evidence(_strength(count, LOOSE_HARMONICS - 1, 8), text)


def _gear(signs: Signs) -> Iterator[Evidence]:
    for name, what in (("gmf", "gear mesh"), ("gmf_sidebands", "sidebands of the gear mesh")):
        if (db := signs[name]) >= MESH_DB:
            text = f"{what} {db:.0f} dB over floor{signs.at(name)}"
            yield Evidence(_strength(db, MESH_DB, MESH_DB + FULL_DB), text)
    if (db := signs["cepstrum_shaft"]) >= CEPSTRUM_DB:
        text = f"cepstrum at the shaft period {db:.0f} dB over floor{signs.at('cepstrum_shaft')}"
        yield Evidence(_strength(db, CEPSTRUM_DB, CEPSTRUM_DB + FULL_DB) * 0.5, text)


def _shape(signs: Signs) -> Iterator[Evidence]:
    if (kurtosis := signs["kurtosis"]) >= IMPULSIVE_KURTOSIS:
        text = f"kurtosis {kurtosis:.1f}, impulsive{signs.at('kurtosis')}"
        yield Evidence(_strength(math.log(kurtosis), math.log(IMPULSIVE_KURTOSIS), math.log(40.0)), text)
    if (hum := signs["mains_hum"]) >= HUM_SHARE:
        text = f"mains lines are {100 * hum:.0f} % of the power{signs.at('mains_hum')}"
        yield Evidence(_strength(hum, HUM_SHARE, 1.0), text)
    if flow_noise(signs):
        text = f"broadband noise: the highest bands hold {100 * high_share(signs):.0f} % of the power"
        yield Evidence(_strength(high_share(signs), HIGH_SHARE, 1.0) * 0.8, text)


def _changes(signs: Signs) -> Iterator[Evidence]:
    for name, what in _CHANGES.items():
        if (sigma := signs[name]) >= CHANGED_SIGMA:
            text = f"{what} {sigma:.0f} sigma above this machine's baseline{signs.at(name)}"
            yield Evidence(_strength(math.log(sigma), math.log(CHANGED_SIGMA), math.log(100.0)), text)


_RULES: tuple[Callable[[Signs], Iterator[Evidence]], ...] = (_envelope, _velocity, _orders, _gear, _shape, _changes)


def _unbalance(signs: Signs) -> bool | None:
    leads = _at_least(signs["ord_1_velocity_share"], VELOCITY_SHARE)
    return leads and moves(signs)


def _cavitation(signs: Signs) -> bool | None:
    """Noise that fills the high bands, or more of it than usual: without a baseline its absence proves nothing."""
    risen = (_at_least(signs[name], CHANGED_SIGMA) for name in ("rel_band_12", "rel_band_13"))
    return _any(True if flow_noise(signs) else None, *risen)


def _looseness(signs: Signs) -> bool | None:
    halves = (_at_least(signs[order_name(order)], SUBHARMONIC_DB) for order in (0.5, 1.5))
    return _any(*halves, None if math.isnan(signs["ord_3"]) else high_orders(signs) >= LOOSE_HARMONICS)


def _gear_wear(signs: Signs) -> bool | None:
    return _any(*(_at_least(signs[name], MESH_DB) for name in ("gmf", "gmf_sidebands")))


def _gear_tooth(signs: Signs) -> bool | None:
    """Strikes once a turn; where a bearing's lines stand, the strikes are the bearing's."""
    if any(signs[name] >= family_threshold_db(signs, name) for name, _ in FAMILIES.values()):
        return False
    return _any(
        _at_least(signs["cepstrum_shaft"], CEPSTRUM_DB),
        _at_least(signs["env_shaft"], FAMILY_DB),
        _at_least(signs["kurtosis"], IMPULSIVE_KURTOSIS),
    )


_MODES: dict[str, Callable[[Signs], bool | None]] = {
    "unbalance": _unbalance,
    "misalignment": double,
    "looseness": _looseness,
    "gear_wear": _gear_wear,
    "gear_tooth": _gear_tooth,
    "cavitation": _cavitation,
}


# A physical veto: does the spectrum of the envelope bear out where in a bearing the network places a fault?
#
# A fault of a bearing's part makes its own family of lines. Where speed and bearing are known and no family stands above
# the floor, the network may be right that the bearing is damaged, but nothing says where: the alarm then reads "bearing,
# location unconfirmed", and nobody should order an inner ring because of it. The probabilities stay as they are.


UNCONFIRMED = "bearing, location unconfirmed"


def shown_mode(mode: str, row: FeatureRow | None) -> str:
    """How a mode is shown to people: a place in a bearing only where the evidence does not contradict it."""
    if row is not None and mode in FAMILIES and confirms(mode, row) is False:
        return UNCONFIRMED
    return mode
