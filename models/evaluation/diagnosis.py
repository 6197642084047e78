"""Does a model work? A self-test that needs no data, and the causes of a collapse.

A *collapsed* model says the same whatever it sees. `self_test` decides before registration and promotion, from random
inputs alone. `diagnose` looks at real data and at the training, and names the causes.

symptom                                   how it is seen
its outputs do not depend on the input    probabilities of different sequences at the same window differ by < 1 %
it says one class only                    one argmax over windows of all modes, equally many of each
its state does not move                   largest |h' - h| < 0.001
its outputs are not finite                any
its gradients are dead / explode          largest norm before clipping < 1e-6 / > 1000
its loss did not fall                     last loss > 98 % of that of a model that knows only the class frequencies
its loss did not move                     first and last differ by < 2 % of that, and the loss is not low
its loss is low, held-out is at chance    last loss < 60 %, held-out > 90 % of that
held out it is worse than no model        held-out loss above that of a model that knows only the class frequencies

Without a symptom there is no finding. With one, the causes are tried in this order, and all that fit are named:

scaling          inputs are nearly constant, clipped, or all missing: nothing reaches the network
learning rate    too high: weights ten times as large as at the start, loss not finite or above chance;
                 too low: the loss has stayed where it began
activation       units are saturated or dead for every input
initial state    another initial state changes the output after 50 windows more than other inputs do: it never forgets
data             every window occurs twice or more, a class has fewer than two sequences, or held-out is at chance
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import VALUE_TASKS, Bundle
from models.cells import CELLS, Recurrence, softmax
from models.data.dataset import UNKNOWN, WindowSequence
from models.predictor import NumpyPredictor, ValuePredictor
from models.scaling import CLIP

PIECES, WINDOWS = 64, 50  # `diagnose` looks at so many pieces of so many windows
TEST_STEPS, TEST_BATCH = 30, 64  # windows and streams of the self-test
LEAST_SPREAD = 1e-3  # of an output over very different inputs, and of a step of the state

Float32 = NDArray[np.float32]


def self_test(model: Bundle) -> list[str]:
    """Return what is wrong with the model; an empty list is a pass. Deterministic."""
    values, scaler = model.spec.task in VALUE_TASKS, model.spec.scaler
    predictor = ValuePredictor(model) if values else NumpyPredictor(model)
    rng = np.random.default_rng(0)
    shape = (TEST_BATCH, len(model.spec.inputs))
    h = predictor.initial(TEST_BATCH)
    spread, moved = 0.0, 0.0
    for _ in range(TEST_STEPS):
        x = scaler.invert(2 * rng.standard_normal(shape).astype(np.float32))
        p, h_next = predictor.step(x, h)
        if not (np.isfinite(p).all() and np.isfinite(h_next).all()):
            return ["its outputs are not finite"]
        said = model.spec.target_scaler.apply(p) if model.spec.target_scaler else p  # values in units of their scale
        spread = max(spread, float(np.ptp(said, axis=0).max()))
        moved = max(moved, float(np.abs(h_next - h).max()))
        h = h_next
    nothing, _ = predictor.step(np.full(shape, np.nan, np.float32), h)
    problems = []
    if not np.isfinite(nothing).all():
        problems.append("its outputs are not finite when every input is missing")
    if spread < LEAST_SPREAD:
        problems.append(f"it says the same whatever it sees (largest difference of an output: {spread:.1e})")
    if moved < LEAST_SPREAD:
        problems.append(f"its state does not move (largest change: {moved:.1e})")
    return problems


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause that fits, with its numbers and what to do."""

    cause: str  # scaling, learning rate, activation, initial state, data, unknown
    why: str
    advice: str

    def text(self) -> str:
        """One line for the terminal."""
        return f"{self.cause}: {self.why}; {self.advice}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Symptoms of a collapse and the causes that fit; empty for a model that is alive."""

    symptoms: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"symptoms": list(self.symptoms), "causes": [asdict(finding) for finding in self.findings]}

    def lines(self) -> list[str]:
        """Return it as text; no line for a model that is alive."""
        if not self.symptoms:
            return []
        return [f"the model has collapsed: {'; '.join(self.symptoms)}", *(f.text() for f in self.findings)]


@dataclass(frozen=True, slots=True)
class _Probe:
    """What the network does on real inputs."""

    spread: float  # largest spread of a probability over sequences at one window
    classes_said: int
    moved: float
    finite: bool
    stuck: float  # share of units that are saturated, or dead, in all windows
    start_matters: float  # largest difference of a probability at the end that the initial state makes
    flat: float  # share of the finite scaled inputs within 0.001 of 0
    clipped: float
    empty: float  # share of the windows without any input
    weight_growth: float  # rms of the recurrent weights, in units of their beginning


def diagnose(
    model: Bundle,
    sequences: Sequence[WindowSequence],
    *,
    losses: Sequence[float] = (),
    largest_gradient: float | None = None,
    held_out: float | None = None,
) -> Diagnosis:
    """Look for a collapse of a model of failure modes.

    Args:
        model: the model as it would serve.
        sequences: some of the data it was made for.
        losses: training loss, pass by pass.
        largest_gradient: norm before clipping, over the whole training.
        held_out: negative log-likelihood on held-out data.
    """
    probe = _probe(model, sequences)
    present = _shares(model, sequences)
    chance = float(-(present * np.log(present)).sum())
    # Class weights move the loss of knowing nothing towards log K: judge by the larger of the two.
    trained_chance = max(chance, float(np.log(max(2, present.size))))
    last = losses[-1] if losses else None
    checks = [
        (not probe.finite, "its outputs are not finite"),
        (probe.finite and probe.spread < 0.01, f"its outputs do not depend on the input (spread {probe.spread:.1e})"),
        (
            probe.finite and probe.classes_said == 1 and present.size > 1 and present.max() < 0.9,
            "it says one class only",
        ),
        (probe.finite and probe.moved < 1e-3, f"its state does not move (largest change {probe.moved:.1e})"),
        (largest_gradient is not None and largest_gradient < 1e-6, "its gradients are dead"),
        (largest_gradient is not None and not largest_gradient < 1e3, "its gradients explode"),
        (last is not None and present.size > 1 and not last < 0.98 * trained_chance, "its loss did not fall"),
        (_still(losses, trained_chance), "its loss did not move"),
        (_at_chance(last, trained_chance, held_out, chance), "its loss is low while held-out is at chance"),
        (
            held_out is not None and held_out > chance > 0,
            "held out it is worse than knowing nothing but how frequent the modes are",
        ),
    ]
    symptoms = tuple(text for there, text in checks if there)
    if not symptoms:
        return Diagnosis()
    found = [
        *_scaling(probe),
        *_learning_rate(probe, losses, trained_chance, largest_gradient),
        *_activation(probe, model.spec.cell),
        *_initial_state(probe),
        *_data(sequences, _at_chance(last, trained_chance, held_out, chance)),
    ]
    unknown = Finding("unknown", "none of the known causes fits", "look at metrics.jsonl of the run")
    return Diagnosis(symptoms, tuple(found) or (unknown,))


def evidence(model: Bundle) -> dict[str, Any]:
    """Return what a stored version knows of its own training, as arguments of `diagnose`."""
    train, likelihood = model.train, dict(map(tuple, model.metrics.get("likelihood", ())))
    gradient = train.get("largest_gradient", 1.0)  # None: it was not finite
    return {
        "losses": [float("nan") if loss is None else loss for loss in train.get("losses", ())],
        "largest_gradient": float("inf") if gradient is None else gradient,
        "held_out": likelihood.get(train.get("epochs")),
    }


def _shares(model: Bundle, sequences: Sequence[WindowSequence]) -> NDArray[np.float64]:
    """Return the shares of the modes that occur in the held-out data of the version, else in `sequences`."""
    counts = np.array([row["support"] for row in model.metrics.get("per_class", {}).values()], np.int64)
    if not counts.any():
        y = np.concatenate([sequence.y for sequence in sequences]) if sequences else np.empty(0, np.int64)
        counts = np.bincount(y[y != UNKNOWN])
    return counts[counts > 0] / max(1, int(counts.sum()))


def _at_chance(last: float | None, trained_chance: float, held_out: float | None, chance: float) -> bool:
    return last is not None and held_out is not None and last < 0.6 * trained_chance and held_out > 0.9 * chance > 0


def _still(losses: Sequence[float], chance: float) -> bool:
    return len(losses) > 2 and abs(losses[0] - losses[-1]) < 0.02 * chance and losses[-1] > 0.5 * chance


def _scaling(probe: _Probe) -> list[Finding]:
    advice = "fit the scaler on the data it is used on (--set scaler=standard), and look at units and channels"
    if probe.flat > 0.95:
        return [Finding("scaling", f"{probe.flat:.0%} of the scaled inputs are all but 0", advice)]
    if probe.clipped > 0.2:
        return [Finding("scaling", f"{probe.clipped:.0%} of the scaled inputs are clipped at +-{CLIP:g}", advice)]
    if probe.empty > 0.05:
        why = f"{probe.empty:.0%} of the windows have none of the inputs"
        return [Finding("scaling", why, "give the same channel the same name everywhere (backfill --channels OLD=NEW)")]
    return []


def _learning_rate(
    probe: _Probe, losses: Sequence[float], chance: float, largest_gradient: float | None
) -> list[Finding]:
    finite = bool(np.isfinite(losses).all())
    if not finite or probe.weight_growth > 10 or (losses and losses[-1] > 1.5 * chance):
        grown = f"weights are {probe.weight_growth:.0f} times as large as they began"
        if losses:
            grown += f", the loss ended at {losses[-1]:.2f} (knowing nothing: {chance:.2f})"
        return [
            Finding("learning rate", f"too high: {grown}", "a tenth of --set learning_rate, or a smaller clip_norm")
        ]
    alive = largest_gradient is None or largest_gradient > 1e-6
    if alive and _still(losses, chance):
        why = f"too low: the loss went from {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} passes"
        return [Finding("learning rate", why, "ten times --set learning_rate, or more epochs")]
    return []


def _activation(probe: _Probe, cell: str) -> list[Finding]:
    if not probe.finite:
        return [
            Finding("activation", f"the state of {cell} grows without bound", "--set cell=gru, whose state is bounded")
        ]
    if probe.stuck > 0.9:
        what = "dead (0 whatever comes in)" if cell == "rnn_relu" else "saturated (+-1 whatever comes in)"
        return [Finding("activation", f"{probe.stuck:.0%} of the units are {what}", "--set cell=gru, smaller weights")]
    return []


def _initial_state(probe: _Probe) -> list[Finding]:
    if probe.finite and probe.start_matters > max(0.02, 3 * probe.spread):
        why = f"another initial state moves a probability by {probe.start_matters:.2f} after {WINDOWS} windows"
        why += f", other inputs by {probe.spread:.2f}"
        return [Finding("initial state", why, "start sequences from zeros and train with resets (--set reset_p=0.2)")]
    if probe.finite and probe.moved < 1e-3:
        why = f"the state stays where it starts (largest change {probe.moved:.1e})"
        return [Finding("initial state", why, "start from zeros; another --set seed or cell")]
    return []


def _data(sequences: Sequence[WindowSequence], at_chance: bool) -> list[Finding]:
    advice = "more machines, not more windows of the same ones; fewer units (--set hidden) or more --set noise"
    rows = np.concatenate([sequence.x for sequence in sequences]) if sequences else np.empty((0, 1))
    distinct = len(np.unique(np.nan_to_num(rows, nan=-1e9).round(6), axis=0)) / max(1, len(rows))
    of_class: dict[int, int] = {}
    for sequence in sequences:
        for k in np.unique(sequence.y[sequence.y != UNKNOWN]).tolist():
            of_class[k] = of_class.get(k, 0) + 1
    if distinct <= 0.5:
        return [Finding("data", f"redundant: only {distinct:.0%} of the windows are different ones", advice)]
    if of_class and min(of_class.values()) < 2:
        return [Finding("data", "too little: a class has one sequence only", advice)]
    if at_chance:
        return [Finding("data", "what is learned does not carry over to held-out machines", advice)]
    return []


def _pieces(sequences: Sequence[WindowSequence]) -> list[Float32]:
    """Return the first windows of every mode in every sequence, equally many pieces of each mode.

    Most machines begin healthy: the plain beginnings would nearly all be of one mode.
    """
    of_mode: dict[int, list[Float32]] = {}
    for sequence in sequences:
        for k in np.unique(sequence.y).tolist():
            there = np.flatnonzero(sequence.y == k)[:WINDOWS]
            last = int(there[-1]) + 1
            of_mode.setdefault(k, []).append(sequence.x[max(0, last - WINDOWS) : last])
    if set(of_mode) != {UNKNOWN}:
        of_mode.pop(UNKNOWN, None)
    share = max(1, PIECES // max(1, len(of_mode)))
    return [x for pieces in of_mode.values() for x in pieces[:: max(1, len(pieces) // share)][:share]]


def _probe(model: Bundle, sequences: Sequence[WindowSequence]) -> _Probe:
    """Step through some pieces from a state of zeros, and from a state of ones beside it."""
    spec = model.spec
    some = _pieces(sequences)
    x = np.full((len(some), WINDOWS, len(spec.inputs)), np.nan, np.float32)
    for row, values in enumerate(some):
        x[row] = values[np.arange(WINDOWS) % len(values)]  # a short recording is repeated
    z = spec.scaler.apply(x)
    there = np.isfinite(z)
    recurrence = Recurrence(spec.cell, spec.hidden, spec.layers, spec.members, model.weights)
    shape = (len(some), *spec.state_shape)
    units = spec.hidden
    h, other = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    spread = moved = 0.0
    finite, said = True, set[int]()
    ever_free = np.zeros(shape[1:], bool)  # units that were ever neither saturated nor dead
    p = p_other = np.zeros((len(some), len(spec.classes)), np.float32)
    with np.errstate(all="ignore"):
        for t in range(WINDOWS):
            outputs, after = recurrence.step(z[:, t], h)
            p, before = softmax(outputs / np.float32(spec.temperature)), h
            outputs, other = recurrence.step(z[:, t], other)
            p_other = softmax(outputs / np.float32(spec.temperature))
            h = after
            finite = finite and bool(np.isfinite(p).all() and np.isfinite(h).all())
            spread = max(spread, float(np.ptp(p, axis=0).max(initial=0.0)))
            moved = max(moved, float(np.abs(h - before).max(initial=0.0)))
            said |= set(p.argmax(axis=1).tolist())
            free = h != 0 if spec.cell == "rnn_relu" else np.abs(h) < 0.99
            ever_free |= free.any(axis=0)
    weights = [w for name, w in model.weights.items() if name.startswith(f"{CELLS[spec.cell].family}.weight_hh")]
    rms = float(np.sqrt(np.mean([np.square(w).mean() for w in weights])))
    return _Probe(
        spread=spread if finite else float("nan"),
        classes_said=len(said),
        moved=moved if finite else float("nan"),
        finite=finite,
        stuck=float((~ever_free[:, :units]).mean()),
        start_matters=float(np.abs(p - p_other).max(initial=0.0)),
        flat=float((np.abs(z[there]) < 1e-3).mean()) if there.any() else 1.0,
        clipped=float((np.abs(z[there]) >= CLIP).mean()) if there.any() else 0.0,
        empty=float((~there.any(axis=2)).mean()),
        weight_growth=rms * float(np.sqrt(3 * units)),  # uniform in +-1/sqrt(H) at the beginning
    )
