"""A picture of a piece of a recording: waveform, spectrum, envelope spectrum, and the lines of shaft and bearing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.common import usage_errors
from pipeline.errors import RecordingError, ThrumcastError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.config.tables import Config
    from pipeline.core.records import BearingOrders, Float32
    from pipeline.core.views import Cursor
    from pipeline.edges.recordings.recording import RecordedStream

# Colours of Okabe and Ito, which colour-blind readers can tell apart; each family also has its own line style.
_STYLE = {
    "shaft": ("#000000", ":"),
    "BPFO": ("#0072B2", "-"),
    "BPFI": ("#D55E00", "--"),
    "2BSF": ("#009E73", "-."),
    "FTF": ("#CC79A7", (0, (1, 1))),
}
_SIGNAL = "#444444"
_LOWEST_HZ = 2.0  # left end of the logarithmic axis


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A piece of one channel of a recording."""

    machine: str
    channel: str
    samples: Float32  # (n,)
    rate_hz: float
    unit: str
    at_s: float
    speed_rpm: float | None
    orders: BearingOrders | None
    truth: str | None

    @property
    def name(self) -> str:
        """The name of its picture."""
        return f"{self.machine}-{self.channel}-{self.at_s:g}s"

    @property
    def title(self) -> str:
        """The title of its picture."""
        speed = "speed unknown" if self.speed_rpm is None else f"{self.speed_rpm:g} rpm"
        length_s = len(self.samples) / self.rate_hz
        known = "" if self.truth is None else f", {self.truth}"
        return f"{self.machine} {self.channel}, {length_s:.3g} s from {self.at_s:g} s, {speed}{known}"


def piece(
    file: Path,
    channel: str | None,
    at_s: float,
    seconds: float,
    rate_hz: float | None,
    *,
    rpm: float | None,
    bearing: str | None,
) -> Piece:
    """Reads `seconds` of one channel. In a series of snapshots the piece ends with its snapshot.

    Raises:
        RecordingError: the file is unreadable, lacks the channel, or ends before `at_s`.
        UsageError: the catalogue lacks the bearing.
    """
    from pipeline.core.bearings import find
    from pipeline.edges.recordings.recording import open_recording, parse_channels, streams

    recording = open_recording(file, rate_hz)
    original = channel or recording.channels[0]
    stream = streams(recording, parse_channels(original))[0]
    with usage_errors():
        orders = find(bearing).geometry.orders() if bearing else stream.orders
    return Piece(
        machine=recording.machine,
        channel=original,
        samples=_read(stream, at_s, seconds),
        rate_hz=recording.rate_hz,
        unit=recording.unit,
        at_s=at_s,
        speed_rpm=rpm or recording.speed_rpm,
        orders=orders,
        truth=recording.truth,
    )


def _read(stream: RecordedStream, at_s: float, seconds: float) -> Float32:
    import numpy as np

    rate_hz = stream.recording.rate_hz
    skip, want = round(at_s * rate_hz), round(seconds * rate_hz)
    pieces: list[Float32] = []
    session = 0
    for block in stream.blocks():
        samples = block.samples[0]
        if pieces and block.session != session:
            break
        if skip >= len(samples):
            skip -= len(samples)
            continue
        session = block.session
        pieces.append(samples[skip : skip + want])
        skip, want = 0, want - len(pieces[-1])
        if want <= 0:
            break
    if sum(map(len, pieces)) < 16:
        msg = f"expected samples at {at_s:g} s, found the end of: {stream.recording.path}"
        raise RecordingError(msg, hint=f"its length is {stream.recording.samples / rate_hz:g} s")
    return np.concatenate(pieces)


def draw(shown: Piece, config: Config, out: Path) -> list[str]:
    """Writes the PNG and returns the evidence, which is also in its title.

    Raises:
        ThrumcastError: matplotlib is not installed, or the file is not writable.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        msg = "expected matplotlib, found: it is not installed"
        raise ThrumcastError(msg, hint="pip install 'thrumcast[plots]'") from error
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from pipeline.core.views import bearing_cursors, envelope_spectrum, shaft_cursors, spectrum

    settings = config.features
    said = _evidence(shown, config)
    rate_hz, unit = shown.rate_hz, "" if shown.unit == "1" else f" ({shown.unit})"
    resolution_hz = rate_hz / len(shown.samples)
    shaft = [] if shown.speed_rpm is None else shaft_cursors(shown.speed_rpm)
    lines = list(shaft)
    if shown.speed_rpm is not None and shown.orders is not None:
        lines += bearing_cursors(shown.orders, shown.speed_rpm, resolution_hz, settings.slip_tolerance)
    low_hz, high_hz = settings.envelope_low_hz, min(settings.envelope_high_hz, rate_hz / 2)

    figure, (wave, spec, env) = plt.subplots(3, 1, figsize=(12, 10), layout="constrained")
    figure.suptitle("\n".join([shown.title, *said]), fontsize=11, ha="left", x=0.01)
    wave.plot([shown.at_s + i / rate_hz for i in range(len(shown.samples))], shown.samples, color=_SIGNAL, lw=0.5)
    wave.set(xlabel="time (s)", ylabel=f"waveform{unit}", xmargin=0)

    hz, amplitude = spectrum(shown.samples, rate_hz)
    inside = hz >= _LOWEST_HZ
    spec.loglog(hz[inside], amplitude[inside], color=_SIGNAL, lw=0.6)
    spec.set(xlabel="frequency (Hz)", ylabel=f"spectrum, amplitude{unit}", xlim=(_LOWEST_HZ, rate_hz / 2))
    spec.set_ylim(bottom=max(amplitude[inside].max() * 1e-5, amplitude[inside].min()))
    _mark(spec, shaft)

    if low_hz < high_hz:
        hz, amplitude = envelope_spectrum(shown.samples, rate_hz, low_hz, high_hz)
        end_hz = min(hz[-1], 1.08 * max((line.hz for line in lines), default=500.0))
        inside = (hz > 0) & (hz <= end_hz)
        env.plot(hz[inside], amplitude[inside], color=_SIGNAL, lw=0.8)
        env.set(xlim=(0, end_hz), ylim=(0, 1.3 * amplitude[inside].max()))
        _mark(env, lines)
    label = (
        f"frequency (Hz) of the squared envelope, band {low_hz:g} to {high_hz:g} Hz, resolution {resolution_hz:.2g} Hz"
    )
    env.set(xlabel=label, ylabel=f"squared envelope, amplitude{'' if shown.unit == '1' else f' ({shown.unit}²)'}")
    try:
        figure.savefig(out, dpi=110)
    except (OSError, ValueError) as error:
        msg = f"expected to write {out}, found: {error}"
        raise ThrumcastError(msg, hint="give a PNG file in an existing folder: --out FILE.png") from error
    finally:
        plt.close(figure)
    return said


def _mark(axes: Any, cursors: Sequence[Cursor]) -> None:
    """Draws a thin line and a label per cursor. A cursor too close to another line is pale and names that line."""
    low_hz, high_hz = axes.get_xlim()
    bottom = axes.get_ylim()[0]
    last, high = -1.0, True
    for cursor in sorted(cursors, key=lambda one: one.hz):
        if not low_hz <= cursor.hz <= high_hz:
            continue
        colour, style = _STYLE[cursor.family]
        axes.axvline(cursor.hz, color=colour, ls=style, lw=0.9, alpha=0.35 if cursor.near else 0.8, zorder=0)
        text = f"{cursor.label} ({cursor.near})" if cursor.near else cursor.label
        share, _ = axes.transAxes.inverted().transform(axes.transData.transform((cursor.hz, bottom)))  # of the width
        high = not high if share - last < 0.013 else True  # neighbouring labels would overlap
        last, at = share, (cursor.hz, 0.985 if high else 0.48)
        style_of_text: dict[str, Any] = {"rotation": 90, "fontsize": 6.5, "color": colour, "ha": "right", "va": "top"}
        axes.text(*at, text, transform=axes.get_xaxis_transform(), **style_of_text)


def _evidence(shown: Piece, config: Config) -> list[str]:
    """The evidence in the features of this piece, in words."""
    from pipeline.config.specs import default_spec, feature_spec
    from pipeline.core import stream
    from pipeline.core.evidence import evidence
    from pipeline.core.features.lengths import previous_fast_length
    from pipeline.core.quality import Quality
    from pipeline.core.records import Block, FeatureRow, StreamKey

    length = previous_fast_length(len(shown.samples))
    length_s = length / shown.rate_hz
    usual = default_spec()
    window = replace(usual.window, length_s=length_s, hop_s=length_s)
    spec = replace(usual, window=window, features=feature_spec(config))
    block = Block(
        key=StreamKey("plot", "plot"),
        session=0,
        index=0,
        t0_ns=0,
        rate_hz=shown.rate_hz,
        channels=(shown.channel,),
        unit=shown.unit,
        samples=shown.samples[None, :length],
        speed_rpm=shown.speed_rpm,
        orders=shown.orders,
    )
    rows = [event for event in stream.step(spec, stream.initial(spec), block)[1] if isinstance(event, FeatureRow)]
    notes = [f"quality: {word}" for row in rows for word in Quality(row.quality).words()]
    return [statement.text for row in rows for statement in evidence(row)] + notes
