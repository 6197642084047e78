"""Why a window got its prediction: the prediction made again, and the inputs it depends on.

The windows that the network was stepped over are stepped again, from a zero state. An input matters by how much the
probability falls when it is withheld over the last windows (masked as missing, which the network knows from training):
occlusion, Zeiler & Fergus 2014, over time. Inputs that say the same hide each other, so families of inputs (one feature
name without its number) are withheld together as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.records import Float32, Predictor

SPAN = 20  # windows over which an input is withheld


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Probabilities (K,) of the last window, and what each input and each family of inputs adds to one of them."""

    p: Float32
    by_input: NDArray[np.float64]  # (F,) fall of the probability without it; negative: it spoke against the mode
    by_family: dict[str, float]
    windows: int  # over which it was withheld


def explain(predictor: Predictor, x: Float32, mode: str | None = None, span: int = SPAN) -> Explanation:
    """Step through x (T, F) raw inputs from a zero state; explain `mode`, or the most probable, of the last window."""
    steps, features = x.shape
    split = max(0, steps - span)
    h = np.zeros((1, *predictor.hidden_shape), np.float32)
    for row in x[:split]:
        _, h = predictor.step(row[None], h)
    families = _families(predictor.inputs)
    withheld = np.zeros((1 + features + len(families), features), np.bool_)  # row 0: nothing
    withheld[1 : 1 + features] = np.eye(features, dtype=np.bool_)
    for place, members in enumerate(families.values(), 1 + features):
        withheld[place, members] = True
    h = np.repeat(h, len(withheld), axis=0)
    p = np.zeros((len(withheld), len(predictor.classes)), np.float32)
    for row in x[split:]:
        p, h = predictor.step(np.where(withheld, np.float32(np.nan), row), h)
    k = int(p[0].argmax()) if mode is None else predictor.classes.index(mode)
    fall = p[0, k].astype(np.float64) - p[1:, k]
    return Explanation(p[0], fall[:features], dict(zip(families, fall[features:].tolist(), strict=True)), steps - split)


def _families(inputs: Sequence[str]) -> dict[str, list[int]]:
    """Inputs that belong together: bands of a spectrum, and one feature over all channels."""
    families: dict[str, list[int]] = {}
    for number, name in enumerate(inputs):
        families.setdefault(re.sub(r"_?\d+$", "", name.rpartition(".")[2]), []).append(number)
    return {name: members for name, members in families.items() if len(members) > 1}
