"""Quotas: what a machine, and all of them together, may claim; the rest goes to quarantine by name."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from harness.live import BLOCKS, Broker, send, service, stop_when_idle, stored, uninterrupted
from harness.streams import SPEC, recording

from pipeline.config.tables import Config, DataConfig, StreamsConfig
from pipeline.core.records import StreamKey
from pipeline.core.remedies import REMEDIES
from pipeline.drivers.intake import Admission, Channels
from pipeline.drivers.quotas import PER_S, Names, Quotas
from pipeline.edges.store.journal import Commit, Journal
from pipeline.errors import DecodeError
from pipeline.service.checkup import look_at_streams


def reasons(names: Names, *keys: tuple[str, str], channels: tuple[str, ...] = ()) -> list[str | None]:
    found = []
    for key in keys:
        refused = names.refusal(StreamKey(*key), channels)
        if refused is None:
            names.admit(StreamKey(*key), channels)
        found.append(refused and refused[0])
    return found


def test_each_limit_refuses_by_its_name_and_never_a_stream_that_is_known() -> None:
    known = {StreamKey("a", "1"), StreamKey("a", "2"), StreamKey("a", "3")}
    names = Names(Quotas(machines=2, streams_per_machine=2), set(known))
    assert reasons(names, ("a", "1"), ("a", "3")) == [None, None], "more than the limit, and known"
    assert reasons(names, ("a", "4"), ("b", "1"), ("b", "2"), ("b", "3"), ("c", "1")) == [
        "streams_quota", None, None, "streams_quota", "machines_quota",
    ]  # fmt: skip
    assert names.refused == {"streams_quota": 2, "machines_quota": 1}
    names.forget([StreamKey("b", "1"), StreamKey("b", "2")])
    assert reasons(names, ("c", "1")) == [None], "a machine without streams makes room"


def test_new_streams_are_counted_for_an_hour_and_those_of_before_are_not_new() -> None:
    now = [0.0]
    names = Names(Quotas(new_streams_per_hour=2), {StreamKey("old", str(i)) for i in range(9)}, clock=lambda: now[0])
    assert reasons(names, ("a", "1"), ("a", "2"), ("a", "3")) == [None, None, "new_streams_quota"]
    now[0] = PER_S - 1
    assert reasons(names, ("a", "3"), ("old", "1")) == ["new_streams_quota", None]
    now[0] = PER_S
    assert reasons(names, ("a", "3")) == [None]


def test_one_machine_cannot_use_up_the_channel_names_of_the_others() -> None:
    channels = Channels(8, {"x"})
    admission = Admission(lambda key: SPEC.window, channels, names=Names(Quotas(channels_per_machine=2)))
    [first, *_] = recording(1)
    found: Counter[str] = Counter()
    for machine, named in [
        ("greedy", ("x", "a", "b")),
        ("greedy", ("x", "c")),
        ("greedy", ("a", "b")),
        ("other", ("c",)),
    ]:
        try:
            admission(replace(first, key=StreamKey(machine, "de"), channels=named))
        except DecodeError as error:
            found[f"{machine} {error.reason}"] += 1
    assert found == {"greedy channels_quota": 1}
    assert channels.known == {"x", "a", "b", "c"}


def test_without_limits_everything_is_admitted_and_nothing_refused_leaves_a_trace() -> None:
    assert set(reasons(Names(Quotas()), *((f"m{i}", "p") for i in range(1000)))) == {None}
    names = Names(Quotas(machines=1), {StreamKey("a", "1")})
    reasons(names, *((f"m{i}", "p") for i in range(1000)))
    assert (len(names.known), names.machines, len(names._machines)) == (1, 1, 1)


def test_a_sender_that_makes_up_machines_is_quarantined_named_once_and_the_plant_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = uninterrupted(tmp_path / "quiet", BLOCKS)
    broker = Broker()
    live = service(tmp_path / "noisy", broker)
    names = Names(Quotas(machines=2))
    live.intake = replace(live.intake, admission=Admission(lambda key: SPEC.window, names=names))
    send(broker, BLOCKS[:2])
    send(broker, [replace(BLOCKS[0], key=StreamKey(f"made-up-{i % 20}", "de")) for i in range(60)])
    send(broker, BLOCKS[2:])
    with caplog.at_level(logging.WARNING, "thrumcast.live"):
        live.run(stop_when_idle(broker))
    live.journal.close()
    assert repr(stored(tmp_path / "noisy")) == repr(expected)
    assert live.counts["quarantined"] == names.refused["machines_quota"] == 60
    assert sum(record.getMessage().startswith("quota_reached") for record in caplog.records) == 20
    assert len(live.states) == 2


def test_every_quota_has_a_remedy() -> None:
    assert {"machines_quota", "streams_quota", "new_streams_quota", "channels_quota"} <= REMEDIES.keys()


def test_the_check_up_warns_near_a_limit_and_names_it(tmp_path: Path) -> None:
    def look(**limits: int) -> tuple[str, str]:
        streams = StreamsConfig(**limits)
        [found] = look_at_streams(Config(data=DataConfig(dir=str(tmp_path)), streams=streams))
        return found.status, found.found

    assert look() == ("pass", "0 of 0 machines")
    with Journal(tmp_path) as journal:
        journal.commit(Commit(states={StreamKey(m, p): b"x" for m, p in ("a1", "a2", "a3", "a4", "b1")}))
    assert look(max_machines=3, max_per_machine=6) == ("pass", "5 of 2 machines")
    status, text = look(max_machines=2, max_per_machine=5)
    assert (status, text.count("of at most 2"), text.count("streams of a (streams.max_per_machine): 4")) == (
        "warn",
        1,
        1,
    )
