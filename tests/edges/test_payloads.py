"""[[payloads]]: other people's messages as blocks. Properties first, then one example of each kind of message."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import contract
import msgspec
import numpy as np
import pytest
import reference
from harness import sparkplug as sp
from harness.config import resolved
from harness.streams import ENGINE, ORDERS, RATE_HZ, SPEC, recording
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.engine import Engine
from pipeline.core.patterns import NotFoundError, TopicPattern, overlap
from pipeline.core.patterns import Path as JsonPath
from pipeline.core.records import Block, StreamKey
from pipeline.core.state import StreamState, from_bytes, to_bytes
from pipeline.edges.payloads import Payloads, place_of
from pipeline.edges.payloads.proposal import propose
from pipeline.edges.payloads.sparkplug import Nodes, births_from_json, births_to_json, parse_topic, rebirth_request
from pipeline.edges.ports import Message, Receipt
from pipeline.errors import ConfigError, DecodeError
from pipeline.service.payloads import payloads

pytestmark = pytest.mark.usefixtures("no_configuration")
T0_MS = 1_764_518_400_000
XYZ = 'samples = { x = "$.d[*][0]", y = "$.d[*][1]" }'
TABLE = f"""
[[payloads]]
topic = "s/{{machine}}/acc"
{XYZ}
time = "$.ts"
rate_hz = 1000.0
unit = "g"
point = "de"
"""


def mapped(text: str = TABLE, **options: Any) -> Payloads:
    return payloads(resolved(text).config, **options)


def message(payload: bytes | dict[str, Any], topic: str = "s/p1/acc", *, retained: bool = False) -> Message:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Message(topic, data, 1, None, retained, Receipt(1, 1, 1))


def blocks(text: str, payload: bytes | dict[str, Any], topic: str = "s/p1/acc", now_ns: int = 0) -> list[Block]:
    found = mapped(text).decode(message(payload, topic), now_ns)
    assert found is not None
    return found


def told(error: DecodeError) -> None:
    assert "expected" in error.message
    assert len(error.message) < 600


def refusal(payload: bytes | dict[str, Any], text: str = TABLE, topic: str = "s/p1/acc") -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        blocks(text, payload, topic)
    told(caught.value)
    return caught.value


# -- the five laws through the mapping -------------------------------------------------------------------------------


def sent(block: Block) -> Message:
    """A block as a sender without session and index would send it, at whole milliseconds."""
    rows = [[float(x), float(y)] for x, y in block.samples.T]
    return message({"ts": block.t0_ns // 10**6, "d": rows}, f"s/{block.key.machine}/acc")


def through(source: Payloads, some: Sequence[Block]) -> list[Block]:
    return [one for block in some for one in source.decode(sent(block), 0) or ()]


def drive(some: Sequence[Block]) -> dict[StreamKey, contract.Outcome]:
    return contract.one_step(ENGINE)(through(mapped(), some))


BLOCKS = recording(5, n=1200)


def test_a_recording_that_is_cut_anywhere_gives_the_same_windows() -> None:
    contract.law_cut(drive, BLOCKS, [[50], [10, 90], [1, 2, 3]])


def test_a_message_that_comes_twice_changes_nothing_but_duplicates() -> None:
    contract.law_repeat(drive, BLOCKS)


def test_streams_that_are_interleaved_do_not_touch_each_other() -> None:
    other = recording(6, n=1200, machine="fan-02")
    mixed = [one for pair in zip(BLOCKS, other, strict=False) for one in pair]
    contract.law_neighbour(drive, [BLOCKS[: len(mixed) // 2], other[: len(mixed) // 2]], mixed)


@pytest.mark.parametrize("again", [0, 1, 3])
def test_a_restart_with_redelivery_changes_nothing(again: int) -> None:
    """After every message the process starts anew from the committed state, and the broker repeats the last ones."""
    whole = drive(BLOCKS)
    states: dict[StreamKey, StreamState] = {}
    steps = []
    for at in range(len(BLOCKS)):
        places = {key: place for key, state in states.items() if (place := place_of(state)) is not None}
        source = mapped(resume=places.get)
        for block in through(source, BLOCKS[max(0, at - again) : at + 1]):
            steps.append(ENGINE.step(states, [block]))
            states |= {k: from_bytes(SPEC, to_bytes(SPEC, state)) for k, state in steps[-1].states.items()}
    contract.same(whole, contract.collect([*steps, ENGINE.flush(states)]))


def test_the_rows_equal_the_slow_reference_of_what_the_sender_measured() -> None:
    rng = np.random.default_rng(12)
    measured = rng.standard_normal((2, 1500)) + np.sin(2 * np.pi * 20 * np.arange(1500) / RATE_HZ)
    source = mapped()
    found = [
        one
        for at in range(0, 1500, 250)
        for one in source.decode(message({"ts": T0_MS + at, "d": measured[:, at : at + 250].T.tolist()}), 0) or ()
    ]
    engine = Engine(lambda key: SPEC)
    step = engine.step({}, found)
    orders = (ORDERS.bpfo, ORDERS.bpfi, 2 * ORDERS.bsf, ORDERS.ftf)
    known = reference.Recording(measured, RATE_HZ, T0_MS * 10**6, "g", None, orders)
    settings = reference.Settings(0.256, 0.128, 150.0, 20.0, 150.0, 0.02)
    contract.law_reference([*step.features, *engine.flush(step.states).features], known, settings)


@given(st.lists(st.integers(-40, 40), min_size=20, max_size=20), st.floats(0.98, 1.02))
def test_jitter_below_half_a_message_and_an_unexact_rate_make_no_gap(jitter_ms: list[int], true_rate: float) -> None:
    source = mapped()
    index = 0
    for number, off_ms in enumerate(jitter_ms):
        ts = T0_MS + round(number * 100 / true_rate) + (off_ms // 2 if number else 0)
        (block,) = source.decode(message({"ts": ts, "d": [[1, 2]] * 100}), 0) or ()
        assert block.index == index
        index = block.end


def test_a_message_that_is_missing_is_a_gap_of_as_many_samples() -> None:
    source = mapped()
    found = [source.decode(message({"ts": T0_MS + ms, "d": [[1, 2]] * 100}), 0) for ms in (0, 100, 300)]
    assert [one[0].index for one in found if one] == [0, 100, 300]


def test_a_clock_that_is_set_back_begins_a_session_and_loses_nothing() -> None:
    source = mapped()
    found = [source.decode(message({"ts": T0_MS + ms, "d": [[ms, 2]] * 100}), 0) for ms in (0, 100, -5_000, -4_900)]
    sessions = [one[0].session for one in found if one]
    assert sessions[0] == sessions[1] != sessions[2] == sessions[3]
    assert [one[0].index for one in found if one] == [0, 100, 0, 100]


# -- hostile input ---------------------------------------------------------------------------------------------------

FORMATS = {
    "json": TABLE,
    "msgpack": TABLE + 'format = "msgpack"\n',
    "csv": TABLE.replace(XYZ, 'samples = { x = "$.columns[0]" }').replace("$.ts", "$.columns[1]") + 'format = "csv"\n',
    "line": TABLE.replace(XYZ, 'samples = { x = "$.fields.x" }').replace("$.ts", "$.time") + 'format = "line"\n',
    "raw": TABLE.replace(XYZ, 'channels = ["x", "y"]').replace('"$.ts"', '"@0:<u8"')
    + 'format = "raw"\nskip_bytes = 8\n',
}


@given(st.sampled_from(sorted(FORMATS)), st.binary(max_size=200))
def test_any_bytes_give_blocks_or_a_sentence(kind: str, data: bytes) -> None:
    try:
        found = blocks(FORMATS[kind], data)
    except DecodeError as error:
        told(error)
    else:
        assert all(block.samples.dtype == np.float32 for block in found)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["ts", "d", "x"]), inner, max_size=3),
    max_leaves=12,
)


@given(ANYTHING)
def test_any_document_gives_blocks_or_a_sentence(document: Any) -> None:
    for kind, data in (
        ("json", json.dumps(document).encode()),
        ("msgpack", msgspec.msgpack.encode(_packable(document))),
    ):
        try:
            blocks(FORMATS[kind], data)
        except DecodeError as error:
            told(error)


def _packable(node: Any) -> Any:
    if isinstance(node, list):
        return [_packable(one) for one in node]
    if isinstance(node, dict):
        return {key: _packable(value) for key, value in node.items()}
    return node if not isinstance(node, int) or -(2**63) <= node < 2**64 else float(node)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_sparkplug_message_or_a_sentence(data: bytes) -> None:
    for kind in ("NBIRTH", "NDATA", "NDEATH"):
        try:
            Nodes().read(f"spBv1.0/g/{kind}/n", data)
        except DecodeError as error:
            told(error)


@given(st.text(max_size=20), st.text(max_size=20))
def test_names_become_ids_that_stay_apart(one: str, other: str) -> None:
    from pipeline.core.records import is_id
    from pipeline.edges.payloads.mapping import as_id

    assert is_id(as_id(one))
    assert (as_id(one) == as_id(other)) == (one == other)


@pytest.mark.parametrize(
    ("payload", "reason", "words"),
    [
        (b"", "malformed", "empty"),
        (b"[" * 100_000, "malformed", "JSON"),
        (b'{"ts":' + b"[" * 40 + b"]" * 40 + b"}", "malformed", "32 levels"),
        ({"ts": T0_MS}, "malformed", "the key 'd' at $"),
        ({"ts": T0_MS, "d": [[1, "a"]]}, "samples", "$.d[*][1], sample 0"),
        ({"ts": T0_MS, "d": [[1, True]]}, "samples", "True"),
        ({"ts": T0_MS, "d": []}, "malformed", "$.d[*][0]"),
        ({"ts": T0_MS, "d": [[1], [2, 3]]}, "malformed", "an entry 1"),
        ({"ts": 12_345, "d": [[1, 2]]}, "time", "between 2000 and 2100"),
        ({"ts": "yesterday", "d": [[1, 2]]}, "time", "2026-05-01T12:00:00.25Z"),
        ({"ts": None, "d": [[1, 2]]}, "time", "None"),
        (b'{"ts":1e400,"d":[[1,2]]}', "malformed", "JSON"),
        (b"\xff\xfe\x00", "malformed", "JSON"),
    ],
)
def test_a_refusal_says_what_was_expected_and_where(payload: Any, reason: str, words: str) -> None:
    error = refusal(payload)
    assert error.reason == reason
    assert words in error.message
    assert "[[payloads]] s/{machine}/acc" in error.message


def test_numbers_that_are_not_finite_are_a_sensor_fault_and_no_refusal() -> None:
    (block,) = blocks(TABLE, b'{"ts":%d,"d":[[NaN,1],[null,1e300],[Infinity,2]]}' % T0_MS)
    assert not np.isfinite(block.samples[0]).any()
    assert math.isinf(block.samples[1, 1])


# -- one example of each kind ----------------------------------------------------------------------------------------


def samples(text: str, payload: bytes | dict[str, Any], **kinds: Any) -> list[list[float]]:
    return [[round(float(x), 4) for x in row] for row in blocks(text, payload, **kinds)[0].samples]


def table(lines: str) -> str:
    return '[[payloads]]\ntopic = "s/{machine}/acc"\npoint = "de"\nunit = "g"\n' + lines


TIMED = 'time = "$.ts"\nrate_hz = 100.0\n'


@pytest.mark.parametrize(
    ("paths", "document"),
    [
        ('x = "$.x", y = "$.y"', {"x": [1, 2], "y": [3, 4]}),
        ('x = "$.d[*][0]", y = "$.d[*][1]"', {"d": [[1, 3], [2, 4]]}),
        ('x = "$.d[0]", y = "$.d[1]"', {"d": [[1, 2], [3, 4]]}),
        ('x = "$.d[*].ax", y = "$.d[*].ay"', {"d": [{"ax": 1, "ay": 3}, {"ax": 2, "ay": 4}]}),
        ('x = "$.d[0::2]", y = "$.d[1::2]"', {"d": [1, 3, 2, 4]}),
        ("x = \"$.e[?@.n=='x'].v\", y = \"$.e[?@.n=='y'].v\"",
         {"e": [{"n": "x", "v": 1}, {"n": "y", "v": 3}, {"n": "x", "v": 2}, {"n": "y", "v": 4}]}),
        ('x = "$.p[*].x", y = "$.p[*].y"', {"p": [{"x": [1], "y": [3]}, {"x": [2], "y": [4]}]}),
        ('x = "$[\'acc x\']", y = "$.y"', {"acc x": ["1", "2"], "y": ["3,0", "4.0"]}),
    ],
)  # fmt: skip
def test_samples_are_found_in_every_shape(paths: str, document: dict[str, Any]) -> None:
    text = table(f"samples = {{ {paths} }}\n{TIMED}")
    assert samples(text, {"ts": T0_MS, **document}) == [[1, 2], [3, 4]]


def test_one_sample_in_a_message_is_a_block_of_one() -> None:
    source = mapped(table(f'samples = {{ x = "$.x" }}\n{TIMED}'))
    found = [source.decode(message({"ts": T0_MS + 10 * at, "x": at}), 0) for at in range(5)]
    assert [one[0].index for one in found if one] == [0, 1, 2, 3, 4]


def test_base64_samples_are_unpacked_and_scaled() -> None:
    data = base64.b64encode(np.array([[100, -200], [300, 400]], "<i2").tobytes()).decode()
    text = table(f'packed = "$.p"\nchannels = ["x", "y"]\nscale = 0.01\n{TIMED}')
    assert samples(text, {"ts": T0_MS, "p": data}) == [[1, 3], [-2, 4]]
    assert samples(text + 'layout = "planar"\n', {"ts": T0_MS, "p": data}) == [[1, -2], [3, 4]]
    assert refusal({"ts": T0_MS, "p": data[:-4]}, text).reason == "length"
    assert refusal({"ts": T0_MS, "p": "no base64!"}, text).reason == "samples"


def test_raw_bytes_have_a_head_with_time_and_counter() -> None:
    text = table('format = "raw"\nchannels = ["x"]\ndtype = ">f4"\nskip_bytes = 12\nrate_hz = 100.0\n'
                 'time = "@0:<u8"\nindex = "@8:<u4"\nindex_counts = "messages"\n')  # fmt: skip
    head = np.array([T0_MS], "<u8").tobytes() + np.array([7], "<u4").tobytes()
    (block,) = blocks(text, head + np.array([1.5, -2.5], ">f4").tobytes())
    assert (block.index, block.session, block.t0_ns) == (14, 0, T0_MS * 10**6)
    assert block.samples.tolist() == [[1.5, -2.5]]


@pytest.mark.parametrize(
    "payload",
    [
        b"t,x,y\n%d,1,3\n%d,2,4\n",
        b"t;x;y\r\n%d;1,0;3,0\r\n%d;2,0;4,0\r\n",
        b"\xef\xbb\xbft\tx\ty\n%d\t1\t3\n%d\t2\t4\n",
    ],
)
def test_csv_has_columns_by_name_and_a_time_in_each_row(payload: bytes) -> None:
    text = table('format = "csv"\nsamples = { x = "$.x", y = "$.columns[2]" }\ntime = "$.t"\nrate_hz = 100.0\n')
    assert samples(text, payload % (T0_MS, T0_MS + 10)) == [[1, 2], [3, 4]]


LINES = b"""acc,host=press\\ 1,axis=de x=1i,y=3 1764518400000000000
acc,host=press\\ 1,axis=de x=2i,y=4 1764518400001000000
acc,host=fan,axis=nde x=5i,y=6,t="a b, c" 1764518400000000000
acc,host=fan,axis=nde x=5i,y=6 1764518400001000000
cpu,host=fan usage=5 1764518400000000000
"""


def test_line_protocol_gives_a_block_for_each_set_of_tags() -> None:
    text = ('[[payloads]]\ntopic = "telegraf"\nformat = "line"\nmeasurement = "acc"\nunit = "m/s2"\ntime = "$.time"\n'
            'machine = "$.tags.host"\npoint = "$.tags.axis"\n'
            'samples = { x = "$.fields.x", y = "$.fields.y" }\n')  # fmt: skip
    first, second = blocks(text, LINES, "telegraf")
    assert first.key.machine.startswith("press-1-")
    assert second.key == ("fan", "nde")
    assert first.rate_hz == second.rate_hz == 1000.0
    assert first.samples.tolist() == [[1, 2], [3, 4]]
    assert blocks(text, b"cpu usage=5 1764518400000000000\n", "telegraf") == []


def test_times_of_every_kind_mean_the_same() -> None:
    for stamp in (T0_MS / 1000, T0_MS, T0_MS * 1000, T0_MS * 10**6, str(T0_MS), "2025-11-30T16:00:00Z",
                  "2025-11-30T17:00:00.000+01:00", "2025-11-30 16:00:00"):  # fmt: skip
        assert blocks(TABLE, {"ts": stamp, "d": [[1, 2]]})[0].t0_ns == T0_MS * 10**6
    assert blocks(TABLE, {"ts": "2025-11-30T16:00:00.000000001Z", "d": [[1, 2]]})[0].t0_ns == T0_MS * 10**6 + 1
    last = TABLE + 'time_of = "last"\n'
    assert blocks(last, {"ts": T0_MS, "d": [[1, 2]] * 101})[0].t0_ns == (T0_MS - 100) * 10**6


def test_times_of_each_sample_give_the_rate_or_say_what_is_uneven() -> None:
    text = table('samples = { x = "$.x" }\ntime = "$.t"\n')
    even = [T0_MS * 10**6 + 10**7 * at for at in range(50)]
    assert blocks(text, {"t": even, "x": [0] * 50})[0].rate_hz == pytest.approx(100.0)
    uneven = [*even[:20], *(t + 10**8 for t in even[20:])]
    assert refusal({"t": uneven, "x": [0] * 50}, text).reason == "time"
    wrong = refusal({"t": even, "x": [0] * 50}, text + "rate_hz = 500.0\n")
    assert (wrong.reason, "100 Hz" in wrong.message, "500 Hz" in wrong.message) == ("rate", True, True)
    coarse = [T0_MS + at for at in range(50)]
    assert "do not tell the rate" in refusal({"t": coarse, "x": [0] * 50}, text).message


def test_arrival_counts_on_whatever_the_bursts_and_refuses_what_is_retained() -> None:
    text = table('samples = { x = "$.x" }\ntime = "arrival"\nrate_hz = 100.0\n')
    source = mapped(text)
    now_ns = T0_MS * 10**6
    arrivals = [now_ns, now_ns, now_ns + 10**9, now_ns + 60 * 10**9]
    found = [source.decode(message({"x": [0] * 50}), at) for at in arrivals]
    indices = [one[0].index for one in found if one]
    assert indices[:3] == [0, 50, 100]
    assert indices[3] > 5000
    with pytest.raises(DecodeError, match="retained"):
        source.decode(message({"x": [0]}, retained=True), now_ns)


def test_rate_unit_scale_speed_machine_and_point_come_from_the_message() -> None:
    text = ('[[payloads]]\ntopic = "/plant//{site}"\nsamples = { x = "$.x" }\ntime = "$.t"\nrate_hz = "$.hz"\n'
            'unit = "$.u"\nscale = "$.k"\nspeed_rpm = "$.rpm"\nmachine = "{site}-$"\npoint = "$.mac"\n'
            'session = "$.boot"\nindex = "$.i"\n').replace("{site}-$", "hall-{site}")  # fmt: skip
    document = {"x": [2], "t": T0_MS, "hz": "250", "u": "m/s2", "k": 0.5, "rpm": 1480, "mac": "AA:BB:CC:DD:EE:FF",
                "boot": 3, "i": 77}  # fmt: skip
    (block,) = blocks(text, document, "/plant//7")
    assert block.key == ("hall-7", "AA-BB-CC-DD-EE-FF")
    assert (block.rate_hz, block.unit, block.speed_rpm, block.session, block.index) == (250, "m/s2", 1480, 3, 77)
    assert block.samples.tolist() == [[1.0]]
    del document["rpm"]
    assert blocks(text, document, "/plant//7")[0].speed_rpm is None


def test_an_unclaimed_topic_is_left_to_the_codec_and_a_large_message_is_refused() -> None:
    assert mapped().decode(message({}, "plant/a/b/c/vibration"), 0) is None
    small = mapped("[mqtt]\nmax_payload_bytes = 1024\n" + TABLE)
    with pytest.raises(DecodeError, match="max_payload_bytes"):
        small.decode(message(b" " * 2000), 0)


# -- Sparkplug B -----------------------------------------------------------------------------------------------------

SPARKPLUG = """
[[payloads]]
topic = "spBv1.0/{group}/+/{machine}/{point}"
format = "sparkplug"
samples = { x = "$.metrics['Vibration/X']" }
time = "$.timestamp"
rate_hz = "$.born.rate"
unit = "$.born.unit"
"""
BIRTH = [
    sp.metric("Vibration/X", alias=7, kind="floats", value=[0.0]),
    sp.metric("rate", alias=8, kind="double", value=1000.0),
    sp.metric("unit", alias=9, kind="text", value="m/s2"),
]
NODE_BIRTH = [sp.metric("bdSeq", kind="int64", value=4)]


def spark(kind: str, metrics: list[bytes], device: str = "/de", ms: int = 0) -> Message:
    return message(sp.payload(T0_MS + ms, metrics), f"spBv1.0/hall/{kind}/press-1{device}")


DATA = [sp.metric(alias=7, kind="floats", value=[1.5, 2.5])]


def test_sparkplug_data_are_read_by_the_aliases_of_the_birth() -> None:
    source = mapped(SPARKPLUG)
    assert source.decode(spark("DBIRTH", BIRTH), 0) == []
    (block,) = source.decode(spark("DDATA", DATA), 0) or ()
    assert (block.key, block.rate_hz, block.unit) == (("press-1", "de"), 1000.0, "m/s2")
    assert block.samples.tolist() == [[1.5, 2.5]]


def test_sparkplug_births_survive_a_restart_as_json() -> None:
    first = mapped(SPARKPLUG)
    first.decode(spark("DBIRTH", BIRTH), 0)
    again = mapped(SPARKPLUG)
    again.nodes.births = births_from_json(births_to_json(first.nodes.births))
    assert again.nodes.births == first.nodes.births
    (block,) = again.decode(spark("DDATA", DATA), 0) or ()
    assert block.samples.tolist() == [[1.5, 2.5]]


def test_sparkplug_data_without_a_birth_are_refused_and_a_rebirth_is_asked_for() -> None:
    source = mapped(SPARKPLUG)
    with pytest.raises(DecodeError, match="rebirth") as caught:
        source.decode(spark("DDATA", DATA), 0)
    assert caught.value.reason == "alias"
    assert source.nodes.unborn == {"spBv1.0/hall/NCMD/press-1"}
    source.decode(spark("DBIRTH", BIRTH), 0)
    assert source.nodes.unborn == set()


def test_a_death_counts_only_with_the_sequence_number_of_the_last_birth() -> None:
    nodes = Nodes()
    nodes.read("spBv1.0/hall/NBIRTH/press-1", sp.payload(T0_MS, NODE_BIRTH))
    nodes.read("spBv1.0/hall/NDEATH/press-1", sp.payload(T0_MS, [sp.metric("bdSeq", kind="int64", value=3)]))
    assert not nodes.births["hall/press-1"].dead
    nodes.read("spBv1.0/hall/NDEATH/press-1", sp.payload(T0_MS, NODE_BIRTH))
    assert nodes.births["hall/press-1"].dead
    nodes.read("spBv1.0/hall/NBIRTH/press-1", sp.payload(T0_MS, NODE_BIRTH))
    assert not nodes.births["hall/press-1"].dead


def test_a_node_birth_forgets_the_aliases_of_its_devices() -> None:
    source = mapped(SPARKPLUG)
    source.decode(spark("DBIRTH", BIRTH), 0)
    source.nodes.read("spBv1.0/hall/NBIRTH/press-1", sp.payload(T0_MS, NODE_BIRTH))
    with pytest.raises(DecodeError, match="alias 7"):
        source.decode(spark("DDATA", DATA), 0)


def test_values_of_sparkplug_are_signed_and_repeated_metrics_are_a_list() -> None:
    metrics = [sp.metric("v", kind="int16", value=-5, at_ms=1), sp.metric("v", kind="int16", value=6, at_ms=2)]
    document = Nodes().read("spBv1.0/g/NDATA/n", sp.payload(T0_MS, metrics))
    assert document is not None
    assert (document["metrics"], document["times"]) == ({"v": [-5, 6]}, {"v": [1, 2]})


def test_the_request_for_a_rebirth_is_the_metric_that_the_specification_names() -> None:
    document = Nodes().read("spBv1.0/g/NDATA/n", rebirth_request(T0_MS))
    assert document is not None
    assert (document["timestamp"], document["metrics"]) == (T0_MS, {"Node Control/Rebirth": True})
    assert parse_topic("spBv1.0/g/DDATA/n/d").command == "spBv1.0/g/NCMD/n"


# -- patterns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "subscription", "topic", "found"),
    [
        ("/a/{machine}", "/a/+", "/a/m1", {"machine": "m1"}),
        ("a//{machine}/", "a//+/", "a//m/", {"machine": "m"}),
        ("z/{machine}_{point}", "z/+", "z/m_p", {"machine": "m", "point": "p"}),
        ("{area}/+/x/#", "+/+/x/#", "h/any/x", {"area": "h"}),
        ("{area}/+/x/#", "+/+/x/#", "h/any/x/1/2", {"area": "h"}),
        ("{area}/+/x/#", "+/+/x/#", "h/any/y", None),
    ],
)
def test_topics_are_subscribed_and_matched(pattern: str, subscription: str, topic: str, found: object) -> None:
    assert TopicPattern(pattern).subscription == subscription
    assert TopicPattern(pattern).match(topic) == found


@pytest.mark.parametrize("text", ["", "$SYS/x", "a/#/b", "a+/b", "{a}{b}", "{a}/{a}", "{a}-{b}-{c}", "#"])
def test_what_is_no_topic_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        TopicPattern(text)


@pytest.mark.parametrize("text", ["x", "$.", "$x", "$..a", "$[", "$['a]", "$[::0]", "$.a b", "$[?@.n>1]"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        JsonPath(text)


def test_a_path_that_leads_nowhere_says_where_it_ends() -> None:
    with pytest.raises(NotFoundError, match=r"the key 'c' at \$\.a\[1\], found: a map with 'b'"):
        JsonPath("$.a[1].c").find({"a": [0, {"b": 1}]})


def test_subscriptions_that_share_a_topic_are_known() -> None:
    assert overlap("a/+", "+/b")
    assert overlap("a/#", "a")
    assert overlap("a/b/c", "a/#")
    assert not overlap("a/+", "a/b/c")
    assert not overlap("x/#", "a/#")


# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('topic = "a/#/b"', "payloads[0].topic"),
        ('topic = "thrumcast/{machine}"', "thrumcast/status"),
        ('machine = "{site}"', "payloads[0].machine"),
        ('time = ""', "payloads[0].time"),
        ('time = "arrival"\nrate_hz = "$x"', "payloads[0].rate_hz"),
        ('unit = ""', "payloads[0].unit"),
        ('samples = { x = "d[0]" }', "payloads[0].samples.x"),
        ('format = "raw"', "payloads[0].channels"),
        ('format = "xml"', "one of json"),
        ("rate_hz = -1.0", "payloads[0].rate_hz"),
        ("rate = 5", "nearest known key: payloads[0].rate_hz"),
    ],
)
def test_a_table_that_cannot_work_is_an_error_that_names_its_key(lines: str, words: str) -> None:
    keys = {line.split(" = ")[0] for line in lines.splitlines()}
    rest = "\n".join(line for line in TABLE.strip().splitlines()[1:] if line.split(" = ")[0] not in keys)
    with pytest.raises(ConfigError) as caught:
        resolved(f"[[payloads]]\n{rest}\n{lines}\n")
    assert words in "\n".join(map(str, (caught.value, *caught.value.others)))


# -- proposals -------------------------------------------------------------------------------------------------------

STRANGE: dict[str, tuple[str, bytes]] = {
    "rows": ("sensors/esp-07/accel", json.dumps({"ts": T0_MS, "fs": 3200, "d": [[1, 2, 3]] * 9}).encode()),
    "objects": (
        "a/b",
        json.dumps({"device": "m", "time": "2025-11-30T16:00:00Z", "r": [{"x": 1, "y": 2}] * 9}).encode(),
    ),
    "arrays": ("m1/de/vib", json.dumps({"t": T0_MS, "ax": [1] * 20, "ay": [2] * 20, "unit": "mm/s"}).encode()),
    "single": ("m1/acc", json.dumps({"x": 0.1, "y": 0.2, "z": 0.3, "timestamp": T0_MS}).encode()),
    "line": ("tele/m1", b"acc,host=m1 x=1,y=2 1764518400000000000\nacc,host=m1 x=1,y=3 1764518400001000000\n"),
    "csv": ("m1/csv", b"time,x,y\n1764518400000,1,2\n1764518400010,3,4\n"),
    "base64": ("m1/b", json.dumps({"ts": T0_MS, "data": base64.b64encode(bytes(range(60))).decode()}).encode()),
    "raw": ("m1/raw", np.arange(60, dtype="<i2").tobytes()),
    "sparkplug": ("spBv1.0/g/DBIRTH/n/d", sp.payload(T0_MS, BIRTH)),
}


@pytest.mark.parametrize("name", sorted(STRANGE))
def test_a_proposal_reads_the_message_it_was_made_for(name: str, tmp_path: Path) -> None:
    topic, payload = STRANGE[name]
    source = mapped(propose(topic, payload).toml)
    if name == "sparkplug":
        assert source.decode(message(payload, topic), 0) == []
        topic = topic.replace("DBIRTH", "DDATA")
    (block,) = source.decode(message(payload, topic), T0_MS * 10**6) or ()
    assert block.samples.size


@given(st.binary(max_size=80))
def test_a_proposal_for_anything_can_be_pasted(data: bytes) -> None:
    try:
        proposal = propose("some/m1/topic", data)
    except DecodeError:
        return
    resolved(proposal.toml)
