"""OPC UA: what a client of the gateway sees of the results on a real broker."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from harness.broker import PATIENCE_S, settings

from pipeline.config.tables import OpcuaConfig
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import MqttConnection, MqttPublisher
from pipeline.errors import ConfigError

pytest.importorskip("asyncua", reason="needs the extra opcua")

from asyncua import Client, Node, ua

from pipeline.service.opcua import NAMESPACE, serve


@dataclass
class Plant:
    """A gateway, its client, and a publisher that plays the service."""

    client: Client
    publisher: MqttPublisher
    config: OpcuaConfig
    events: list[Any] = field(default_factory=list)

    def say(self, topic: str, document: dict[str, Any] | None) -> None:
        payload = b"" if document is None else json.dumps(document).encode()
        self.publisher.publish(f"thrumcast/{topic}", payload, retain=True)
        self.publisher.drain()

    async def node(self, path: str) -> Node:
        at = await self.client.get_namespace_index(NAMESPACE)
        return self.client.get_node(ua.NodeId(path, at))

    async def value(self, path: str) -> Any:
        return await (await self.node(path)).read_data_value(raise_on_bad_status=False)

    def event_notification(self, event: Any) -> None:
        self.events.append(event)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def state(**keys: Any) -> dict[str, Any]:
    document = {
        "ts": datetime.now(UTC).isoformat(),
        "expires_s": 120.0,
        "state": "alarm",
        "mode": "unbalance",
        "p": 0.9,
    }
    return document | {"velocity_rms_mm_s": 4.5, "zone": "C", "evidence": ["a line at 1x"]} | keys


async def until(true: Callable[[], Any], what: str) -> None:
    for _ in range(int(PATIENCE_S / 0.05)):
        found = true()
        if await found if asyncio.iscoroutine(found) else found:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"expected within {PATIENCE_S} s: {what}")


@asynccontextmanager
async def plant(broker: PrivateBroker, config: OpcuaConfig | None = None, security: str = "") -> AsyncIterator[Plant]:
    config = config or OpcuaConfig(bind=f"127.0.0.1:{free_port()}")
    topics = ["thrumcast/status", "thrumcast/machines/+/+/state", "thrumcast/machines/+/+/alarm"]
    ready, ended = asyncio.Event(), False
    with (
        MqttConnection(settings(broker, "gateway", clean_start=True), subscriptions=topics).connect() as connection,
        MqttPublisher(settings(broker, "service")).connect() as publisher,
    ):
        serving = asyncio.create_task(serve(config, "thrumcast", connection, lambda: ended, ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            waiting.cancel()
            await serving
        client = Client(f"opc.tcp://{config.bind}/thrumcast")
        client.set_user(config.username)
        client.set_password(Path(config.password_file).read_text().strip() if config.password_file else "")
        try:
            if security:
                client.application_uri = "urn:client"
                await client.set_security_string(security)
            async with client:
                yield Plant(client, publisher, config)
        finally:
            ended = True
            await serving


@pytest.mark.network
def test_a_client_sees_states_alarms_and_how_old_they_are(tmp_path: Path) -> None:
    async def trial(broker: PrivateBroker) -> None:
        async with plant(broker) as one:
            one.say("status", {"state": "online"})
            one.say("machines/pump-01/de/state", state())
            one.say("machines/pump-02/de/state", state(ts="2020-01-01T00:00:00.000000Z", p=None, mode=None))
            one.say("machines/../de/state", state())
            one.say("machines/pump-03/de/state", state(ts="yesterday"))

            async def shown() -> bool:
                return (await one.value("pump-02/de/State")).StatusCode.value == ua.StatusCodes.UncertainLastUsableValue

            await until(shown, "the state of pump-02")
            found = {name: (await one.value(f"pump-01/de/{name}")).Value.Value for name in ("State", "Mode", "Zone")}
            assert found == {"State": "alarm", "Mode": "unbalance", "Zone": "C"}
            velocity = await one.value("pump-01/de/VelocityRms")
            assert (velocity.Value.Value, velocity.StatusCode.value) == (4.5, ua.StatusCodes.Good)
            with pytest.raises(ua.UaStatusCodeError):  # nobody writes
                await (await one.node("pump-01/de/State")).write_value("normal")
            one.say("status", {"state": "offline"})

            async def away() -> bool:
                return (await one.value("pump-01/de/State")).StatusCode.value == ua.StatusCodes.BadNoCommunication

            await until(away, "word that the service is away")

    with PrivateBroker(tmp_path / "b") as broker:
        asyncio.run(trial(broker))


@pytest.mark.network
def test_an_alarm_is_an_event_when_it_is_raised_acknowledged_and_ended(tmp_path: Path) -> None:
    async def trial(broker: PrivateBroker) -> None:
        async with plant(broker) as one:
            one.say("machines/pump-01/de/state", state())

            async def shown() -> bool:
                return bool((await one.value("pump-01/de/State")).Value)

            await until(shown, "the machine")
            subscription = await one.client.create_subscription(50, one)
            await subscription.subscribe_alarms_and_conditions(evtypes=ua.ObjectIds.AlarmConditionType)
            alarm = {"id": "a1", "mode": "unbalance", "shown": "unbalance", "p": 0.9}
            for document in (alarm, alarm | {"acknowledged": "2026-01-01T00:00:00Z"}, None):
                one.say("machines/pump-01/de/alarm", document)
            await until(lambda: len(one.events) == 3, "three events")
            texts = [event.Message.Text for event in one.events]
            assert texts == [f"pump-01/de: unbalance, {what}" for what in ("raised", "acknowledged", "ended")]
            assert [event.ActiveState.Text for event in one.events] == ["Active", "Active", "Inactive"]
            assert [event.Retain for event in one.events] == [True, True, False]
            assert {event.SourceName for event in one.events} == {"pump-01"}
            assert not (await one.value("pump-01/de/InAlarm")).Value.Value

    with PrivateBroker(tmp_path / "b") as broker:
        asyncio.run(trial(broker))


@pytest.mark.network
@pytest.mark.parametrize("password", ["right", "wrong"])
def test_without_the_password_nobody_gets_in(tmp_path: Path, password: str) -> None:
    (tmp_path / "password").write_text("right\n")

    async def trial(broker: PrivateBroker) -> None:
        config = OpcuaConfig(f"127.0.0.1:{free_port()}", username="scada", password_file=str(tmp_path / "password"))
        async with plant(broker, config) as one:
            for user, word in (("scada", password), ("admin", "right")):
                other = Client(f"opc.tcp://{config.bind}/thrumcast")
                other.set_user(user)
                other.set_password(word)
                if (user, word) == ("scada", "right"):
                    async with other:
                        pass
                else:
                    with pytest.raises(ua.UaStatusCodeError):
                        await other.connect()
            assert one.client is not None

    with PrivateBroker(tmp_path / "b") as broker:
        asyncio.run(trial(broker))


@pytest.mark.network
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_with_a_certificate_nothing_passes_without_encryption(tmp_path: Path) -> None:
    for name, uri in (("server", "urn:thrumcast"), ("client", "urn:client")):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += [
            "-addext",
            f"subjectAltName=URI:{uri},IP:127.0.0.1",
            "-keyout",
            f"{name}-key.pem",
            "-out",
            f"{name}.pem",
        ]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    files = {"certificate_file": str(tmp_path / "server.pem"), "key_file": str(tmp_path / "server-key.pem")}

    async def trial(broker: PrivateBroker) -> None:
        config = OpcuaConfig(f"127.0.0.1:{free_port()}", **files)
        mine = f"Basic256Sha256,SignAndEncrypt,{tmp_path / 'client.pem'},{tmp_path / 'client-key.pem'}"
        async with plant(broker, config, security=mine) as one:
            one.say("status", {"state": "online"})
            with pytest.raises(ua.UaError):
                await Client(f"opc.tcp://{config.bind}/thrumcast").connect()

    with PrivateBroker(tmp_path / "b") as broker:
        asyncio.run(trial(broker))


@pytest.mark.network
def test_a_missing_file_and_a_taken_port_are_named(tmp_path: Path) -> None:
    async def trial(broker: PrivateBroker, config: OpcuaConfig) -> None:
        async with plant(broker, config):
            pytest.fail("expected a refusal")

    with PrivateBroker(tmp_path / "b") as broker:
        with pytest.raises(ConfigError, match=r"opcua\.bind"):
            asyncio.run(trial(broker, OpcuaConfig(bind=f"127.0.0.1:{broker.port}")))
        lacking = OpcuaConfig(f"127.0.0.1:{free_port()}", username="a", password_file=str(tmp_path / "none"))
        with pytest.raises(ConfigError, match=r"\[opcua\]"):
            asyncio.run(trial(broker, lacking))
