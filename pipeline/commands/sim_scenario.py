"""What `thrumcast sim` is asked for: the scenario of the file, with what the flags say instead."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from sim.fleet import Plant
    from sim.scenario import Scenario

DEFAULT_OUT_SECONDS = 60.0
DEFAULT_LIFE_S = 600.0


@contextlib.contextmanager
def asked(path: Path | None) -> Iterator[None]:
    """A plant that cannot be is the command line's fault (exit code 2), unless the file's own cannot be either (3)."""
    from sim.scenario import build, read

    try:
        yield
    except ConfigError as error:
        if path is not None:
            build(read(path))
        raise UsageError(error.message, hint=error.hint) from error


def scenario_of(path: Path | None, given: dict[str, Any], transport: str, *, files: bool) -> Scenario:
    """The scenario of the file, or an empty one, with what the flags say instead."""
    import msgspec

    from sim.scenario import PlantTable, RecipeTable, Scenario, read

    base = Scenario() if path is None else read(path)
    flags = {name: value for name, value in given.items() if value is not None}
    of_plant = {name: flags[name] for name in PlantTable.__struct_fields__ if name in flags}
    of_recipe = {name: flags[name] for name in RecipeTable.__struct_fields__ if name in flags}
    plant = msgspec.structs.replace(base.plant, **of_plant)
    if files and plant.seconds is None:
        plant = msgspec.structs.replace(plant, seconds=DEFAULT_OUT_SECONDS)
    recipe = msgspec.structs.replace(base.recipe, **of_recipe)
    if recipe.life_s is None:
        recipe = msgspec.structs.replace(recipe, life_s=plant.seconds or DEFAULT_LIFE_S)
    network = msgspec.structs.replace(base.transport, **_chances(transport))
    described = base.machines[: flags.get("machines")]  # fewer than the file describes: its first ones
    return msgspec.structs.replace(base, plant=plant, recipe=recipe, transport=network, machines=described)


def plant_of(wanted: Scenario, axes: str, start_ns: int | None, *, training: bool) -> Plant:
    """The plant of that scenario, or of machines to learn from; None = it starts when all simulated plants start."""
    from dataclasses import replace

    from sim.population import AXES
    from sim.recipe import training_plant
    from sim.scenario import build

    names = tuple(axis.strip() for axis in axes.split(","))
    if len(set(names)) < len(names) or not set(names) <= set(AXES):
        msg = f"--axes takes some of {', '.join(AXES)}, each once, found: {axes}"
        raise ConfigError(msg, hint="x and y are radial, z is axial: --axes x,z")
    if training:
        p, r = wanted.plant, wanted.recipe
        life_s = r.life_s or DEFAULT_LIFE_S
        made = training_plant(p.seed, p.machines, life_s, rate_hz=p.rate_hz, block_s=p.block_s, shift=r.shift)
    else:
        made = build(wanted)
    seconds = wanted.plant.seconds
    if seconds is not None and not made.block_s <= seconds < math.inf:
        msg = f"a run must last at least one block of {made.block_s:g} s, found: {seconds:g} s"
        raise ConfigError(msg)
    return replace(made, axes=names, start_ns=made.start_ns if start_ns is None else start_ns)


def _chances(text: str) -> dict[str, float]:
    """The transport faults that `drop=0.01,reorder=0.1` asks for."""
    from sim.scenario import TransportTable

    names = TransportTable.__struct_fields__
    chances: dict[str, float] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        try:
            if name.strip() not in names:
                raise ValueError(name)
            chances[name.strip()] = float(value)
        except ValueError as error:
            msg = f"--transport FAULT=CHANCE with a fault of {', '.join(names)} expected, found: {item}"
            raise ConfigError(msg, hint="for instance drop=0.01,reorder=0.1") from error
    return chances
