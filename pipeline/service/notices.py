"""Notices: alarms by webhook and e-mail, each at least once.

An alarm that is raised, cleared or revoked goes into a queue, `notices.json` in the data directory, and from there to
every receiver that is configured. A receiver that fails is tried again, up to every ten minutes, until it takes the
notice. The queue is written after the commit, so a crash between the two would lose a notice. So each start compares
the open alarms of the journal with those that have been queued, and queues what is missing.

A notice that is sent twice has the same token: in the body, as `Idempotency-Key` of the webhook and as `Message-ID`.
Secrets are read from their files at each attempt and never logged.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from pipeline.core.engine import Step
from pipeline.core.records import AlarmChange
from pipeline.drivers.results import iso
from pipeline.edges.ports import Batch, Onlooker, Publication, Work
from pipeline.errors import ArchiveError
from pipeline.service.whole_file import write_whole

if TYPE_CHECKING:
    from pipeline.config.tables import Config, NotifyConfig

NOTICES_NAME: Final = "notices.json"
TOLD: Final = ("raised", "cleared", "revoked")
MOST_WAITING: Final = 10_000
TIMEOUT_S: Final = 10.0
RETRY_S: Final = (5.0, 600.0)  # the first pause after a failure, and the longest; each is twice the one before
END_S: Final = 2.0  # how long a stop waits for a notice that is being sent; others are sent after the next start

log = logging.getLogger("thrumcast.service")

Send = Callable[[dict[str, Any]], None]  # raises OSError or ValueError where the receiver did not take the notice


class Notice(msgspec.Struct):
    """One alarm change, and the receivers that have it."""

    body: dict[str, Any]
    done: list[str] = msgspec.field(default_factory=list)


class Queue(msgspec.Struct):
    """What the file holds."""

    open: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)  # alarms whose raising was queued, by id
    waiting: list[Notice] = msgspec.field(default_factory=list)


@dataclass(slots=True)
class _Pause:
    until_s: float = 0.0  # of time.monotonic()
    pause_s: float = RETRY_S[0]


@dataclass(slots=True)
class Notices(Onlooker):
    """A companion that queues, and a thread that sends."""

    path: Path
    receivers: Mapping[str, Send]
    _queue: Queue = field(default_factory=Queue)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _wake: threading.Event = field(default_factory=threading.Event)
    _ending: bool = False
    _thread: threading.Thread | None = None
    _pauses: dict[str, _Pause] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, open_alarms: Mapping[str, AlarmChange]) -> Self | None:
        """The notices of a configuration; None where no receiver is configured.

        Raises:
            ArchiveError: the queue is damaged, or cannot be written.
        """
        found = receivers(config.notify)
        return cls.restored(config.data.path / NOTICES_NAME, found, open_alarms) if found else None

    @classmethod
    def restored(cls, path: Path, found: Mapping[str, Send], open_alarms: Mapping[str, AlarmChange]) -> Self:
        """The queue as the last process left it, with what a crash has kept out of it."""
        try:
            queue = msgspec.json.decode(path.read_bytes(), type=Queue)
        except FileNotFoundError:
            queue = Queue()
        except (OSError, ValueError) as error:
            msg = f"expected a queue of notices in {path}, found: {error}"
            raise ArchiveError(msg, hint="remove the file; alarms that are open are then told again") from error
        notices = cls(path, found, queue)
        missed = [_body(change, "raised") for name, change in open_alarms.items() if name not in queue.open]
        gone = [body for name, body in queue.open.items() if name not in open_alarms]
        missed += [body | {"type": "cleared", "token": f"{body['id']}-cleared"} for body in gone]
        if missed:
            notices._put(missed)
        return notices

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Queue the alarm changes of a commit."""
        bodies = [_body(change, change.type) for change in step.alarms if change.type in TOLD]
        return partial(self._put, bodies) if bodies else None

    def _put(self, bodies: Iterable[dict[str, Any]]) -> Sequence[Publication]:
        with self._lock:
            known = {notice.body["token"] for notice in self._queue.waiting}
            for body in bodies:
                if body["token"] not in known:  # the loop repeats work that the disk has refused
                    self._queue.waiting.append(Notice(body))
                if body["type"] == "raised":
                    self._queue.open[body["id"]] = body
                else:
                    self._queue.open.pop(body["id"], None)
            if (excess := len(self._queue.waiting) - MOST_WAITING) > 0:
                log.error("notices_full given_up=%d", excess)
                del self._queue.waiting[:excess]
            self._save()
        self._wake.set()
        return ()

    def _save(self) -> None:
        write_whole(self.path, msgspec.json.encode(self._queue))

    # -- the thread --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Start to send."""
        self._thread = threading.Thread(target=self._work, name="notices", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What is not sent is sent after the next start."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(END_S)

    def _work(self) -> None:
        while not self._ending:
            self.send_waiting(time.monotonic())
            now_s = time.monotonic()
            left_s = [pause.until_s - now_s for pause in self._pauses.values()]
            self._wake.wait(max(0.1, min(left_s)) if left_s else None)
            self._wake.clear()

    def send_waiting(self, now_s: float) -> None:
        """Send what waits, oldest first; a receiver that fails is left alone for a while."""
        with self._lock:
            waiting = list(self._queue.waiting)
        for notice in waiting:
            for name, send in self.receivers.items():
                pause = self._pauses.get(name)
                if self._ending or name in notice.done or (pause is not None and now_s < pause.until_s):
                    continue
                try:
                    send(notice.body)
                except (OSError, ValueError) as error:  # smtplib's and urllib's errors are OSErrors
                    pause = self._pauses.setdefault(name, _Pause())
                    pause.until_s, pause.pause_s = now_s + pause.pause_s, min(2 * pause.pause_s, RETRY_S[1])
                    log.warning("notice_failed receiver=%s err=%s", name, str(error)[:200])
                    continue
                self._pauses.pop(name, None)
                log.info("notice_sent receiver=%s alarm=%s type=%s", name, notice.body["id"], notice.body["type"])
                self._note(notice, name)

    def _note(self, notice: Notice, name: str) -> None:
        with self._lock:
            notice.done.append(name)
            if set(self.receivers) <= set(notice.done) and notice in self._queue.waiting:
                self._queue.waiting.remove(notice)
            try:
                self._save()
            except ArchiveError as error:  # after a crash it is sent again, with the same token
                log.warning("notice_failed receiver=%s err=%s", name, error.message)


def _body(change: AlarmChange, kind: str) -> dict[str, Any]:
    return {
        "token": f"{change.id}-{kind}",
        "type": kind,
        "id": change.id,
        "machine": change.key.machine,
        "point": change.key.point,
        "mode": change.mode,
        "p": round(change.p, 4) if change.p == change.p else None,
        "at": iso(change.at_ns),
        "since": iso(change.since_ns),
    }


# -- receivers -------------------------------------------------------------------------------------------------------


def receivers(notify: NotifyConfig) -> dict[str, Send]:
    """The receivers that are configured."""
    found: dict[str, Send] = {}
    if notify.webhook_url:
        found["webhook"] = partial(post, notify.webhook_url, notify.webhook_token_file)
    if notify.mail_to:
        found["mail"] = partial(mail, notify)
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another host; it counts as a failure."""

    def redirect_request(self, *_: Any) -> None:
        """None: not followed."""


def post(url: str, token_file: str, body: dict[str, Any]) -> None:
    """Send a notice to a webhook.

    Raises:
        OSError: no answer in time, or one that is not 2xx.
    """
    headers = {"Content-Type": "application/json", "Idempotency-Key": body["token"], "User-Agent": "thrumcast"}
    if token_file:
        headers["Authorization"] = f"Bearer {_secret(token_file)}"
    request = urllib.request.Request(url, msgspec.json.encode(body), headers, method="POST")
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
        answer.read(1)


def mail(notify: NotifyConfig, body: dict[str, Any]) -> None:
    """Send a notice by e-mail.

    Raises:
        OSError: the server does not take it.
    """
    message = EmailMessage()
    message["Subject"] = f"{body['type']}: {body['mode']} at {body['machine']}/{body['point']}"
    message["From"] = notify.mail_from
    message["To"] = ", ".join(notify.mail_to)
    message["Message-ID"] = f"<{body['token']}@thrumcast>"
    message.set_content("".join(f"{key}: {value}\n" for key, value in body.items()))
    with smtplib.SMTP(notify.smtp_host, notify.smtp_port, timeout=TIMEOUT_S) as server:
        if notify.smtp_starttls:
            server.starttls(context=ssl.create_default_context())
        if notify.smtp_username:
            server.login(notify.smtp_username, _secret(notify.smtp_password_file))
        server.send_message(message)


def _secret(path: str) -> str:
    return Path(path).expanduser().read_text(encoding="utf-8").strip()
