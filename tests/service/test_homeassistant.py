"""Home Assistant: what is announced, when, and that its entities read what the service publishes."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from harness.live import BLOCKS, Broker, send, service, stop_when_idle

from pipeline.service.homeassistant import STATES, HomeAssistant, device, object_id

MODES = ("healthy", "unbalance")


def test_every_entity_has_its_own_id_an_availability_and_an_age_at_which_it_expires() -> None:
    document = device("thrumcast", "pump.1", ["de", "nde"], MODES)
    entities = document["components"].values()
    ids = [entity["unique_id"] for entity in entities]
    assert len(set(ids)) == len(ids) == 10
    for entity in entities:
        assert entity["expire_after"] == 120
        assert entity["availability"][0]["topic"] == "thrumcast/status"
        assert re.fullmatch(r"thrumcast/machines/pump\.1/(de|nde)/state", entity["state_topic"])
        assert entity["platform"] in ("sensor", "binary_sensor")


def test_ids_of_home_assistant_stay_apart() -> None:
    assert object_id("pump-1") == "pump-1"
    assert len({object_id(name) for name in ("a.b", "a-b", "a_b", "a..b")}) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", object_id(name)) for name in ("a.b", "...x"))


def test_a_running_service_announces_each_machine_once_and_its_templates_name_published_keys(tmp_path: Path) -> None:
    broker = Broker()
    live = service(tmp_path, broker)
    live.companions = (HomeAssistant("thrumcast", "homeassistant", MODES),)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    live.turn(lambda: True)
    announced = [one for one in broker.published if one[0].startswith("homeassistant/")]
    topics = [topic for topic, *_ in announced]
    assert sorted(topics) == [f"homeassistant/device/thrumcast-{name}/config" for name in ("fan-02", "pump-01")]
    assert all((qos, retain) == (1, True) for _, _, qos, retain in announced)
    states = {
        topic: msgspec.json.decode(payload) for topic, payload, *_ in broker.published if topic.endswith("/state")
    }
    for _, payload, *_ in announced:
        for entity in msgspec.json.decode(payload)["components"].values():
            state = states[entity["state_topic"]]
            (key,) = re.findall(r"value_json\.(\w+)", entity["value_template"])
            assert key in state
            assert state["state"] in STATES
