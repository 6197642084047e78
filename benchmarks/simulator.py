"""The simulator: how many seconds of a machine it makes per second of one core, three axes at 25.6 kHz."""

from __future__ import annotations

import numpy as np

from benchmarks.measure import Effort, interleaved
from benchmarks.report import Row, Section
from sim.machine import initial, step
from sim.recipe import Recipe, plant

RATE_HZ = 25_600.0
MACHINES = 8  # two of every kind, all of them failing
FRAMES = 4


def run(effort: Effort) -> Section:
    """All kinds of machines, halfway through their failures."""
    recipe = Recipe(failing=1.0, life_s=1.0, onset=(0.0, 0.05))
    machines = plant(MACHINES, 1, recipe, rate_hz=RATE_HZ).machines
    states = []
    for machine in machines:
        state = initial(machine)
        while state.time_s < 1.0:  # grown, and everything is compiled
            state, _ = step(machine, state)
        states.append(state)
    samples = MACHINES * FRAMES * machines[0].frame

    def simulate() -> None:
        for machine, begun in zip(machines, states, strict=True):
            state = begun
            for _ in range(FRAMES):
                state, _ = step(machine, state)

    rng = np.random.default_rng(1)

    def noise() -> None:
        rng.standard_normal((3, samples), np.float32)

    times = interleaved({"simulate": simulate, "noise": noise}, effort.samples)
    machine_seconds = samples / RATE_HZ
    speed = machine_seconds / (times["simulate"].us / 1e6)
    white = machine_seconds / (times["noise"].us / 1e6)
    rows = [
        Row(
            "simulated machine-seconds",
            speed,
            "1/s",
            f"white noise of the same size ({white:,.0f}/s)",
            speed / white,
            times["simulate"].dirty or times["noise"].dirty,
        )
    ]
    return Section("simulator: 3 x 25.6 kHz, all kinds, failing", rows, {"sim_machine_seconds_per_s": speed})
