"""Bearings: the one formula, the catalogue against numbers that were published independently, and the command."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import cli
from pipeline.core.bearings import CATALOGUE, ORDERS, complete, find, orders_from_geometry
from pipeline.core.records import BearingOrders
from pipeline.errors import ConfigError, ThrumcastError


@given(st.integers(3, 40), st.floats(0.02, 0.45), st.floats(0, 60))
def test_orders_obey_their_identities(elements: int, ratio: float, contact_deg: float) -> None:
    if elements * math.asin(ratio) >= math.pi:
        with pytest.raises(ConfigError, match="fit round"):
            orders_from_geometry(elements, ratio, contact_deg)
        return
    orders = orders_from_geometry(elements, ratio, contact_deg)
    assert orders.bpfo + orders.bpfi == pytest.approx(elements)  # every element passes both races
    assert orders.bpfo == pytest.approx(elements * orders.ftf)
    assert 0 < orders.ftf < 0.5 < orders.bsf


@pytest.mark.parametrize(
    ("elements", "ratio", "contact_deg"), [(2, 0.2, 0), (9, 0.0, 0), (9, 1.2, 0), (9, 0.2, 90), (16, 0.3, 0)]
)
def test_impossible_geometry_is_refused(elements: int, ratio: float, contact_deg: float) -> None:
    with pytest.raises(ConfigError, match="found") as error:
        orders_from_geometry(elements, ratio, contact_deg)
    assert error.value.hint


# Lines in Hz (bpfo, bpfi, twice bsf, ftf) that others published with the shaft's speed in Hz, as far as they did.
PUBLISHED_HZ = {
    "6205": (1.0, (3.5848, 5.4152, 4.7135, 0.39828)),
    "6203": (1.0, (3.0530, 4.9469, 3.9874, 0.3817)),
    "pronostia": (30.0, (168.3, 221.7, 2 * 107.7, 12.95)),
    "uer204": (35.0, (107.907, 172.093, 144.66, 13.488)),
    "za-2115": (2000 / 60, (236.4, 296.9, 279.8, None)),
    "mfpt-nice": (25.0, (81.125, 118.875, None, None)),
}


@pytest.mark.parametrize("name", PUBLISHED_HZ)
def test_rows_agree_with_the_lines_that_their_sources_publish(name: str) -> None:
    shaft_hz, lines_hz = PUBLISHED_HZ[name]
    orders = find(name).geometry.orders()
    found_hz = [shaft_hz * order for order in (orders.bpfo, orders.bpfi, 2 * orders.bsf, orders.ftf)]
    for found, published in zip(found_hz, lines_hz, strict=True):
        assert published is None or found == pytest.approx(published, rel=4e-4)


def test_every_row_has_a_source_and_a_name_that_finds_it() -> None:
    assert len({bearing.name for bearing in CATALOGUE}) == len(CATALOGUE)
    for bearing in CATALOGUE:
        assert find(bearing.name) is bearing
        assert bearing.geometry.orders().bpfo > 1
        assert len(bearing.source) > 20


@pytest.mark.parametrize("name", ["6205", " 6205-2RS", "6205 ZZ", "6205-2Z/C3", "6205rs", "6205 2RS1"])
def test_seals_and_clearance_do_not_change_which_row_is_found(name: str) -> None:
    assert find(name).name == "6205"


def test_an_unknown_name_is_refused_and_the_catalogue_named() -> None:
    with pytest.raises(ThrumcastError, match=r"6203, .*found: 'NU 204'") as caught:
        find("NU 204")
    assert caught.value.hint


def test_the_command_lists_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bearings", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["bearings"]
    assert [row["name"] for row in rows] == [bearing.name for bearing in CATALOGUE]
    assert cli.run(["bearings"]) == 0
    assert "6205" in capsys.readouterr().out


def test_the_command_gives_orders_and_at_a_speed_hertz(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bearings", "6205", "--rpm", "1797", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["bearings"]
    assert BearingOrders(**row["orders"]) == find("6205").geometry.orders()
    assert row["hz"]["bpfi"] == pytest.approx(162.19, abs=0.01)
    assert row["hz"]["2bsf"] == pytest.approx(2 * row["orders"]["bsf"] * 1797 / 60)


def test_the_command_takes_geometry(capsys: pytest.CaptureFixture[str]) -> None:
    geometry = "elements=9,element_diameter_mm=7.94,pitch_diameter_mm=39.04,contact_angle_deg=0"
    assert cli.run(["bearings", "--geometry", geometry, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["bearings"]
    assert row["orders"]["bpfo"] == pytest.approx(3.5848, abs=1e-3)
    assert "hz" not in row


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["6299"], 2),
        (["--geometry", "elements=9"], 2),
        (["--geometry", "elements=9,element_diameter_mm=7.94,pitch_diameter_mm=39.04,bore_mm=25"], 2),
        (["--geometry", "elements=9.5,element_diameter_mm=7.94,pitch_diameter_mm=39.04"], 2),
        (["--geometry", "elements=9,element_diameter_mm=x,pitch_diameter_mm=39.04"], 2),
        (["--geometry", "elements=19,element_diameter_mm=7.94,pitch_diameter_mm=39.04"], 2),
        (["6205", "--geometry", "elements=9,element_diameter_mm=7.94,pitch_diameter_mm=39.04"], 2),
        (["6205", "--rpm", "0"], 2),
    ],
)
def test_what_cannot_be_answered_is_refused(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bearings", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


# -- orders from some of them ------------------------------------------------------------------------------------------


@given(
    elements=st.integers(5, 30), g=st.floats(0.08, 0.45),
    kept=st.sampled_from([("bpfo", "bpfi"), ("ftf", "bpfo"), ("ftf", "bpfi"), ("bpfo",), ("bpfi",), ("ftf",)]),
    slip=st.floats(-0.004, 0.004),
)  # fmt: skip
def test_two_facts_of_a_bearing_give_the_others(elements: int, g: float, kept: tuple[str, ...], slip: float) -> None:
    z = elements
    whole = {"ftf": (1 - g) / 2, "bpfo": z * (1 - g) / 2, "bpfi": z * (1 + g) / 2, "bsf": (1 - g * g) / (2 * g)}
    known = {name: whole[name] * (1 + slip * (len(kept) > 1)) for name in kept}
    found = complete(known, elements if len(kept) == 1 else None)
    for name in ORDERS:
        assert getattr(found.orders, name) == pytest.approx(known.get(name, whole[name]), rel=0.15 if slip else 1e-6)
    assert f"{elements} elements" in found.notes[0]


def test_the_orders_of_the_catalogue_agree_with_themselves() -> None:
    for bearing in CATALOGUE:
        orders = dataclasses.asdict(bearing.geometry.orders())
        assert complete(orders).notes == (), bearing.name
        assert complete(orders | {"bsf": 2 * orders["bsf"]}).orders.bsf == pytest.approx(orders["bsf"])


def test_a_stated_order_that_contradicts_the_others_is_named_and_kept() -> None:
    found = complete({"ftf": 0.45, "bpfo": 3.585, "bpfi": 5.415}, elements=8)
    assert found.orders.ftf == 0.45
    assert any("ftf 0.45 contradicts bpfo and bpfi" in note for note in found.notes)
    assert any("8 elements contradict" in note for note in found.notes)


@pytest.mark.parametrize(
    ("known", "elements", "text"),
    [
        ({}, None, "found: none"),
        ({"bpfo": 3.58}, None, "found: bpfo"),
        ({"bsf": 2.36}, 9, "found: bsf"),
        ({"bpfo": 3.1, "bpfi": 5.4}, None, "8.5 elements"),
        ({"bpfo": 5.4, "bpfi": 3.6}, None, r"\(d/D\) cos phi -0.2"),
        ({"ftf": 0.6, "bpfo": 5.4}, None, r"\(d/D\) cos phi -0.2"),
        ({"bpfo": 89.6, "bpfi": 0.4}, None, "cos phi -"),
    ],
)
def test_orders_that_are_no_bearing_are_refused_by_name(
    known: dict[str, float], elements: int | None, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        complete(known, elements)


def test_four_stated_orders_are_taken_even_where_they_contradict_each_other() -> None:
    found = complete({"ftf": 0.398, "bpfo": 3.585, "bpfi": 4.9, "bsf": 2.36})
    assert found.orders == BearingOrders(0.398, 3.585, 4.9, 2.36)
    assert "8.48 elements" in found.contradictions[0] or "8.49 elements" in found.contradictions[0]
