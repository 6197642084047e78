"""How far a decoder is trusted, and what its forecasts are worth: numbers that are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

from models.evaluation.report import forecast_text
from models.training.forecast import (
    DECODER,
    MASKED,
    MODEL,
    NAMED,
    NOTHING,
    TRUE,
    UNTRIED,
    USUAL,
    FutureWindows,
    Trial,
    choose,
    score,
)

EVEN = np.full(3, 1 / 3, np.float32)  # two modes and the end


@dataclass
class ConstantDecoder:
    """A decoder that says the same whatever the state and the modes before."""

    p: tuple[float, ...]
    start: int = 3
    end: int = 2
    state_shape: tuple[int, int] = (1, 1)

    def begin(self, h: np.ndarray) -> np.ndarray:
        return np.zeros((len(h), 1), np.float32)

    def parts(self, token: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.tile(np.array(self.p, np.float32), (len(s), 1)), np.tile(EVEN, (len(s), 1)), s


class OracleDecoder(ConstantDecoder):
    """A decoder that takes the state for the token to come."""

    def begin(self, h: np.ndarray) -> np.ndarray:
        return h[:, 0]

    def parts(self, token: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        p = np.where(np.arange(3) == s[:, :1], 0.98, 0.01).astype(np.float32)
        return p, np.tile(EVEN, (len(s), 1)), s


def futures(first: list[int], second: list[int] | None = None, present: int = 0, windows: int = 1) -> FutureWindows:
    """One machine and one change each; `windows` windows lie ahead of it."""
    tokens = np.array([first, second or [MASKED] * len(first)]).T.repeat(windows, axis=0)
    count, number = len(tokens), np.arange(len(first)).repeat(windows)
    named = np.tile(np.eye(2, dtype=np.float32)[1 - present], (count, 1))  # the network is always wrong
    return FutureWindows(np.zeros((count, 1), np.float32), np.full(count, present), tokens, named, number, number)


def evidence(p: float, u: float, changes: int) -> dict[int, Any]:
    return {30: np.array([[p] * changes, [u] * changes, [1.0] * changes])}


def test_a_decoder_is_trusted_as_far_as_held_out_changes_bear_it_out():
    assert choose([evidence(0.9, 0.3, 200)])[1] > 0.95
    assert choose([evidence(0.9, 0.3, 2)])[1] < 0.5  # two changes are no proof
    assert choose([evidence(0.01, 0.3, 200)])[1] < 1e-6
    too_sure = np.concatenate([evidence(0.99, 0.5, 750)[30], evidence(0.01, 0.5, 250)[30]], axis=1)
    assert choose([{30: too_sure}])[1] == pytest.approx(0.25 / 0.49, abs=0.01)  # right in 75 %: so sure it becomes


def test_the_steps_are_those_whose_mixture_makes_the_futures_most_probable():
    assert choose([{10: evidence(0.5, 0.3, 50)[30], 600: evidence(0.2, 0.3, 50)[30]}])[0] == 10
    assert choose([{10: evidence(0.5, 0.3, 50)[30], 600: evidence(0.8, 0.3, 50)[30]}])[0] == 600


def test_no_fold_is_scored_by_a_choice_that_has_seen_its_answers():
    """The decoder is right on one side and wrong on the other: chosen by all it would be no worse than the guess."""
    right, wrong = futures([0] * 40), futures([1] * 40)
    says = {30: ConstantDecoder((0.98, 0.01, 0.01))}
    numbers = score([Trial(right, right, says), Trial(wrong, wrong, says)])
    assert numbers["guesses"][MODEL]["log_loss"] > numbers["guesses"][USUAL]["log_loss"] + 0.2
    assert numbers["trust"] < 0.7
    assert "best naive guess" in forecast_text(numbers)


def test_a_fold_that_is_alone_is_not_scored_by_its_own_choice_either():
    """As with `--split time`: its own choice would leave the guess to a decoder that is wrong, and look no worse."""
    wrong = futures([1] * 40)
    steps, trust = UNTRIED
    numbers = score([Trial(wrong, wrong, {steps: ConstantDecoder((0.98, 0.01, 0.01))})])
    assert numbers["trust"] < 1e-6
    said = trust * 0.01 + (1 - trust) / 3
    assert numbers["guesses"][MODEL]["log_loss"] == pytest.approx(-np.log(said), rel=1e-5)


def test_numbers_are_per_step_and_every_change_counts_once():
    short, long = futures([0, 0, 0], [2, 2, 2]), futures([0, 0, 0], [2, 2, 2], windows=7)
    says = {30: ConstantDecoder((0.8, 0.1, 0.1))}
    for test in (short, long):
        numbers = score([Trial(short, test, says)] * 2)
        decoder = numbers["guesses"][DECODER]
        assert decoder["steps"]["log_loss"] == pytest.approx([-np.log(0.8), -np.log(0.1)], rel=1e-5)
        assert decoder["log_loss"] == pytest.approx(-np.log([0.8, 0.1]).mean(), rel=1e-5)
        assert decoder["accuracy"] == 0.5
        assert numbers["changes"] == 6
    assert numbers["windows"] == 42


def test_the_naive_guesses_are_what_they_are_called():
    known = futures([1] * 97)  # mode 1 follows mode 0, always
    says = {30: ConstantDecoder((0.5, 0.4, 0.1))}
    guesses = score([Trial(known, futures([1] * 9), says)] * 2)["guesses"]
    assert np.exp(-guesses[TRUE]["log_loss"]) == pytest.approx(1, abs=0.01)
    assert guesses[NAMED]["log_loss"] > 3  # named is mode 1, which nothing ever followed
    assert np.exp(-guesses[NOTHING]["log_loss"]) == pytest.approx((1 - 1 / 99) / 2, rel=1e-6)
    assert np.exp(-guesses[USUAL]["log_loss"]) == pytest.approx(1 / 3, rel=1e-6)


def test_a_skill_is_only_claimed_where_machines_drawn_again_show_it_too():
    known, knows = futures([1, 2] * 15), {30: OracleDecoder(())}
    for right, shown in ((14, True), (8, False)):
        test = futures([1, 2] * 8)
        states = test.tokens[:, :1].astype(np.float32)
        states[right:] = 3 - states[right:]  # here the sign is the other one
        numbers = score([Trial(known, replace(test, states=states), knows)] * 2)
        assert (numbers["gain"]["interval_90"][0] > 0) == shown
        assert ("best naive guess" in forecast_text(numbers)) != shown


def test_points_of_one_machine_are_one_machine_when_machines_are_drawn_again():
    """Else a sensor more on every machine would look like twice the evidence."""
    known, knows = futures([1, 2] * 15), {30: OracleDecoder(())}
    test = futures([1, 2] * 8)
    states = test.tokens[:, :1].astype(np.float32)
    states[12:] = 3 - states[12:]
    once = replace(test, states=states)
    rows = np.arange(len(test.tokens)).repeat(2)
    twice = replace(
        FutureWindows(*(getattr(once, field.name)[rows] for field in fields(once))), change=np.arange(len(rows))
    )
    one, two = (score([Trial(known, each, knows)] * 2) for each in (once, twice))
    assert (one["machines"], two["machines"]) == (32, 32)
    assert two["changes"] == 2 * one["changes"]
    width = [np.diff(numbers["gain"]["interval_90"])[0] for numbers in (one, two)]
    assert width[1] > 0.85 * width[0]  # as independent streams it would be 0.71
