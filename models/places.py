"""What the lines of a bearing say before anything is learned: the family that stands highest names the place.

A network that has seen a few rigs can learn any relation between its inputs; this one is physics and holds on every
rig, whatever its gain, structure, speed and bearing (Randall & Antoni, MSSP 25 (2011) 485). So it is not left to
be learned: the odds of two places begin as the powers of their lines are to each other. The logit of a place is the
strength of its lines above what the floor's own peaks reach, one unit for every DB_PER_UNIT decibels,

    outputs = head(state) + W [z * m, m]
    W z-part = scale / (C DB_PER_UNIT),    m-part = (center - FLOOR_DB) / (C DB_PER_UNIT)

where z = (dB - center) / scale is the scaled strength, m says that it is there, and C counts the channels. W is
constant; what the recurrent part learns is when to say something else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.scaling import Scaler

PLACES = {
    "bearing_outer": "env_bpfo",
    "bearing_inner": "env_bpfi",
    "bearing_ball": "env_2bsf",
    "bearing_cage": "env_ftf",
}
DB_PER_UNIT = 10 / math.log(10)  # of a logit: e times the power is e times as likely
FLOOR_DB = 10.0  # a family of lines this weak speaks for no place


def direct_weights(inputs: Sequence[str], classes: Sequence[str], scaler: Scaler) -> NDArray[np.float32] | None:
    """W (K, 2F) of the inputs `channel.feature`; None where there are not two places to choose from."""
    weights = np.zeros((len(classes), 2 * len(inputs)), np.float32)
    for k, mode in enumerate(classes):
        mine = [n for n, name in enumerate(inputs) if name.rpartition(".")[2] == PLACES.get(mode)]
        for n in mine:
            weights[k, n] = scaler.scale[n] / (len(mine) * DB_PER_UNIT)
            weights[k, len(inputs) + n] = (scaler.center[n] - FLOOR_DB) / (len(mine) * DB_PER_UNIT)
    return weights if np.count_nonzero(weights.any(axis=1)) >= 2 else None
