"""The shaft speed by its source: refined on harmonics where it is uncertain, compared where it is measured."""

from __future__ import annotations

from dataclasses import replace

import contract
import numpy as np
import pytest
import specs
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.core import features, stream
from pipeline.core.codec import Encoding, decode, encode
from pipeline.core.engine import Engine
from pipeline.core.features.table import COLUMN
from pipeline.core.records import Block, Contradiction, FeatureRow, StreamKey, Trouble, Window
from pipeline.core.speed import DOUBTS, LOOK_EVERY, UNCERTAINTY, source_of
from pipeline.core.state import StreamSpec
from pipeline.errors import DecodeError

RATE_HZ = 2000.0
SECONDS = 4
SPEC = specs.stream(window=specs.window(length_s=1.0, hop_s=0.5))
USED, CONFIDENCE = COLUMN["speed_used"], COLUMN["speed_confidence"]
SAID_RPM = 1480.0
Signal = NDArray[np.float64]


def shaft(true_rpm: float, seed: int, seconds: float = SECONDS, levels: tuple[float, ...] = (0.5, 0.4, 0.3)) -> Signal:
    """Harmonics of a shaft in noise of standard deviation 1."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phases = rng.uniform(0, 2 * np.pi, len(levels))
    tones = (a * np.sin(2 * np.pi * (i + 1) * true_rpm / 60 * t + phases[i]) for i, a in enumerate(levels))
    return sum(tones, rng.standard_normal(len(t)))


def tone(f_hz: float, amplitude: float, seconds: float = SECONDS) -> Signal:
    return amplitude * np.sin(2 * np.pi * f_hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ + 0.3)


def blocks(x: Signal, source: str | None = "nominal", said_rpm: float | None = SAID_RPM) -> list[Block]:
    """Blocks of 300 samples of x (n,)."""
    samples = x[None].astype(np.float32)
    key = StreamKey("m", "p")
    return [
        Block(
            key, 1, i, 10**18 + round(i * 1e9 / RATE_HZ), RATE_HZ, ("x",), "g", samples[:, i : i + 300], said_rpm,
            speed_source=source,
        )
        for i in range(0, samples.shape[1], 300)
    ]  # fmt: skip


def stepped(some: list[Block], spec: StreamSpec = SPEC) -> tuple[list[FeatureRow], list[Trouble]]:
    step = Engine(lambda key: spec).step({}, some)
    return step.features, step.troubles


def speeds(rows: list[FeatureRow]) -> Signal:
    return np.array([row.values[0, USED] for row in rows], np.float64)


@settings(max_examples=40, deadline=None)
@given(
    off=st.floats(-0.06, 0.068),
    said_rpm=st.floats(900.0, 3400.0),
    seed=st.integers(0, 2**31),
    source=st.sampled_from(["nominal", "nameplate"]),
)
def test_a_nominal_speed_is_refined_where_harmonics_stand(off: float, said_rpm: float, seed: int, source: str) -> None:
    true_rpm = said_rpm * (1 + off)
    rows, _ = stepped(blocks(shaft(true_rpm, seed, levels=(0.6, 0.5, 0.45, 0.4, 0.4)), source, said_rpm))
    error, moved = abs(speeds(rows) / true_rpm - 1), np.array([row.values[0, CONFIDENCE] < 1 for row in rows])
    assert (error[moved] < 0.003).all()
    mains = {
        h for h in range(1, 6) for f in (50, 60) if abs(h * true_rpm / 60 / f - round(h * true_rpm / 60 / f)) < 0.02
    }
    assert moved.mean() > 0.8 or mains  # harmonics beside the mains' do not count
    assert all(row.speed_rpm == pytest.approx(said_rpm) for row in rows)  # the stated speed stays beside it


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), said_rpm=st.floats(600.0, 3400.0))
def test_noise_moves_nothing(seed: int, said_rpm: float) -> None:
    rows, troubles = stepped(blocks(np.random.default_rng(seed).standard_normal(6000), said_rpm=said_rpm))
    assert (speeds(rows) == np.float32(said_rpm)).mean() >= 0.8
    assert not troubles


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
@pytest.mark.parametrize("off", [-0.03, 0.0, 0.03])
def test_lines_of_the_mains_do_not_capture_the_speed(mains_hz: float, off: float) -> None:
    """Half the mains' frequency is within 7 % of the speed, so two to four of its lines fit a comb."""
    hum = sum((tone(h * mains_hz, 2.0) for h in (1, 2, 3, 4)), np.random.default_rng(1).standard_normal(8000))
    for poles in (1, 2):
        said_rpm = 60 * mains_hz / poles * (1 + off)
        rows, _ = stepped(blocks(hum, said_rpm=said_rpm))
        assert (speeds(rows) == np.float32(said_rpm)).all()
    true_rpm = 60 * mains_hz / 2 * 0.975  # and the shaft beside it is found
    rows, _ = stepped(blocks(hum + shaft(true_rpm, 2, levels=(0.6, 0.5, 0.5, 0.5, 0.5)), said_rpm=60 * mains_hz / 2))
    np.testing.assert_allclose(speeds(rows), true_rpm, rtol=0.003)


@pytest.mark.parametrize("neighbour_hz", [23.4, 24.9, 26.1, 48.1])
def test_one_line_of_a_neighbour_does_not_capture_the_speed(neighbour_hz: float) -> None:
    quiet, own = np.random.default_rng(3).standard_normal(8000), shaft(1515.0, 3, levels=(0.5,) * 5)
    for rows, expected in (
        (stepped(blocks(quiet + tone(neighbour_hz, 3.0)))[0], SAID_RPM),
        (stepped(blocks(own + tone(neighbour_hz, 3.0)))[0], 1515.0),
    ):
        np.testing.assert_allclose(speeds(rows), expected, rtol=0.003)


def test_two_machines_that_both_fit_leave_the_stated_speed() -> None:
    rows, _ = stepped(blocks(shaft(1400.0, 4, levels=(1.0,) * 3) + shaft(1560.0, 5, levels=(1.0,) * 3)))
    np.testing.assert_array_equal(speeds(rows), np.float32(SAID_RPM))


def test_a_measured_speed_is_used_as_it_is() -> None:
    x = shaft(SAID_RPM * 1.05, 6, seconds=20)
    one = [replace(b, speed_source="tachometer") for b in blocks(x)]
    rows, _ = stepped(one)
    plain = Window(StreamKey("m", "p"), 1, 1, 0, 0, RATE_HZ, ("x",), "g", x[None, 1000:3000].astype(np.float32), 1.0,
                   SAID_RPM, None, None)  # fmt: skip
    np.testing.assert_array_equal(rows[1].values, features.compute(SPEC.features, [plain])[0])
    np.testing.assert_array_equal(speeds(rows), np.float32(SAID_RPM))
    assert {row.window for row in rows if row.speed_found_rpm is not None} <= set(range(0, len(rows), LOOK_EVERY))


def test_a_configured_speed_is_a_nominal_one_unless_it_says_otherwise() -> None:
    x = shaft(SAID_RPM * 1.05, 7)
    silent = blocks(x, None, None)
    for source, expected in ((None, 1.05), ("nameplate", 1.05), ("measured", 1.0)):
        rows, _ = stepped(silent, replace(SPEC, speed_rpm=SAID_RPM, speed_source=source))
        np.testing.assert_allclose(speeds(rows) / SAID_RPM, expected, rtol=0.003)
    rows, _ = stepped(blocks(x, None), replace(SPEC, speed_source="nameplate"))  # what the blocks say, of this source
    np.testing.assert_allclose(speeds(rows) / SAID_RPM, 1.05, rtol=0.003)


@pytest.mark.parametrize(("source", "seconds"), [("nominal", 4), ("measured", 60)])
def test_a_contradiction_is_told_once_with_both_values(source: str, seconds: float) -> None:
    x = shaft(SAID_RPM * 1.05, 8, seconds, levels=(0.8, 0.7, 0.6))
    _, troubles = stepped(blocks(x, source))
    told = [t for t in troubles if isinstance(t, Contradiction)]
    assert [t.kind for t in told] == ["speed_contradicts"]
    assert f"1480 rpm stated ({source})" in told[0].detail
    assert "at 155" in told[0].detail
    state = stream.initial(SPEC)
    alone: list[object] = []
    for block in blocks(x, source):
        state, events = stream.step(SPEC, state, block)
        alone += [event for event in events if isinstance(event, Contradiction)]
    assert alone == told
    agreeing = stepped(blocks(shaft(SAID_RPM * 1.01, 9, seconds), source))[1]
    assert not agreeing


def test_doubts_are_counted_over_windows_in_a_row() -> None:
    rows, _ = stepped(blocks(shaft(SAID_RPM * 1.05, 10)))
    assert len(rows) > DOUBTS
    state = stream.initial(SPEC)
    state, told = stream.doubted(state, rows[: DOUBTS - 1])
    assert (state.speed_doubts, told) == (DOUBTS - 1, [])
    state, told = stream.doubted(state, rows[DOUBTS - 1 :])
    assert len(told) == 1


def test_the_laws_hold_with_a_nominal_speed() -> None:
    engine = Engine(lambda key: SPEC)
    drive, restarting = contract.block_by_block(engine), contract.block_by_block(engine, SPEC)
    x = shaft(SAID_RPM * 1.045, 11)
    mixed = [replace(b, speed_source="nominal" if b.index < 4000 else None) for b in blocks(x)]
    for some in (blocks(x), mixed):
        assert len({row.values[0, CONFIDENCE] == 1.0 for row in stepped(some)[0]}) == (1 if some is not mixed else 2)
        contract.law_cut(drive, some, [[1], [17, 50], [100]])
        contract.law_cut(contract.one_step(engine), some, [[40]])
        contract.law_restart(drive, restarting, [*some[:5], *some[6:]])
        contract.law_repeat(drive, some)
    other = [replace(b, key=StreamKey("n", "p"), speed_source=None) for b in blocks(shaft(1500.0, 12))]
    contract.law_neighbour(drive, [blocks(x), other], [b for pair in zip(blocks(x), other, strict=True) for b in pair])


@pytest.mark.parametrize("encoding", ["msgpack", "json", "arrow"])
def test_a_source_travels_with_its_block(encoding: Encoding) -> None:
    block = blocks(shaft(SAID_RPM, 13))[0]
    payload = encode(block, encoding)
    assert decode(payload, block.key, max_payload_bytes=1 << 20).speed_source == "nominal"
    with pytest.raises(DecodeError, match="speed_source") as refused:
        decode(encode(replace(block, speed_source="guess"), encoding), block.key, max_payload_bytes=1 << 20)
    assert refused.value.reason == "speed"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("nominal (file name)", "nominal"),
        ("Tacho", "tachometer"),
        ("estimated from shaft harmonics (two-pole motor, 50 Hz)", "estimated"),
        ("measured", "measured"),
        ("RPM variable of the source file", None),
        (None, None),
        (3, None),
    ],
)
def test_a_source_is_read_from_the_words_of_a_recording(text: object, source: str | None) -> None:
    assert source_of(text) == source
    assert source is None or source in UNCERTAINTY
