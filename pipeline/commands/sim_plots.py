"""`thrumcast sim plot`: what a simulated machine, or a recording, looks like to an analyst."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import Console, command_line, with_console

KINDS = ("waveform", "spectrum", "envelope", "waterfall", "life")


@click.command(name="plot")
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS))
@click.option("--mode", default="bearing_outer", show_default=True, help="Failure mode, or healthy.")
@click.option(
    "--severity",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="0 = sound, 1 = failed; a life goes through all.",
)
@click.option(
    "--kind", "machine_kind", default=None, help="pump, fan, motor or gearbox [default: one that can fail so]."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Which machine.")
@click.option("--rate-hz", type=float, default=25_600.0, show_default=True, help="Sampling rate.")
@click.option("--axis", type=click.Choice(("x", "y", "z")), default="x", show_default=True, help="Which axis.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("sim-plots"), show_default=True, help="Folder for the PNGs."
)
@with_console
def plot(
    console: Console,
    kinds: tuple[str, ...],
    mode: str,
    severity: float,
    machine_kind: str | None,
    seed: int,
    rate_hz: float,
    axis: str,
    out: Path,
) -> None:
    """Draw waveform, spectrum, envelope spectrum with cursors, waterfall of a run-up, and a life in features.

    Without KINDS all five are drawn. Needs matplotlib: `pip install thrumcast[plots]`.
    """
    from pipeline.errors import ThrumcastError

    try:
        from sim import plots
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        msg = "matplotlib for drawing expected, found: none"
        raise ThrumcastError(msg, hint="pip install 'thrumcast[plots]'") from error
    try:
        with command_line():
            subject = plots.subject(mode, severity, machine_kind, seed, rate_hz, axis)
            out.mkdir(parents=True, exist_ok=True)
            written = [plots.draw_picture(kind, subject, out / f"{mode}_{kind}.png") for kind in kinds or KINDS]
    except OSError as error:
        msg = f"a folder that can be written expected, found: {out}: {error}"
        raise ThrumcastError(msg) from error
    document = {"machine": subject.machine.id, "mode": mode, "severity": severity, "files": [str(p) for p in written]}
    console.result(document, "\n".join(str(path) for path in written))
