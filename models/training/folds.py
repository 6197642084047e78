"""Grouped cross-validation, the choice of an aim, and the final fit.

    choose_aim -> cross_validate -> per fold: scaler, members, held-out logits -> CrossValidation
    final_fit  -> one network per member on all sequences, for the passes that cross-validation chose -> FinalModel

**Cross-validation.** Every fold fits its own scaler and weights on its training side. The held-out logits of all folds
are pooled; they choose the number of passes and the temperature of the version. For the reported probabilities both are
chosen, fold by fold, on the *other* folds, so no window influences its own score. (With one fold only they are chosen
on that fold, and the version says so.) A fold stops early on its own held-out side, `patience` checks after its best
one, which is not in its favour. The logits of an ensemble are the mean over its members, each with its own seed.

**Aim.** A network can be trained for machines that were never recorded, or for the machines of the archive:

    new    whatever depends on a machine's structure is blurred or removed, and simulated machines join in
           (models/training/augment.py, models/data/prior.py): what is learned carries over to other machines
    known  none of that: the network may learn by heart what tells these machines apart. Best for another load, or
           another day, of machines that have labels already
    auto   new, unless known is better in every fold of a split of FOLDS_THAT_CONVINCE folds or more

The held-out side shows what the model is for: held out by load, the machines are known; held out by bearing or rig,
they are new. The folds that choose are also the ones that are reported, so all of them must agree: of two equally good
aims the luckier one then wins once in 2^folds. In most trainings the first fold disagrees, and the others are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import UNKNOWN, Dataset, WindowSequence
from models.data.splits import Fold, Split, leaky_split
from models.evaluation.events import Track
from models.evaluation.metrics import fit_temperature, nll, softmax
from models.network import NetworkConfig, RecurrentNetwork
from models.places import direct_weights
from models.scaling import Scaler
from models.settings import TrainSettings
from models.training.augment import Augmentation
from models.training.checkpoint import Checkpoints, Progress
from models.training.loop import EpochReport, epochs_for, fit, network_config, predict
from models.training.objective import Example

FOLDS_THAT_CONVINCE = 3
KNOWN_OFFSET = 0.3  # structure_offset of the aim `known`: a known machine with its sensor mounted anew
CHECKS = 20  # looks at the held-out side per fold
CHECKPOINTS = 10  # per member of the final fit
SEED_STEP = 1_000_003  # between the seeds of members, so that neighbouring seeds of a user share none

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Weights = dict[str, NDArray[np.float32]]

# (fold from 0 or None for the final fit, report, held-out negative log-likelihood or None)
Watch = Callable[[int | None, EpochReport, float | None], None]


class NotBetter(Exception):
    """A fold did not beat the loss it had to beat; the remaining folds were not trained."""


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """Held-out probabilities of every tested sequence, and the choices that follow from them."""

    tracks: tuple[Track, ...]
    fold_of: tuple[int, ...]  # number of the fold of each track
    epochs: int
    schedule_epochs: int  # length of the learning-rate schedule in the folds
    temperature: float
    likelihood: tuple[tuple[int, float], ...]  # (epoch, pooled negative log-likelihood)
    folds_done: int
    folds: int  # of the split; an interrupted validation has done fewer


@dataclass(frozen=True, slots=True, eq=False)
class _FoldLogits:
    sequences: tuple[WindowSequence, ...]
    at: dict[int, list[Float32]]  # epoch -> logits (T, K) per sequence


def config_of(dataset: Dataset, settings: TrainSettings, scaler: Scaler) -> NetworkConfig:
    """Sizes of the network for this data, with the weights that it need not learn."""
    direct = direct_weights(dataset.inputs, dataset.classes, scaler)
    return network_config(len(dataset.inputs), len(dataset.classes), settings, direct)


def member_settings(settings: TrainSettings, member: int) -> TrainSettings:
    """Settings with the seed of one member of an ensemble; the first has the seed itself."""
    return replace(settings, seed=settings.seed + SEED_STEP * member)


def fit_scaler(sequences: Sequence[WindowSequence], kind: str) -> Scaler:
    """Scaler of the training side."""
    return Scaler.fit(np.concatenate([sequence.x for sequence in sequences]), kind)


def examples_of(sequences: Sequence[WindowSequence], scaler: Scaler) -> list[Example]:
    """Scaled sequences."""
    return [Example(scaler.apply(sequence.x), sequence.y, sequence.weight) for sequence in sequences]


def cross_validate(
    dataset: Dataset,
    split: Split,
    settings: TrainSettings,
    watch: Watch,
    *,
    epochs: int | None = None,
    schedule_epochs: int | None = None,
    checkpoints: Checkpoints | None = None,
    part: str = "",
    to_beat: NDArray[np.float64] | None = None,
) -> CrossValidation | None:
    """Train every fold and pool the outputs on the test sides.

    With `epochs` that number of passes is scored, and nothing is chosen. Ctrl-C ends the validation with the folds
    that are done; without any the result is None. With `checkpoints` it resumes; their names begin with `part`.

    Raises:
        NotBetter: a fold does not beat its loss in `to_beat`.
    """
    split = replace(split, folds=tuple(replace(fold, train=fold.train + dataset.prior) for fold in split.folds))
    schedule = schedule_epochs or epochs
    if schedule is None:
        schedule = max(epochs_for(examples_of(fold.train, _identity(dataset)), settings) for fold in split.folds)
    last = epochs or schedule
    step = max(1, schedule // CHECKS)
    checks = sorted({*range(step, last + 1, step), last})
    done: list[_FoldLogits] = []
    try:
        for number, fold in enumerate(split.folds):
            name = f"{part}fold-{number}"
            choice = (split.untested, dataset, settings, checks, schedule, checkpoints)
            done.append(_one_fold(_FoldTraining(number, name, fold, *choice), watch))
            if to_beat is not None and _least_loss(done[-1], split.untested) >= to_beat[number]:
                raise NotBetter
    except KeyboardInterrupt:
        if not done:
            return None
    best, temperature, likelihood = _choice(done, checks, split.untested, epochs)
    tracks: list[Track] = []
    fold_of: list[int] = []
    for number, fold_logits in enumerate(done):
        others = [other for other in done if other is not fold_logits]
        own_best, own, _ = _choice(others or done, checks, split.untested, epochs)
        for sequence, logits in zip(fold_logits.sequences, fold_logits.at[own_best], strict=True):
            tracks.append(Track(_tested(sequence, split.untested), softmax(logits, own)))
            fold_of.append(number)
    return CrossValidation(
        tuple(tracks), tuple(fold_of), best, schedule, temperature, likelihood, len(done), len(split.folds)
    )


@dataclass(frozen=True, slots=True, eq=False)
class AimChoice:
    """The result of cross-validation, and the data and settings of the chosen aim."""

    held_out: CrossValidation | None
    dataset: Dataset
    settings: TrainSettings
    interrupted: bool = False  # by Ctrl-C, in the validation of either aim


def data_for_aim(dataset: Dataset, settings: TrainSettings) -> tuple[Dataset, TrainSettings]:
    """Return data and settings for the aim of the settings; `auto` counts as `new`."""
    return _for_known(dataset, settings) if settings.aim == "known" else (dataset, replace(settings, aim="new"))


def _for_known(dataset: Dataset, settings: TrainSettings) -> tuple[Dataset, TrainSettings]:
    """Return data and settings without anything that makes a network carry over to other machines."""
    settings = replace(settings, aim="known", structure_drop=0.0, structure_offset=KNOWN_OFFSET, simulated=0.0)
    return replace(dataset, prior=()), settings


def choose_aim(
    dataset: Dataset,
    split: Split,
    settings: TrainSettings,
    watch: Watch,
    *,
    say: Callable[[str], None],
    checkpoints: Checkpoints | None = None,
) -> AimChoice:
    """Cross-validate for new machines, for known ones, or for both, and take the aim that the held-out side prefers."""
    asked = data_for_aim(dataset, settings)
    held_out = cross_validate(asked[0], split, asked[1], watch, checkpoints=checkpoints)
    folds = len(split.folds)
    if held_out is None or held_out.folds_done < folds:
        return AimChoice(held_out, *asked, interrupted=True)
    if settings.aim != "auto" or folds < FOLDS_THAT_CONVINCE:
        return AimChoice(held_out, *asked)
    known, losses = _for_known(dataset, settings), fold_losses(held_out)
    try:
        rival = cross_validate(known[0], split, known[1], watch, checkpoints=checkpoints, part="known-", to_beat=losses)
    except NotBetter:
        say("aim: new machines")
        return AimChoice(held_out, *asked)
    if rival is None or rival.folds_done < folds:
        return AimChoice(held_out, *asked, interrupted=True)
    if not (fold_losses(rival) < losses).all():
        say("aim: new machines")
        return AimChoice(held_out, *asked)
    say(f"aim: known machines, since that is better in all {folds} folds of {split.name}")
    return AimChoice(rival, *known)


def fold_losses(held_out: CrossValidation) -> np.ndarray:
    """Return the mean -log p of the truth over the tested windows of every fold, (folds,)."""
    losses: list[list[np.ndarray]] = [[] for _ in range(held_out.folds_done)]
    for track, fold in zip(held_out.tracks, held_out.fold_of, strict=True):
        tested = np.flatnonzero(track.sequence.y != UNKNOWN)
        losses[fold].append(-np.log(np.maximum(track.p[tested, track.sequence.y[tested]], 1e-12)))
    pooled = [np.concatenate(each) for each in losses]
    return np.array([each.mean() if each.size else 0.0 for each in pooled])


def leaky_validation(
    dataset: Dataset, settings: TrainSettings, held_out: CrossValidation, watch: Watch, warn: Callable[[str], None]
) -> CrossValidation | None:
    """Score a split that does not keep machines apart, for the passes that the honest split chose.

    No choice depends on it, so Ctrl-C skips its remaining folds only; `warn` is told.
    """
    split = leaky_split(dataset.sequences, settings.folds, settings.seed)
    passes, schedule = held_out.epochs, held_out.schedule_epochs
    leaky = cross_validate(dataset, split, settings, watch, epochs=passes, schedule_epochs=schedule)
    done = 0 if leaky is None else leaky.folds_done
    if done < len(split.folds):
        warn(f"interrupted: {done} of {len(split.folds)} folds of the leaky split are scored, the final fit follows")
    return leaky


@dataclass(frozen=True, slots=True, eq=False)
class _FoldTraining:
    """One fold, and how it is trained."""

    number: int
    name: str  # of its checkpoints
    fold: Fold
    untested: Sequence[int]
    dataset: Dataset
    settings: TrainSettings
    checks: Sequence[int]  # passes after which the held-out side is looked at
    schedule_epochs: int
    checkpoints: Checkpoints | None


def _one_fold(training: _FoldTraining, watch: Watch) -> _FoldLogits:
    """Train all members on one side; keep the mean of their logits on the other side at every check."""
    scaler = fit_scaler(training.fold.train, training.settings.scaler)
    members = [_one_member(training, member, scaler, watch) for member in range(training.settings.members)]
    sequences = training.fold.test
    at = {
        epoch: [np.mean([said[epoch][row] for said in members], axis=0) for row in range(len(sequences))]
        for epoch in training.checks
    }
    return _FoldLogits(sequences, at)


def _one_member(training: _FoldTraining, member: int, scaler: Scaler, watch: Watch) -> dict[int, list[Float32]]:
    """Train one network; return its logits of the test side, epoch -> (T, K) per sequence."""
    fold, checks = training.fold, training.checks
    settings = member_settings(training.settings, member)
    test = examples_of(fold.test, scaler)
    part = f"{training.name}-member-{member}"
    saved = training.checkpoints.load(part) if training.checkpoints else None
    lengths = np.cumsum([0, *(len(example.y) for example in test)])
    at: dict[int, list[Float32]] = {}
    for name, logits in ({} if saved is None else saved.kept).items():
        at[int(name)] = [logits[a:b] for a, b in pairwise(lengths.tolist())]
    best, since_best = np.inf, 0

    def improves(epoch: int) -> float:
        nonlocal best, since_best
        y, logits = _pool([_FoldLogits(fold.test, at)], epoch, training.untested)
        likelihood = nll(y, logits, fit_temperature(y, logits))
        best, since_best = (likelihood, 0) if likelihood < best else (best, since_best + 1)
        return likelihood

    def look(report: EpochReport, network: RecurrentNetwork) -> bool:
        report = replace(report, member=member, aim=settings.aim)
        if report.epoch not in checks:
            watch(training.number, report, None)
            return True
        at[report.epoch] = predict(network, test)
        watch(training.number, report, improves(report.epoch))
        goes_on = since_best < settings.patience and report.epoch < checks[-1]
        if training.checkpoints:
            kept = {str(epoch): np.concatenate(logits) for epoch, logits in at.items()}
            training.checkpoints.save(part, Progress(report.state(), kept, finished=not goes_on))
        return goes_on

    for epoch in sorted(at):
        improves(epoch)
    if saved is None or not saved.finished:
        fit(
            examples_of(fold.train, scaler),
            config_of(training.dataset, settings, scaler),
            settings,
            epochs=checks[-1],
            schedule_epochs=training.schedule_epochs,
            augmentation=Augmentation.of(training.dataset.inputs, scaler, settings),
            start=None if saved is None else saved.state,
            after_epoch=look,
        )
    last = max(at)
    for epoch in checks:  # after an early stop the last logits count for all later checks
        at.setdefault(epoch, at[last])
    return at


def _choice(
    folds: Sequence[_FoldLogits], checks: Sequence[int], untested: Sequence[int], epochs: int | None
) -> tuple[int, float, tuple[tuple[int, float], ...]]:
    """Return the passes these folds prefer (or `epochs`), the temperature there, and (pass, loss) of all checks."""
    pooled = {epoch: _pool(folds, epoch, untested) for epoch in checks}
    temperatures = {epoch: fit_temperature(y, logits) for epoch, (y, logits) in pooled.items()}
    likelihood = tuple((epoch, nll(*pooled[epoch], temperatures[epoch])) for epoch in checks)
    best = epochs or _best_epoch(likelihood)
    return best, temperatures[best], likelihood


def _best_epoch(likelihood: Sequence[tuple[int, float]]) -> int:
    """Return the pass with the least loss, smoothed over its neighbours; the first quarter is left out as too noisy."""
    losses = np.array([loss for _, loss in likelihood])
    padded = np.concatenate([losses[:1], losses, losses[-1:]])
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    smooth[: len(losses) // 4] = np.inf
    return likelihood[int(smooth.argmin())][0]


def _least_loss(fold: _FoldLogits, untested: Sequence[int]) -> float:
    """Return the least loss over all checks, each at its own best temperature: no honest choice can beat it."""
    pools = [_pool([fold], epoch, untested) for epoch in fold.at]
    return min((nll(y, logits, fit_temperature(y, logits)) for y, logits in pools if y.size), default=math.inf)


def _tested(sequence: WindowSequence, untested: Sequence[int]) -> WindowSequence:
    """Mask the classes that are not tested."""
    y = np.where(np.isin(sequence.y, untested), UNKNOWN, sequence.y)
    return WindowSequence(sequence.key, sequence.x, y, sequence.start_ns, sequence.end_ns, sequence.session)


def _pool(folds: Sequence[_FoldLogits], epoch: int, untested: Sequence[int]) -> tuple[Int64, Float32]:
    """True classes (N,) and logits (N, K) of all tested windows."""
    y = np.concatenate([_tested(sequence, untested).y for fold in folds for sequence in fold.sequences])
    logits = np.concatenate([part for fold in folds for part in fold.at[epoch]])
    return y[y != UNKNOWN], logits[y != UNKNOWN]


def _identity(dataset: Dataset) -> Scaler:
    features = len(dataset.inputs)
    return Scaler("standard", np.zeros(features, np.float32), np.ones(features, np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class FinalModel:
    """The result of the final fit."""

    weights: Weights  # members stacked, if there are several
    scaler: Scaler
    members: int
    epochs: int
    schedule_epochs: int  # length of the learning-rate schedule; the passes are its beginning
    losses: tuple[float, ...]  # of the first member, pass by pass
    largest_gradient: float
    cut_short: bool  # by Ctrl-C; the weights are those of the last whole pass


@dataclass(slots=True)
class _MemberFit:
    """The last whole pass of one member."""

    weights: Weights
    losses: list[float]
    gradient: float = 0.0


def final_fit(
    dataset: Dataset,
    settings: TrainSettings,
    held_out: CrossValidation | None,
    watch: Watch,
    checkpoints: Checkpoints | None = None,
) -> FinalModel:
    """Fit on all sequences. Ctrl-C keeps the last whole pass of the members that have one.

    Raises:
        KeyboardInterrupt: before the first pass was done.
    """
    sequences = (*dataset.sequences, *dataset.prior)
    scaler = fit_scaler(sequences, settings.scaler)
    examples = examples_of(sequences, scaler)
    epochs = epochs_for(examples, settings) if held_out is None else held_out.epochs
    schedule = epochs if held_out is None else held_out.schedule_epochs
    kept: list[_MemberFit] = []
    cut_short = False
    try:
        for member in range(settings.members):
            kept.append(_MemberFit({}, []))
            _one_final(dataset, examples, scaler, settings, member, (epochs, schedule), kept[-1], watch, checkpoints)
    except KeyboardInterrupt:
        whole = [each for each in kept if each.weights]
        if not whole:
            raise
        # The last member is trained less than the others and would make the mean worse.
        kept, cut_short = whole[: max(1, len(kept) - 1)], True
    names = kept[0].weights
    stacked = {
        name: np.stack([each.weights[name] for each in kept]) if len(kept) > 1 else names[name] for name in names
    }
    gradient = max(each.gradient for each in kept)
    losses = tuple(kept[0].losses)
    return FinalModel(stacked, scaler, len(kept), len(losses), schedule, losses, gradient, cut_short)


def _one_final(
    dataset: Dataset,
    examples: list[Example],
    scaler: Scaler,
    settings: TrainSettings,
    member: int,
    passes: tuple[int, int],
    kept: _MemberFit,
    watch: Watch,
    checkpoints: Checkpoints | None,
) -> None:
    """Train one member; `kept` has its last whole pass, whatever happens."""
    own = member_settings(settings, member)
    # Interrupted folds may have chosen other passes; then the checkpoint belongs to another fit.
    part = f"final-{settings.aim}-{passes[0]}-of-{passes[1]}-member-{member}"
    saved = checkpoints.load(part) if checkpoints else None
    if saved is not None:
        named = {name.removeprefix("network."): value for name, value in saved.state.tensors.items()}
        weights = config_of(dataset, settings, scaler)
        kept.weights = {name: named[name].numpy().copy() for name in RecurrentNetwork(weights).state_dict()}
        kept.losses, kept.gradient = saved.kept["losses"].tolist(), float(saved.kept["gradient"][0])

    def keep(seen: EpochReport, network: RecurrentNetwork) -> bool:
        kept.weights = {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}
        kept.losses.append(seen.loss)
        kept.gradient = max(kept.gradient, seen.gradient_norm)
        last = seen.epoch == passes[0]
        if checkpoints and (last or seen.epoch % max(1, passes[0] // CHECKPOINTS) == 0):
            arrays = {"losses": np.array(kept.losses), "gradient": np.array([kept.gradient])}
            checkpoints.save(part, Progress(seen.state(), arrays, finished=last))
        watch(None, replace(seen, member=member, aim=settings.aim), None)
        return True

    if saved is None or not saved.finished:
        fit(
            examples,
            config_of(dataset, own, scaler),
            own,
            epochs=passes[0],
            schedule_epochs=passes[1],
            augmentation=Augmentation.of(dataset.inputs, scaler, own),
            start=None if saved is None else saved.state,
            after_epoch=keep,
        )
