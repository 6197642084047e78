"""A physical veto: does the spectrum of the envelope bear out where in a bearing the network places a fault?

A fault of a bearing's part makes its own family of lines. Where speed and bearing are known and no family stands above
the floor, the network may be right that the bearing is damaged, but nothing says where: the alarm then reads "bearing,
location unconfirmed", and nobody should order an inner ring because of it. The probabilities stay as they are.
"""

from __future__ import annotations

from pipeline.core.evidence import confirms
from pipeline.core.records import FeatureRow
from pipeline.core.signs import FAMILIES

UNCONFIRMED = "bearing, location unconfirmed"


def shown_mode(mode: str, row: FeatureRow | None) -> str:
    """How a mode is shown to people: a place in a bearing only where the evidence does not contradict it."""
    if row is not None and mode in FAMILIES and confirms(mode, row) is False:
        return UNCONFIRMED
    return mode
