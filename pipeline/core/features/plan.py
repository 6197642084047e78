"""What the compiled kernel is given: the plan of a kind of rows, the rows, and room to work in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.cepstrum import CepstrumPlan
from pipeline.core.features.envelope import EnvelopePlan, Envelopes
from pipeline.core.features.spectrum import Spectra, SpectrumPlan
from pipeline.core.features.time_domain import Float64
from pipeline.core.records import Float32


class Plan(NamedTuple):
    """What every row of one rate, length and setting shares."""

    spectrum: SpectrumPlan
    envelope: EnvelopePlan
    cepstrum: CepstrumPlan
    has_envelope: bool
    has_cepstrum: bool
    complete: bool  # False = the core vector only
    slip_tolerance: float
    least_confidence: float
    columns: NDArray[np.int64]  # first column of each stage: time, spectrum, orders, cepstrum, envelope, speed
    orders: Float64  # of the shaft whose lines are features
    core_orders: NDArray[np.bool_]  # which of them belong to the core vector


class Rows(NamedTuple):
    """What is known of each row; n is a multiple of LANES, the last ones repeat."""

    address: NDArray[np.int64]  # (n,) of the first sample
    turns: Float64  # (n,) of the shaft during the window; NaN = not known
    low_turns: Float64  # (n,) range in which they are estimated; NaN = not to be
    high_turns: Float64
    to_m_s2: Float64  # (n,) factor from the row's unit; NaN = not an acceleration
    lines: Float64  # (n, 4) orders of outer race, inner race, twice the spin, cage; NaN = not known
    teeth: Float64  # (n, wheels) on this shaft; NaN = none
    trace_first: NDArray[np.int64]  # (n,) pieces [first, first + count) of the traces below
    trace_count: NDArray[np.int64]  # (n,) 0 = the speed does not change within the window
    trace_at: Float64
    trace_turns: Float64


class Work(NamedTuple):
    """Scratch, made once per plan and thread."""

    spectra: Spectra
    re2: Float32
    im2: Float32
    envelopes: Envelopes
    found: Float32  # (32 * LANES,)
    blocks: Float32
    mean: Float32  # (LANES,)
    total: Float32  # (LANES,)
    turns: Float64  # (LANES,) of the shaft, stated or estimated
    parts: Float64  # (2, QUARTERS, PARTIALS)
    merged: Float64  # (PARTIALS,)
    psi: Float32
