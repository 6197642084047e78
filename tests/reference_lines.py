"""Lines, orders, cepstrum, envelope and speed again: slow, obvious, in double precision. See reference.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.signal

ORDERS = {f"ord_{o:g}".replace(".", "_"): o for o in (0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9, 10)}
NAN = float("nan")


@dataclass(frozen=True)
class Shaft:
    """What is known of the shaft during one window, as a share of the window each piece of a trace covers."""

    turns: float = NAN
    orders: tuple[float, float, float, float] = (NAN,) * 4  # bpfo, bpfi, 2bsf, ftf
    teeth: tuple[int, ...] = ()
    pieces: tuple[tuple[float, float], ...] = ()  # (share of the window, turns during it)


def ratio(power: np.ndarray, place: float, tolerance: float, shaft: float = 0.0) -> float:
    """Largest power near `place` over the geometric mean of 24 bins on each side."""
    if not place > 0:
        return NAN
    half = max(0.5, tolerance * place)
    near = [k for k in range(len(power)) if place - half <= k <= place + half]
    if not near or near[0] < 2 or near[-1] >= len(power) - 2:
        return NAN
    around = [*power[max(2, near[0] - 24) : near[0]], *power[near[-1] + 1 : near[-1] + 25]]
    if shaft > 0:
        multiple = np.floor(place / shaft + 0.5) * shaft
        near = [k for k in near if abs(k - multiple) > 2.5]
    return max(power[near]) / np.exp(np.mean(np.log(around))) if near else NAN


def mean_db(ratios: list[float]) -> float:
    known = [r for r in ratios if np.isfinite(r)]
    return 20 * np.log10(np.mean(np.sqrt(known))) if known else NAN


def family(power: np.ndarray, place: float, tolerance: float, shaft: float = 0.0) -> tuple[float, float]:
    """(dB, count over 6 dB)."""
    ratios = [ratio(power, h * place, tolerance, shaft) for h in (1, 2, 3, 4, 5)]
    level = mean_db(ratios[:3] if tolerance * place >= 1 else ratios)
    return level, NAN if np.isnan(level) else sum(r > 10**0.6 for r in ratios)


def sidebands(power: np.ndarray, place: float, spacing: float, tolerance: float, harmonics: int, count: int) -> float:
    ratios = []
    for harmonic in range(1, harmonics + 1):
        half = max(0.5, tolerance * harmonic * place)
        for at in (harmonic * place + m * spacing for m in range(-count, count + 1) if m != 0):
            ratios.append(ratio(power, at, half / at) if at > 0 else NAN)
    return mean_db(ratios)


def orders(power: np.ndarray, df: float, shaft: Shaft, tolerance: float) -> dict[str, float]:
    """power: up to the bandwidth."""
    found = {name: 10 * np.log10(ratio(power, o * shaft.turns, tolerance)) for name, o in ORDERS.items()}
    low, high = round((2 if shaft.turns * df * 60 < 600 else 10) / df), round(1000 / df)
    half = max(1.5, tolerance * shaft.turns)
    k = np.arange(len(power))
    velocity = np.divide(power, k**2, where=k > 0, out=np.zeros(len(power)))
    found["ord_1_velocity_share"] = NAN
    line = (k >= shaft.turns - half) & (k <= shaft.turns + half)
    if low >= 2 and high < len(power) and line.any() and np.flatnonzero(line)[0] >= low:
        found["ord_1_velocity_share"] = velocity[line].sum() / velocity[low : high + 1].sum()
    meshes = []
    for teeth in shaft.teeth:
        near = min(tolerance, 0.25 / teeth)
        level = mean_db([ratio(power, h * teeth * shaft.turns, near) for h in (1, 2, 3)])
        side = sidebands(power, teeth * shaft.turns, shaft.turns, near, 1, 2)
        meshes.append((level, side))
    meshes = [m for m in meshes if np.isfinite(m[0])]
    found["gmf"], found["gmf_sidebands"] = max(meshes) if meshes else (NAN, NAN)
    return found


def cepstrum(power: np.ndarray, shaft: Shaft, tolerance: float) -> float:
    if len(power) < 64:
        return NAN
    length = max(odd * 2**k for odd in (1, 3, 5) for k in range(30) if odd * 2**k <= len(power) - 2)
    logs = np.log(power[2 : 2 + length])
    ripples = np.fft.rfft((logs - logs.mean()) * scipy.signal.windows.hann(length, sym=False))
    return family(abs(ripples[: length // 2]) ** 2, length / shaft.turns, tolerance)[0]


def whitened(spectrum: np.ndarray, power: np.ndarray, df: float) -> np.ndarray:
    width = 32 * max(1, round(64 / (32 * df)))
    count = max(1, len(power) // width)
    white = spectrum[: len(power)].copy()
    for i in range(count):
        stretch = slice(i * width, (i + 1) * width if i < count - 1 else len(power))
        white[stretch] /= np.exp(np.mean(np.log(power[max(2, stretch.start) : stretch.stop])) / 2)
    return white


def squared_envelope(white: np.ndarray, low: int, high: int, length: int) -> np.ndarray:
    band = np.zeros(length, complex)
    band[: high - low] = white[low:high]
    return abs(np.fft.ifft(band)) ** 2


def over_angle(squared: np.ndarray, shaft: Shaft) -> np.ndarray:
    """Linear interpolation at equal angles."""
    shares, turns = np.array(shaft.pieces).T
    t = np.concatenate([[0], np.cumsum(shares)]) / shares.sum()
    theta = np.concatenate([[0], np.cumsum(turns)])
    wanted = np.interp(np.arange(len(squared)) / len(squared) * theta[-1], theta, t) * len(squared)
    return np.interp(wanted, np.arange(len(squared) + 1), [*squared, 0.0])


def band_of(df: float, rate_hz: float, bins: int, low_hz: float, high_hz: float) -> tuple[int, int] | None:
    low = max(2, round(low_hz / df))
    high = min(round(min(high_hz, rate_hz / 2.4) / df), bins)
    return None if (high - low) * df < (high_hz - low_hz) / 2 or high - low < 16 else (low, high)


def envelope(
    spectrum: np.ndarray, power: np.ndarray, df: float, shaft: Shaft, band: tuple[int, int], tolerance: float
) -> dict[str, float]:
    low, high = band
    length = 2 * scipy.fft.next_fast_len(-(-(high - low) // 2), real=True)
    squared = squared_envelope(whitened(spectrum, power, df), low, high, length)
    taper = scipy.signal.windows.hann(length, sym=False) ** 2
    rest = squared - taper * squared.sum() / taper.sum()
    ses = abs(np.fft.rfft(over_angle(rest, shaft) if shaft.pieces else rest))[: length // 2] ** 2
    found = env_lines(ses, shaft, tolerance)
    found["env_kurtosis"] = (squared**2).mean() / squared.mean() ** 2 / ((taper**2).mean() / taper.mean() ** 2)
    found["env_rms"] = 10 * np.log10(power[low:high].sum() / power[2:].sum())
    return found


def env_lines(ses: np.ndarray, shaft: Shaft, tolerance: float) -> dict[str, float]:
    resolved = shaft.turns if shaft.turns >= 8 else 0.0
    found = {}
    for name, order in zip(("bpfo", "bpfi", "2bsf", "ftf"), shaft.orders, strict=True):
        level, count = family(ses, order * shaft.turns, tolerance, resolved)
        found[f"env_{name}"], found[f"env_{name}_harmonics"] = level, count
    found["env_shaft"] = family(ses, shaft.turns, tolerance)[0]
    _, bpfi, element, cage = (order * shaft.turns for order in shaft.orders)
    found["env_bpfi_sidebands"] = sidebands(ses, bpfi, shaft.turns, tolerance, 3, 1)
    found["env_2bsf_sidebands"] = sidebands(ses, element, cage, tolerance, 3, 1)
    return found
