"""Topics and their streams, and the broker in memory that other tests use."""

from __future__ import annotations

import pytest
from harness.broker import SUBSCRIPTION, TOPIC, numbered, payloads
from harness.live import Broker
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.records import StreamKey
from pipeline.edges.mqtt import (
    TopicTemplate,
)
from pipeline.errors import ConfigError

IDS = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True).filter(lambda text: text.strip(".") != "")


# -- topics ----------------------------------------------------------------------------------------------------------


@given(area=IDS, machine=IDS, point=IDS)
def test_a_topic_made_from_a_template_names_its_stream_again(area: str, machine: str, point: str) -> None:
    template = TopicTemplate("plant/{area}/{machine}/{point}/vibration")
    topic = template.format(area=area, machine=machine, point=point)
    assert template.parse(topic) == StreamKey(machine, point)
    assert len(topic.split("/")) == len(template.subscription.split("/"))


@given(st.text())
def test_any_topic_gives_a_stream_of_ids_or_none(topic: str) -> None:
    key = TopicTemplate("{machine}/{point}").parse(topic)
    assert key is None or "/".join(key) == topic


@pytest.mark.parametrize(
    "topic",
    ["plant/a/m/p", "plant/a/m/p/vibration/", "plant/a/../p/vibration", "plant/a/m m/p/vibration",
     "plant/a//p/vibration", "plant/a/m/p/vibration\n",
     "plant/a/" + "m" * 65 + "/p/vibration", "other/a/m/p/vibration", ""],
)  # fmt: skip
def test_a_foreign_topic_has_no_stream(topic: str) -> None:
    assert TopicTemplate("plant/{area}/{machine}/{point}/vibration").parse(topic) is None


def test_the_subscription_has_a_plus_for_every_place() -> None:
    assert TopicTemplate("plant/{area}/{machine}/{point}/vibration").subscription == SUBSCRIPTION
    assert TopicTemplate("v1.0/{point}/of/{machine}").subscription == "v1.0/+/of/+"


@pytest.mark.parametrize(
    "template",
    ["plant", "plant/{machine}", "{machine}/{machine}/{point}", "plant/m-{machine}/{point}", "{machine}/{point}/#",
     "+/{machine}/{point}", "{machine}/{point}/{line}", ""],
)  # fmt: skip
def test_a_template_that_cannot_work_is_refused_by_its_key(template: str) -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.readings_topic"):
        TopicTemplate(template)


@pytest.mark.parametrize(
    ("template", "topic"),
    [("/plant/{area}/{machine}/{point}", "/plant/a/m/p"), ("plant//{machine}/{point}", "plant//m/p"),
     ("{machine}/{point}/", "m/p/"), ("//{machine}//{point}//", "//m//p//"), ("/{machine}/{point}", "/m/p")],
)  # fmt: skip
def test_empty_levels_of_a_template_are_levels(template: str, topic: str) -> None:
    found = TopicTemplate(template)
    assert found.parse(topic) == StreamKey("m", "p")
    assert found.format(machine="m", point="p", area="a") == topic
    assert found.subscription.count("/") == template.count("/")
    assert [found.parse(other) for other in (topic.strip("/"), f"/{topic}", f"{topic}/")].count(None) >= 2


def test_plain_text_that_looks_like_a_place_is_plain_text() -> None:
    assert TopicTemplate("xpointx/{machine}/{point}").subscription == "xpointx/+/+"


def test_a_topic_is_not_made_of_what_is_no_id() -> None:
    with pytest.raises(ValueError, match=r"expected an id of .* as machine"):
        TopicTemplate("{machine}/{point}").format(machine="a/b", point="p")


# -- the twin in memory ----------------------------------------------------------------------------------------------


def test_the_twin_delivers_again_what_was_not_acknowledged() -> None:
    broker = Broker()
    broker.send(TOPIC, numbered(4))
    first = broker.take(3, 0.0)
    broker.acknowledge(first[:1])
    broker.restart()
    broker.acknowledge(first[1:])  # of the former connection: nothing
    again = broker.take(10, 0.0)
    assert payloads(again) == [b"1", b"2", b"3"]
    assert payloads(broker.acknowledged) == [b"0"]
    assert [message.receipt.epoch for message in again] == [2, 2, 2]


def test_the_twin_never_repeats_qos_0() -> None:
    broker = Broker()
    broker.send(TOPIC, numbered(2), qos=0)
    broker.take(1, 0.0)
    broker.restart()
    assert payloads(broker.take(10, 0.0)) == [b"1"]
