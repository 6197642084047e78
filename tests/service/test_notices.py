"""Notices: at least once, over failures, crashes and restarts; with a token, and secrets from files."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from harness.config import resolved
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.tables import NotifyConfig
from pipeline.core.engine import Step
from pipeline.core.records import AlarmChange, StreamKey
from pipeline.edges.ports import Batch
from pipeline.errors import ArchiveError, ConfigError
from pipeline.service.notices import NOTICES_NAME, Notices, mail, post

KEY = StreamKey("pump-01", "de")


def change(name: str, kind: str = "raised") -> AlarmChange:
    return AlarmChange(KEY, kind, name, "unbalance", 0.9, 1_764_518_400_000_000_000, 1_764_518_300_000_000_000)


def queue(notices: Notices, *changes: AlarmChange) -> None:
    work = notices.committed(Batch([]), Step(alarms=list(changes)))
    if work is not None:
        work()


class Receiver:
    """Fails where it is told to."""

    def __init__(self, failures: list[bool] = []) -> None:  # noqa: B006 it is not changed
        self.failures = list(failures)
        self.tokens: list[str] = []

    def __call__(self, body: dict[str, Any]) -> None:
        if self.failures and self.failures.pop(0):
            msg = "away"
            raise OSError(msg)
        self.tokens.append(body["token"])


@given(st.lists(st.booleans(), max_size=12), st.lists(st.sampled_from(["queue", "send", "crash"]), max_size=15))
def test_every_notice_arrives_in_the_end_whatever_fails_between(
    tmp_path_factory: pytest.TempPathFactory, failures: list[bool], acts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("notices") / NOTICES_NAME
    receivers = {"webhook": Receiver(failures), "mail": Receiver()}
    notices = Notices.restored(path, receivers, {})
    raised: dict[str, AlarmChange] = {}
    now_s = 0.0
    for at, act in enumerate(acts):
        now_s += 1000.0
        if act == "queue":
            raised[f"a{at}"] = change(f"a{at}")
            queue(notices, raised[f"a{at}"])
        elif act == "send":
            notices.send_waiting(now_s)
        else:
            notices = Notices.restored(path, receivers, raised)
    for _ in range(20):
        now_s += 1000.0
        notices.send_waiting(now_s)
    for receiver in receivers.values():
        assert set(receiver.tokens) == {f"{name}-raised" for name in raised}
        assert len(receiver.tokens) == len(raised)
    assert msgspec.json.decode(path.read_bytes())["waiting"] == [] if raised else not path.exists()


def test_a_crash_between_commit_and_queue_is_made_good_at_the_next_start(tmp_path: Path) -> None:
    receiver = Receiver()
    notices = Notices.restored(tmp_path / NOTICES_NAME, {"webhook": receiver}, {"a": change("a")})
    notices.send_waiting(0.0)
    again = Notices.restored(tmp_path / NOTICES_NAME, {"webhook": receiver}, {})  # it was cleared, and nobody was told
    again.send_waiting(0.0)
    assert receiver.tokens == ["a-raised", "a-cleared"]


def test_acknowledged_and_updated_alarms_are_no_notices(tmp_path: Path) -> None:
    notices = Notices.restored(tmp_path / NOTICES_NAME, {"webhook": Receiver()}, {})
    assert notices.committed(Batch([]), Step(alarms=[change("a", "acked"), change("a", "updated")])) is None


def test_a_damaged_queue_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / NOTICES_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(ArchiveError, match="queue of notices") as caught:
        Notices.restored(tmp_path / NOTICES_NAME, {}, {})
    assert "remove the file" in str(caught.value.hint)


def test_the_thread_sends_and_a_stop_does_not_hang(tmp_path: Path) -> None:
    arrived = threading.Event()
    with Notices.restored(tmp_path / NOTICES_NAME, {"webhook": lambda body: arrived.set()}, {}) as notices:
        queue(notices, change("a"))
        assert arrived.wait(10)


# -- the webhook -----------------------------------------------------------------------------------------------------


class Hook(BaseHTTPRequestHandler):
    code = 204
    seen: ClassVar[list[tuple[dict[str, str], Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((dict(self.headers), msgspec.json.decode(body)))
        self.send_response(self.code)
        if self.code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hook)
    Hook.code = 204
    Hook.seen.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_gets_json_with_the_token_from_its_file(hook: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n", encoding="utf-8")
    post(hook, str(tmp_path / "token"), {"token": "a-raised", "id": "a"})
    ((headers, body),) = Hook.seen
    assert (headers["Authorization"], headers["Idempotency-Key"], body["id"]) == ("Bearer s3cret", "a-raised", "a")


@pytest.mark.parametrize("code", [302, 401, 500])
def test_an_answer_other_than_2xx_is_a_failure_and_no_redirect_is_followed(hook: str, code: int) -> None:
    Hook.code = code
    with pytest.raises(OSError, match=str(code)):
        post(hook, "", {"token": "a-raised"})
    assert len(Hook.seen) == 1


class MailServer(socketserver.StreamRequestHandler):
    """The few words of SMTP that a message without encryption needs."""

    said: ClassVar[list[str]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        self.converse(b"250 ok\r\n")

    def converse(self, hello: bytes) -> None:
        """Up to QUIT, with `hello` as the answer to EHLO."""
        in_data = False
        for raw in self.rfile:
            line = raw.decode().rstrip("\r\n")
            self.said.append(line)
            if in_data and line != ".":
                continue
            in_data = line.upper() == "DATA"
            if line.upper() == "QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            other = {"EHLO": hello, "AUTH": b"235 welcome\r\n"}.get(line.upper().split()[0], b"250 ok\r\n")
            self.wfile.write(b"354 go on\r\n" if in_data else other)


def test_a_mail_names_machine_and_mode_and_has_the_token_as_its_id() -> None:
    MailServer.said.clear()
    with socketserver.TCPServer(("127.0.0.1", 0), MailServer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        notify = NotifyConfig(mail_to=("duty@plant",), mail_from="thrumcast@plant", smtp_host="127.0.0.1",
                              smtp_port=server.server_address[1], smtp_starttls=False)  # fmt: skip
        mail(notify, {"token": "a-raised", "type": "raised", "mode": "unbalance", "machine": "pump-01", "point": "de"})
        thread.join(10)
    assert "Subject: raised: unbalance at pump-01/de" in MailServer.said
    assert "Message-ID: <a-raised@thrumcast>" in MailServer.said
    assert any(line.upper().startswith("RCPT TO:<DUTY@PLANT>") for line in MailServer.said)


class SecretMailServer(MailServer):
    """The same behind STARTTLS, with a login."""

    context: ClassVar[ssl.SSLContext]

    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        self.rfile.readline()
        self.wfile.write(b"250-test\r\n250 STARTTLS\r\n")
        self.said.append(self.rfile.readline().decode().strip())
        self.wfile.write(b"220 go on\r\n")
        with (
            contextlib.suppress(OSError),  # a client that does not trust us goes away
            self.context.wrap_socket(self.request, server_side=True) as secret,
            secret.makefile("rb") as self.rfile,
            secret.makefile("wb", buffering=0) as self.wfile,
        ):
            self.converse(b"250-test\r\n250 AUTH PLAIN\r\n")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_password_is_told_only_to_a_mail_server_whose_certificate_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
    ]
    command += ["2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "k", "-out", "c"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    SecretMailServer.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    SecretMailServer.context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    (tmp_path / "password").write_text("s3cret\n", encoding="utf-8")
    body = {"token": "a-raised", "type": "raised", "mode": "unbalance", "machine": "pump-01", "point": "de"}
    login = base64.b64encode(b"\0thrumcast\0s3cret").decode()
    for trusted in (False, True):
        MailServer.said.clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "c") if trusted else os.devnull)
        with socketserver.TCPServer(("127.0.0.1", 0), SecretMailServer) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            notify = NotifyConfig(mail_to=("duty@plant",), mail_from="thrumcast@plant", smtp_host="127.0.0.1",
                                  smtp_port=server.server_address[1], smtp_username="thrumcast",
                                  smtp_password_file=str(tmp_path / "password"))  # fmt: skip
            with contextlib.nullcontext() if trusted else pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
                mail(notify, body)
            thread.join(10)
        assert MailServer.said[0] == "STARTTLS"
        assert any(login in line for line in MailServer.said) == trusted
        assert ("Subject: raised: unbalance at pump-01/de" in MailServer.said) == trusted


@pytest.mark.usefixtures("no_configuration")
@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('webhook_url = "ftp://x"', "notify.webhook_url"),
        ('webhook_url = "https://user:pw@x/"', "notify.webhook_url"),
        ('webhook_token_file = "t"', "notify.webhook_url"),
        ('mail_to = ["a@b"]', "notify.smtp_host"),
        ('smtp_username = "a"', "notify.smtp_password_file"),
        ('smtp_username = "a"\nsmtp_password_file = "p"\nsmtp_starttls = false', "notify.smtp_starttls"),
    ],
)
def test_a_receiver_that_cannot_work_is_an_error_of_its_key(lines: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        resolved(f"[notify]\n{lines}\n")
    assert "pw" not in str(caught.value)
