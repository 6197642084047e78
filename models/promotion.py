"""Moving `champion`: a version must show that it works before it serves."""

from __future__ import annotations

from pathlib import Path

from models.registry import CHAMPION, Registry
from models.selftest import self_test
from pipeline.errors import GateRefused


def promote(data_dir: Path, version: str, *, why: str) -> tuple[str | None, str]:
    """Make a version the champion; return the old champion and the new one.

    Raises:
        ModelError: no such version, or its files are damaged.
        GateRefused: it loads, but does not pass the self-test.
    """
    registry = Registry(data_dir)
    model = registry.load(version)
    problems = self_test(model)
    if problems:
        msg = f"{model.spec.version}: expected a model that works, found: {'; '.join(problems)}"
        raise GateRefused(msg, hint="train another version; the champion stays as it is")
    return registry.point(CHAMPION, model.spec.version, why=why), model.spec.version


def rollback(data_dir: Path, to: str | None, *, why: str) -> tuple[str | None, str]:
    """Make an earlier version the champion again; return the old champion and the new one.

    Raises:
        ModelError: there is no earlier champion, or its files are damaged.
        GateRefused: it does not pass the self-test.
    """
    return promote(data_dir, to or Registry(data_dir).rollback_target(), why=why)
