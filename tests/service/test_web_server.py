"""The HTTP server of the health endpoints, closed to strangers and held up by nobody; and `status`, which asks it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.watched import Linked, watched_service
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.bind import split_bind
from pipeline.errors import NotReachable
from pipeline.service import protocol
from pipeline.service.client import ask
from pipeline.service.http import Answer, WebServer, host_is_known


@pytest.fixture
def server() -> Iterator[WebServer]:
    routes: dict[str, Callable[[], Answer]] = {
        "/livez": lambda: Answer(b'{"checks":{}}'),
        "/metrics": lambda: Answer(b""),
    }
    with WebServer("127.0.0.1:0", routes, ["plant.example"]) as made:
        yield made


def get(port: int, path: str, host: str = "localhost", method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_it_answers_under_addresses_and_known_names_only(server: WebServer) -> None:
    for name in (
        "localhost",
        f"localhost:{server.port}",
        "127.0.0.1",
        "[::1]:80",
        "Plant.Example",
        socket.gethostname(),
    ):
        assert get(server.port, "/livez?x=1", name)[0] == 200, name
    for name in ("evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example", "["):
        assert get(server.port, "/livez", name)[0] == 421, name


def test_a_request_with_two_hosts_is_refused(server: WebServer) -> None:
    for hosts in (["localhost", "evil.example"], ["evil.example", "localhost"], ["localhost", "localhost"]):
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5.0) as sock:
            sock.sendall(f"GET /livez HTTP/1.1\r\n{lines}\r\n".encode())
            assert sock.recv(4096).split()[1] in (b"400", b"421"), hosts


def test_other_paths_and_methods_are_refused(server: WebServer) -> None:
    assert get(server.port, "/../etc/passwd")[0] == 404
    assert get(server.port, "/livez", method="POST")[0] == 405
    assert get(server.port, "/livez", method="HEAD") == (200, b"")


def test_a_route_with_a_bug_is_an_answer_and_an_event(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Answer:
        raise ZeroDivisionError

    with WebServer("127.0.0.1:0", {"/x": broken, "/livez": lambda: Answer(b"")}) as made:
        assert get(made.port, "/x")[0] == 500
        assert get(made.port, "/livez")[0] == 200
    assert any(record.getMessage().startswith("route_failed path=/x") for record in caplog.records)


@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nX-Slow: "])
def test_clients_that_say_nothing_or_trickle_do_not_keep_others_out(server: WebServer, said: bytes) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(protocol.MAX_CLIENTS + 20)]
    try:
        for number, sock in enumerate(idle):
            with contextlib.suppress(OSError):  # there is no room for all: the first ones are closed
                sock.sendall(said)
            if number % 20 == 0:
                assert get(server.port, "/livez")[0] == 200
        assert get(server.port, "/livez")[0] == 200
    finally:
        for sock in idle:
            sock.close()


def test_a_head_that_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "CLIENT_TIMEOUT_S", 0.3)
    with (
        WebServer("127.0.0.1:0", {"/livez": lambda: Answer(b"{}")}) as made,
        socket.create_connection(("127.0.0.1", made.port), timeout=5.0) as slow,
    ):
        slow.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        began_s = time.monotonic()
        with contextlib.suppress(OSError):
            for _ in range(100):  # a second request on the same connection, a byte at a time
                slow.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() - began_s < 3.0


def test_a_stop_with_a_stream_that_nobody_ends_takes_about_a_second() -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.01)

    with WebServer("127.0.0.1:0", {}, app=endless) as made:
        sock = socket.create_connection(("127.0.0.1", made.port), timeout=5.0)
        sock.sendall(b"GET /s HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(4096)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 2.5
    sock.close()


def test_a_client_that_breaks_the_protocol_during_its_answer_is_no_bug_of_the_application() -> None:
    failed: list[BaseException] = []
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x"})
        except BaseException as error:
            failed.append(error)
        ended.set()

    with (
        WebServer("127.0.0.1:0", {}, app=app) as made,
        socket.create_connection(("127.0.0.1", made.port), timeout=5.0) as sock,
    ):
        head = b"POST /s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        sock.sendall(head + b"no length of a chunk\r\n")  # refused before the application has said a word
        assert sock.recv(4096).startswith(b"HTTP/1.1 400")
        assert ended.wait(10)
    assert failed == []


@given(st.text(max_size=40) | st.from_regex(r"[a-z]*(localhost|127\.0\.0\.1|\[::1\])[.a-z]{0,9}(:[0-9]{0,5})?"))
def test_only_addresses_and_localhost_are_known_whatever_the_host_header_says(header: str) -> None:
    name, _, port = header.rpartition(":") if header[-1:] != "]" and header.count(":") else (header, "", "")
    try:
        own = bool(ipaddress.ip_address(name[1:-1] if name.startswith("[") else name.rstrip(".")))
    except ValueError:
        own = name.lower().rstrip(".") == "localhost"
    assert host_is_known(header, ()) == (own and (port == "" or (port.isdecimal() and port.isascii())))


@pytest.mark.parametrize(("bind", "host", "port"), [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:8080", "::1", 8080)])
def test_an_address_to_listen_on_is_host_and_port(bind: str, host: str, port: int) -> None:
    assert split_bind(bind) == (host, port)


def test_status_tells_a_service_from_another_server_and_from_nobody(server: WebServer, tmp_path: Path) -> None:
    with pytest.raises(NotReachable, match="found"):
        ask(f"127.0.0.1:{server.port}", 5.0)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]
    with pytest.raises(NotReachable) as caught:
        ask(f"127.0.0.1:{free}", 5.0)
    assert caught.value.exit_code == 4
    _, _, endpoints = watched_service(tmp_path, Linked())
    with WebServer("127.0.0.1:0", endpoints.routes()) as real:
        found = ask(real.address, 5.0)
    assert json.dumps(found.document())
    assert found.messages["received"] == 0
    assert found.checks["model:loaded"] == ("pass", "tiny")
