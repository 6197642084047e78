"""`thrumcast features`: explains the feature columns of the archive and draws recordings."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import PATH, Console, with_console

if TYPE_CHECKING:
    from pipeline.core.features.table import Feature

MARKDOWN_HEAD = """# Features

`thrumcast features ls --markdown > docs/features.md` writes this file; do not edit it.

Each column of the feature archive is a float32 named `<channel>.<name>`. It is NaN if its needs are not met or the
sampling rate is too low. A *gain free* feature does not change with the gain of the sensor.
`thrumcast features explain NAME` prints one row, and `thrumcast features plot FILE` draws a recording with its lines.
"""


@click.group(name="features")
def command() -> None:
    """List and explain the features, or draw a piece of a recording."""


@command.command(name="ls")
@click.option("--markdown", is_flag=True, help="Print the text of docs/features.md.")
@with_console
def list_(console: Console, markdown: bool) -> None:
    """List all features in the order of the columns."""
    from pipeline.core.features.table import FEATURES

    document = {"features": [_document(feature) for feature in FEATURES]}
    console.result(document, as_markdown() if markdown else _table())


@command.command()
@click.argument("name")
@with_console
def explain(console: Console, name: str) -> None:
    """Explain one feature: NAME with or without its channel, such as x.env_bpfo."""
    from pipeline.core.features.table import FEATURES, NAMES, STAGES
    from pipeline.errors import UsageError

    channel, _, short = name.rpartition(".")
    feature = next((feature for feature in FEATURES if feature.name == short), None)
    if feature is None:
        near = difflib.get_close_matches(short, NAMES, n=3, cutoff=0.4)
        msg = f"expected a feature of the table, found: {name!r}"
        raise UsageError(msg, hint=f"nearest: {', '.join(near)}" if near else "see `thrumcast features ls`")
    document = _document(feature)
    lines = {
        "name": name,
        "unit": _unit(feature),
        "formula": feature.formula,
        "source": feature.source,
        "stage": f"{feature.stage}: {STAGES[feature.stage]}",
        "needs": ", ".join(feature.needs) or "only samples",
        "gain free": "yes" if feature.gain_free else "no",
    }
    text = "\n".join(f"{key:<10} {value}" for key, value in lines.items())
    console.result({"channel": channel or None, **document}, text)


@command.command()
@click.argument("file", type=PATH)
@click.option("--channel", help="Channel of the recording [default: its first].")
@click.option("--at", "at_s", type=click.FloatRange(min=0), default=0.0, help="Start in seconds.")
@click.option("--seconds", type=click.FloatRange(min=0.01, max=60), default=1.0, help="Length.")
@click.option("--rpm", type=click.FloatRange(min=0, min_open=True), help="Shaft speed, if the file does not state it.")
@click.option("--bearing", metavar="NAME", help="Bearing of the catalogue, if the file does not state one.")
@click.option("--rate", "rate_hz", type=float, help="Sampling rate in Hz, if the file does not state it.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="PNG file [default: in this folder].")
@with_console
def plot(
    console: Console,
    file: Path,
    channel: str | None,
    at_s: float,
    seconds: float,
    rpm: float | None,
    bearing: str | None,
    rate_hz: float | None,
    out: Path | None,
) -> None:
    """Draw waveform, spectrum and envelope spectrum of a piece of FILE, with the lines of shaft and bearing."""
    from pipeline.commands.features_plot import draw, piece

    config = console.config()
    shown = piece(file, channel, at_s, seconds, rate_hz, rpm=rpm, bearing=bearing)
    target = out or Path(f"{shown.name}.png")
    said = draw(shown, config, target)
    document = {
        "out": str(target),
        "machine": shown.machine,
        "channel": shown.channel,
        "speed_rpm": shown.speed_rpm,
        "truth": shown.truth,
        "evidence": said,
    }
    console.result(document, "\n".join([f"{target}: {shown.title}", *(f"  {text}" for text in said)]))


def as_markdown() -> str:
    """The text of docs/features.md."""
    from pipeline.core.features.table import FEATURES, STAGES

    lines = [MARKDOWN_HEAD, "Input of each stage:", "", *(f"* `{stage}`: {how}." for stage, how in STAGES.items())]
    lines += ["", f"{len(FEATURES)} features per channel:", ""]
    lines += ["| name | unit | formula | needs | gain free | stage | source |", "|---|---|---|---|---|---|---|"]
    for feature in FEATURES:
        cells = (
            f"`{feature.name}`",
            _unit(feature),
            feature.formula.replace("|", "\\|"),
            ", ".join(feature.needs),
            "yes" if feature.gain_free else "no",
            feature.stage,
            feature.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _unit(feature: Feature) -> str:
    return {"": "ratio", "unit": "of the samples"}.get(feature.unit, feature.unit)


def _document(feature: Feature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "unit": feature.unit,
        "formula": feature.formula,
        "source": feature.source,
        "stage": feature.stage,
        "gain_free": feature.gain_free,
        "needs": list(feature.needs),
    }


def _table() -> str:
    from pipeline.core.features.table import FEATURES

    head = f"{'name':<22} {'unit':<14} {'needs':<15} formula"
    rows = (f"{f.name:<22} {_unit(f):<14} {', '.join(f.needs):<15} {f.formula}" for f in FEATURES)
    return "\n".join([head, *rows])
