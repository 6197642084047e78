"""Evidence: what the rules say of rows whose answer is known, and of real and simulated machines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import specs
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import stream
from pipeline.core.evidence import TOP, confirms, evidence
from pipeline.core.faults import FAMILY_DB
from pipeline.core.features.table import COLUMN, NAMES
from pipeline.core.records import BearingOrders, Block, FeatureRow, StreamKey

BEARING_MODES = {"inner_race": "bearing_inner", "outer_race": "bearing_outer", "ball": "bearing_ball"}
MODES = (
    "unbalance", "misalignment", "looseness", "bearing_inner", "bearing_outer", "bearing_ball", "bearing_cage",
    "gear_wear", "gear_tooth", "cavitation",
)  # fmt: skip


def row(*channels: dict[str, float]) -> FeatureRow:
    values = np.full((len(channels), len(NAMES)), np.nan, np.float32)
    for c, given_ in enumerate(channels):
        for name, value in given_.items():
            values[c, COLUMN[name]] = value
    return FeatureRow(
        key=StreamKey("m", "p"),
        session=1,
        window=0,
        start_ns=0,
        end_ns=10**9,
        rate_hz=12_000.0,
        speed_rpm=1800.0,
        coverage=1.0,
        quality=0,
        truth=None,
        channels=("x", "y", "z")[: len(channels)],
        values=values,
        schema="test",
    )


def texts(*channels: dict[str, float], top: int = TOP) -> list[str]:
    return [statement.text for statement in evidence(row(*channels), top)]


SOUND = {
    "env_bpfo": 3.0, "env_bpfi": 4.0, "env_2bsf": 2.0, "env_ftf": 3.0, "env_shaft": 3.0, "kurtosis": 3.1,
    "ord_1_velocity_share": 0.2, "mains_hum": 0.05, "flatness": -15.0, "cepstrum_shaft": 2.0, "gmf": 3.0,
    "gmf_sidebands": 3.0, "velocity_rms": 2.0, "rel_band_12": 0.3, "rel_band_13": -0.3,
    **{f"ord_{k}": 6.0 for k in ("0_5", "1", "1_5", *range(2, 11))},
    **{f"band_{k:02d}": -1.146 for k in range(14)},
}  # fmt: skip


def test_nothing_is_said_of_a_sound_machine_or_of_features_that_are_missing() -> None:
    assert texts(SOUND) == []
    assert texts({}) == []
    assert texts({}, {}) == []


def test_nothing_is_confirmed_where_the_features_are_missing_or_no_rule_speaks() -> None:
    assert [confirms(mode, row({})) for mode in MODES] == [None] * len(MODES)
    assert confirms("healthy", row(SOUND)) is None
    assert confirms("other", row(SOUND)) is None


@pytest.mark.parametrize(
    ("mode", "shown", "text"),
    [
        ("bearing_outer", {"env_bpfo": 14.2, "env_bpfo_harmonics": 5}, "envelope BPFO x1 to x5, 14 dB over floor"),
        (
            "bearing_inner",
            {"env_bpfi": 17.0, "env_bpfi_harmonics": 2},
            "envelope BPFI with 2 of 5 harmonics, 17 dB over floor",
        ),
        ("bearing_ball", {"env_2bsf": 12.0}, "envelope 2xBSF, 12 dB over floor"),
        ("bearing_cage", {"env_ftf": 12.0}, "envelope FTF, 12 dB over floor"),
        ("unbalance", {"ord_1_velocity_share": 0.82}, "1x is 82 % of velocity"),
        ("misalignment", {"ord_2": 31.0, "ord_1": 28.0}, "2x stands 31 dB over floor, 1x 28 dB"),
        ("looseness", {"ord_0_5": 16.0}, "0.5x stands 16 dB over floor"),
        (
            "looseness",
            {f"ord_{k}": 22.0 for k in range(3, 9)},
            "6 of the orders 3x to 10x stand more than 15 dB over floor",
        ),
        ("gear_wear", {"gmf_sidebands": 19.0}, "sidebands of the gear mesh 19 dB over floor"),
        ("gear_tooth", {"cepstrum_shaft": 13.0}, "cepstrum at the shaft period 13 dB over floor"),
        ("gear_tooth", {"kurtosis": 9.1}, "kurtosis 9.1, impulsive"),
        (
            "cavitation",
            {"band_11": -0.6, "band_12": -0.5, "band_13": -0.5, "flatness": -3.0},
            "broadband noise: the highest bands hold 88 % of the power",
        ),
    ],
)
def test_a_fault_is_said_and_borne_out(mode: str, shown: dict[str, float], text: str) -> None:
    assert texts(SOUND | shown) == [text]
    assert confirms(mode, row(SOUND | shown)) is True
    assert confirms(mode, row(SOUND)) is False


def test_mains_lines_and_changes_are_said_but_confirm_nothing() -> None:
    shown = SOUND | {"mains_hum": 0.6, "rel_rms": 40.0}
    assert set(texts(shown)) == {"mains lines are 60 % of the power", "RMS 40 sigma above this machine's baseline"}
    assert not any(confirms(mode, row(shown)) for mode in MODES)


def test_the_channel_that_shows_it_most_is_named() -> None:
    assert texts(SOUND, SOUND | {"env_bpfo": 14.0}) == ["envelope BPFO, 14 dB over floor (y)"]
    assert texts(SOUND | {"env_bpfo": 14.0}, {}) == ["envelope BPFO, 14 dB over floor (x)"]


def test_a_family_far_below_the_strongest_is_explained_by_it() -> None:
    both = SOUND | {"env_bpfi": 30.0, "env_bpfo": 18.0}
    assert texts(both) == ["envelope BPFI, 30 dB over floor"]
    assert confirms("bearing_outer", row(both)) is False
    assert confirms("bearing_inner", row(both)) is True


def test_a_family_that_the_sidebands_of_a_stronger_one_raise_is_not_a_fault_of_its_own() -> None:
    """The inner race of a 6203, less one turn, is at 3.95 orders: within the slip of 3.99, twice its balls' spin."""
    both = SOUND | {"env_bpfi": 24.0, "env_2bsf": 19.0}
    assert texts(both) == ["envelope BPFI, 24 dB over floor"]
    assert confirms("bearing_ball", row(both)) is False
    equals = SOUND | {"env_bpfi": 20.0, "env_2bsf": 18.5}
    assert confirms("bearing_inner", row(equals)) is confirms("bearing_ball", row(equals)) is True


def test_what_stands_highest_over_its_threshold_is_said_first() -> None:
    shown = {"env_bpfi": 31.0, "env_bpfo": 20.0, "cepstrum_shaft": 17.0, "kurtosis": 5.6}
    first, *_ = evidence(row(SOUND | shown))
    assert (first.text, first.strength) == ("envelope BPFI, 31 dB over floor", 1.0)


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(-1e6, 1e6, width=32)))
def test_any_row_has_at_most_three_statements_strongest_first(shown: dict[str, float]) -> None:
    found = evidence(row(shown, {}))
    strengths = [statement.strength for statement in found]
    assert len(found) <= TOP
    assert strengths == sorted(strengths, reverse=True)
    assert all(0 <= strength <= 1 for strength in strengths)
    assert all(statement.text for statement in found)
    for mode in MODES:
        assert confirms(mode, row(shown, {})) in (True, False, None)


@given(st.sampled_from(MODES), st.floats(0, 60))
def test_more_of_a_line_never_withdraws_it(mode: str, more: float) -> None:
    lines = {"bearing_outer": "env_bpfo", "bearing_inner": "env_bpfi", "unbalance": "ord_1_velocity_share"}
    if mode in lines:
        assert confirms(mode, row(SOUND | {lines[mode]: FAMILY_DB + more})) is True


def simulated(seed: int, modes: tuple[str, ...]) -> dict[str, list[FeatureRow]]:
    """The last windows of machines of a plant by true mode: sound ones, and those damaged all along, not too little."""
    from itertools import islice

    from sim.fleet import machine_blocks
    from sim.recipe import training_plant

    spec = specs.stream()
    rows: dict[str, list[FeatureRow]] = {}
    for machine in training_plant(seed, 48, 8.0).machines:
        faults = [c for c in machine.life.courses if c.severity(0.0) >= 0.5]  # damaged all along, not too little
        mode = faults[0].mode if faults else "healthy"
        if (not machine.life.courses) or (mode in modes and len(faults) == 1):
            state = stream.initial(spec)
            events: list[object] = []
            for block in islice(machine_blocks(machine, 0.25, 0), 20):
                state, found = stream.step(spec, state, block)
                events += found
            rows.setdefault(mode, []).extend([e for e in events if isinstance(e, FeatureRow)][-6:])
    return rows


def test_sound_simulated_machines_show_no_bearing_fault_and_damaged_ones_show_theirs() -> None:
    modes = ("bearing_inner", "bearing_outer", "bearing_ball")
    plants = [simulated(seed, modes) for seed in (6, 7, 8)]
    damaged = [confirms(mode, one) is True for rows in plants for mode in modes for one in rows.get(mode, [])]
    sound = [one for rows in plants for one in rows["healthy"]]
    assert len(damaged) >= 36
    assert np.mean(damaged) > 0.6
    for mode in modes:
        assert np.mean([confirms(mode, one) is True for one in sound]) < 0.05, mode


def rows_of(path: Path, channel: str, metadata: dict[str, object]) -> list[FeatureRow]:
    import pyarrow.parquet as pq

    orders = metadata["fault_orders_of_shaft"]
    assert isinstance(orders, dict)
    block = Block(
        key=StreamKey("m", "p"),
        session=1,
        index=0,
        t0_ns=0,
        rate_hz=float(metadata["sample_rate_hz"]),  # type: ignore[arg-type]
        channels=(channel,),
        unit="g",
        samples=pq.read_table(path, columns=[channel])[channel].to_numpy().astype(np.float32)[None],
        speed_rpm=float(metadata["rpm"]),  # type: ignore[arg-type]
        orders=BearingOrders(**orders.get(channel, orders)),
    )
    _, events = stream.step(specs.stream(), stream.initial(specs.stream()), block)
    return [event for event in events if isinstance(event, FeatureRow)]


def metadata_of(path: Path) -> dict[str, object]:
    import pyarrow.parquet as pq

    known: dict[str, object] = json.loads(pq.read_schema(path).metadata[b"recording_metadata"])
    return known


@pytest.mark.parametrize(
    ("recording", "mode"), [("IR007_0", "bearing_inner"), ("IR021_1", "bearing_inner"), ("OR007@6_0", "bearing_outer")]
)
def test_seeded_faults_are_borne_out_and_their_neighbours_are_not(shared_data: Path, recording: str, mode: str) -> None:
    path = shared_data / "cwru" / "12k_drive_end" / f"{recording}.parquet"
    rows = rows_of(path, "drive_end", metadata_of(path))
    shares = {name: np.mean([confirms(name, one) is True for one in rows]) for name in BEARING_MODES.values()}
    assert shares.pop(mode) > 0.9
    assert max(shares.values()) < 0.35
    label = {"bearing_inner": "BPFI", "bearing_outer": "BPFO"}[mode]
    assert np.mean([any(label in statement.text for statement in evidence(one)) for one in rows]) > 0.9


def test_the_evidence_of_a_second_axis_counts_too() -> None:
    assert confirms("unbalance", row(SOUND, SOUND | {"ord_1_velocity_share": 0.9})) is True
    assert confirms("unbalance", row({}, SOUND)) is False
    assert math.isnan(row({}).values[0, 0])
