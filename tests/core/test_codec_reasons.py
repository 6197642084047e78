"""The codec refuses what it must with one of a few fixed words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.codec import ENCODINGS, KEY, VALID, packed, read, reason_of

from pipeline.core.codec import REASONS, Encoding, decode

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        *[("version", {"v": v}) for v in (0, 2, "1", None)],
        ("version", {"v": 2, "samples": ..., "shape": [3, 8]}),
        *[("session", {"session": value}) for value in (-1, "boot", 1.5, None)],
        *[("index", {"index": value}) for value in (-1, 2**62 + 1, 2**64 - 1, 0.5)],
        *[("time", {"t0": value}) for value in (0, 946_684_800 * 10**9 - 1, 4_102_444_800 * 10**9, -1, 1.7e18)],
        *[("rate", {"rate_hz": value}) for value in (NAN, INF, 0, -1, 0.5, 1e7, "fast", None)],
        *[("channels", {"channels": value}) for value in
          ([], ["x", "x", "y"], ["x", "y", "a b"], ["x", "y", ""], ["x", "y", ".."], ["x", "y", "z" * 65],
           ["x", "y", 3], "xyz", [f"c{i}" for i in range(65)])],
        *[("unit", {"unit": value}) for value in ("", "x" * 21, 1)],
        *[("dtype", {"dtype": value}) for value in ("f8", "", "<f4", 4)],
        *[("scale", {"dtype": "i2", "scale": value}) for value in (None, 0, -1.0, NAN, INF, 1e-300, "1")],
        ("scale", {"scale": 0.5}),
        *[("length", {"samples": value}) for value in (b"", b"1234", bytes(13), bytes(4 * 3 * 8 - 4))],
        ("length", {"dtype": "i2", "scale": 1.0, "samples": bytes(8)}),
        *[("samples", {"samples": value}) for value in ([1.0, 2.0], 7)],
        *[("speed", {"speed_rpm": value}) for value in (NAN, INF, -1, 1e7, "slow")],
        *[("orders", {"orders": value}) for value in
          ({"ftf": 1.0}, {"ftf": 0.0, "bpfo": 1.0, "bpfi": 1.0, "bsf": 1.0},
           {"ftf": 1, "bpfo": NAN, "bpfi": 1, "bsf": 1}, {"ftf": 1, "bpfo": INF, "bpfi": 1, "bsf": 1}, [1, 2, 3, 4])],
        *[("about", {"about": value}) for value in
          (1, {"a b": 1}, {"a": NAN}, {"a": "x" * 501}, {"a": [1]}, {f"k{i}": i for i in range(65)},
           {"machine": "victim"}, {"point": "nde"}, {"orders": 1.5},
           *[{"speed_rpm": rpm} for rpm in ("x", True, NAN, -1, 1e7)])],
        *[("truth", {"truth": value}) for value in ("", "not an id", "t" * 65, "..", 1)],
        *[("malformed", {key: ...}) for key in ("session", "index", "t0", "rate_hz", "channels", "unit", "samples")],
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_a_fixed_word(reason: str, changes: dict[str, Any]) -> None:
    assert reason_of(packed(**changes)) == reason


def test_every_reason_is_reached_by_some_payload() -> None:
    reached = {reason_of(packed(**changes)) for changes in (
        {"v": 2}, {"session": -1}, {"index": -1}, {"t0": 0}, {"rate_hz": 0}, {"channels": []}, {"unit": ""},
        {"dtype": ""}, {"scale": 2.0}, {"samples": 1}, {"samples": b""}, {"speed_rpm": -1}, {"orders": 1},
        {"truth": ""}, {"about": 1}, {"t0": ...},
    )}  # fmt: skip
    reached |= {reason_of(b""), reason_of(packed(), limit=10), reason_of(packed(), "text/plain")}
    assert reached == set(REASONS)


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"[]", b"\x90", b" " * 100 + b"{}", b"\xff\xff", b"PK\x03\x04", b"\xef\xbb\xbf{}"]
)
def test_what_is_no_map_is_an_unknown_encoding(payload: bytes) -> None:
    assert reason_of(payload) == "encoding"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_payload_at_the_limit_passes_and_one_byte_more_does_not(encoding: Encoding) -> None:
    payload = VALID[encoding]
    assert decode(payload, KEY, max_payload_bytes=len(payload)).session == 7
    assert reason_of(payload, limit=len(payload) - 1) == "oversize"


def test_a_content_type_must_agree_with_the_bytes() -> None:
    assert read(VALID["json"], "Application/JSON; charset=utf-8").session == 7
    assert read(VALID["msgpack"], "application/x-msgpack").session == 7
    assert reason_of(VALID["json"], "application/msgpack") == "content_type"
    assert reason_of(VALID["msgpack"], "application/octet-stream") == "content_type"
    assert reason_of(VALID["msgpack"], "") == "content_type"


@pytest.mark.parametrize(
    "payload",
    [
        b"\x81\xa1q" + b"\x91" * 500_000,
        b"\x81\xa1q" * 300_000,
        b'{"q":' + b"[" * 500_000,
        b'{"q":' * 200_000,
        b"\x81\xa8channels\xdd\xff\xff\xff\xff",
        b"\x81\xa7samples\xc6\xff\xff\xff\xff" + b"x" * 100,
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa4unit\xa2\xff\xfe",
    ],
    ids=range(8),
)
def test_deep_nesting_and_claims_of_gigabytes_are_only_malformed(payload: bytes) -> None:
    assert reason_of(payload) == "malformed"


@pytest.mark.parametrize("samples", [[], [[]], [[1.0], [2.0]], [[1], [2], [3, 4]], [[1], [2], []]])
def test_json_samples_that_are_no_rectangle_are_refused(samples: list[Any]) -> None:
    fields = json.loads(VALID["json"])
    assert reason_of(json.dumps(fields | {"samples": samples}).encode()) == "length"


@pytest.mark.parametrize("value", [0.5, 40_000, None])
def test_json_codes_must_be_whole_numbers_of_sixteen_bits(value: float | None) -> None:
    fields = json.loads(VALID["json"]) | {"dtype": "i2", "scale": 1.0, "samples": [[1], [2], [value]]}
    assert reason_of(json.dumps(fields).encode()) == "samples"
