"""What the doctor has to say: findings, and how they read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    status: Status
    found: str
    advice: str = ""


def document(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """For --json."""
    return [asdict(finding) for finding in findings]


def table(findings: Iterable[Finding]) -> str:
    """For people: what is wrong has its advice below it."""
    lines = []
    for finding in findings:
        lines.append(f"  {finding.status:<4} {finding.check:<22} {finding.found}".rstrip())
        if finding.advice and finding.status != "pass":
            lines.append(f"       {'':<22} -> {finding.advice}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A duration as people say it."""
    if seconds == float("inf"):
        return "no limit"
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
