"""Promises about the network between: cut, silent, slow, and a relay that loses PUBACKs and repeats packets."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from harness.promises import check
from harness.proxy import Proxy
from harness.wire import packets

from pipeline.chaos.ground import Ground, Outcome
from pipeline.chaos.plant import Plant

pytestmark = pytest.mark.network
World = Callable[..., AbstractContextManager[Ground]]
KEEPALIVE_S = 3


def through_bad_weather(world: World, plant: Plant, weather: Callable[[Proxy, int], None], title: str) -> Outcome:
    """The service behind the relay; `weather(relay, number)` is asked before every message."""
    settings = {"THRUMCAST_MQTT__KEEPALIVE_S": str(KEEPALIVE_S)}
    with world(settings=settings) as made, Proxy(made.broker.port) as proxy:
        made.service.port = proxy.port
        made.service.start_and_listen()
        made.send(plant, before=lambda number: weather(proxy, number))
        proxy.weather = type(proxy.weather)()
        expected = made.expected(plant.blocks())
        made.wait_for_windows(len(expected.features))
        status, _ = made.service.stop()
        result = made.audit(expected)
        again = result.counters.get("messages_duplicate", 0)
        figures = (
            f"{proxy.connections} connections, {proxy.lost_pubacks} PUBACKs lost, {proxy.repeated} packets repeated: "
            f"{result.text()}; {again} duplicates counted"
        )
        committed = result.counters["messages_committed"]
        return made.outcome(4, title, result.clean and status == 0 and committed == plant.messages, figures)


def test_a_network_that_is_cut_and_loses_acknowledgements_changes_nothing(world: World) -> None:
    def weather(proxy: Proxy, number: int) -> None:
        proxy.weather.lose_pubacks = number % 400 > 200  # then the cut: the broker delivers these again
        if number and number % 400 == 0:
            proxy.cut()

    check(through_bad_weather(world, Plant(messages=1600), weather, "PUBACKs lost, then cut"))


def test_packets_that_come_three_times_and_in_reverse_change_nothing(world: World) -> None:
    def weather(proxy: Proxy, number: int) -> None:
        proxy.weather.repeat, proxy.weather.swap = 3, True

    check(through_bad_weather(world, Plant(messages=800), weather, "Packets repeated and reversed"))


@pytest.mark.slow
def test_a_slow_network_changes_nothing(world: World) -> None:
    def weather(proxy: Proxy, number: int) -> None:
        proxy.weather.delay_s = 0.02

    check(through_bad_weather(world, Plant(messages=800), weather, "Packets delayed"))


def test_a_connection_that_went_silent_is_given_up_within_two_keep_alives(world: World) -> None:
    settings = {"THRUMCAST_MQTT__KEEPALIVE_S": str(KEEPALIVE_S)}
    with world(settings=settings) as made, Proxy(made.broker.port) as proxy:
        made.service.port = proxy.port
        made.service.start_and_listen()
        plant = Plant(messages=800)
        half = Plant(messages=400)
        made.send(half)
        proxy.weather.silent = True
        began_s = time.monotonic()
        made.service.wait_for(lambda: "disconnected" in made.service.log(), "the loss of the silent connection")
        noticed_s = time.monotonic() - began_s
        proxy.weather.silent = False
        made.send(half.after(400))
        expected = made.expected(plant.blocks())
        made.wait_for_windows(len(expected.features))
        made.service.stop()
        result = made.audit(expected)
        figures = f"given up after {noticed_s:.1f} s at a keep-alive of {KEEPALIVE_S} s: {result.text()}"
        check(made.outcome(3, "A silent connection", result.clean and noticed_s < 3 * KEEPALIVE_S, figures))


@pytest.mark.parametrize("cut", range(12))
def test_frames_are_told_apart_wherever_the_stream_is_cut(cut: int) -> None:
    stream = b"\x30\x03abc" + b"\x40\x02\x00\x07" + b"\xd0\x00"
    whole, rest = packets(stream[:cut])
    again, end = packets(rest + stream[cut:])
    assert whole + again == [b"\x30\x03abc", b"\x40\x02\x00\x07", b"\xd0\x00"]
    assert end == b""
