"""Requests to the running service over MQTT, if `mqtt.commands` is on.

    <base>/cmd/ack      {"id": alarm id, "token"?}                      acknowledges an open alarm
    <base>/cmd/label    the fields of a label, as `thrumcast labels import` reads them, or {"op": "retract", "id": ...}
    <base>/cmd/reload   {}                                              as SIGHUP: read configuration and registry again

Every request is answered on `<base>/cmd/<name>/response` when its consequences are on disk: {"ok", "id", "token",
"error"?, "warning"?}. A request of another name is answered on `<base>/cmd/unknown/response`. The sender cannot choose
the topic of the answer: that would let anyone publish in our name. Nor is it a topic that requests use, or the answer
would be taken for a request. A request that comes twice has its consequences once. A request that cannot be done is
quarantined with the reason `request`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.core.engine import Step
from pipeline.core.records import StreamKey, is_id
from pipeline.edges.labels import LabelEvent, LabelFile, check, now_iso
from pipeline.edges.ports import Batch, Message, Onlooker, Publication, Receipt, Work
from pipeline.errors import ArchiveError, ThrumcastError
from pipeline.service.label_rows import SYNONYMS, never_seen, new_label

if TYPE_CHECKING:
    from pipeline.config.tables import Config

NAMES = ("ack", "label", "reload")
UNKNOWN = "unknown"  # stands for any other name
MOST_BYTES = 65_536  # of a request: a label stays in its file for ever, and is published

log = logging.getLogger("thrumcast.labels")


@dataclass(frozen=True, slots=True)
class Request:
    """A request over MQTT. Its message is acknowledged when its consequences are on disk."""

    name: str  # ack, label or reload
    token: str | None = None  # chosen by the sender; it comes back with the answer
    alarm: tuple[StreamKey, str] | None = None  # stream and id of the alarm to be acknowledged
    label: LabelEvent | None = None  # to be added or retracted
    error: str | None = None  # why it cannot be done; then the message goes to quarantine


@dataclass(slots=True)
class Requests(Onlooker):
    """A companion that claims the requests among the messages, and answers them when the disk has what they ask for."""

    config: Config
    reload: Callable[[], None]
    up: Mapping[StreamKey, Mapping[str, Mapping[str, Any]]]  # open alarms by stream and id, as published
    _pending: dict[Receipt, Request] = field(default_factory=dict)  # of messages that are stepped and not yet committed

    @property
    def prefix(self) -> str:
        """What the topics of all requests begin with."""
        return f"{self.config.mqtt.results_topic}/cmd/"

    def owns(self, topic: str) -> bool:
        """Whether messages of this topic are requests.

        A subscription outlives the setting that made it: the broker still sends requests to a client that took them
        before. If the service takes none now, they are quarantined like any message of an unknown topic.
        """
        return self.config.mqtt.commands and topic.startswith(self.prefix)

    def stepped(self, batch: Batch, step: Step) -> None:
        """Read the requests; the commit of their messages covers acknowledged alarms and refusals."""
        if not self.config.mqtt.commands:
            return
        for message in batch.claim(self.prefix):
            request = self._read(message)
            self._pending[message.receipt] = request
            if request.error is not None:
                batch.refuse(message, "request")
            elif request.alarm is not None:
                batch.alarms_seen.append(request.alarm)

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Do the rest and answer."""
        requests = [self._pending.pop(m.receipt) for m in batch.held if m.receipt in self._pending]
        acked = {change.id for change in step.alarms if change.type == "acked"}
        return partial(self._answer, requests, acked) if requests else None

    def _read(self, message: Message) -> Request:
        name = message.topic.removeprefix(self.prefix)
        token: str | None = None
        try:
            given = _map(message.payload)
            token = str(given.get("client_token") or given.get("token") or "") or None
            if name not in NAMES:
                msg = f"expected one of {', '.join(NAMES)}, found: {name}"
                raise ThrumcastError(msg)
            alarm = _alarm(given) if name == "ack" else None
            label = self._label(given, message.payload) if name == "label" else None
        except ThrumcastError as error:
            return Request(name, token, error=error.message)
        return Request(name, token, alarm, label)

    def _answer(self, requests: Sequence[Request], acked: Collection[str]) -> list[Publication]:
        """The answers, once the disk has taken everything: if it refuses one, all are done again."""
        answers = []
        for request in requests:
            answer: dict[str, Any] = {"ok": request.error is None, "token": request.token}
            error = request.error
            if request.alarm is not None:
                key, alarm_id = request.alarm
                answer["id"] = alarm_id
                if alarm_id not in acked and "acknowledged" not in self.up.get(key, {}).get(alarm_id, {}):
                    error = f"expected the id of an open alarm, found: {alarm_id}"
            elif request.label is not None:
                answer |= self._keep(request.label)
                error = answer.get("error")
            elif request.error is None:
                self.reload()
            if error is not None:
                answer |= {"ok": False, "error": error}
            name = request.name if request.name in NAMES else UNKNOWN
            answers.append(Publication(f"{self.prefix}{name}/response", msgspec.json.encode(answer)))
        return answers

    def _keep(self, label: LabelEvent) -> dict[str, str]:
        """Write a label: its id in the file and a warning as `labels add` gives it, or why it cannot be written.

        Raises:
            ArchiveError: the disk refuses; the loop tries again.
        """
        try:
            (kept,) = LabelFile(self.config.data.path).add([label])
        except ArchiveError:
            raise
        except ThrumcastError as error:
            return {"id": label.id, "error": error.message}
        for name, warning in never_seen(self.config, [kept] if kept.op == "add" else []).items():  # one at most
            log.warning("label_waits id=%s of=%s warning=%s", kept.id, name, warning)
            return {"id": kept.id, "warning": warning}
        return {"id": kept.id}

    def _label(self, given: Mapping[str, Any], payload: bytes) -> LabelEvent:
        """A label without a token gets one from its content, so that a label delivered twice is written once."""
        token = str(given.get("client_token") or f"mqtt-{hashlib.sha256(payload).hexdigest()[:16]}")
        author = str(given.get("author") or "mqtt")
        if given.get("op", "add") == "retract":
            label_id = str(given.get("id", ""))
            event = LabelEvent(label_id, f"retract-{label_id}", "retract", author=author, created=now_iso())
        else:
            values = {SYNONYMS.get(name, name): value for name, value in given.items()}
            event = new_label(self.config, {**values, "client_token": token, "author": author})
        check(event)
        return event


def _map(payload: bytes) -> dict[str, Any]:
    if len(payload) > MOST_BYTES:
        msg = f"expected at most {MOST_BYTES} bytes, found: {len(payload)}"
        raise ThrumcastError(msg)
    try:
        given = msgspec.json.decode(payload or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"expected a JSON object, found: {error}"
        raise ThrumcastError(msg) from error
    if not isinstance(given, dict) or not all(isinstance(v, str | int | float | None) for v in given.values()):
        msg = "expected a JSON object of texts and numbers, found something else"
        raise ThrumcastError(msg)
    return {str(name): value for name, value in given.items()}


def _alarm(given: Mapping[str, Any]) -> tuple[StreamKey, str]:
    """Stream and id; an id begins with the stream, see `pipeline.core.alarm.episode_id`."""
    alarm_id = str(given.get("id", ""))
    machine, _, rest = alarm_id.partition("/")
    point, slash, _ = rest.partition("/")
    if not (slash and is_id(machine) and is_id(point)):
        msg = f"expected the id of an alarm (machine/point/mode/since), found: {alarm_id or 'none'}"
        raise ThrumcastError(msg)
    return StreamKey(machine, point), alarm_id
