"""Pictures of a simulated machine, as an analyst would draw them. Needs matplotlib.

Each picture is a function of a `Subject` and is computed from the samples alone.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.signal import butter, sosfiltfilt, stft
from scipy.stats import kurtosis

from pipeline.core.faults import HEALTHY, MODES
from pipeline.errors import ConfigError
from sim.analyst import amplitudes, envelope_order, features, run, squared_envelope, told_by
from sim.components import BEARING_FAULTS, PASS
from sim.events import Event
from sim.life import FAULTS, Life
from sim.machine import Machine
from sim.population import AXES, KINDS, draw, faults_of, location
from sim.recipe import course
from sim.signals import G_MM_S2, TURN_RAD, Float32

SECONDS = 4.0
RUN_UP_S = 40.0
LIFE_POINTS = 80
SMOOTHED = 65  # lines over which a spectrum is averaged to show its shape
_INK, _SOUND, _MARK, _MARK_2 = "#1f3b57", "#9db4c8", "#c2410c", "#15803d"


@dataclass(frozen=True, slots=True)
class Subject:
    """The machine in the pictures, with a fault of constant severity."""

    machine: Machine
    mode: str
    severity: float
    axis: int

    @property
    def speed_hz(self) -> float:
        return self.machine.make.speed_hz

    @property
    def title(self) -> str:
        what = self.mode if self.severity == 0 or self.mode == HEALTHY else f"{self.mode}, severity {self.severity:g}"
        return f"{self.machine.id}, {60 * self.speed_hz:.0f} rpm, {what}, axis {AXES[self.axis]}"


def subject(mode: str, severity: float, kind: str | None, seed: int, rate_hz: float, axis: str) -> Subject:
    """Draws a machine with this fault.

    Raises:
        ConfigError: mode or kind is unknown, the kind cannot have the fault, or the rate cannot carry it.
    """
    if mode not in (HEALTHY, *FAULTS):
        msg = f"a failure mode must be one of {', '.join((HEALTHY, *FAULTS))}, found: {mode!r}"
        near = difflib.get_close_matches(mode, (HEALTHY, *FAULTS), n=1, cutoff=0.4)
        raise ConfigError(msg, hint=f"did you mean {near[0]}?" if near else "the default is bearing_outer")
    if kind is not None and kind not in KINDS:
        msg = f"a kind of machine must be one of {', '.join(KINDS)}, found: {kind!r}"
        raise ConfigError(msg)
    chosen = kind or next(k for k in ("fan", *KINDS) if mode == HEALTHY or mode in faults_of(k))
    make = draw(chosen, np.random.default_rng((seed, 0)))
    life = Life()
    if mode != HEALTHY and severity > 0:
        life = Life((course(make, mode, rate_hz, shape="constant", final=severity),))
    machine = Machine(f"{chosen}-{seed:02d}", (seed, 0), make, life, rate_hz)
    return Subject(machine, mode, severity, AXES.index(axis))


def draw_waveform(who: Subject, figure: Figure) -> None:
    """Ten turns of the shaft: the sound machine above, the damaged one below."""
    turns_s = 10 / who.speed_hz
    upper, lower = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, (name, x, _) in zip((upper, lower), _pair(who), strict=True):
        n = round(turns_s * who.machine.rate_hz)
        t_s = np.arange(n) / who.machine.rate_hz
        axes.plot(1000 * t_s, x[:n], color=_SOUND if name == "sound" else _INK, linewidth=0.6)
        axes.set_ylabel("g")
        axes.set_title(f"{name}: {np.std(x):.3f} g rms, kurtosis {kurtosis(x, fisher=False):.1f}", loc="left")
    lower.set_xlabel("ms (ten turns of the shaft)")


def draw_spectrum(who: Subject, figure: Figure) -> None:
    """Velocity up to ten orders, where shaft and gears show, and acceleration up to the filter."""
    left, right = figure.subplots(1, 2)
    rate_hz = who.machine.rate_hz
    for name, x, _ in _pair(who):
        hz, g = amplitudes(x, rate_hz)
        colour = _SOUND if name == "sound" else _INK
        low = (hz > 0.15 * who.speed_hz) & (hz < 10.5 * who.speed_hz)
        over, width = (3, 0.7) if name == "sound" else (2, 1.6)  # a thin line on a thick one, so that both are visible
        left.plot(
            hz[low] / who.speed_hz,
            g[low] * G_MM_S2 / (TURN_RAD * hz[low] * math.sqrt(2)),
            color=colour,
            linewidth=width,
            label=name,
            zorder=over,
        )
        smooth = np.convolve(g**2, np.ones(SMOOTHED) / SMOOTHED, "same")
        right.plot(
            hz[1:] / 1000, 10 * np.log10(smooth[1:] + 1e-14), color=colour, linewidth=width, label=name, zorder=over
        )
    left.set_xlabel("orders of the shaft")
    left.set_ylabel("mm/s rms per line")
    left.set_xticks(range(11))
    left.legend(frameon=False)
    right.set_xlabel("kHz")
    right.set_ylabel("dB re 1 g peak")
    for hz_mode in who.machine.make.modes_hz[: who.machine.carried]:
        right.axvline(hz_mode / 1000, color=_MARK_2, linewidth=0.8, linestyle=":")
    right.set_title("dotted: resonances of the structure", loc="left")


def draw_envelope(who: Subject, figure: Figure) -> None:
    """Spectrum of the squared envelope, with cursors at the fault's family (less slip) and its shaft sidebands."""
    axes = figure.subplots()
    order = envelope_order(who.machine.make, who.mode)
    top = 4.4 * max(order, 1.0)
    for name, x, speed_hz in _pair(who):
        hz, power = squared_envelope(x, who.machine)
        shown = (hz > 0.1 * speed_hz) & (hz < top * speed_hz)
        floor = np.median(power[shown])
        axes.plot(
            hz[shown] / speed_hz,
            10 * np.log10(power[shown] / floor),
            color=_SOUND if name == "sound" else _INK,
            linewidth=0.8,
            label=name,
        )
    label = _family_label(who.mode)
    for k in range(1, 5):
        axes.axvline(
            k * order, color=_MARK, linewidth=0.9, linestyle="--", label=f"{label} x 1 to 4" if k == 1 else None
        )
        for side in (-1, 1) if who.mode in BEARING_FAULTS else ():
            spacing = 1.0 if who.mode != "bearing_ball" else who.machine.make.orders.ftf
            note = f"+-{'1x' if spacing == 1 else 'FTF'}" if k == 1 and side == 1 else None
            axes.axvline(k * order + side * spacing, color=_MARK_2, linewidth=0.6, linestyle=":", label=note)
    axes.set_xlabel("orders of the shaft")
    axes.set_ylabel("dB over the median")
    axes.set_ylim(bottom=-15)
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.0)


def draw_waterfall(who: Subject, figure: Figure) -> None:
    """A run-up from rest: lines of the shaft move to the right, lines of structure and mains stay vertical."""
    machine = replace(who.machine, events=(Event("run_up", 0.0, RUN_UP_S),))
    x, theta = run(machine, who.axis, RUN_UP_S)
    rate_hz = machine.rate_hz
    top_hz = min(PASS * rate_hz, 14 * who.speed_hz)
    factor = max(1, int(rate_hz / (3 * top_hz)))
    low = sosfiltfilt(butter(8, 0.8 / factor, output="sos"), x)[::factor] if factor > 1 else x
    hz, t_s, z = stft(low, rate_hz / factor, nperseg=2048, noverlap=1792)
    power = 20 * np.log10(np.abs(z) + 1e-7)
    shown = hz <= top_hz
    axes = figure.subplots()
    picture = axes.pcolormesh(
        hz[shown],
        t_s,
        power[shown].T,
        cmap="magma",
        shading="auto",
        vmin=np.percentile(power[shown], 40),
        rasterized=True,
    )
    turning_hz = np.gradient(theta) * rate_hz / TURN_RAD
    times = np.arange(theta.size) / rate_hz
    axes.plot(turning_hz[:: int(rate_hz)], times[:: int(rate_hz)], color="white", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, top_hz)
    axes.set_ylim(0, RUN_UP_S)
    axes.set_xlabel("Hz (dotted: 1x)")
    axes.set_ylabel("s since the start")
    figure.colorbar(picture, label="dB re 1 g")


def draw_life(who: Subject, figure: Figure) -> None:
    """Features over a life: level and envelope line keep rising, kurtosis and crest rise and fall."""
    if who.mode == HEALTHY:
        msg = "expected a failure mode for the picture of a life, found: healthy"
        raise ConfigError(msg, hint="name one: thrumcast sim plot life --mode bearing_outer")
    months = 30 * 86_400.0
    sound = who.machine
    base = course(sound.make, who.mode, sound.rate_hz, onset_s=0.2 * months, end_s=months)
    machine = replace(sound, life=Life((base,)))
    times = np.linspace(0, 1, LIFE_POINTS)
    rows = np.array([features(run(machine, who.axis, 2.0, float(at * months))[0], machine, who.mode) for at in times])
    panels = figure.subplots(5, 1, sharex=True)
    shaft = told_by(sound.make, who.mode)
    line = f"{_family_label(who.mode)} line of the\nenvelope, dB" if shaft is None else f"{shaft[0]}\ndB re 1 mm/s"
    names = ("velocity rms\nmm/s", "acceleration\ng rms", "kurtosis", "crest", line)
    for axes, name, values in zip(panels, names, rows.T, strict=True):
        axes.plot(30 * times, values, color=_INK, linewidth=1)
        axes.axvline(30 * base.onset_s / months, color=_SOUND, linestyle="--", label="onset")
        axes.axvline(30 * base.detectable_s() / months, color=_MARK, linestyle="--", label="detectable in principle")
        axes.set_ylabel(name, fontsize=8)
        low, high = values.min(), np.percentile(values, 97)  # a knock from outside must not set the scale
        top = high + 0.2 * (high - low)
        axes.set_ylim(low - 0.1 * (high - low), top)
        beyond = values > top
        axes.plot(30 * times[beyond], np.full(beyond.sum(), top - 0.06 * (high - low)), "^", color=_MARK, markersize=4)
    panels[0].legend(frameon=False, fontsize=8)
    panels[-1].set_xlabel("days (a triangle: beyond the scale)")


DRAWN: dict[str, Callable[[Subject, Figure], None]] = {
    "waveform": draw_waveform,
    "spectrum": draw_spectrum,
    "envelope": draw_envelope,
    "waterfall": draw_waterfall,
    "life": draw_life,
}


def draw_picture(kind: str, who: Subject, path: Path) -> Path:
    """One picture as a PNG."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 7 if kind == "life" else 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        DRAWN[kind](who, figure)
        figure.suptitle(who.title if kind != "life" else f"{who.machine.id}, {who.mode} over a life", fontsize=10)
        figure.savefig(path, dpi=90, metadata={"Software": None})
    return path


def _family_label(mode: str) -> str:
    """Of the lines in the envelope spectrum; faults that are none of a bearing's strike once a turn."""
    family = MODES[mode].family if mode in MODES else None
    return family.text if family else "1x"


def _pair(who: Subject) -> tuple[tuple[str, Float32, float], ...]:
    """Name, samples and mean speed in Hz of the sound machine and of the damaged machine."""
    sound, other, at_s = replace(who.machine, life=Life()), "the same machine, later", 3600.0
    if who.machine.life.courses:
        other, at_s = f"{who.mode} at {location(who.machine.make, who.mode)}", 0.0
    found = []
    for name, machine, from_s in (("sound", sound, 0.0), (other, who.machine, at_s)):
        x, theta = run(machine, who.axis, SECONDS, from_s)
        found.append((name, x, float((theta[-1] - theta[0]) / TURN_RAD * machine.rate_hz / (theta.size - 1))))
    return tuple(found)
