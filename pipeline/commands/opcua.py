"""`thrumcast opcua`: an OPC UA server with the states and alarms of all machines."""

from __future__ import annotations

import click

from pipeline.commands.common import Console, broker_flags, broker_option, with_console


@click.command(name="opcua")
@broker_option
@with_console
def command(console: Console, broker: str | None) -> None:
    """Serve states and alarms to OPC UA clients, from the results on the broker. Runs until Ctrl-C or SIGTERM.

    Address, certificate and password: [opcua] in config.toml. Needs the extra `opcua`.
    """
    import asyncio
    import signal
    import time
    from dataclasses import replace

    from pipeline.edges.mqtt import MqttConnection
    from pipeline.errors import ConfigError
    from pipeline.service.compose import mqtt_settings

    try:
        from pipeline.service.opcua import serve
    except ModuleNotFoundError as error:
        msg = f"expected the package asyncua, found: no module {error.name}"
        raise ConfigError(msg, hint="pip install 'thrumcast[opcua]'") from error

    config = console.config(**broker_flags(broker))
    base, stopping = config.mqtt.results_topic, False

    def stop_soon(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_soon)
    settings = mqtt_settings(config, f"{config.mqtt.client_id}-opcua-{time.time_ns() % 10**9}")
    alone = replace(settings, clean_start=True, session_expiry_s=0)  # retained messages tell everything at a start
    topics = [f"{base}/status", f"{base}/machines/+/+/state", f"{base}/machines/+/+/alarm"]
    with MqttConnection(alone, subscriptions=topics).connect() as connection:
        address = f"opc.tcp://{config.opcua.bind}/thrumcast"
        asyncio.run(serve(config.opcua, base, connection, lambda: stopping, lambda: console.say(f"serving {address}")))
