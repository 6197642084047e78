"""What the page refuses: other origins, other types, large and slow bodies, missing tokens, paths out of its folder."""

from __future__ import annotations

import http.client
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from harness.live import BLOCKS
from harness.paged import ORIGIN, paged
from starlette.testclient import TestClient

from pipeline.config.bind import is_loopback
from pipeline.config.tables import WebConfig
from pipeline.errors import ConfigError
from pipeline.page import guard
from pipeline.page.guard import read_tokens
from pipeline.page.openapi import document
from pipeline.service.http import Answer, WebServer

pytestmark = pytest.mark.usefixtures("compiled")

JSON = {"Content-Type": "application/json"}
PATH = "/api/v1/labels/preview"
TOKEN = "0123456789abcdef-token"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (JSON, 403),  # no origin
        (JSON | {"Origin": "http://evil.example"}, 403),
        (JSON | {"Origin": "null"}, 403),
        (JSON | {"Origin": "http://localhost.evil.example"}, 403),
        (ORIGIN | {"Content-Type": "text/plain"}, 415),
        (ORIGIN | {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (ORIGIN | JSON, 422),  # taken, and found to be no label
    ],
)
def test_a_post_needs_the_origin_of_the_page_and_json(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    with paged(tmp_path) as served:
        answer = served.client.post(PATH, content=b"{}", headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_every_answer_forbids_frames_and_foreign_content(tmp_path: Path) -> None:
    with paged(tmp_path) as served:
        for path in ("/", "/static/app.js", "/api/v1/fleet", "/nothing"):
            answer = served.client.get(path)
            assert answer.headers["content-security-policy"].startswith("default-src 'self'; frame-ancestors 'none'")
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_large_body_is_refused_also_without_a_length(tmp_path: Path) -> None:
    with paged(tmp_path) as served:
        large = b"x" * (guard.MOST_BODY_BYTES + 1)
        assert served.client.post(PATH, content=large, headers=ORIGIN | JSON).status_code == 413
        assert served.client.post(PATH, content=iter([large]), headers=ORIGIN | JSON).status_code == 413


def test_paths_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    with paged(tmp_path) as served:
        for path in (
            "/static/../api.py",
            "/static/%2e%2e/api.py",
            "/static/..%2f..%2f..%2fpyproject.toml",
            "/static//etc/passwd",
        ):
            assert served.client.get(path).status_code == 404, path


def test_on_other_addresses_a_token_is_needed_and_without_a_file_there_is_no_page(tmp_path: Path) -> None:
    with paged(tmp_path / "a", WebConfig(bind="0.0.0.0:8080")) as served:
        assert served.client.get("/").status_code == 403
        assert served.client.get("/api/v1/fleet").status_code == 403
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with paged(tmp_path / "b", WebConfig(bind="0.0.0.0:8080", token_file=str(file))) as served:
        assert served.client.get("/").status_code == 200  # the page itself, which asks for the token
        assert served.client.get("/api/v1/fleet").status_code == 401
        assert served.client.get("/api/stream").status_code == 401
        assert served.client.get("/api/v1/fleet", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert served.client.get("/api/v1/fleet", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert served.post("session", {"token": "wrong"}).status_code == 401
        signed = served.post("session", {"token": TOKEN})
        assert "HttpOnly" in signed.headers["set-cookie"]
        assert "SameSite=strict" in signed.headers["set-cookie"]
        assert served.client.get("/api/v1/fleet").status_code == 200  # by the cookie


LINES = f"# who may label\njo {TOKEN}\n\nkim-b {TOKEN}2\n"


@pytest.mark.parametrize(
    ("lines", "says"),
    [("", "found none"), ("secret", "line 1"), (f"jo b {TOKEN}", "line 1"), (f"{TOKEN}\nkim {TOKEN}", "line 2")],
)
def test_a_file_that_holds_no_tokens_stops_the_start(tmp_path: Path, lines: str, says: str) -> None:
    with pytest.raises(ConfigError, match="readable file"):
        read_tokens(WebConfig(token_file=str(tmp_path / "none")))
    (tmp_path / "tokens").write_text(lines)
    with pytest.raises(ConfigError, match=says):
        read_tokens(WebConfig(read_token_file=str(tmp_path / "tokens")))
    assert read_tokens(WebConfig()) == {}


def test_a_token_that_may_only_look_changes_nothing_whatever_it_posts(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(LINES)
    (tmp_path / "look").write_text("wall-screen " + "r" * 32)
    web = WebConfig(token_file=str(tmp_path / "tokens"), read_token_file=str(tmp_path / "look"))
    with paged(tmp_path / "data", web) as served:
        served.feed(BLOCKS[:4])
        look = {"Authorization": "Bearer " + "r" * 32}
        me = served.client.get("/api/v1/me", headers=look).json()
        assert (me["name"], me["may_change"]) == ("wall-screen", False)
        posts = [path for path, entry in document()["paths"].items() if "post" in entry]
        refused = {
            path for path in posts if served.client.post(path, json={}, headers=ORIGIN | look).status_code == 403
        }
        assert set(posts) - refused == {guard.SESSION, PATH}
        assert len(refused) > 6
        assert not (tmp_path / "data" / "audit.jsonl").exists()


def test_a_change_is_audited_under_the_name_of_the_token_whatever_the_client_says(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(LINES)
    span = {"machine": "pump-01", "start": "2023-11-14T22:13:20Z", "end": "2023-11-14T22:13:21Z"}
    label = span | {"mode": "unbalance", "author": "the boss", "client_token": "t"}
    row = "machine,start,end,mode,author\npump-01,2023-11-14,2023-11-15,other,ann\n"
    with paged(tmp_path / "data", WebConfig(token_file=str(tmp_path / "tokens"))) as served:
        served.feed(BLOCKS[:4])
        kim = ORIGIN | {"Authorization": f"Bearer {TOKEN}2"}

        def post(path: str, body: dict[str, Any]) -> Any:
            answer = served.client.post(f"/api/v1/{path}", json=body, headers=kim)
            assert answer.status_code == 200, answer.text
            return answer.json()

        stored = post("labels", label)["label"]
        post(f"labels/{stored['id']}/retract", {"by": "the boss"})
        post("labels/import", {"format": "csv", "content": row})
        assert stored["author"] == "kim-b"
        labels = served.client.get("/api/v1/labels", headers=kim).json()["labels"]
        assert [one["author"] for one in labels] == ["kim-b for ann", "kim-b"]
        changes = served.client.get("/api/v1/audit", headers=kim).json()["changes"]
    assert [change["by"] for change in changes] == ["kim-b"] * 3
    assert [change["path"].rpartition("/")[2] for change in changes] == ["import", "retract", "labels"]
    assert changes[2]["given"]["machine"] == "pump-01"
    assert changes[2]["made"]["id"] == stored["id"]
    assert changes[0]["at"] > changes[2]["at"]


def test_no_change_is_made_that_cannot_be_noted(tmp_path: Path) -> None:
    with paged(tmp_path) as served:
        (tmp_path / "audit.jsonl").mkdir()
        answer = served.post("training", {})
        assert answer.status_code == 503
        assert "audit.jsonl" in answer.json()["title"]
        assert served.get("training")["state"] == "none"


@pytest.mark.parametrize(
    ("bind", "inside"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False), ("[::]:1", False)],
)
def test_loopback_is_told_from_other_addresses(bind: str, inside: bool) -> None:
    assert is_loopback(bind) is inside


# -- over a real socket ----------------------------------------------------------------------------------------------


def answer(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Host": "localhost", **headers})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_another_host_a_slow_body_and_a_client_that_stops_reading_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.3)
    health = {"/livez": lambda: Answer(b"{}")}
    with paged(tmp_path) as served:
        server = WebServer("127.0.0.1:0", health, (), served.page.app, served.page.stop)
        with server:
            assert answer(server.port, "/", Host="evil.example")[0] == 421
            assert answer(server.port, "/")[1].startswith(b"<!doctype html>")
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
                head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
                slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{".encode())
                assert slow.recv(4096).startswith(b"HTTP/1.1 408")
            stuck = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert stuck.recv(64).startswith(b"HTTP/1.1 200")
            until_s = time.monotonic() + 20.0
            while not served.page.events.dropped and time.monotonic() < until_s:
                served.page.events.publish(b"data: " + b"x" * 200_000 + b"\n\n")
                time.sleep(0.001)
            assert served.page.events.dropped > 0
            served.feed(BLOCKS[:4])
            assert served.live.counts["committed"] == 4
            assert answer(server.port, "/livez") == (200, b"{}")
            assert answer(server.port, "/api/v1/fleet")[0] == 200
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 2.5
        stuck.close()


def test_a_bug_in_a_view_is_a_problem_and_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("pipeline.page.views.fleet", broken)
    with (
        paged(tmp_path) as served,
        TestClient(served.page.app, base_url="http://localhost", raise_server_exceptions=False) as client,
    ):
        found = client.get("/api/v1/fleet")
    assert found.status_code == 500
    assert found.json()["hint"] == "see the log"
    assert any(record.getMessage().startswith("route_failed") for record in caplog.records)
