"""Configurations that are written for a test, in its own folder."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.sources import Resolution, load


def written(text: str) -> Path:
    path = Path("given.toml")
    path.write_text(text, encoding="utf-8")
    return path


def resolved(text: str = "", flags: dict[str, object] | None = None, **environment: str) -> Resolution:
    return load(written(text), flags, environment=environment)
