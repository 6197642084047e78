"""Label events of a machine, by seconds since 1970."""

from __future__ import annotations

from pipeline.edges.labels import LabelEvent


def at(second: float) -> str:
    whole = int(second)
    return f"1970-01-01T00:{whole // 60:02d}:{whole % 60:02d}.{round((second - whole) * 1e6):06d}Z"


def label(name: str, start: float, end: float, mode: str | None = "unbalance", **more: object) -> LabelEvent:
    fixed = {
        "id": name,
        "client_token": f"t-{name}",
        "op": "add",
        "machine": "pump-01",
        "start": at(start),
        "end": at(end),
    }
    return LabelEvent(**{**fixed, "mode": mode, **more})


def retraction(name: str) -> LabelEvent:
    return LabelEvent(id=name, client_token=f"r-{name}", op="retract")
