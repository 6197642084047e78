"""Angular resampling: where the shaft's speed changes within a window, its envelope is looked at per turn.

The envelope is taken in time, where the structure's resonances stand still, and then resampled to constant
steps of shaft angle, where the lines of the bearing do (Randall, 3.6). The speed is constant between
two statements of it, so the angle is linear between them.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.features.compiled import kernel
from pipeline.core.features.lanes import LANES
from pipeline.core.features.time_domain import Float64
from pipeline.core.records import Float32

TAPER_SUM = 3 / 8  # mean hann^2


@kernel
def resample_to_angle(
    even: Float32, odd: Float32, count: int, lane: int, square_sum: float, at: Float64, turns: Float64, x: Float32
) -> None:
    """Replace one lane's squared envelope over time by that over angle, its mean under the window taken out.

    even, odd: [m, lane], the samples 2m and 2m + 1 of `count`; at, turns: (pieces,) where in the window, 0 to 1,
    a piece of constant speed ends and how many turns the shaft has made by then; x: (count + 2,) scratch.
    Interpolated linearly: the lines stand far below the envelope's own bandwidth.
    """
    mean = square_sum / (count * TAPER_SUM)
    for m in range(count):
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * m / count)
        side = even if m % 2 == 0 else odd
        x[m] = side[m // 2 * LANES + lane] - mean * hann * hann
    x[count] = x[count + 1] = 0.0
    piece, begin_at, begin_turns = 0, 0.0, 0.0
    for m in range(count):
        turned = turns[-1] * m / count
        while piece < at.shape[0] - 1 and turns[piece] <= turned:
            begin_at, begin_turns = at[piece], turns[piece]
            piece += 1
        span = turns[piece] - begin_turns
        share = (turned - begin_turns) / span if span > 0 else 0.0
        place = (begin_at + share * (at[piece] - begin_at)) * count
        i = min(int(place), count)
        value = x[i] + (x[i + 1] - x[i]) * (place - i)
        side = even if m % 2 == 0 else odd
        side[m // 2 * LANES + lane] = value
