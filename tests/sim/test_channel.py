"""The bad network: what it does is what it counts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from sim.channel import FATES, Counts, Faults, Message, damaged, disturb


def _messages(n: int) -> list[Message]:
    return [Message("plant/main/pump-01/de/vibration", str(k).encode(), k * 1000) for k in range(n)]


def _through(n: int, faults: Faults, seed: int) -> tuple[list[Message], Counts]:
    counts = Counts()
    return list(disturb(_messages(n), faults, np.random.default_rng(seed), counts)), counts


_chance = st.floats(0, 0.2)


@given(st.builds(Faults, _chance, _chance, _chance, _chance, _chance, st.integers(1, 5)), st.integers(0, 99))
def test_what_arrives_is_what_was_sent_less_drops_plus_repeats(faults: Faults, seed: int) -> None:
    arrived, counts = _through(60, faults, seed)
    assert counts.sent == 60
    assert len(arrived) == counts.arrived == 60 - counts.drop + counts.duplicate


@given(st.builds(Faults, _chance, _chance, _chance, _chance, _chance, st.integers(1, 5)), st.integers(0, 99))
def test_every_message_meets_at_most_the_counted_fate(faults: Faults, seed: int) -> None:
    arrived, counts = _through(60, faults, seed)
    sent = {message.payload for message in _messages(60)}
    whole = Counter(message.payload for message in arrived if message.payload in sent)
    # a damaged digit can be another message's digit; so count what is missing from below
    assert sum(1 for number in whole.values() if number > 1) <= counts.duplicate + counts.corrupt
    assert len(sent - set(whole)) <= counts.drop + counts.corrupt
    assert [message.due_ns for message in arrived] == sorted(message.due_ns for message in arrived)


def test_a_good_network_changes_nothing() -> None:
    arrived, counts = _through(50, Faults(), 1)
    assert arrived == _messages(50)
    assert counts == Counts(sent=50, arrived=50)


@pytest.mark.parametrize("fate", FATES)
def test_a_certain_fate_meets_every_message(fate: str) -> None:
    _, counts = _through(30, Faults(**{fate: 1.0}), 2)
    assert getattr(counts, fate) == 30
    assert sum(getattr(counts, other) for other in FATES) == 30


def test_a_dropped_message_never_comes() -> None:
    assert _through(30, Faults(drop=1.0), 3)[0] == []


def test_a_reordered_message_changes_places_with_the_next() -> None:
    arrived, counts = _through(200, Faults(reorder=0.1), 4)
    numbers = [int(message.payload) for message in arrived]
    assert counts.reorder > 5
    assert sorted(numbers) == list(range(200))
    assert numbers != sorted(numbers)
    assert max(abs(number - place) for place, number in enumerate(numbers)) <= 2  # 2: two neighbours both held back


def test_a_delayed_message_is_overtaken_by_at_most_hold_messages() -> None:
    arrived, counts = _through(300, Faults(delay=0.05, hold=4), 5)
    numbers = [int(message.payload) for message in arrived]
    overtaken = [sum(1 for later in numbers[:place] if later > number) for place, number in enumerate(numbers)]
    assert counts.delay == sum(1 for count in overtaken if count > 0)
    assert 0 < max(overtaken) <= 4


@given(st.binary(max_size=64), st.integers(0, 999))
def test_a_corrupt_payload_is_never_the_one_that_was_sent(payload: bytes, seed: int) -> None:
    assert damaged(payload, np.random.default_rng(seed)) != payload


def test_the_same_seed_does_the_same_to_every_message() -> None:
    faults = Faults(0.1, 0.1, 0.1, 0.1, 0.1)
    assert _through(100, faults, 6) == _through(100, faults, 6)
    assert _through(100, faults, 6) != _through(100, faults, 7)


@pytest.mark.parametrize("wrong", [{"drop": 1.5}, {"drop": 0.6, "delay": 0.6}, {"corrupt": -0.1}, {"hold": 0}])
def test_chances_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="found"):
        Faults(**wrong)  # type: ignore[arg-type]
