"""Two versions side by side: their training, their inputs and outputs, their numbers. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.bundle import Bundle
from models.evaluation.report import table

_WINDOWS = ("windows", "accuracy", "macro_f1", "macro_auroc", "ece")
_EVENTS = ("detections", "misdiagnosed", "missed", "false_alarms", "healthy_machine_days")

Pair = list[Any]  # of the first version and of the second; None where one has no such thing


@dataclass(frozen=True, slots=True)
class Difference:
    """Two versions, as JSON and as text."""

    document: dict[str, Any]
    text: str


def difference(first: Bundle, second: Bundle) -> Difference:
    """Compare two versions as they are stored; nothing is computed anew."""
    both = (first, second)
    made = [_made(model) for model in both]
    document = {
        "versions": [model.spec.version for model in both],
        "made": {key: [each.get(key) for each in made] for key in made[0] if made[0][key] != made[1].get(key)},
        "settings": _changed([model.train.get("settings", {}) for model in both]),
        "classes": _members([model.spec.classes for model in both]),
        "inputs": _members([model.spec.inputs for model in both]),
        "metrics": _metrics(both),
        "remarks": _remarks(both),
    }
    return Difference(document, _text(document))


def _made(model: Bundle) -> dict[str, Any]:
    """Return what a version is and what it was trained on, one value per key."""
    spec, data, train = model.spec, model.data, model.train
    return {
        "task": spec.task,
        "split": train.get("split"),
        "epochs": train.get("epochs"),
        "temperature": round(spec.temperature, 3),
        "window_s": spec.window_length_s,
        "feature_schema": spec.feature_schema,
        "machines": len(data.get("machines", ())),
        "windows_used": data.get("used"),
        "from": data.get("from"),
        "to": data.get("to"),
        "archive": data.get("archive"),
        "labels_sha256": data.get("labels_sha256"),
        "packages": train.get("packages"),
    }


def _changed(settings: Sequence[Mapping[str, Any]]) -> dict[str, Pair]:
    keys = dict.fromkeys(key for each in settings for key in each)
    pairs = {key: [each.get(key) for each in settings] for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _members(names: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Return the names that both have, and those that only one has."""
    first, second = names
    return {
        "both": [name for name in first if name in second],
        "only_first": [name for name in first if name not in second],
        "only_second": [name for name in second if name not in first],
    }


def _metrics(both: Sequence[Bundle]) -> dict[str, Pair]:
    """Held-out numbers under flat names, both versions' side by side."""
    flat = []
    for model in both:
        metrics = model.metrics
        numbers = {name: metrics[name] for name in _WINDOWS if name in metrics}
        numbers |= {f"events.{name}": metrics["events"][name] for name in _EVENTS if name in metrics.get("events", {})}
        if "recordings" in metrics:
            numbers["recordings.accuracy"] = metrics["recordings"]["accuracy"]
        for mode, row in metrics.get("per_class", {}).items():
            numbers |= {f"{mode}.recall": row["recall"] if row["support"] else None, f"{mode}.windows": row["support"]}
        for name, value in metrics.get("values", {}).items():
            numbers[f"{name}.rmse"] = value["errors"]["model"]["rmse"]
        flat.append(numbers)
    keys = dict.fromkeys(key for each in flat for key in each)
    return {key: [each.get(key) for each in flat] for key in keys}


def _remarks(both: Sequence[Bundle]) -> list[str]:
    """Return reasons why the numbers cannot be compared."""
    first, second = both
    remarks = []
    if first.spec.task != second.spec.task:
        remarks.append("they do different tasks: their numbers are not of the same kind")
    if first.train.get("split") != second.train.get("split"):
        remarks.append("they were held out by different splits: their numbers cannot be compared")
    if first.data.get("archive") != second.data.get("archive"):
        remarks.append(
            "they were trained on different archives: `thrumcast evaluate --against` scores both on the same windows"
        )
    return remarks


def _text(document: Mapping[str, Any]) -> str:
    """Rows that differ, then all numbers with their differences."""
    versions = document["versions"]
    rows = [(key, *map(_cell, pair)) for key, pair in (document["made"] | document["settings"]).items()
            if not isinstance(pair[0] or pair[1], dict)]  # fmt: skip
    lines = [table(("made with", *versions), rows)] if rows else ["made in the same way"]
    for what in ("classes", "inputs"):
        found = document[what]
        lines.append(f"{what}: {len(found['both'])} in both")
        for side, version in zip(("only_first", "only_second"), versions, strict=True):
            if found[side]:
                lines.append(f"  only {version}: {', '.join(found[side])}")
    numbers = [(key, *map(_cell, pair), _delta(pair)) for key, pair in document["metrics"].items()]
    if numbers:
        lines += ["", table(("held out", *versions, "difference"), numbers)]
    return "\n".join([*lines, *document["remarks"]])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _delta(pair: Pair) -> str:
    if None in pair or pair[0] == pair[1]:
        return ""
    gap = pair[1] - pair[0]
    return f"{gap:+.3g}" if isinstance(gap, float) else f"{gap:+d}"
