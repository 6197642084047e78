"""Evidence: what physics alone says of a window, in the words of an analyst, without the network.

Every statement is one rule over a few features of the table, with a named threshold. Of several channels the one
counts that shows it most. `confirms` asks the same rules whether they bear out a failure mode that the network names:
where they do not, the mode is shown as unconfirmed; where the features that would tell are not there, nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.features.table import BAND_COUNT, COLUMN, ORDERS
from pipeline.core.records import FeatureRow, Float32

TOP = 3  # statements for a line of the alarm table
FAMILY_DB = 9.0  # an envelope family over its local floor
FAMILY_LEAD_DB = 6.0  # a family so far below the strongest one is explained by it: lines of all families lie close
LINE_DB = 15.0  # a shaft order over its local floor: deterministic lines of sound machines stand 10 dB high
SUBHARMONIC_DB = 12.0  # 0.5x and 1.5x: sound machines have none
VELOCITY_SHARE = 0.5  # of 1x in the velocity's mean square
LOOSE_HARMONICS = 5  # of 3x to 10x over LINE_DB
MESH_DB = 12.0  # gear mesh and its sidebands over the local floor
CEPSTRUM_PEAK = 6.0  # peak at the shaft period over the rms around
IMPULSIVE_KURTOSIS = 4.5  # a Gaussian has 3
HUM_SHARE = 0.3  # of the power at the mains frequency and its harmonics
HIGH_BANDS = 3  # the highest of the log bands ...
HIGH_SHARE = 0.8  # ... hold so much of the power, and ...
NOISE_FLATNESS_DB = -9.0  # ... the spectrum is that flat: flow noise
CHANGED_SIGMA = 6.0  # robust standard deviations from the stream's own baseline
FULL_DB = 20.0  # so many dB above its threshold a line has the full strength

_FAMILIES = {
    "bearing_outer": ("env_bpfo", "BPFO"),
    "bearing_inner": ("env_bpfi", "BPFI"),
    "bearing_ball": ("env_2bsf", "2xBSF"),
    "bearing_cage": ("env_ftf", "FTF"),
}
_HARMONICS = 3  # that a family's count goes to
_CHANGES = {"rel_rms": "RMS", "rel_velocity_rms": "velocity RMS", "rel_kurtosis": "kurtosis"}


@dataclass(frozen=True, slots=True, order=True)
class Evidence:
    """One statement. `strength` runs from 0, at its threshold, to 1; it compares statements of one window."""

    strength: float
    text: str


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


def evidence(row: FeatureRow, top: int = TOP) -> tuple[Evidence, ...]:
    """The strongest statements about a window, strongest first; none where nothing stands out or was computed."""
    signs = Signs(row)
    found = [statement for rule in _RULES for statement in rule(signs)]
    return tuple(sorted(found, reverse=True)[:top])


def confirms(mode: str, row: FeatureRow) -> bool | None:
    """Whether the evidence bears out a failure mode; None where no rule speaks of it or its features are missing."""
    signs = Signs(row)
    if mode in _FAMILIES:
        return _at_least(signs[_FAMILIES[mode][0]], max(FAMILY_DB, _strongest_family(signs) - FAMILY_LEAD_DB))
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
    threshold_db = max(FAMILY_DB, _strongest_family(signs) - FAMILY_LEAD_DB)
    for name, label in _FAMILIES.values():
        if (db := signs[name]) >= threshold_db:
            count = signs.same_channel(f"{name}_harmonics", name)
            yield Evidence(
                _strength(db, FAMILY_DB, FAMILY_DB + FULL_DB),
                f"envelope {label}{_lines(count)}, {db:.0f} dB over floor{signs.at(name)}",
            )


def _strongest_family(signs: Signs) -> float:
    return max((db for name, _ in _FAMILIES.values() if not math.isnan(db := signs[name])), default=0.0)


def _lines(count: float) -> str:
    if math.isnan(count) or count < 1:
        return ""
    if count >= _HARMONICS:
        return "".join(f" x{k}" for k in range(1, _HARMONICS + 1))
    return f" with {count:.0f} of {_HARMONICS} harmonics"


def _velocity(signs: Signs) -> Iterator[Evidence]:
    share = signs["ord_1_velocity_share"]
    if share >= VELOCITY_SHARE:
        text = f"1x is {100 * share:.0f} % of velocity{signs.at('ord_1_velocity_share')}"
        yield Evidence(_strength(share, VELOCITY_SHARE, 1.0) * 0.8, text)


def _orders(signs: Signs) -> Iterator[Evidence]:
    for order in (0.5, 1.5):
        name = _order(order)
        if (db := signs[name]) >= SUBHARMONIC_DB:
            text = f"{order:g}x stands {db:.0f} dB over floor{signs.at(name)}"
            yield Evidence(_strength(db, SUBHARMONIC_DB, SUBHARMONIC_DB + FULL_DB), text)
    second = signs["ord_2"]
    if _double(signs):
        text = f"2x stands {second:.0f} dB over floor, 1x {signs.same_channel('ord_1', 'ord_2'):.0f} dB"
        yield Evidence(_strength(second, LINE_DB, LINE_DB + FULL_DB), f"{text}{signs.at('ord_2')}")
    if (count := _high_orders(signs)) >= LOOSE_HARMONICS:
        text = f"{count} of the orders 3x to 10x stand more than {LINE_DB:.0f} dB over floor"
        yield Evidence(_strength(count, LOOSE_HARMONICS - 1, 8), text)


def _gear(signs: Signs) -> Iterator[Evidence]:
    for name, what in (("gmf", "gear mesh"), ("gmf_sidebands", "sidebands of the gear mesh")):
        if (db := signs[name]) >= MESH_DB:
            text = f"{what} {db:.0f} dB over floor{signs.at(name)}"
            yield Evidence(_strength(db, MESH_DB, MESH_DB + FULL_DB), text)
    if (peak := signs["cepstrum_shaft"]) >= CEPSTRUM_PEAK:
        text = f"cepstrum peak at the shaft period, {peak:.0f} times the rms around{signs.at('cepstrum_shaft')}"
        yield Evidence(_strength(peak, CEPSTRUM_PEAK, 4 * CEPSTRUM_PEAK), text)


def _shape(signs: Signs) -> Iterator[Evidence]:
    if (kurtosis := signs["kurtosis"]) >= IMPULSIVE_KURTOSIS:
        text = f"kurtosis {kurtosis:.1f}, impulsive{signs.at('kurtosis')}"
        yield Evidence(_strength(math.log(kurtosis), math.log(IMPULSIVE_KURTOSIS), math.log(40.0)), text)
    if (hum := signs["mains_hum"]) >= HUM_SHARE:
        text = f"mains lines are {100 * hum:.0f} % of the power{signs.at('mains_hum')}"
        yield Evidence(_strength(hum, HUM_SHARE, 1.0), text)
    if _flow_noise(signs):
        text = f"broadband noise: the highest bands hold {100 * _high_share(signs):.0f} % of the power"
        yield Evidence(_strength(_high_share(signs), HIGH_SHARE, 1.0) * 0.8, text)


def _changes(signs: Signs) -> Iterator[Evidence]:
    for name, what in _CHANGES.items():
        if (sigma := signs[name]) >= CHANGED_SIGMA:
            text = f"{what} {sigma:.0f} sigma above this machine's baseline{signs.at(name)}"
            yield Evidence(_strength(math.log(sigma), math.log(CHANGED_SIGMA), math.log(100.0)), text)


_RULES: tuple[Callable[[Signs], Iterator[Evidence]], ...] = (_envelope, _velocity, _orders, _gear, _shape, _changes)


def _order(order: float) -> str:
    return f"ord_{order:g}".replace(".", "_")


def _double(signs: Signs) -> bool | None:
    """2x stands, and not far below 1x: the coupling works twice a turn."""
    second = signs["ord_2"]
    if math.isnan(second):
        return None
    return second >= LINE_DB and second >= signs.same_channel("ord_1", "ord_2") - 6.0


def _high_orders(signs: Signs) -> int:
    return sum(signs[_order(order)] >= LINE_DB for order in ORDERS if order >= 3)


def _high_share(signs: Signs) -> float:
    """Share of the power in the highest bands, on the channel where it is largest."""
    logs = signs.table(*(f"band_{k:02d}" for k in range(BAND_COUNT - HIGH_BANDS, BAND_COUNT)))
    return float(np.fmax.reduce((10.0 ** np.minimum(logs, 0.0)).sum(axis=1)))


def _flow_noise(signs: Signs) -> bool | None:
    share, flatness = _high_share(signs), signs["flatness"]
    if math.isnan(share) or math.isnan(flatness):
        return None
    return share >= HIGH_SHARE and flatness >= NOISE_FLATNESS_DB and not signs["kurtosis"] >= IMPULSIVE_KURTOSIS


def _looseness(signs: Signs) -> bool | None:
    halves = (_at_least(signs[_order(order)], SUBHARMONIC_DB) for order in (0.5, 1.5))
    return _any(*halves, None if math.isnan(signs["ord_3"]) else _high_orders(signs) >= LOOSE_HARMONICS)


def _gear_wear(signs: Signs) -> bool | None:
    mesh = (_at_least(signs[name], MESH_DB) for name in ("gmf", "gmf_sidebands"))
    return _any(*mesh, _at_least(signs["cepstrum_shaft"], CEPSTRUM_PEAK))


def _gear_tooth(signs: Signs) -> bool | None:
    return _any(
        _at_least(signs["cepstrum_shaft"], CEPSTRUM_PEAK),
        _at_least(signs["env_shaft"], FAMILY_DB),
        _at_least(signs["kurtosis"], IMPULSIVE_KURTOSIS),
    )


_MODES: dict[str, Callable[[Signs], bool | None]] = {
    "unbalance": lambda signs: _at_least(signs["ord_1_velocity_share"], VELOCITY_SHARE),
    "misalignment": _double,
    "looseness": _looseness,
    "gear_wear": _gear_wear,
    "gear_tooth": _gear_tooth,
    "cavitation": _flow_noise,
}
