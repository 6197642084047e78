"""The sharpest band: the part of the envelope band in which impacts stand out most.

A filter bank of halves, thirds, quarters and sixths of the band (after Antoni, MSSP 21 (2007) 108); the winner is
the one whose complex envelope has the largest kurtosis. That may be a single knock: the winner is used only where
a family of lines stands in its envelope, see `coherent`.
"""

from __future__ import annotations

from pipeline.core.features.compiled import kernel
from pipeline.core.features.envelope import (
    EnvelopePlan,
    Envelopes,
    demodulate,
    envelope_kurtosis,
    envelope_spectrum,
    squared,
)
from pipeline.core.features.lanes import LANES, splat, store
from pipeline.core.features.spectrum import Spectra
from pipeline.core.records import Float32

USABLE = 0.5  # of a band's width: lines further apart have too few pairs of bins


@kernel
def sharpest_bands(plan: EnvelopePlan, s: Spectra, e: Envelopes, best: Float32) -> None:
    """For each lane the number of the band with the largest kurtosis -> best [0, lane]; best [1] holds the kurtosis."""
    store(best, 0, splat(0.0))
    store(best, LANES, splat(-1.0))
    for b in range(plan.bands.shape[0]):
        demodulate(plan, s, e, plan.bands[b, 0], plan.bands[b, 1])
        for lane in range(LANES):
            kurtosis = envelope_kurtosis(plan, e, lane)
            if kurtosis > best[LANES + lane]:
                best[lane], best[LANES + lane] = b, kurtosis


@kernel
def sharpest_spectrum(plan: EnvelopePlan, s: Spectra, e: Envelopes, best: Float32) -> None:
    """Envelope spectra, each lane of its own band; best [0] becomes the number of bins that are of use."""
    e.re[: plan.length * LANES] = 0.0
    e.im[: plan.length * LANES] = 0.0
    for lane in range(LANES):
        low, high = plan.bands[int(best[lane])]
        for k in range(low, high):
            gain = e.gains[(k - plan.low) * LANES + lane]
            e.re[(k - low) * LANES + lane] = s.im[k * LANES + lane] * gain
            e.im[(k - low) * LANES + lane] = s.re[k * LANES + lane] * gain
        best[lane] = min(plan.bins, int(USABLE * (high - low)))
    envelope_spectrum(plan, e, squared(plan, e))
