"""The self-test itself: an auditor that notices, a command that says so, and what it is made of."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.chaos.audit import audit, uninterrupted
from pipeline.chaos.ground import Ground, Outcome
from pipeline.chaos.plan import Trial, all_trials
from pipeline.chaos.plant import Plant
from pipeline.chaos.process import Scrapes
from pipeline.chaos.rubbish import is_refused, rubbish
from pipeline.commands import chaos
from pipeline.config.sources import load
from pipeline.config.specs import stream_specs
from pipeline.core.engine import Engine
from pipeline.edges.mqtt import Claim, alone_here
from pipeline.edges.mqtt.settings import MqttSettings
from pipeline.edges.store.journal import Commit
from pipeline.errors import ConfigError
from pipeline.service.compose import opened

PLANT = Plant(streams=2, messages=80)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Engine]:
    """An archive as an uninterrupted run leaves it, but for its last window, which is given twice."""
    config = load(None, {}, environment={"THRUMCAST_DATA__DIR": str(tmp_path)}).config
    engine = Engine(stream_specs(config, {}))
    rows = engine.step({}, PLANT.blocks()).features
    with opened(config) as (journal, archive):
        journal.commit(Commit(features=rows, counters={"messages_received": 80, "messages_committed": 80}))
        archive.roll()
    return tmp_path, engine


def test_the_auditor_finds_nothing_where_nothing_is_wrong(stored: tuple[Path, Engine]) -> None:
    directory, engine = stored
    found = audit(directory, uninterrupted(engine, PLANT.blocks()))
    assert found.clean, found
    assert found.windows > 0


def test_the_auditor_counts_lost_unexpected_and_altered_windows(stored: tuple[Path, Engine]) -> None:
    directory, engine = stored
    expected = uninterrupted(engine, PLANT.blocks())
    addresses = sorted(expected.features)
    expected.features["pump-09", "de", 1, 0] = expected.features[addresses[0]]  # was never stored
    del expected.features[addresses[1]]  # is stored without cause
    expected.features[addresses[2]].values[0, 0] = np.nextafter(expected.features[addresses[2]].values[0, 0], 9)
    found = audit(directory, expected)
    assert (found.lost, found.unexpected, found.features_differ) == (1, 1, 1)
    assert not found.clean


def test_the_auditor_sees_a_row_that_stands_twice(stored: tuple[Path, Engine]) -> None:
    directory, engine = stored
    part = next((directory / "archive" / "features").rglob("*.parquet"))
    part.with_name("part-00000099.parquet").write_bytes(part.read_bytes())
    found = audit(directory, uninterrupted(engine, PLANT.blocks()))
    assert not found.clean
    assert found.problems


def test_a_message_that_is_nowhere_makes_the_account_wrong() -> None:
    terms = "".join(f"thrumcast_messages_{name}_total 1\n" for name in ("committed", "duplicate", "late", "dropped"))
    scrapes = Scrapes()
    scrapes._weigh(f"thrumcast_messages_received_total 6\n{terms}thrumcast_messages_quarantined_total 1\n")
    assert scrapes.count == 0  # half an answer
    whole = f"thrumcast_messages_received_total 7\n{terms}thrumcast_messages_quarantined_total 1\n"
    scrapes._weigh(whole + "thrumcast_messages_in_flight 1\n")
    assert (scrapes.count, scrapes.largest_imbalance) == (1, 1)


def test_rubbish_is_the_same_again_and_most_of_it_is_refused() -> None:
    made = list(rubbish(240, 3))
    assert made == list(rubbish(240, 3))
    refused = sum(is_refused(topic, payload) for topic, payload in made)
    assert 120 < refused < 240  # absurd but valid ones are among them


@pytest.mark.network
def test_the_command_tries_what_it_is_asked_and_prints_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["chaos", "--minutes", "30", "--only", "9", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kept"] is True
    assert [(p["promise"], p["kept"]) for p in document["promises"]] == [(9, True)]
    assert "0 lost" in document["promises"][0]["figures"]


def test_a_broken_promise_is_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def tried(folder: Path, trial: Trial, size: float, until_s: float) -> Outcome:
        assert size == pytest.approx(1.0, abs=0.1), "nothing has taken any time"
        return Outcome(trial.promise, "tried", trial.promise != 4, "7 lost " * 40, 3, 0)

    monkeypatch.setattr(chaos, "_tried", tried)
    assert cli.run(["chaos", "--quiet"]) == 1
    text = capsys.readouterr().out
    assert " 4  BROKEN" in text
    assert "NOT every promise was kept" in text
    assert max(map(len, text.splitlines())) <= 110
    assert "11  kept" in text


def test_a_trial_that_comes_to_no_end_is_a_broken_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def endless(world: Ground) -> Outcome:
        raise OSError("gone")

    trial = Trial(3, "Endless", 1, 1, lambda world, size: endless(world), "nonsense that no broker takes\n")
    outcome = chaos._tried(tmp_path / "t", trial, 1.0, math.inf)
    assert outcome is not None
    assert not outcome.kept


@dataclass
class Clock:
    """Time as a trial passes it: on a machine that is so many times as slow as two quiet cores."""

    slow: float
    broken: int | None = None  # promise that is not kept
    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def tried(self, folder: Path, trial: Trial, size: float, until_s: float) -> Outcome | None:
        assert size > 0
        self.now_s += self.slow * max(trial.least, size * trial.seconds)
        if self.now_s > until_s:
            self.now_s = until_s
            return None
        return Outcome(trial.promise, trial.title, trial.promise != self.broken, "", 3, 0)


@pytest.mark.parametrize("minutes", [1, 3, 5, 20])
@pytest.mark.parametrize("slow", [0.5, 1, 1.7, 4, 20])
def test_the_self_test_is_over_when_it_was_told_to_and_names_what_it_had_no_time_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], minutes: int, slow: float
) -> None:
    clock = Clock(slow)
    monkeypatch.setattr(chaos, "time", clock)
    monkeypatch.setattr(chaos, "_tried", clock.tried)
    status = cli.run(["chaos", "--quiet", "--json", "--minutes", str(minutes)])
    taken_s, document = clock.now_s - 1000.0, json.loads(capsys.readouterr().out)
    assert taken_s <= 1.1 * 60 * minutes
    if status == 1:
        assert slow * 11 > 60 * minutes, "there was time for one"
        return
    tried, left_out = document["promises"], document["left_out"]
    assert len(tried) - 1 + len(left_out) == len(all_trials())
    if slow <= 1 and minutes >= 5:
        assert left_out == []
    if left_out:
        assert taken_s > 60 * minutes / 2, "there was time for more"
        second_looks = len(all_trials()) - 11
        if len(left_out) <= second_looks:
            assert {p["promise"] for p in tried} == set(range(1, 13)), "no promise is passed over for a second look"


def test_a_trial_that_has_no_time_to_finish_says_nothing_and_a_broken_one_is_status_1_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(4, broken=2)
    monkeypatch.setattr(chaos, "time", clock)
    monkeypatch.setattr(chaos, "_tried", clock.tried)
    assert cli.run(["chaos", "--quiet", "--minutes", "5"]) == 1
    text = capsys.readouterr().out
    assert " 2  BROKEN" in text
    assert "10  no time  Start with a long queue" in text
    assert "NOT every promise was kept" in text


@pytest.mark.network
def test_a_trial_ends_when_its_time_is_over(tmp_path: Path) -> None:
    def waits(world: Ground, size: float) -> Outcome:
        world.service.wait_for(lambda: False, "nothing")
        raise AssertionError

    trial = Trial(3, "Waits", 1, 1, waits)
    assert chaos._tried(tmp_path / "t", trial, 1.0, time.monotonic() + 1.0) is None


def test_whoever_is_refused_a_client_id_is_told_the_process_that_has_it_every_time() -> None:
    settings = MqttSettings(client_id="test_chaos_alone_here", port=18830)
    with alone_here(settings):
        for _ in range(4):  # as by a supervisor that tries again and again
            with pytest.raises(ConfigError, match=f"held by process: {os.getpid()}"), alone_here(settings):
                pass
    with alone_here(settings):
        pass


def test_of_two_claims_the_newer_stands_and_a_new_process_comes_out_above_whatever_it_finds() -> None:
    old, new = Claim("t", number=10, token="a"), Claim("t", number=20, token="b")
    assert old.meet(new.payload(), first=False) == new.holder
    assert new.meet(old.payload(), first=False) is None
    started = Claim("t", number=5, token="c")  # its clock is behind
    assert started.meet(new.payload(), first=True) is None
    assert started.number > new.number
    assert new.meet(started.payload(), first=False) == started.holder


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b'{"number": "x"}', b'{"number": 1}', b"\xff", b"[" * 9000, b'{"number": 1e999}']
)
def test_what_is_no_claim_throws_nobody_out(payload: bytes) -> None:
    assert Claim("t").meet(payload, first=False) is None


@pytest.mark.parametrize(("number", "token"), [(10, "b"), (10, "0")])
def test_of_two_claims_of_one_number_exactly_one_stands(number: int, token: str) -> None:
    one, other = Claim("t", number=10, token="a"), Claim("t", number=number, token=token)
    fenced = [one.meet(other.payload(), first=False), other.meet(one.payload(), first=False)]
    assert sum(holder is not None for holder in fenced) == 1
