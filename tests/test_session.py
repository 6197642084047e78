"""What the broker keeps for a service that is away: whether it is still there when the service comes back is said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from harness.broker import Site, wait_until
from test_live import BLOCKS, TOPICS

from pipeline.commands.service import service
from pipeline.config import CommitConfig, Config, DataConfig, MqttConfig
from pipeline.core.codec import encode
from pipeline.edges.broker import PrivateBroker

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("compiled")]
KEY = BLOCKS[0].key
TOPIC = TOPICS.format(machine=KEY.machine, point=KEY.point)


def life(site: Site, directory: Path, client_id: str, *, count: int) -> int:
    """A service that starts, takes the next messages and stops; how often its journal says that a session was lost."""
    config = Config(
        data=DataConfig(dir=str(directory)),
        mqtt=MqttConfig(host=site.broker.host, port=site.broker.port, client_id=client_id),
        commit=CommitConfig(interval_s=0.05),
    )
    with service(config, wait=False) as (live, _, _):
        before = live.journal.counters().get("messages_received", 0)
        site.send(*(encode(block) for block in BLOCKS[before : before + count]), topic=TOPIC)
        wait_until(lambda: live.counts["received"] >= count, lambda: live.turn(lambda: False), "the messages")
        live.run(lambda: True)
        return live.journal.counters().get("link_session_lost", 0)


def forget(broker: PrivateBroker) -> None:
    """The broker is killed, and its database is gone."""
    broker.kill()
    (broker.directory / "mosquitto.db").unlink(missing_ok=True)
    broker.start()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The session_lost lines of the log since the last look."""
    found = [m for record in caplog.records if (m := record.getMessage()).startswith("session_lost")]
    caplog.clear()
    return found


def test_a_session_that_was_lost_while_the_service_was_down_is_counted_and_logged_and_a_first_start_is_no_loss(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "thrumcast")
    assert life(site, tmp_path, "one", count=1) == 0
    assert life(site, tmp_path, "one", count=1) == 0
    assert said(caplog) == []
    forget(site.broker)
    assert life(site, tmp_path, "one", count=1) == 1
    assert said(caplog) == ["session_lost no session of one: forgotten by the broker, or expired after 604800 s"]
    assert life(site, tmp_path, "one", count=1) == 1
    assert said(caplog) == []


def test_a_service_that_heard_nothing_before_it_was_stopped_had_a_session_all_the_same(
    site: Site, tmp_path: Path
) -> None:
    life(site, tmp_path, "one", count=0)
    forget(site.broker)
    assert life(site, tmp_path, "one", count=1) == 1


def test_another_client_id_is_a_loss_of_what_is_kept_for_the_former_one_and_says_so(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "thrumcast")
    life(site, tmp_path, "one", count=1)
    assert life(site, tmp_path, "two", count=1) == 1
    assert said(caplog) == [
        "session_lost no session of two: the one before was one's, and what is kept for that one will not come"
    ]
    assert life(site, tmp_path, "two", count=1) == 1
