"""What may be asked of the running service over MQTT, if `mqtt.commands` is on.

    <base>/cmd/ack      {"id": alarm id, "token"?}                      acknowledges an open alarm
    <base>/cmd/label    the fields of a label, as `thrumcast labels import` reads them; {"op": "retract", "id": ...}
    <base>/cmd/reload   {}                                              as SIGHUP: look at the registry again

Every request is answered on `<base>/cmd/<name>/response` when its consequences are on disk: {"ok", "id", "token",
"error"?, "warning"?}; one of another name on `<base>/cmd/unknown/response`. The answer never goes to a topic of the
asker's choice: that would let anyone publish in our name; and never to one of the level on which requests come: it
would be taken for one. A request that comes twice has the same consequences once. One that cannot be done is
quarantined with the reason `request`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.core.engine import Step
from pipeline.core.records import StreamKey, is_id
from pipeline.drivers.intake import Batch, Request
from pipeline.drivers.results import Publish
from pipeline.edges.labels import LabelEvent, LabelFile, check, now_iso
from pipeline.edges.ports import Message
from pipeline.errors import ArchiveError, ThrumcastError
from pipeline.service.label_rows import SYNONYMS, never_seen, new_label

if TYPE_CHECKING:
    from pipeline.config.tables import Config

NAMES = ("ack", "label", "reload")
UNKNOWN = "unknown"  # in the place of any other name
MOST_BYTES = 65_536  # of a request: a label stays in its file for ever, and is told to everybody

log = logging.getLogger("thrumcast.labels")


@dataclass(slots=True)
class Requests:
    """Reads requests before a turn is committed, acknowledgements with it; does the rest and answers after that.

    `publish` is called on the thread of the disk.
    """

    config: Config
    publish: Publish
    reload: Callable[[], None]
    acknowledgements: SimpleQueue[tuple[StreamKey, str]] = field(default_factory=SimpleQueue)  # for this turn's commit
    up: Mapping[StreamKey, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)  # open alarms by stream, id

    @property
    def prefix(self) -> str:
        """What all their topics begin with."""
        return f"{self.config.mqtt.results_topic}/cmd/"

    def read(self, message: Message) -> Request | None:
        """The request that a message is; None for all other messages."""
        # A subscription outlives the setting: the broker keeps it for a client that was allowed to ask before.
        if not self.config.mqtt.commands or not message.topic.startswith(self.prefix):
            return None
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
        if alarm is not None:
            self.acknowledgements.put(alarm)
        return Request(name, token, alarm, label)

    def __call__(self, batch: Batch, step: Step) -> Callable[[], None] | None:
        """After a committed turn: what is left to be done, on the thread of the disk."""
        acked = {change.id for change in step.alarms if change.type == "acked"}
        return partial(self._answer, batch.requests, acked) if batch.requests else None

    def _answer(self, requests: Sequence[Request], acked: Collection[str]) -> None:
        answers: list[tuple[str, dict[str, Any]]] = []
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
            answers.append((name, answer))
        for name, answer in answers:  # none before the disk has taken all: if it refuses, all is done again
            self.publish(f"{self.prefix}{name}/response", msgspec.json.encode(answer), qos=1)

    def _keep(self, label: LabelEvent) -> dict[str, str]:
        """Write a label: its id in the file, with what `labels add` would warn of, or why it cannot be written.

        A disk that refuses is tried again by the service.
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
        """Without a token of its own a label has that of its content: delivered twice it is written once."""
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
