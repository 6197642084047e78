"""Weeks of a simulated plant: what counts as a false alarm, a detection and a delay, and one machine all the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.studies.plant_trial import LIFE_S, SHIPPED, Run, delays, false_alarm_rate, run
from models.evaluation.events import AlarmInterval
from pipeline.config.tables import AlarmConfig, Config, ModelConfig
from sim.fleet import Plant, Snapshots
from sim.recipe import DAY_S, Recipe, plant

SOUND = Run("m", "pump", "healthy", None, None, 7.0, ())
FAILING = Run("m", "pump", "bearing_outer", 2 * DAY_S, 3 * DAY_S, 3.0, ())


def _with(one: Run, *alarms: tuple[str, float, float]) -> Run:
    return replace(one, alarms=tuple(AlarmInterval(mode, a * DAY_S, b * DAY_S, f"{mode}/{a}") for mode, a, b in alarms))


def test_every_alarm_of_a_sound_machine_is_false() -> None:
    assert len(_with(SOUND, ("unbalance", 1, 2), ("looseness", 3, 4)).false) == 2


def test_an_alarm_of_the_right_mode_is_early_and_not_false_once_the_fault_is_there() -> None:
    early, before, other = (_with(FAILING, alarm) for alarm in (
        ("bearing_outer", 2.5, 10), ("bearing_outer", 1.0, 1.5), ("unbalance", 2.5, 10)
    ))  # fmt: skip
    assert (early.false, early.outcome) == ([], ("detected", 2.5 * DAY_S))
    assert (len(before.false), before.outcome) == (1, ("missed", None))
    assert (len(other.false), other.outcome) == (1, ("misdiagnosed", None))


def test_an_alarm_that_was_up_before_the_fault_is_false_and_no_detection_until_it_is_raised_again() -> None:
    stood = _with(FAILING, ("bearing_outer", 1.0, 10))
    assert (len(stood.false), stood.outcome) == (1, ("standing", None))
    row = delays([stood])[-1]
    assert (row["detected"], row["standing"], row["missed"], row["delay_h"][0.5]) == (0, 1, 0, None)
    again = replace(
        FAILING, alarms=tuple(AlarmInterval("bearing_outer", a * DAY_S, b * DAY_S, "one") for a, b in ((1, 2), (4, 10)))
    )
    assert (len(again.false), again.outcome) == (1, ("detected", 4 * DAY_S))


def test_an_alarm_of_another_mode_is_a_wrong_diagnosis_and_none_is_a_miss() -> None:
    found = [_with(FAILING, ("bearing_outer", 4, 10)), _with(FAILING, ("unbalance", 4, 10)), FAILING]
    row = delays(found)[-1]
    assert (row["lives"], row["detected"], row["misdiagnosed"], row["missed"]) == (3, 1, 1, 1)
    assert row["delay_h"][0.5] == pytest.approx(24)
    assert row["lead_h"][0.5] == pytest.approx((LIFE_S - 4 * DAY_S) / 3600)


def test_false_alarms_are_counted_per_machine_day_and_none_in_so_many_days_bounds_the_rate() -> None:
    none = false_alarm_rate([SOUND] * 10)
    assert none["interval"] == [0.0, pytest.approx(3 / 70)]
    some = false_alarm_rate([SOUND] * 9 + [_with(SOUND, ("unbalance", 1, 2))])
    assert some["per_machine_day"] == pytest.approx(1 / 70)
    assert some["interval"][0] < 1 / 70 < some["interval"][1]


def test_a_bearing_that_fails_is_named_by_the_shipped_model_through_engine_and_alarms() -> None:
    recipe = Recipe(failing=1.0, life_s=3600.0, onset=(0.1, 0.1), modes=("bearing_outer",), kinds=("fan",))
    made: Plant = plant(1, 4, recipe, snapshots=Snapshots(record_s=4.0, every_s=300.0))
    config = Config(model=ModelConfig(max_gap_s=600.0), alarm=AlarmConfig(enter_s=400.0, leave_s=3600.0))
    found = run((made.machines[0], made, 3600.0), model=SHIPPED, config=config)
    assert found.mode == "bearing_outer"
    assert found.detectable_s is not None
    assert (found.outcome[0], [up.mode for up in found.alarms]) == ("detected", ["bearing_outer"])
