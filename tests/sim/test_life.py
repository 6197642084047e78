"""Lives: how faults grow, heal, combine and are mended, and what of it the truth says."""

from __future__ import annotations

import math
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from sim.fleet import Snapshots, machine_blocks, truth_document
from sim.life import FAULTS, GROWING, HEALTHY, SHAPES, Course, Life
from sim.population import faults_of
from sim.recipe import CURRICULUM, Recipe, plant, training_plant


@settings(deadline=None)
@example("stepwise", 0.0, 1.0, 2.2e-313, 0.2, 5)
@given(
    st.sampled_from(SHAPES), st.floats(0, 50), st.floats(0.5, 50), st.floats(0, 1), st.floats(0.05, 0.9),
    st.integers(1, 9),
)  # fmt: skip
def test_severity_grows_and_the_truth_changes_once_when_the_fault_is_detectable(
    shape: str, onset_s: float, length_s: float, final: float, least: float, steps: int
) -> None:
    course = Course("unbalance", shape, onset_s, onset_s + length_s, final, detectable=least, steps=steps)
    life = Life((course,))
    times = np.linspace(0, onset_s + 1.5 * length_s, 200)
    severity = np.array([course.severity(t) for t in times])
    assert severity.min() >= 0
    assert severity.max() <= final
    if shape != "stepwise":
        assert np.all(np.diff(severity) >= -1e-12)
    assert np.all(severity[times < onset_s] == 0)
    assert severity[-1] == pytest.approx(final)
    for t, now in zip(times, severity, strict=True):
        truth = life.truth(t)
        if abs(t - life.detectable_s()) > 1e-6:
            assert (truth.mode != HEALTHY) == (t > life.detectable_s())
            assert now < least + 1e-9 or truth.mode == "unbalance"
        assert truth.stage in (("incipient", "clear") if truth.mode != HEALTHY else ("sound", "hidden"))
        assert (truth.stage == "sound") == (now == 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tiny", [5e-324, 2.2e-313, 1e-300])
def test_no_tiny_or_large_number_overflows(shape: str, tiny: float) -> None:
    assert Course("unbalance", shape, final=tiny).detectable_s() == math.inf
    assert Life((Course("unbalance", shape, detectable=tiny),)).truth(0.999).mode == "unbalance"
    for growth in (tiny, 699.0, 701.0, 1e300):
        course = Course("unbalance", shape, growth=growth)
        assert 0 <= course.severity(0.5) <= course.severity(1.0) == 1.0
        assert 0 <= course.detectable_s() <= 1.0
    before, after = (Course("unbalance", "exponential", growth=growth).severity(0.9) for growth in (699.999, 700.001))
    assert after == pytest.approx(before, rel=1e-3)


def test_a_fault_that_is_detectable_at_no_severity_is_refused() -> None:
    with pytest.raises(ConfigError, match="detectable severity above 0"):
        Course("unbalance", detectable=0.0)


def test_a_stepwise_life_heals_a_little_after_every_step_and_stays_detected() -> None:
    course = Course("bearing_outer", "stepwise", 0.0, 100.0, 1.0, detectable=0.4, steps=5)
    severity = np.array([course.severity(t) for t in np.arange(0.0, 100.0, 0.5)])
    assert np.sum(np.diff(severity) > 0.15) == 4
    assert np.sum(np.diff(severity) < 0) > 150
    assert course.detectable_s() == 20.0
    assert severity[79] < 0.4  # healed below the threshold, and still known
    assert Life((course,)).truth(39.5).mode == "bearing_outer"


def test_maintenance_makes_the_machine_as_new() -> None:
    first = Course("unbalance", "gradual", 10.0, 50.0, until_s=40.0)
    life = Life((first, Course("looseness", "gradual", 60.0, 90.0)))
    assert [life.truth(t).mode for t in (0, 30, 41, 59, 80)] == [
        HEALTHY, "unbalance", HEALTHY, HEALTHY, "looseness",
    ]  # fmt: skip
    assert life.condition(41.0).faults == ()
    assert life.modes == ("unbalance", "looseness")


def test_the_truth_of_combined_faults_is_the_one_that_stands_out_and_names_the_others() -> None:
    quiet = Course("looseness", "constant", 0.0, 1.0, 0.3, detectable=0.2)
    loud = Course("unbalance", "constant", 0.0, 1.0, 0.9, detectable=0.2)
    unheard = Course("misalignment", "constant", 0.0, 1.0, 0.1, detectable=0.2)
    truth = Life((quiet, loud, unheard)).truth(5.0)
    assert (truth.mode, truth.others) == ("unbalance", ("looseness",))
    assert (truth.stage, truth.severity, truth.onset_s) == ("clear", 0.9, 0.0)


def test_the_truth_of_a_failing_machine_changes_only_after_onset() -> None:
    made = plant(8, 4, Recipe(failing=1.0, life_s=6.0))
    for machine in made.machines:
        (course,) = machine.life.courses
        blocks = list(islice(machine_blocks(machine, 0.25, 0), 28))
        truths = [b.truth for b in blocks]
        changes = sum(a != b for a, b in pairwise(truths))
        first = next(b.index / b.rate_hz for b in blocks if b.truth != HEALTHY)
        assert changes == 1
        assert truths[-1] == course.mode
        assert first >= course.onset_s
        assert course.location


def test_onsets_lie_anywhere_between_5_and_95_per_cent_of_life_and_all_shapes_are_there() -> None:
    courses = [c for m in plant(200, 4, Recipe(failing=1.0, life_s=100.0)).machines for c in m.life.courses]
    onsets = np.sort([c.onset_s for c in courses])
    assert 5 <= onsets[0] < 12
    assert 88 < onsets[-1] <= 95
    assert {c.shape for c in courses} == set(GROWING)


def test_a_recipe_may_combine_and_repair_faults_and_add_events() -> None:
    recipe = Recipe(
        failing=1.0, life_s=1000.0, combined=0.5, repaired=0.5, nuisances_per_day=900, sensor_faults_per_day=900
    )
    machines = plant(60, 5, recipe).machines
    assert 15 < sum(len(m.life.modes) == 2 for m in machines) < 45
    assert 15 < sum(math.isfinite(m.life.courses[0].until_s) for m in machines) < 45
    kinds = {e.kind for m in machines for e in m.events}
    assert len(kinds) > 15
    document = truth_document(next(m for m in machines if m.events and len(m.life.courses) == 2))
    assert {"mode", "shape", "location", "onset_s", "detectable_s", "final"} <= set(document["faults"][0])
    assert {"label", "family", "start_s", "end_s", "size"} == set(document["events"][0])


def test_snapshots_are_sessions_and_live_on_while_the_logger_sleeps() -> None:
    made = plant(1, 2, Recipe(failing=1.0, life_s=36_000.0, onset=(0.0, 0.01)), snapshots=Snapshots(0.5, 3600.0))
    blocks = list(made.blocks(36_000.0))
    assert len(blocks) == 20
    assert [b.index for b in blocks] == [0, 3000] * 10
    assert [b.session - made.start_ns for b in blocks[::2]] == [k * 3_600_000_000_000 for k in range(10)]
    assert blocks[0].truth == HEALTHY
    assert blocks[-1].truth == made.machines[0].life.courses[0].mode
    again = list(made.blocks(36_000.0))
    assert [b.samples.tobytes() for b in blocks] == [b.samples.tobytes() for b in again]


@pytest.mark.parametrize("failing", [0.0, 0.25, 0.5, 1.0])
def test_about_the_asked_share_of_a_plant_fails(failing: float) -> None:
    for seed in range(10):
        machines = plant(24, seed, Recipe(failing=failing)).machines
        assert sum(bool(m.life.courses) for m in machines) == pytest.approx(24 * failing, abs=2)
        assert all(set(m.life.modes) <= set(faults_of(m.make.kind)) for m in machines)


def test_a_training_plant_has_every_mode_gradual_and_constant() -> None:
    machines = training_plant(1, 2 * len(CURRICULUM), 60).machines
    courses = [course for m in machines for course in m.life.courses]
    assert sum(not m.life.courses for m in machines) == len(machines) * CURRICULUM.count(HEALTHY) / len(CURRICULUM)
    assert {course.mode for course in courses} == set(FAULTS)
    for mode in FAULTS:
        assert {course.shape == "constant" for course in courses if course.mode == mode} == {True, False}
    assert len({m.id for m in machines}) == len(machines)


def test_the_modes_are_those_of_the_default_configuration() -> None:
    from pipeline.config.tables import ModesConfig

    assert ModesConfig().names == (HEALTHY, *FAULTS)
