"""Pictures of a training: DIR/registry/vNNNN/*.png. They need the extra `plots`.

    curves.png        per pass the training loss, and below it the log loss on held-out machines. Two panels, because
                      the values cannot be compared: the first is smoothed, with class weights and noise on the inputs;
                      the second is at the temperature that is best for these windows
    confusion.png     truth against prediction, in shares of the truth, held out
    reliability.png   accuracy against confidence, held out; bars show how many windows
    delay.png         seconds from the start of every fault to the first alarm of the right mode; other faults are
                      counted beside the axes

All numbers are in metrics.json and metrics.jsonl as well, so without matplotlib nothing else is missing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.data.dataset import UNKNOWN
from models.evaluation.events import FaultOutcome, Track
from models.evaluation.metrics import reliability

SIZE = (6.4, 4.6)
DPI = 110
HELD_OUT, TRAINED, MISSED = "#c4501b", "#33658a", "#999999"


def available() -> bool:
    """Whether matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def draw(
    directory: Path, log: Path, metrics: dict[str, Any], tracks: Sequence[Track], outcomes: Sequence[FaultOutcome]
) -> list[Path]:
    """Write all pictures that there are numbers for; return their paths.

    Args:
        directory: where to, made if need be.
        log: metrics.jsonl of the run.
        metrics: as in metrics.json.
        tracks: held-out probabilities.
        outcomes: of all held-out faults.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = [_save(directory / "curves.png", _learning(log))]
    if metrics:
        made.append(_save(directory / "confusion.png", _confusion(metrics["confusion"])))
        made.append(_save(directory / "reliability.png", _reliability(tracks, metrics["ece"])))
    if outcomes:
        made.append(_save(directory / "delay.png", _delay(outcomes)))
    return made


def _figure(size: tuple[float, float] = SIZE, panels: int = 1) -> tuple[Any, Any]:
    """Return a figure of its own, without pyplot (nothing global, no screen), and its axes, one above the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes[0] if panels == 1 else axes


def _save(path: Path, figure: Any) -> Path:
    figure.savefig(path, metadata={"Software": None})  # the same numbers give the same bytes
    return path


def _learning(log: Path) -> Any:
    runs: dict[tuple[object, object], dict[int, dict[str, Any]]] = {}
    written = [json.loads(line) for line in log.read_text().splitlines()]
    aim = written[-1]["aim"] if written else ""  # of the final fit; what was tried beside it is left out
    for entry in written:
        if entry["split"] == "honest" and entry["aim"] == aim:
            # A pass that was done again after an interruption counts once, as it was done last.
            runs.setdefault((entry["fold"], entry["member"]), {})[entry["epoch"]] = entry
    looked = {
        run: [entry for entry in by_pass.values() if entry["held_out_nll"] is not None] for run, by_pass in runs.items()
    }
    figure, axes = _figure((SIZE[0], 1.3 * SIZE[1]), 2) if any(looked.values()) else _figure()
    upper, lower = axes if any(looked.values()) else (axes, axes)
    for (fold, member), by_pass in runs.items():
        entries = [by_pass[number] for number in sorted(by_pass)]
        final = fold is None
        losses = [np.nan if entry["loss"] is None else entry["loss"] for entry in entries]
        label = "final fit" if final and not member else "folds" if (fold, member) == (0, 0) else None
        style = {"lw": 2.0} if final else {"lw": 0.8, "alpha": 0.4}
        upper.plot([entry["epoch"] for entry in entries], losses, color=TRAINED, label=label, **style)
    for entries in filter(None, looked.values()):
        at = sorted((entry["epoch"], entry["held_out_nll"]) for entry in entries)
        lower.plot(*zip(*at, strict=True), color=HELD_OUT, lw=1.0, alpha=0.7)
    if lower is not upper:
        lower.set(ylabel="log loss [nat]", ylim=(0, None))
        lower.set_title("Held out, per fold: plain log loss at the temperature that is best for it", fontsize=10)
    upper.set(ylabel="training loss", ylim=(0, None))
    upper.set_title("Trained on: weighted, smoothed, with noise; not on the scale of held-out losses", fontsize=10)
    upper.legend(frameon=False)
    lower.set_xlabel("pass over the data")
    return figure


def _confusion(confusion: dict[str, Any]) -> Any:
    labels, matrix = confusion["labels"], np.array(confusion["matrix"], float)
    count = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, count, out=np.zeros_like(matrix), where=count > 0)
    side = 2.4 + 0.62 * len(labels)
    figure, axes = _figure((side + 1.0, side))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(labels)):
        for column in range(len(labels)):
            if matrix[row, column]:
                dark = shares[row, column] > 0.55
                text = f"{shares[row, column]:.0%}\n{matrix[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="truth", title="Confusion on held-out machines")
    return figure


def _reliability(tracks: Sequence[Track], ece: float | None) -> Any:
    y = np.concatenate([track.sequence.y for track in tracks])
    p = np.concatenate([track.p for track in tracks])
    rows = reliability(y[y != UNKNOWN], p[y != UNKNOWN])
    figure, axes = _figure()
    total = sum(row["windows"] for row in rows)
    axes.plot([0, 1], [0, 1], color=MISSED, lw=1, ls="--", label="as sure as right")
    width = 0.9 / 15
    axes.bar([r["confidence"] for r in rows], [r["windows"] / total for r in rows], width, color=TRAINED, alpha=0.25,
             label="share of the windows")  # fmt: skip
    axes.plot([r["confidence"] for r in rows], [r["accuracy"] for r in rows], "o-", color=HELD_OUT, label="held out")
    title = "Reliability" if ece is None else f"Reliability, ECE {ece:.3f}"
    axes.set(xlabel="largest probability", ylabel="share that is right", title=title, xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, loc="upper left")
    return figure


def _delay(outcomes: Sequence[FaultOutcome]) -> Any:
    modes = sorted({outcome.mode for outcome in outcomes})
    figure, axes = _figure((SIZE[0], 1.8 + 0.5 * len(modes)))
    seen = [outcome.delay_s for outcome in outcomes if outcome.delay_s is not None]
    edge = 1.05 * max(seen, default=1.0) + 0.5
    beside = axes.get_yaxis_transform()  # x in widths of the axes: no point lies beyond 1
    for row, mode in enumerate(modes):
        found = [outcome.delay_s for outcome in outcomes if outcome.mode == mode and outcome.delay_s is not None]
        late = [outcome for outcome in outcomes if outcome.mode == mode and outcome.delay_s is None]
        others = Counter(outcome.name.replace("_", " ") for outcome in late)
        jitter = np.linspace(-0.18, 0.18, len(found)) if len(found) > 1 else np.zeros(len(found))
        axes.plot(found, row + jitter, "o", color=HELD_OUT, ms=4, alpha=0.7)
        if found:
            axes.plot([float(np.median(found))] * 2, [row - 0.28, row + 0.28], color=TRAINED, lw=2)
        if others:
            text = ", ".join(f"{count} {name}" for name, count in sorted(others.items()))
            axes.text(1.02, row, text, transform=beside, color=MISSED, va="center", fontsize=9)
    axes.set_yticks(range(len(modes)), modes)
    axes.set(xlabel="delay of the first right alarm [s]", xlim=(-0.02 * edge, edge), ylim=(len(modes) - 0.5, -0.5))
    axes.set_title("Delay per fault; the line is the median")
    return figure
