"""The live table of the demo in a terminal: one line per measurement point, the worst state first."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import click

from pipeline.core.engine import Step
from pipeline.core.evidence import confirms, evidence
from pipeline.core.features.table import COLUMN
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.edges.ports import Batch, Onlooker, Work

ORDER = ("alarm", "warning", "unknown", "sensor_fault", "warming_up", "not_running", "normal")
# Shapes beside the words, because some readers cannot tell the colours apart.
MARK = {"alarm": "■", "warning": "▲", "sensor_fault": "!", "normal": "○"}
COLOUR = {"alarm": "red", "warning": "yellow", "sensor_fault": "magenta"}


@dataclass(slots=True)
class Line:
    """The shown values of one stream."""

    state: str = "warming_up"
    mode: str = ""
    p: float = math.nan
    velocity_rms_mm_s: float = math.nan
    row: FeatureRow | None = None
    truth: str = ""
    heard_s: float = 0.0


@dataclass(slots=True)
class Board(Onlooker):
    """Collects the results of committed steps; `text` draws them."""

    lines: dict[StreamKey, Line] = field(default_factory=dict)
    windows: int = 0
    predictions: int = 0
    right: int = 0  # predictions equal to the truth
    judged: int = 0  # predictions of windows with a known truth
    alarms: list[str] = field(default_factory=list)

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Keep what is shown."""
        self.windows += len(step.features)
        self.predictions += len(step.predictions)
        truth = {}
        for row in step.features:
            line = self.lines.setdefault(row.key, Line())
            velocity = row.values[:, COLUMN["velocity_rms"]]
            line.velocity_rms_mm_s = max((float(v) for v in velocity if math.isfinite(v)), default=math.nan)
            line.truth, line.heard_s, line.row = row.truth or "", time.monotonic(), row
            truth[row.key, row.session, row.window] = row.truth
        for p in step.predictions:
            line = self.lines.setdefault(p.key, Line())
            line.state, line.mode, line.p = p.state, p.mode or "", p.p
            known = truth.get((p.key, p.session, p.window))
            if known is not None and p.mode is not None:
                self.judged += 1
                self.right += known == p.mode
        self.alarms += [f"{c.type} {c.key} {c.mode} p={c.p:.2f}" for c in step.alarms]
        return None

    def text(self) -> str:
        """The table."""
        head = f"  {'machine':<22} {'state':<13} {'mode':<15} {'p':>5}  {'mm/s RMS':>8}  {'age s':>5}"
        head += f"  {'(truth)':<17}  evidence"
        worst_first = sorted(self.lines.items(), key=lambda item: (_rank(item[1].state), item[0]))
        return "\n".join([click.style(head, bold=True), *(_drawn(key, line) for key, line in worst_first)])


def _rank(state: str) -> int:
    return ORDER.index(state) if state in ORDER else len(ORDER)


def _drawn(key: StreamKey, line: Line) -> str:
    age_s = time.monotonic() - line.heard_s
    text = (
        f"{MARK.get(line.state, ' ')} {key!s:<22} {line.state:<13} {line.mode:<15} {_number(line.p, '5.2f')}  "
        f"{_number(line.velocity_rms_mm_s, '8.2f')}  {age_s:5.1f}  {f'({line.truth})':<17}  {_reason(line)}"
    )
    return click.style(text, fg=COLOUR[line.state]) if line.state in COLOUR else text


def _reason(line: Line) -> str:
    """The strongest evidence for a warning or alarm, and `unconfirmed` if the evidence contradicts the mode."""
    if line.row is None or line.state not in ("alarm", "warning", "unknown"):
        return ""
    texts = [statement.text for statement in evidence(line.row, top=1)]
    if line.mode and confirms(line.mode, line.row) is False:
        texts.append("unconfirmed")
    return "; ".join(texts)


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-".rjust(int(form.partition(".")[0]))
