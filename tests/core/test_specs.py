"""Specs: core says what they hold, and the configuration alone says what is usual."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pipeline.core
from pipeline.config.specs import default_spec
from pipeline.config.tables import Config


def specs_of_core() -> set[type]:
    modules = pkgutil.walk_packages(pipeline.core.__path__, "pipeline.core.")
    names = (importlib.import_module(module.name) for module in modules)
    found = (item for module in names for item in vars(module).values() if isinstance(item, type))
    return {item for item in found if item.__name__.endswith("Spec") and dataclasses.is_dataclass(item)}


def test_no_spec_of_core_has_a_default() -> None:
    found = specs_of_core()
    assert {"AlarmSpec", "FeatureSpec", "OrderSpec", "StreamSpec", "WindowSpec"} <= {item.__name__ for item in found}
    usual = [
        f"{item.__name__}.{field.name}"
        for item in found
        for field in dataclasses.fields(item)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    ]
    assert usual == []


def test_the_usual_spec_says_what_the_configuration_says() -> None:
    usual, config = default_spec(), Config()
    assert dataclasses.asdict(usual.alarm) == {
        name: getattr(config.alarm, name)
        for name in config.alarm.__struct_fields__
        if name != "false_alarms_per_machine_year"
    }
    assert usual.order.max_wait_s == config.order.max_wait_s
    assert (usual.window.length_s, usual.window.hop_s) == (config.window.length_s, config.window.hop_s)
    assert usual.window.max_time_step_s == config.order.max_time_step_s
    for name in config.features.__struct_fields__:
        assert getattr(usual.features, name) == getattr(config.features, name)
    assert (usual.max_gap_s, usual.warm_up_windows) == (config.model.max_gap_s, config.model.warm_up_windows)
