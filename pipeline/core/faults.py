"""The table of failure modes: which signs show each of them, and what people call it.

Evidence (`core/evidence.py`), the direct weights of the network (`models/places.py`), the simulator and its pictures
read this table.

To add a failure mode:

1. add a line to `MODES` here, with the features that show it;
2. add its name to `[modes] names` of config.toml, and to the default of `ModesConfig` if every plant should know it;
3. add its physics to the simulator: `sim/components.py`, and `sim/detectable.py` for when it can be told.

A sign that no rule here can read needs a rule in `core/evidence.py`; a feature that does not exist yet needs a line in
`core/features/table.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEALTHY = "healthy"

# What a machine of a kind has beside a rotor, a coupling and bearings. Of other kinds nothing is known.
KINDS: dict[str, frozenset[str]] = {
    "motor": frozenset(), "generator": frozenset(), "fan": frozenset(), "blower": frozenset(), "spindle": frozenset(),
    "pump": frozenset({"impeller"}), "gearbox": frozenset({"gears"}), "gearmotor": frozenset({"gears"}),
}  # fmt: skip

Rule = Literal["level", "family", "share", "double", "harmonics", "noise", "impulses"]

# Thresholds, set on simulated machines of many make-ups and checked on real recordings: nine of ten windows of sound
# machines stay below. Levels in dB are over a local floor.
FULL_DB = 20.0  # a line this far above its threshold has the full strength
FAMILY_DB = 11.0  # an envelope family; nine of ten windows of sound machines stay below 9 dB
CAGE_DB = 8.0  # the family of the cage, whose lines are narrow: sound machines stay below 5 dB
DOUBLE_DB = 20.0  # 2x
SUBHARMONIC_DB = 12.0  # 0.5x and 1.5x: sound machines have none
LOOSE_HARMONICS = 5  # of 3x to 10x that stand
VELOCITY_SHARE = 0.6  # of 1x in the velocity's mean square
MESH_DB = 12.0  # gear mesh and its sidebands
CEPSTRUM_DB = 11.0  # cepstrum at the shaft period
IMPULSIVE_KURTOSIS = 4.5  # a Gaussian has 3
HIGH_SHARE = 0.8  # of the power in the three highest log bands: flow noise
CHANGED_SIGMA = 6.0  # robust standard deviations from the stream's own baseline


@dataclass(frozen=True, slots=True)
class Sign:
    """What shows a failure mode: features, and the value from which they count.

    The rules are those of `core/evidence.py`: `level` reads one feature, the others read several features together.
    """

    features: tuple[str, ...]
    least: float  # from here on the sign stands ...
    full: float  # ... and here its statement has the full strength
    text: str = ""  # what a statement calls it; empty = it bears a mode out, but is no statement of its own
    rule: Rule = "level"
    weight: float = 1.0  # of its strength, beside the signs of other modes


@dataclass(frozen=True, slots=True)
class Line:
    """A line in the velocity spectrum: `multiple` x the frequency of the shaft, of the gear mesh or of the mains."""

    multiple: float
    of: Literal["shaft", "mesh", "mains"] = "shaft"

    @property
    def label(self) -> str:
        """1.5x, 2x mesh."""
        return f"{self.multiple:g}x" if self.of == "shaft" else f"{self.multiple:g}x {self.of}"


@dataclass(frozen=True, slots=True)
class FailureMode:
    """One way to fail. Any of its signs bears it out."""

    name: str  # its id; ids never change meaning
    part: str  # what is damaged, in a mechanic's words
    line: Line | None  # that tells it in the velocity spectrum; None = it shows in the structure's resonances
    signs: tuple[Sign, ...] = ()
    needs: str = ""  # the part without which a machine cannot fail so, see `KINDS`
    bearing_explains: bool = False  # its signs say nothing where the lines of a bearing stand: bearings strike too

    @property
    def family(self) -> Sign | None:
        """The family of bearing lines in the envelope spectrum that shows this mode, if one does."""
        return next((sign for sign in self.signs if sign.rule == "family"), None)

    @property
    def features(self) -> tuple[str, ...]:
        """All features that its signs read."""
        return tuple(dict.fromkeys(name for sign in self.signs for name in sign.features))


def _level(feature: str, least: float, text: str = "", weight: float = 1.0) -> Sign:
    return Sign((feature,), least, least + FULL_DB, text, weight=weight)


def _family(feature: str, label: str, least_db: float = FAMILY_DB) -> Sign:
    return Sign((feature,), least_db, least_db + FULL_DB, label, "family")


MODES: dict[str, FailureMode] = {
    mode.name: mode
    for mode in (
        FailureMode(
            "unbalance",
            "rotor",
            Line(1),
            (Sign(("ord_1_velocity_share",), VELOCITY_SHARE, 1.0, "1x", "share", 0.8),),
        ),
        FailureMode(
            "misalignment",
            "coupling",
            Line(2),
            (Sign(("ord_2", "ord_1"), DOUBLE_DB, DOUBLE_DB + FULL_DB, "2x", "double"),),
        ),
        FailureMode(
            "looseness",
            "foot",
            Line(1.5),
            (
                _level("ord_0_5", SUBHARMONIC_DB, "0.5x stands"),
                _level("ord_1_5", SUBHARMONIC_DB, "1.5x stands"),
                Sign(
                    tuple(f"ord_{order}" for order in range(3, 11)),
                    LOOSE_HARMONICS,
                    8,
                    "orders 3x to 10x",
                    "harmonics",
                ),
            ),
        ),
        FailureMode("bearing_inner", "inner ring", None, (_family("env_bpfi", "BPFI"),)),
        FailureMode("bearing_outer", "outer ring", None, (_family("env_bpfo", "BPFO"),)),
        FailureMode("bearing_ball", "one rolling element", None, (_family("env_2bsf", "2xBSF"),)),
        FailureMode("bearing_cage", "cage", None, (_family("env_ftf", "FTF", CAGE_DB),)),
        FailureMode(
            "gear_wear",
            "all teeth",
            Line(2, "mesh"),
            (
                _level("gmf", MESH_DB, "gear mesh"),
                _level("gmf_sidebands", MESH_DB, "sidebands of the gear mesh"),
            ),
            needs="gears",
        ),
        FailureMode(
            "gear_tooth",
            "one tooth",
            None,
            (
                _level("cepstrum_shaft", CEPSTRUM_DB, "cepstrum at the shaft period", 0.5),
                _level("env_shaft", FAMILY_DB),
                Sign(("kurtosis",), IMPULSIVE_KURTOSIS, 40.0, "kurtosis", "impulses"),
            ),
            needs="gears",
            bearing_explains=True,
        ),
        FailureMode(
            "cavitation",
            "impeller inlet",
            None,
            (
                Sign(
                    ("band_11", "band_12", "band_13", "flatness", "kurtosis"),
                    HIGH_SHARE,
                    1.0,
                    "broadband noise",
                    "noise",
                    0.8,
                ),
                _level("rel_band_12", CHANGED_SIGMA),
                _level("rel_band_13", CHANGED_SIGMA),
            ),
            needs="impeller",
        ),
        FailureMode("other", "stator", Line(2, "mains")),  # no sign of its own; the simulator loosens a stator
    )
}


def impossible(kind: str, *, has_gears: bool) -> tuple[str, ...]:
    """The modes that a machine of this kind cannot have. A stated wheel is a gear whatever the kind.

    Of a kind that is not listed every mode is possible. Of a machine whose kind nobody has stated, those are that need
    no particular part: gears and impellers that nobody knows of are not named as what fails.
    """
    if kind and kind not in KINDS:
        return ()
    parts = KINDS.get(kind, frozenset()) | ({"gears"} if has_gears else set())
    return tuple(mode.name for mode in MODES.values() if mode.needs and mode.needs not in parts)


def family_of(mode: str) -> str | None:
    """The feature of the family of bearing lines that shows a mode; None for a mode without one."""
    family = MODES[mode].family if mode in MODES else None
    return None if family is None else family.features[0]
