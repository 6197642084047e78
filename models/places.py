"""Bearing lines speak before anything is learned: the family that stands highest names the place.

A network that has seen a few rigs can learn any relation between its inputs. This one is physics and holds on every
rig, whatever its gain, structure, speed and bearing (Randall & Antoni, MSSP 25 (2011) 485), so it is given and not
learned: at first, the odds of two places are those of the powers of their lines. The logit of a place is the strength
of its lines above FLOOR_DB, which peaks of the floor reach too: one unit for every DB_PER_UNIT decibels,

    outputs = head(state) + W [z * m, m]
    W z-part = scale / (C DB_PER_UNIT),    m-part = (center - FLOOR_DB) / (C DB_PER_UNIT)

where z = (dB - center) / scale is the scaled strength, m is 1 where it is known, and C counts the channels. W is
constant; the recurrent part learns when to say something else. Which family shows a place: `core/faults.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.scaling import Scaler
from pipeline.core.faults import family_of

DB_PER_UNIT = 10 / math.log(10)  # of a logit: e times the power is e times as likely
FLOOR_DB = 10.0  # a family of lines this weak speaks for no place


def direct_weights(inputs: Sequence[str], classes: Sequence[str], scaler: Scaler) -> NDArray[np.float32] | None:
    """W (K, 2F) of the inputs `channel.feature`; None where there are not two places to choose from."""
    weights = np.zeros((len(classes), 2 * len(inputs)), np.float32)
    for k, mode in enumerate(classes):
        mine = [n for n, name in enumerate(inputs) if name.rpartition(".")[2] == family_of(mode)]
        for n in mine:
            weights[k, n] = scaler.scale[n] / (len(mine) * DB_PER_UNIT)
            weights[k, len(inputs) + n] = (scaler.center[n] - FLOOR_DB) / (len(mine) * DB_PER_UNIT)
    return weights if np.count_nonzero(weights.any(axis=1)) >= 2 else None
