"""OPC UA: states and alarms of every measurement point, for control systems that read nothing else.

    broker ──retained results──> Gateway ──> Objects / thrumcast / <machine> / <point>: State, Mode, ... and alarms

It runs as a process of its own (`thrumcast opcua`) and reads the results like any other subscriber: nothing that a
client of it does reaches the service. What it shows is rebuilt from retained messages at every start.

Variables are read-only. Their time is that of the window. Their status is `UncertainLastUsableValue` once the state is
older than it may be (`expires_s`), and `BadNoCommunication` while the service or the broker is away. An alarm is an
event of AlarmConditionType with its machine as source, which the object Server sends when the alarm is raised,
acknowledged or ended. Clients cannot acknowledge: thrumcast alone decides who may.

Source: OPC 10000-4 (status codes), OPC 10000-9 (alarms and conditions).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from asyncua import Node, Server, ua
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole

from pipeline.core.records import is_id
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config.tables import OpcuaConfig
    from pipeline.edges.mqtt import MqttConnection
    from pipeline.edges.ports import Message

APPLICATION: Final = "urn:thrumcast"  # the URI that the certificate must name
NAMESPACE: Final = "urn:thrumcast:results"
STATUS_EVERY_S: Final = 5.0  # how often the age of the states is looked at
MOST_POINTS: Final = 10_000  # of all machines; whoever may publish results must not fill the memory
SEVERITY: Final = 700  # of an alarm; 1 to 1000, of OPC 10000-5
_TYPES: Final = {
    "State": ua.VariantType.String,
    "Mode": ua.VariantType.String,
    "Probability": ua.VariantType.Double,
    "VelocityRms": ua.VariantType.Double,
    "Zone": ua.VariantType.String,
    "Evidence": ua.VariantType.String,
    "InAlarm": ua.VariantType.Boolean,
}

log = logging.getLogger("thrumcast.opcua")


@dataclass(slots=True)
class _Point:
    nodes: dict[str, Node]
    values: dict[str, Any] = field(default_factory=dict)
    at: datetime | None = None
    expires_s: float = math.inf
    alarm: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Users:
    """One name and password; the built-in administrator of the library does not exist."""

    username: str
    password: bytes

    def get_user(
        self, iserver: Any, username: str | None = None, password: Any = None, certificate: Any = None
    ) -> User | None:
        given = password if isinstance(password, bytes) else str(password or "").encode()
        known = (username or "") == self.username and hmac.compare_digest(given, self.password)
        return User(role=UserRole.User) if known or not self.username else None


class Gateway:
    """The address space, and what the results make of it. All methods run in one event loop."""

    def __init__(self, server: Server, base: str, namespace: int, root: Node) -> None:
        self.server, self.base, self.namespace, self.root = server, base, namespace, root
        self.is_online = False
        self._machines: dict[str, Node] = {}
        self._points: dict[tuple[str, str], _Point] = {}
        self._shown: dict[Any, ua.StatusCode] = {}

    async def read(self, message: Message) -> None:
        """Take one message of the results."""
        place = message.topic.removeprefix(f"{self.base}/").split("/")
        try:
            document = msgspec.json.decode(message.payload) if message.payload else None
            if place == ["status"]:
                self.is_online = isinstance(document, dict) and document.get("state") == "online"
                await self.refresh()
            elif len(place) == 4 and place[0] == "machines" and is_id(place[1]) and is_id(place[2]):
                take = {"state": self._state, "alarm": self._alarm}.get(place[3])
                if take is not None and (document is None or isinstance(document, dict)):
                    await take(place[1], place[2], document)
        except (ValueError, TypeError, msgspec.DecodeError) as error:
            log.warning("result_not_read topic=%s: %s", message.topic, error)

    async def lost(self) -> None:
        """The broker is away."""
        self.is_online = False
        await self.refresh()

    async def refresh(self) -> None:
        """Bring the status of all variables up to date."""
        for point in self._points.values():
            await self._write(point)

    async def _state(self, machine: str, name: str, document: dict[str, Any] | None) -> None:
        point = await self._point(machine, name)
        if point is None or document is None:
            return
        p, velocity = document.get("p"), document.get("velocity_rms_mm_s")
        point.values |= {
            "State": str(document.get("state") or ""),
            "Mode": str(document.get("mode") or ""),
            "Probability": float(p) if p is not None else math.nan,
            "VelocityRms": float(velocity) if velocity is not None else math.nan,
            "Zone": str(document.get("zone") or ""),
            "Evidence": "; ".join(map(str, document.get("evidence") or ())),
        }
        point.at = datetime.fromisoformat(str(document["ts"]).replace("Z", "+00:00"))
        point.expires_s = float(document.get("expires_s") or math.inf)
        await self._write(point)

    async def _alarm(self, machine: str, name: str, document: dict[str, Any] | None) -> None:
        point = await self._point(machine, name)
        if point is None or document == point.alarm:
            return
        before, point.alarm = point.alarm, document
        point.values["InAlarm"] = document is not None
        await self._write(point)
        if before is not None and (document is None or before.get("id") != document.get("id")):
            await self._event(machine, name, before, is_active=False)
        if document is not None:
            await self._event(machine, name, document, is_active=True)

    async def _event(self, machine: str, name: str, alarm: dict[str, Any], *, is_active: bool) -> None:
        made = await self.server.get_event_generator(ua.ObjectIds.AlarmConditionType)  # of the object Server
        event, mode = made.event, str(alarm.get("shown") or alarm.get("mode") or "alarm")
        is_acknowledged = "acknowledged" in alarm
        event.SourceNode, event.SourceName = self._machines[machine].nodeid, machine
        event.ConditionName, event.BranchId = f"{name}: {mode}", ua.NodeId()
        event.NodeId = ua.NodeId(f"{machine}/{name}/{alarm.get('id')}", self.namespace)
        event.ClientUserId, event.Comment, event.Quality = "", ua.LocalizedText(""), ua.StatusCode(ua.StatusCodes.Good)
        event.Retain, event.Severity, event.LastSeverity = is_active, SEVERITY if is_active else 1, SEVERITY
        event.EnabledState, event.InputNode, event.SuppressedOrShelved = ua.LocalizedText("Enabled"), ua.NodeId(), False
        event.ActiveState = ua.LocalizedText("Active" if is_active else "Inactive")
        event.AckedState = ua.LocalizedText("Acknowledged" if is_acknowledged else "Unacknowledged")
        setattr(event, "EnabledState/Id", True)
        setattr(event, "ActiveState/Id", is_active)
        setattr(event, "AckedState/Id", is_acknowledged)
        what = "ended" if not is_active else "acknowledged" if is_acknowledged else "raised"
        await made.trigger(message=f"{machine}/{name}: {mode}, {what}")

    async def _point(self, machine: str, name: str) -> _Point | None:
        found = self._points.get((machine, name))
        if found is not None:
            return found
        if len(self._points) >= MOST_POINTS:
            log.warning("point_left_out %s/%s: there are %d already", machine, name, MOST_POINTS)
            return None
        if machine not in self._machines:
            node = await self.root.add_object(ua.NodeId(machine, self.namespace), f"{self.namespace}:{machine}")
            self._machines[machine] = node
        parent = await self._machines[machine].add_object(
            ua.NodeId(f"{machine}/{name}", self.namespace), f"{self.namespace}:{name}"
        )
        nodes = {}
        for title, kind in _TYPES.items():
            empty = {ua.VariantType.String: "", ua.VariantType.Boolean: False}.get(kind, math.nan)
            nodes[title] = await parent.add_variable(
                ua.NodeId(f"{machine}/{name}/{title}", self.namespace), f"{self.namespace}:{title}", empty, kind
            )
        unit = ua.EUInformation(DisplayName=ua.LocalizedText("mm/s"), Description=ua.LocalizedText("ISO 20816, RMS"))
        await nodes["VelocityRms"].add_property(ua.NodeId(f"{machine}/{name}/unit", self.namespace),
                                                "0:EngineeringUnits", unit)  # fmt: skip
        point = self._points[machine, name] = _Point(nodes, {"InAlarm": False})
        await self._write(point)
        return point

    def _status(self, point: _Point) -> ua.StatusCode:
        if not self.is_online:
            return ua.StatusCode(ua.StatusCodes.BadNoCommunication)
        age_s = math.inf if point.at is None else (datetime.now(UTC) - point.at).total_seconds()
        fresh = age_s <= point.expires_s
        return ua.StatusCode(ua.StatusCodes.Good if fresh else ua.StatusCodes.UncertainLastUsableValue)

    async def _write(self, point: _Point) -> None:
        status = self._status(point)
        for title, value in point.values.items():
            node, shown = point.nodes[title], (value, point.at, status.value)
            if self._shown.get(node.nodeid) != shown:
                self._shown[node.nodeid] = shown
                await node.write_value(ua.DataValue(ua.Variant(value, _TYPES[title]), status, point.at))


async def serve(
    config: OpcuaConfig, base: str, connection: MqttConnection, stop: Callable[[], bool], ready: Callable[[], None]
) -> None:
    """Serve until `stop()`.

    Raises:
        ConfigError: a file cannot be read, or the address is in use.
    """
    server = await _server(config)
    namespace = await server.register_namespace(NAMESPACE)
    root = await server.nodes.objects.add_object(ua.NodeId("thrumcast", namespace), f"{namespace}:thrumcast")
    gateway = Gateway(server, base, namespace, root)
    try:
        await server.start()
    except OSError as error:
        msg = f"opcua.bind: expected a free address, found {config.bind}: {error.strerror}"
        raise ConfigError(msg, hint="choose another port") from error
    loop, looked_s = asyncio.get_running_loop(), time.monotonic()
    with ThreadPoolExecutor(1, "mqtt") as one:  # one thread owns the connection
        try:
            ready()
            while not stop():
                messages = await loop.run_in_executor(one, connection.take, 500, 0.25)
                for message in messages:
                    await gateway.read(message)
                connection_events = await loop.run_in_executor(one, _after, connection, messages)
                if "disconnected" in connection_events:
                    await gateway.lost()
                if time.monotonic() - looked_s > STATUS_EVERY_S:
                    looked_s = time.monotonic()
                    await gateway.refresh()
        finally:
            await server.stop()


def _after(connection: MqttConnection, messages: list[Message]) -> list[str]:
    connection.acknowledge(messages)
    return [event.kind for event in connection.events()]


async def _server(config: OpcuaConfig) -> Server:
    password = b""
    try:
        if config.username:
            password = Path(config.password_file).expanduser().read_bytes().strip()
        server = Server(user_manager=_Users(config.username, password))
        await server.init()
        server.set_server_name("thrumcast")
        await server.set_application_uri(APPLICATION)
        server.set_endpoint(f"opc.tcp://{config.bind}/thrumcast")
        policies = [ua.SecurityPolicyType.NoSecurity]
        if config.certificate_file:
            certificate, key = (_pem_or_der(path) for path in (config.certificate_file, config.key_file))
            await server.load_certificate(certificate[0], certificate[1])
            await server.load_private_key(key[0], format=key[1])
            policies = [
                ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
                ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
            ]
    except (OSError, ValueError) as error:
        msg = f"expected readable files of [opcua], found: {error}"
        raise ConfigError(msg, hint="check paths and rights") from error
    server.set_security_policy(policies, permission_ruleset=SimpleRoleRuleset())
    server.set_identity_tokens([ua.UserNameIdentityToken if config.username else ua.AnonymousIdentityToken])
    server.allow_remote_admin(allow=False)
    return server


def _pem_or_der(path: str) -> tuple[bytes, str]:
    content = Path(path).expanduser().read_bytes()
    return content, "pem" if content.lstrip().startswith(b"-----") else "der"
