"""One step of the network for B streams at once, and one step of training, beside nothing but their matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.measure import Effort, interleaved
from benchmarks.report import Row, Section, number_text
from benchmarks.vibration import CHANNELS
from models.bundle import Bundle, ModelSpec
from models.predictor import NumpyPredictor
from models.scaling import Scaler
from models.settings import TrainSettings
from pipeline.config.specs import feature_spec
from pipeline.config.tables import Config
from pipeline.core.features.table import FEATURES
from pipeline.core.records import Float32

BATCHES = (1, 16, 256, 4096)
TRAINED = (64, 128, 64, 64)  # sequences, windows, features, hidden units of one training step


def untrained(config: Config, seed: int = 3) -> Bundle:
    """A model of the size that `train` makes by default, with random weights: it costs what a trained one costs."""
    rng = np.random.default_rng(seed)
    sizes = TrainSettings()
    inputs = tuple(f"{channel}.{feature.name}" for channel in CHANNELS for feature in FEATURES if feature.gain_free)
    spec = ModelSpec(
        version="v0001",
        classes=tuple(config.modes.names),
        inputs=inputs,
        feature_schema=feature_spec(config).schema,
        window_length_s=config.window.length_s,
        window_hop_s=config.window.hop_s,
        bandwidth_hz=config.features.bandwidth_hz,
        scaler=Scaler("standard", np.zeros(len(inputs), np.float32), np.full(len(inputs), 10, np.float32)),
        hidden=sizes.hidden,
        layers=sizes.layers,
        temperature=1.0,
        cell=sizes.cell,
        members=sizes.members,
        task=sizes.task,
    )
    weights = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in spec.shapes().items()}
    return Bundle(spec, weights, {}, {}, {}, "Random weights, for benchmarks.\n")


def run(effort: Effort) -> Section:
    """`Predictor.step` for four batch sizes."""
    bundle = untrained(Config())
    predictor = NumpyPredictor(bundle)
    rng = np.random.default_rng(5)
    cases: dict[str, Callable[[], object]] = {}
    for batch in BATCHES:
        x = rng.standard_normal((batch, len(predictor.inputs))).astype(np.float32)
        x[:, ::7] = np.nan  # some inputs are always missing
        h = np.tanh(rng.standard_normal((batch, *predictor.hidden_shape))).astype(np.float32)
        cases[f"step {batch}"] = partial(predictor.step, x, h)
        cases[f"products {batch}"] = _products(bundle, batch, rng)
    times = interleaved(cases, effort.samples)
    rows = []
    for batch in BATCHES:
        step, products = times[f"step {batch}"], times[f"products {batch}"]
        beside = f"its matrix products alone ({number_text(products.us)} us); {batch / step.median_s:,.0f} streams/s"
        dirty = step.dirty or products.dirty
        rows.append(Row(f"step of {batch} streams", step.us, "us", beside, step.us / products.us, dirty))
    rows.append(_training(effort))
    spec = bundle.spec
    size = f"{spec.members} GRUs {spec.layers} x {spec.hidden}, {len(spec.inputs)} inputs, {len(spec.classes)} classes"
    title = f"model: {size}, numpy"
    return Section(title, rows, {"model_step_us": {str(batch): times[f"step {batch}"].us for batch in BATCHES}})


def _training(effort: Effort) -> Row:
    """Forward, backward and AdamW for 64 sequences x 128 windows, beside the matrix products of both passes."""
    import torch

    from models.network import NetworkConfig, RecurrentNetwork

    torch.set_num_threads(1)
    sequences, windows, features, hidden = TRAINED
    network = RecurrentNetwork(NetworkConfig(features, 8, hidden, layers=1, dropout=0.0, cell="gru"))
    optimiser = torch.optim.AdamW(network.parameters())
    z, y = torch.randn(sequences, windows, features), torch.randint(0, 8, (sequences * windows,))
    inward, gates = torch.randn(sequences * windows, 2 * features), torch.randn(sequences * windows, 3 * hidden)
    state, gate = torch.randn(sequences, hidden), torch.randn(sequences, 3 * hidden)
    from_input, from_state = torch.randn(2 * features, 3 * hidden), torch.randn(hidden, 3 * hidden)

    def step() -> None:
        outputs, _ = network(z, network.initial(sequences))
        loss = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), y)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    def products() -> None:
        inward @ from_input
        inward.T @ gates
        for _ in range(windows):
            state @ from_state
            gate @ from_state.T
            state.T @ gate

    times = interleaved({"step": step, "products": products}, effort.samples)
    own, limit = times["step"], times["products"]
    beside = f"its matrix products alone ({limit.us / 1e3:.1f} ms)"
    size = f"training step, {sequences} x {windows} x {features}, hidden {hidden}"
    return Row(size, own.us / 1e3, "ms", beside, own.us / limit.us, own.dirty or limit.dirty)


def _products(bundle: Bundle, batch: int, rng: np.random.Generator) -> Callable[[], object]:
    """The step's matrix products, and nothing else."""
    pairs: list[tuple[Float32, Float32]] = []
    for name, weight in bundle.weights.items():
        if name.rpartition(".")[2].startswith("weight"):
            for member in weight.reshape(-1, *weight.shape[-2:]):
                left = rng.standard_normal((batch, member.shape[1])).astype(np.float32)
                pairs.append((left, np.ascontiguousarray(member.T)))
    return lambda: [left @ right for left, right in pairs]
