"""The fault points of the source, found by their calls: a new one is crashed at without being listed anywhere."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def fault_points(*modules: str) -> tuple[str, ...]:
    """Names in `fault_point("name")` calls of these modules below `pipeline/`, in the order of the source."""
    calls = [re.findall(r'fault_point\("(\w+)"\)', (ROOT / "pipeline" / module).read_text()) for module in modules]
    names = tuple(dict.fromkeys(name for found in calls for name in found))
    assert all(calls), f"expected fault points in each of {modules}"
    return names
