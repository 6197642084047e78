"""Nothing that anybody may publish or ask over HTTP ends, stops or blocks the service."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from harness.grammar import CLIENT, PAYLOADS, wild_messages, wild_requests
from harness.promises import check

from pipeline.chaos.ground import Ground
from pipeline.chaos.plant import Plant

pytestmark = pytest.mark.network
World = Callable[..., AbstractContextManager[Ground]]
ANSWER_WITHIN_S = 10.0  # /livez, in the middle of it all


def test_a_storm_of_everything_that_can_be_sent_leaves_the_service_as_it_was(world: World, tmp_path: Path) -> None:
    storm(world, tmp_path, messages=1500, requests=300, seed=1)


@pytest.mark.slow
def test_a_long_storm_with_a_seed_of_its_own(world: World, tmp_path: Path) -> None:
    seed = int(os.environ.get("THRUMCAST_SEED", time.time()))
    messages = int(os.environ.get("THRUMCAST_STORM", 60_000))
    storm(world, tmp_path, messages=messages, requests=messages // 20, seed=seed)


def storm(world: World, tmp_path: Path, *, messages: int, requests: int, seed: int) -> None:
    (tmp_path / "config.toml").write_text(PAYLOADS)
    settings = {
        "THRUMCAST_MQTT__COMMANDS": "true",
        "THRUMCAST_MQTT__CLIENT_ID": CLIENT,
        "THRUMCAST_HOMEASSISTANT__ENABLED": "true",
    }
    with world(settings=settings) as made:
        service = made.service
        service.directory = tmp_path
        service.start_and_listen()
        first = Plant(messages=160)
        made.send(first)
        asked: list[float] = []
        worker = threading.Thread(target=lambda: asked.extend(ask_wildly(service.web, requests, seed)))
        worker.start()
        wild = made.another_publisher()
        for topic, payload, retained in wild_messages(messages, seed):
            assert service.running, service.log()[-2000:]
            wild.publish(topic, payload, retain=retained)
            wild.rest(0.001)
        wild.drain()
        worker.join(300)
        assert not worker.is_alive()
        made.wait_until_heard()
        rest = first.after(160)
        made.send(rest)
        expected = made.expected(first.blocks(), rest.blocks())
        made.wait_until_heard()
        status, stop_s = service.stop()
        service.start_and_listen()  # claims are retained: they come at the next start again
        again, _ = service.stop()
        result = made.audit(expected)
        bugs = bug_lines(service.log())
        result.unexpected = 0  # windows of wild messages that are valid: streams of their own
        kept = (
            result.clean and (status, again, service.starts) == (0, 0, 2) and not bugs and max(asked) < ANSWER_WITHIN_S
        )
        figures = (
            f"{messages} messages on every topic that is read and {requests} requests over HTTP, seed {seed}: ended by "
            f"none, {len(bugs)} errors of its own {bugs[:2]}, /livez after {max(asked):.1f} s at most, "
            f"stopped in {stop_s:.1f} s; {result.text()}"
        )
        check(made.outcome(5, "A storm of everything", kept, figures))


def bug_lines(log: str) -> list[str]:
    """What only a bug writes."""
    return [line for line in log.splitlines() if re.search(r"Traceback|route_failed|uncaught|companion_failed", line)]


def ask_wildly(address: str, count: int, seed: int) -> list[float]:
    """Sends requests, one connection each; returns how long /livez took in between."""
    host, _, port = address.partition(":")
    took_s = [0.0]
    for number, data in enumerate(wild_requests(count, seed)):
        if number % 20 == 0:
            began_s = time.monotonic()
            assert exchange(host, int(port), b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 30.0)
            took_s.append(time.monotonic() - began_s)
        exchange(host, int(port), data, 0.3)
    return took_s


def exchange(host: str, port: int, data: bytes, patience_s: float) -> bytes:
    """The first bytes of the answer; none if the server has nothing to say to that."""
    with suppress(OSError), socket.create_connection((host, port), timeout=patience_s) as sock:
        sock.sendall(data)
        return sock.recv(4096)
    return b""
