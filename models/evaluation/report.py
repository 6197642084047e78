"""Metrics as text for the terminal: events first, then recordings, then windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Numbers = Mapping[str, Any]

_WINDOW_ROWS = (("accuracy", "accuracy"), ("macro F1", "macro_f1"), ("macro AUROC", "macro_auroc"), ("ECE", "ece"))


def trained_text(document: Numbers) -> str:
    """What `train` prints at the end."""
    lines = []
    if document["metrics"]:
        lines += [f"held out by {document['split']}, pooled over the folds", metrics_text(document["metrics"]), ""]
        leaky = document["metrics"].get("leaky")
        if leaky:
            lines += [_leaky_text(document["split"], document["metrics"], leaky), ""]
        forecast = document["metrics"].get("forecast")
        if forecast:
            lines += [forecast_text(forecast), ""]
    lines.append(
        f"{document['version']}: {', '.join(document['aliases'])}; {document['epochs']} passes, temperature"
        f" {document['temperature']:.2f}, {document['windows_used']} windows in {document['seconds']:.1f} s"
    )
    return "\n".join(lines)


def evaluated_text(document: Numbers) -> str:
    """What `evaluate` prints."""
    how = (
        "everything in the directory"
        if document["split"] == "none"
        else f"trained again, held out by {document['split']}"
    )
    lines = [f"{document['version']}: {how}, {document['seconds']:.1f} s", metrics_text(document)]
    against = document.get("against")
    if against:
        lines += ["", _against_text(document, against)]
    return "\n".join(lines)


def metrics_text(numbers: Numbers) -> str:
    """Events, recordings, windows, per class, confusion."""
    recordings, base = numbers["recordings"], numbers["baselines"]
    lines = [
        *_event_lines(numbers["events"]),
        f"recordings  {recordings['count']}, accuracy {_number(recordings['accuracy'], 3)}",
        f"windows     {numbers['windows']}, "
        + ", ".join(f"{label} {_number(numbers[key], 3)}" for label, key in _WINDOW_ROWS),
        f"            majority {_number(base['majority'], 3)}, chance {base['chance']:.3f}",
        "",
        table(
            ("mode", "precision", "recall", "F1", "windows"),
            [_class_row(mode, row) for mode, row in numbers["per_class"].items()],
        ),
        "",
        confusion_text(numbers["confusion"]["labels"], numbers["confusion"]["matrix"]),
    ]
    return "\n".join(lines)


def _event_lines(events: Numbers) -> list[str]:
    """Three lines, or one if there was neither a fault nor healthy time."""
    if not (events["episodes"] or events.get("too_short") or events["healthy_machine_days"]):
        return ["events      none: no alarm could be judged here"]
    delay = events["detection_delay_s"]
    rate, upper = events["false_alarms_per_machine_day"], events["false_alarms_per_machine_day_upper"]
    return [
        f"events      {events['episodes']} faults: {events['detections']} detected,"
        f" {events['misdiagnosed']} misdiagnosed, {events['missed']} missed"
        + (f", {events['standing']} with an earlier alarm still up" if events.get("standing") else "")
        + (f"; {events['too_short']} more were too short to judge" if events.get("too_short") else ""),
        f"            delay median {_number(delay['median'], 1)} s{_between(events, 'delay_median_s', 1)},"
        f" 90 % of them below {_number(delay['p90'], 1)} s",
        f"            {events['false_alarms']} false alarms in {events['healthy_machine_days']:.4f} machine-days"
        + ("" if rate is None else f": {_round(rate)} per day, 95 % below {_round(upper)}")
        + _between(events, "false_alarms_per_machine_day", 0),
    ]


def _class_row(mode: str, row: Numbers) -> tuple[str, ...]:
    """The row of a mode. Without held-out windows its scores are `-`, because 0 would mean never recognised."""
    scores = (_number(row[key] if row["support"] else None, 3) for key in ("precision", "recall", "f1"))
    return (mode, *scores, str(row["support"]))


def _between(events: Numbers, name: str, digits: int) -> str:
    """The interval of a number in brackets; versions of earlier releases have none."""
    found = events.get("interval_90", {}).get(name)
    if found is None or found[0] == found[1]:  # equal: nothing happened, or the same on every machine
        return ""
    return f" (machines resampled: {found[0]:.{digits}f} to {found[1]:.{digits}f})"


def _round(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{float(f'{value:.2g}'):g}"


def confusion_text(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """The confusion matrix: rows are the truth, columns the prediction, in the same order, with letters."""
    letters = [chr(ord("a") + k % 26) for k in range(len(labels))]
    rows = [
        (f"{letter} {label}", *(str(count) if count else "." for count in row))
        for letter, label, row in zip(letters, labels, matrix, strict=True)
    ]
    return table(("truth \\ predicted", *letters), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text: the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )


def _leaky_text(split: str, honest: Numbers, leaky: Numbers) -> str:
    rows = [(label, _number(honest[key], 3), _number(leaky[key], 3)) for label, key in _WINDOW_ROWS]
    mine, other = (_number(each["recordings"]["accuracy"], 3) for each in (honest, leaky))
    rows.append(("recordings", mine, other))
    part = "" if leaky["folds_done"] == leaky["folds"] else f" ({leaky['folds_done']} of {leaky['folds']} folds)"
    head = ("", split, f"leaky{part}: do not quote")
    return table(head, rows)


def forecast_text(numbers: Numbers) -> str:
    """How well the next modes are forecast on held-out machines, beside naive guesses."""
    steps = range(len(numbers["guesses"]["model"]["steps"]["log_loss"]))
    rows = [
        (
            who,
            _number(each["accuracy"], 3),
            _number(each["log_loss"], 3),
            *(_number(loss, 3) for loss in each["steps"]["log_loss"]),
        )
        for who, each in numbers["guesses"].items()
    ]
    gain, between = numbers["gain"], numbers["gain"]["interval_90"]
    lines = [
        f"forecast: {numbers['changes']} held-out changes of mode on {numbers['machines']} machines,"
        f" with {numbers['windows']} windows before them; every change counts once",
        table(("guess", "accuracy", "log loss", *(f"mode {step + 1}" for step in steps)), rows),
        f"weight of the decoder: {numbers['trust']:.0%}; the rest is how often each mode comes next",
    ]
    less, *between_said = (f"{round(number, 3) + 0.0:.3f}" for number in (gain["log_loss"], *(between or ())))
    skill = f"its log loss is {less} below that of '{gain['over']}'"  # never -0.000
    if between is not None:
        skill += f" (machines resampled: {' to '.join(between_said)})"
    if gain["log_loss"] <= 0:
        skill += ": no better than the best naive guess"
    elif between is None or between[0] <= 0:
        skill += ": too few changes to be sure that it beats the best naive guess"
    return "\n".join([*lines, skill])


def _against_text(document: Numbers, against: Numbers) -> str:
    rows = []
    for label, key in _WINDOW_ROWS:
        mine, other = document[key], against[key]
        delta = "" if mine is None or other is None else f"{mine - other:+.3f}"
        rows.append((label, _number(mine, 3), _number(other, 3), delta))
    for label, key in (("detections", "detections"), ("missed", "missed"), ("false alarms", "false_alarms")):
        mine, other = document["events"][key], against["events"][key]
        rows.append((label, str(mine), str(other), f"{mine - other:+d}"))
    return table(("", document["version"], against["version"], "difference"), rows)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
