"""Which version is champion: a version must show that it works, and that it is no worse, before it serves.

The gate of `promote`, in this order:

    1  it loads, its checksums are right, it predicts failure modes, and it passes the self-test     (cannot be forced)
    2  it has held-out numbers if the champion has some
    3  both do the same task and were held out by the same kind of split, else their numbers cannot be compared
    4  no failure mode's recall is down by more than `recall_drop`, and it knows every mode that the champion recognises
    5  its false alarms are at most one more than the champion's

Missing evidence is no pass. Of every mode that the champion recognises, a version needs FEWEST_WINDOWS held-out windows
and half as many as the champion had. It also needs enough healthy time to be as sure of its false alarms as the
champion is. `rollback` is not gated by numbers: going back must always work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.bundle import CLASS_TASKS, Bundle
from models.evaluation.diagnosis import self_test
from models.evaluation.events import poisson_upper
from models.registry import CHAMPION, Registry
from pipeline.errors import GateRefused, ModelError

RECALL_DROP = 0.05
FEWEST_WINDOWS = 20  # of a mode, else its recall says nothing
DAYS_PER_MONTH = 30


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found, as text. No problem is a pass."""

    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def promote(
    data_dir: Path,
    version: str,
    *,
    why: str,
    by: str | None = None,
    force: bool = False,
    recall_drop: float = RECALL_DROP,
    warn: Callable[[str], None] = lambda _: None,
    confirm: Callable[[str | None, str], object] = lambda old, new: None,
    key: bytes | None = None,
) -> tuple[str | None, str]:
    """Make a version the champion; return the old champion and the new one, the same if it is champion already.

    With `force` the numbers do not count, and the history says so. `warn` gets what the gate could not judge. `confirm`
    is called with the old and the new champion before anything moves; it raises to stop the promotion. With a `key` the
    version must be signed with it.

    Raises:
        ModelError: no such version, or its files are damaged.
        GateRefused: it does not pass the gate; the champion stays as it is.
    """
    registry = Registry(data_dir, key)
    model = registry.load(version)
    _check_alive(model)
    if registry.aliases().get(CHAMPION) == model.spec.version:
        return model.spec.version, model.spec.version  # nothing moves, so nothing is written
    verdict = judge(registry, model, recall_drop)
    problems = verdict.problems
    for remark in verdict.remarks:
        warn(remark)
    if problems and not force:
        found = "; ".join(problems)
        msg = f"{model.spec.version}: expected to be no worse than {registry.resolve(CHAMPION)}, found: {found}"
        raise GateRefused(msg, hint="the champion stays; --force promotes anyway, and the history says so")
    confirm(registry.aliases().get(CHAMPION), model.spec.version)
    reason = f"{why} (forced: {'; '.join(problems)})" if problems else why
    return registry.point(CHAMPION, model.spec.version, why=reason, by=by), model.spec.version


def rollback(
    data_dir: Path, to: str | None, *, why: str, by: str | None = None, key: bytes | None = None
) -> tuple[str | None, str]:
    """Make an earlier version the champion again; return the old champion and the new one.

    Raises:
        ModelError: there is no earlier champion, or its files are damaged.
        GateRefused: it does not pass the self-test.
    """
    registry = Registry(data_dir, key)
    model = registry.load(to or registry.rollback_target())
    _check_alive(model)
    return registry.point(CHAMPION, model.spec.version, why=why, by=by), model.spec.version


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
    if model.spec.task != champion.spec.task:
        found = f"it says one mode per {model.spec.task}, the champion one per {champion.spec.task}"
        return Verdict((f"{found}: the numbers cannot be compared",))
    ours, theirs = model.train.get("split"), champion.train.get("split")
    if ours != theirs:
        return Verdict((f"held out by {ours}, the champion by {theirs}: the numbers cannot be compared",))
    problems = (*_recall(model.metrics, champion.metrics, recall_drop), *_false_alarms(model, champion))
    return Verdict(problems, _shown(model))


def _check_alive(model: Bundle) -> None:
    if model.spec.task not in CLASS_TASKS:
        msg = f"{model.spec.version}: expected a model of failure modes, found one of the task {model.spec.task}"
        raise GateRefused(msg, hint="the service needs a failure mode for every window; the champion stays as it is")
    problems = self_test(model)
    if problems:
        msg = f"{model.spec.version}: expected a model that works, found: {'; '.join(problems)}"
        raise GateRefused(msg, hint="train another version; the champion stays as it is")


def _has_numbers(model: Bundle) -> bool:
    return "per_class" in model.metrics and "events" in model.metrics


def _recall(ours: dict[str, Any], theirs: dict[str, Any], recall_drop: float) -> list[str]:
    """Return one problem per failure mode that is recognised worse, unknown now, or has too little evidence.

    A mode that the champion does not recognise is not compared.
    """
    problems = []
    for mode, before in theirs["per_class"].items():
        if before["support"] < FEWEST_WINDOWS or before["recall"] <= recall_drop:
            continue
        now = ours["per_class"].get(mode)
        needed = max(FEWEST_WINDOWS, before["support"] // 2)
        if now is None:
            problems.append(f"it does not know {mode}")
        elif now["support"] < needed:
            few = f"{now['support']} held-out windows, {needed} are needed beside the champion's {before['support']}"
            problems.append(f"too little evidence for {mode}: {few}")
        elif now["recall"] < before["recall"] - recall_drop:
            drop = f"from {before['recall']:.3f} to {now['recall']:.3f}"
            problems.append(f"recall of {mode} is down {drop}, more than {recall_drop:g}")
    return problems


def _false_alarms(model: Bundle, champion: Bundle) -> list[str]:
    """Return a problem if false alarms are up by more than one, or if there is too little healthy time to know.

    One alarm is the smallest difference, and in an hour of healthy time it means dozens a day: a comparison of rates
    would refuse versions by chance. So the upper 95 % limit of the version's rate must not exceed the limit that the
    champion would have with one more alarm. Less healthy time widens the version's own limit.
    """
    ours, theirs = model.metrics["events"], champion.metrics["events"]
    if not theirs["healthy_machine_days"]:
        return []
    days, before_days = ours["healthy_machine_days"], theirs["healthy_machine_days"]
    now, before = ours["false_alarms"], theirs["false_alarms"]
    limit = poisson_upper(before + 1) / before_days
    if days and poisson_upper(now) / days <= limit:
        return []
    found = f"{now} in {days:.2g} healthy machine-days, the champion {before} in {before_days:.2g}"
    if now * before_days > (before + 1) * days:
        return [f"false alarms are up: {found}"]
    return [f"too little evidence on false alarms: {found}"]


def _shown(model: Bundle) -> tuple[str, ...]:
    """Return a remark if the held-out time cannot exclude more than one false alarm per machine-month."""
    events = model.metrics["events"]
    upper, days = events["false_alarms_per_machine_day_upper"], events["healthy_machine_days"]
    if upper is None or upper * DAYS_PER_MONTH <= 1:
        return ()
    few = f"{days:.2g} healthy machine-days were held out: up to {float(f'{upper:.2g}'):g} false alarms per machine-day"
    return (f"{few} are not excluded; let it run as `model.shadow` beside the champion first",)
