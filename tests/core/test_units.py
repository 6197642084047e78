"""Units: what people write becomes a unit of the contract with its factor, or is named as unknown."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from harness.codec import VALID, packed, read

from pipeline.core.severity import assess, limits_of_class
from pipeline.core.units import UNITS, is_unit, unit_of


@pytest.mark.parametrize(
    ("texts", "name", "factor"),
    [
        (("g", "G", "gn", " g "), "g", 1.0),
        (("mg", "mgn"), "g", 1e-3),
        (("m/s2", "m/s^2", "m/s²", "m/s**2", "m/s/s", "[m/s^2]", "m·s⁻²", "m s^-2"), "m/s2", 1.0),
        (("mm/s2", "mm/s^2", "mm/s²"), "m/s2", 1e-3),
        (("in/s2", "in/s²"), "m/s2", 0.0254),
        (("mm/s", "MM/S", "mm/s rms"), "mm/s", 1.0),
        (("m/s",), "mm/s", 1000.0),
        (("in/s", "ips", "IPS", "in/sec"), "mm/s", 25.4),
        (("um/s", "µm/s"), "mm/s", 1e-3),
        (("V",), "V", 1.0),
        (("mV",), "V", 1e-3),
        (("1",), "1", 1.0),
        (("um", "mil", "counts", "furlong", "", "°C", "g/g"), "unknown", 1.0),
    ],
)
def test_a_unit_is_known_however_it_is_written(texts: tuple[str, ...], name: str, factor: float) -> None:
    assert {unit_of(text) for text in texts} == {(name, factor)}


@pytest.mark.parametrize(
    ("texts", "name", "factor"),
    [
        (("g (rms)", "g,pk", "{g}", "gee"), "g", 1.0),
        (("m/(s2)", "m/(s*s)", "m/s·s", "m/sec²", "m/second^2", "Meters per second squared"), "m/s2", 1.0),
        (("mm/sec2", "mm/seconds^2"), "m/s2", 1e-3),
        (("in/second", "inch/sec"), "mm/s", 25.4),
    ],
)
def test_what_headers_of_recordings_say_is_known_too(texts: tuple[str, ...], name: str, factor: float) -> None:
    assert {unit_of(text) for text in texts} == {(name, factor)}


def test_a_word_in_a_header_names_a_unit_also_where_it_cannot_be_converted() -> None:
    assert all(map(is_unit, ("mg", "m/s²", "mm/sec", "V", "°C", "rpm", "counts", "%")))
    assert not any(map(is_unit, ("1", "none", "vibration", "x", "", "12.5", "time")))


@pytest.mark.parametrize("unit", UNITS)
def test_the_units_of_the_contract_are_themselves(unit: str) -> None:
    assert unit_of(unit) == (unit, 1.0)


@pytest.mark.parametrize(
    ("unit", "name", "factor"), [("mg", "g", 1e-3), ("in/s", "mm/s", 25.4), ("mm/s²", "m/s2", 1e-3)]
)
def test_samples_are_converted_at_the_door(unit: str, name: str, factor: float) -> None:
    plain, block = read(packed()), read(packed(unit=unit))
    assert (block.unit, block.unit_sent) == (name, None)
    np.testing.assert_allclose(block.samples, plain.samples * factor, rtol=1e-6)


def test_codes_are_scaled_first_and_then_converted() -> None:
    codes = np.arange(24, dtype="<i2").tobytes()
    block = read(packed(unit="mg", dtype="i2", scale=0.5, samples=codes))
    np.testing.assert_allclose(block.samples.ravel(), np.arange(24) * 0.0005, rtol=1e-6)


def test_an_unknown_unit_keeps_its_samples_under_its_name_and_is_not_assessable() -> None:
    block = read(packed(unit="furlong"))
    assert (block.unit, block.unit_sent) == ("unknown", "furlong")
    assert np.array_equal(block.samples, read(packed()).samples)
    assert assess(math.nan, limits_of_class(1, "rigid"), 12_000.0).note.startswith("not assessable")


def test_json_and_arrow_convert_like_messagepack() -> None:
    fields = msgspec.json.decode(VALID["json"]) | {"unit": "mg"}
    assert read(msgspec.json.encode(fields)).unit == "g"
