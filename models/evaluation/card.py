"""The model card: README.md of a version, for people who read the directory without thrumcast."""

from __future__ import annotations

from dataclasses import replace

from models.bundle import Bundle
from models.evaluation.report import metrics_text
from models.unknown import limits

_TITLE = "{version}"  # filled in by `Bundle.named`


def with_card(model: Bundle) -> Bundle:
    """Return the model with its card written from its own documents."""
    return replace(model, card=card_text(model))


def card_text(model: Bundle) -> str:
    """Intended use, data, numbers, limits and network, as Markdown."""
    spec, data, train = model.spec, model.data, model.train
    modes = "\n".join(f"| {mode} | {count} |" for mode, count in data["windows_per_mode"].items())
    remarks = "".join(f"* {remark}\n" for remark in data["remarks"])
    few = [mode for mode, count in data["windows_per_mode"].items() if count < 100]
    numbers = "No data was held out, so there are no honest numbers."
    if model.metrics:
        how = "the number of passes and the temperature of every fold were chosen on the other folds"
        if train["split"] == "time":
            how = "the number of passes and the temperature were chosen on these windows, which flatters them"
        numbers = f"Held out by {train['split']}, pooled over the folds; {how}."
        numbers += f"\n\n```\n{metrics_text(model.metrics)}\n```"
    interrupted = "* The training was interrupted before its end.\n" if train["interrupted"] else ""
    scarce = f"* Hardly known, with fewer than 100 windows each: {', '.join(few)}.\n" if few else ""
    return f"""# Model card {_TITLE}

## Intended use
Says for every window of vibration ({spec.window_length_s:g} s every {spec.window_hop_s:g} s, features up to \
{spec.bandwidth_hz:g} Hz) which of {len(spec.classes)} failure modes it shows, with a probability. The features \
have the schema `{spec.feature_schema}`. The hidden state is carried from window to window of one measurement point. \
A person decides what to do.

## Data
{len(data["machines"])} machines, {data["streams"]} streams, {data["windows"]} windows, \
{data["used"]} of them with known truth.

| mode | windows |
| --- | --- |
{modes}

## Numbers
{numbers}

## Limits
{remarks}{scarce}{interrupted}* {limits(data.get("unknown"))}
* Does not say how long a machine will last.
* Probabilities are calibrated on these machines; on other machines they may be too high.

## Network
{spec.cell}, {spec.layers} x {spec.hidden} units, linear layer, softmax at temperature {spec.temperature:.2f}; \
the mean of {spec.members} such networks with different seeds; \
{len(spec.inputs)} inputs, scaler {spec.scaler.kind}; {train["epochs"]} passes.
"""
