"""Moving `champion`: a version must show that it works, and that it is no worse, before it serves.

The gate of `promote`, in this order:

    1  it loads, its checksums are right, it says failure modes, and it passes the self-test     (cannot be forced)
    2  it has held-out numbers where the champion has some
    3  both were held out by the same kind of split, else their numbers cannot be compared
    4  no failure mode's recall is down by more than `recall_drop`, and none that the champion knows is gone
    5  its false alarms per healthy machine-day are not up

Going back is not gated by numbers: `rollback` must always work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.bundle import Bundle
from models.registry import CHAMPION, Registry
from models.selftest import self_test
from models.spec import CLASS_TASKS
from pipeline.errors import GateRefused, ModelError

RECALL_DROP = 0.05
FEWEST_WINDOWS = 20  # of a mode, else its recall says nothing


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found, as text for people; an empty list is a pass."""

    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def promote(
    data_dir: Path, version: str, *, why: str, force: bool = False, recall_drop: float = RECALL_DROP
) -> tuple[str | None, str]:
    """Make a version the champion; return the old champion and the new one, the same if it is champion already.

    With `force` the numbers do not count and the history says so.

    Raises:
        ModelError: no such version, or its files are damaged.
        GateRefused: it does not pass the gate; the champion stays as it is.
    """
    registry = Registry(data_dir)
    model = registry.load(version)
    _check_alive(model)
    if registry.aliases().get(CHAMPION) == model.spec.version:
        return model.spec.version, model.spec.version  # nothing moves, so nothing is written
    problems = judge(registry, model, recall_drop).problems
    if problems and not force:
        found = "; ".join(problems)
        msg = f"{model.spec.version}: expected to be no worse than {registry.resolve(CHAMPION)}, found: {found}"
        raise GateRefused(msg, hint="the champion stays as it is; --force promotes all the same, and is recorded")
    reason = f"{why} (forced: {'; '.join(problems)})" if problems else why
    return registry.point(CHAMPION, model.spec.version, why=reason), model.spec.version


def rollback(data_dir: Path, to: str | None, *, why: str) -> tuple[str | None, str]:
    """Make an earlier version the champion again; return the old champion and the new one.

    Raises:
        ModelError: there is no earlier champion, or its files are damaged.
        GateRefused: it does not pass the self-test.
    """
    registry = Registry(data_dir)
    model = registry.load(to or registry.rollback_target())
    _check_alive(model)
    return registry.point(CHAMPION, model.spec.version, why=why), model.spec.version


def judge(registry: Registry, model: Bundle, recall_drop: float = RECALL_DROP) -> Verdict:
    """Compare a version's held-out numbers with the champion's."""
    if CHAMPION not in registry.aliases():
        return Verdict((), ("there is no champion to compare with",))
    try:
        champion = registry.load(CHAMPION)
    except ModelError as error:  # a damaged champion must not keep a whole version from taking over
        return Verdict((), (f"the champion cannot be read: {error.message}",))
    if champion.spec.version == model.spec.version:
        return Verdict((), ("it is the champion already",))
    if not _has_numbers(champion):
        return Verdict((), ("the champion has no held-out numbers",))
    if not _has_numbers(model):
        return Verdict(("it has no held-out numbers, the champion has",))
    ours, theirs = model.train.get("split"), champion.train.get("split")
    if ours != theirs:
        return Verdict((f"held out by {ours}, the champion by {theirs}: the numbers cannot be compared",))
    return Verdict((*_recall(model.metrics, champion.metrics, recall_drop), *_false_alarms(model, champion)))


def _check_alive(model: Bundle) -> None:
    if model.spec.task not in CLASS_TASKS:
        msg = f"{model.spec.version}: expected a model of failure modes, found one of the task {model.spec.task}"
        raise GateRefused(msg, hint="the service says a failure mode of every window; the champion stays as it is")
    problems = self_test(model)
    if problems:
        msg = f"{model.spec.version}: expected a model that works, found: {'; '.join(problems)}"
        raise GateRefused(msg, hint="train another version; the champion stays as it is")


def _has_numbers(model: Bundle) -> bool:
    return "per_class" in model.metrics and "events" in model.metrics


def _recall(ours: dict[str, Any], theirs: dict[str, Any], recall_drop: float) -> list[str]:
    """One problem per failure mode that is recognised worse, or not at all any more."""
    problems = []
    for mode, before in theirs["per_class"].items():
        if before["support"] < FEWEST_WINDOWS:
            continue
        now = ours["per_class"].get(mode)
        if now is None:
            problems.append(f"it does not know {mode}")
        elif now["support"] >= FEWEST_WINDOWS and now["recall"] < before["recall"] - recall_drop:
            drop = f"from {before['recall']:.3f} to {now['recall']:.3f}"
            problems.append(f"recall of {mode} is down {drop}, more than {recall_drop:g}")
    return problems


def _false_alarms(model: Bundle, champion: Bundle) -> list[str]:
    """Up means: more per day than the champion has shown, by more than its own count leaves open.

    Rates come from little healthy time; one alarm more in an hour is dozens a day. So a higher rate alone is no
    problem while it stays below the upper 95 % limit of the champion's.
    """
    ours, theirs = model.metrics["events"], champion.metrics["events"]
    now, limit = ours["false_alarms_per_machine_day"], theirs["false_alarms_per_machine_day_upper"]
    before = theirs["false_alarms_per_machine_day"]
    if now is None or before is None or limit is None or now <= max(before, limit):
        return []
    return [f"false alarms are up from {before:.2g} to {now:.2g} per machine-day (limit {limit:.2g})"]
