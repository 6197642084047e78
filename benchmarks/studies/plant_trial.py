"""Weeks of a plant in minutes, through the whole engine and its alarms: `python -m benchmarks.studies.plant_trial`.

    quiet week   examples/quiet_week.toml with more machines: nothing fails and much happens that is no failure;
                 false-alarm episodes per machine-day, resampled over machines
    lives        machines that fail, every mode in turn: hours from the moment a fault is detectable in principle to the
                 first alarm of the right mode, and how severe it was by then

Loggers wake every so often, as battery-powered ones do. An alarm needs several records in a row, and one that comes
back within six hours is the same episode. The model is the one that ships unless another directory is named.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import models
from models import bundle, unknown
from models.evaluation.events import AlarmInterval, Fault, false_alarms, outcome_of
from models.predictor import NumpyPredictor
from pipeline.config.specs import stream_specs
from pipeline.config.tables import AlarmConfig, Config, ModelConfig
from pipeline.core.engine import Engine
from pipeline.core.records import StreamKey
from pipeline.core.severity import floor
from sim import scenario
from sim.archive import steps_of
from sim.fleet import POINT, Plant, Snapshots, about
from sim.life import FAULTS, HEALTHY
from sim.machine import Machine
from sim.population import KINDS, faults_of
from sim.recipe import DAY_S, Recipe, plant

QUIET_WEEK = Path(__file__).resolve().parents[2] / "examples" / "quiet_week.toml"
SHIPPED = Path(models.__file__).with_name("pretrained")
LIFE_S, EVERY_S, RECORD_S = 10 * DAY_S, 3600.0, 3.0
ONSET = (0.1, 0.5)
SEED = 20_260_103
RECORDS_IN_A_ROW, RECORDS_WELL = 3, 12  # an alarm begins, and ends, after so many
SAME_EPISODE_S = 6 * 3600.0
DRAWS = 2000
HOUR_S = 3600.0

say = partial(print, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one machine."""

    machine: str
    kind: str
    mode: str  # that it has by the end
    onset_s: float | None
    detectable_s: float | None  # None: never
    healthy_days: float
    alarms: tuple[AlarmInterval, ...]  # in s since the machine's start

    @property
    def outcome(self) -> tuple[str, float | None]:
        """Outcome of the fault, and when its alarm was raised; only for a fault that is ever detectable."""
        assert self.onset_s is not None
        assert self.detectable_s is not None
        return outcome_of(Fault(self.mode, self.onset_s, self.detectable_s, np.inf), self.alarms)

    @property
    def false(self) -> list[AlarmInterval]:
        """Alarms on a sound machine; one of the right mode during a hidden fault is early and not false."""
        return false_alarms(self.alarms, self._sound)

    def _sound(self, up: AlarmInterval) -> bool:
        until_s = self.onset_s if up.mode == self.mode else self.detectable_s
        return until_s is None or up.start < until_s


def run(job: tuple[Machine, Plant, float], *, model: Path, config: Config) -> Run:
    """One machine, window by window, as the service would."""
    machine, site, seconds = job
    days, alarms, raised = seconds / DAY_S, list[AlarmInterval](), dict[str, tuple[str, float]]()
    spec_of = stream_specs(config, {StreamKey(machine.id, POINT): about(machine)})
    predictor, is_unknown = _serving(model)
    engine = Engine(spec_of, predictor, is_unknown, zone_of=lambda row: floor(row, spec_of(row.key).limits))
    for step in steps_of(machine, site, seconds, engine):
        for change in step.alarms:
            at_s = (change.at_ns - site.start_ns) / 1e9
            if change.type == "raised":
                raised[change.id] = change.mode, at_s
            elif change.type in ("cleared", "revoked"):
                alarms.append(AlarmInterval(*raised.pop(change.id), at_s, change.id))
    alarms += [AlarmInterval(mode, at_s, seconds, id_) for id_, (mode, at_s) in raised.items()]
    detectable_s, first = machine.life.detectable_s(), next(iter(machine.life.courses), None)
    return Run(
        machine.id,
        machine.make.kind,
        HEALTHY if first is None else first.mode,
        None if first is None else first.onset_s,
        detectable_s if detectable_s < seconds else None,
        min(days, detectable_s / DAY_S),
        tuple(sorted(alarms, key=lambda up: up.start)),
    )


@cache
def _serving(model: Path) -> tuple[NumpyPredictor, Callable[..., Any] | None]:
    """What predicts and what says `unknown`; once per process."""
    shipped = bundle.load(model)
    return NumpyPredictor(shipped), unknown.detector(shipped)


def runs(jobs: Sequence[tuple[Machine, Plant, float]], model: Path, every_s: float) -> list[Run]:
    """All machines, on all cores, with alarms for loggers that wake every `every_s`."""
    config = Config(
        model=ModelConfig(max_gap_s=2 * every_s),
        alarm=AlarmConfig(
            enter_s=RECORDS_IN_A_ROW * every_s - 0.5 * every_s,  # between the last record in time and the first
            leave_s=RECORDS_WELL * every_s,
            merge_s=SAME_EPISODE_S,
        ),
    )
    found = []
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        for number, one in enumerate(pool.map(partial(run, model=model, config=config), jobs), 1):
            found.append(one)
            if number % 10 == 0:
                say(f"{number} of {len(jobs)} machines")
    return found


def quiet_week(machines: int, model: Path, shift: float = 0.0) -> list[Run]:
    """The scenario file with more machines, drawn so far outside the population that models learn from."""
    wanted = scenario.read(QUIET_WEEK)
    made = scenario.build(_with_machines(wanted, machines, shift))
    seconds, snapshots = wanted.plant.seconds or 0.0, made.snapshots
    return runs([(m, made, seconds) for m in made.machines], model, snapshots.every_s if snapshots else 1.0)


def _with_machines(wanted: scenario.Scenario, machines: int, shift: float) -> scenario.Scenario:
    """As many machines as asked for."""
    return msgspec.structs.replace(
        wanted,
        plant=msgspec.structs.replace(wanted.plant, machines=machines),
        recipe=msgspec.structs.replace(wanted.recipe, shift=shift),
    )


def lives(per_mode: int, model: Path, shift: float = 0.0) -> list[Run]:
    """Machines that fail, so many of each mode, whatever the kind."""
    jobs = []
    snapshots = Snapshots(RECORD_S, EVERY_S)
    for number, mode in enumerate(FAULTS):
        able = tuple(kind for kind in KINDS if mode in faults_of(kind))
        recipe = Recipe(failing=1.0, life_s=LIFE_S, onset=ONSET, kinds=able, modes=(mode,), shift=shift)
        made = plant(per_mode, SEED + number, recipe, snapshots=snapshots)
        jobs += [(replace(m, id=f"{mode}-{m.id}"), made, LIFE_S) for m in made.machines]
    return runs(jobs, model, EVERY_S)


def false_alarm_rate(found: Sequence[Run]) -> dict[str, Any]:
    """Episodes per machine-day with a 95 % interval over machines; where there was none, three over the days."""
    days = np.array([one.healthy_days for one in found])
    count = np.array([len(one.false) for one in found])
    rng = np.random.default_rng(SEED)
    draws = rng.integers(0, len(found), (DRAWS, len(found)))
    low, high = np.quantile(count[draws].sum(axis=1) / days[draws].sum(axis=1), (0.025, 0.975))
    modes = [alarm.mode for one in found for alarm in one.false]
    return {
        "machines": len(found),
        "healthy_machine_days": float(days.sum()),
        "episodes": int(count.sum()),
        "machines_with_one": int((count > 0).sum()),
        "per_machine_day": float(count.sum() / days.sum()),
        "interval": [float(low), float(high) if count.any() else float(3 / days.sum())],
        "modes": {mode: modes.count(mode) for mode in sorted(set(modes))},
    }


def delays(found: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per mode, and one for all."""
    rows = []
    for mode in (*FAULTS, "all"):
        mine = [one for one in found if one.detectable_s is not None and mode in (one.mode, "all")]
        outcomes = [(*one.outcome, one.detectable_s or 0.0) for one in mine]
        hours = [max(0.0, raised_s - start_s) / HOUR_S for _, raised_s, start_s in outcomes if raised_s is not None]
        left = [(LIFE_S - raised_s) / HOUR_S for _, raised_s, _ in outcomes if raised_s is not None]
        count = Counter(name for name, _, _ in outcomes)
        rows.append(
            {
                "mode": mode,
                "lives": len(mine),
                **{name: count[name] for name in ("detected", "standing", "misdiagnosed", "missed")},
                "delay_h": {q: _quantile(hours, q) for q in (0.5, 0.9)},
                "lead_h": {q: _quantile(left, q) for q in (0.5, 0.1)},
            }
        )
    return rows


def _quantile(values: Sequence[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None


def text_of(document: dict[str, Any]) -> str:
    """The tables in words."""
    lines = []
    for name in ("quiet week", "before the onset of lives"):
        if (row := document.get(name)) is not None:
            low, high = row["interval"]
            lines.append(
                f"{name}: {row['episodes']} false-alarm episodes in {row['healthy_machine_days']:.0f} machine-days, "
                f"{row['per_machine_day']:.3f} per machine-day (95 %: {low:.3f} to {high:.3f}), "
                f"on {row['machines_with_one']} of {row['machines']} machines {row['modes'] or ''}"
            )
    if "lives" in document:
        lines.append(
            f"{'mode':14}  lives  detected  standing  misdiagnosed  missed  delay h, median  90 %  lead h, median"
        )
        lines += [
            f"{r['mode']:14}  {r['lives']:5}  {r['detected']:8}  {r['standing']:8}  {r['misdiagnosed']:12}  "
            f"{r['missed']:6}  "
            f"{_hours(r['delay_h'][0.5]):>15}  {_hours(r['delay_h'][0.9]):>4}  {_hours(r['lead_h'][0.5]):>14}"
            for r in document["lives"]
        ]
    return "\n".join(lines)


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def main(arguments: Iterable[str] | None = None) -> None:
    """Prints the tables, or the whole document with --json."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.plant_trial", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--machines", type=int, default=18, help="sound ones, for a week; 0 = none [default: 18]")
    parser.add_argument("--lives", type=int, default=3, help="failing ones of each mode; 0 = none [default: 3]")
    parser.add_argument("--model", type=Path, default=SHIPPED, help="a model's directory [default: the shipped one]")
    parser.add_argument(
        "--shift",
        type=float,
        default=0.0,
        help="how far outside the model's population machines are drawn [default: 0]",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(None if arguments is None else list(arguments))
    document: dict[str, Any] = {}
    if options.machines:
        week = quiet_week(options.machines, options.model, options.shift)
        document["quiet week"] = false_alarm_rate(week)
        document["quiet machines"] = [asdict(one) for one in week]
    if options.lives:
        failing = lives(options.lives, options.model, options.shift)
        document |= {"before the onset of lives": false_alarm_rate(failing), "lives": delays(failing)}
        document["failing machines"] = [asdict(one) for one in failing]
    sys.stdout.write(f"{json.dumps(document) if options.json else text_of(document)}\n")


if __name__ == "__main__":
    main()
