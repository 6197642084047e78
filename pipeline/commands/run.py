"""`thrumcast run`: the service."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.addresses import broker_flags, broker_option
from pipeline.commands.common import Console, with_console
from pipeline.commands.logs import log_format_option


@click.command(name="run")
@click.option("--data", "data_dir", type=click.Path(path_type=Path), default=None, help="Data directory.")
@broker_option
@click.option("--seconds", type=float, default=None, help="Stop after so long [default: run until stopped].")
@click.option("--wait", is_flag=True, help="Wait for a broker that is not there yet, instead of failing.")
@log_format_option
@with_console
def command(
    console: Console, data_dir: Path | None, broker: str | None, seconds: float | None, wait: bool, log_format: str
) -> None:
    """Listen to the plant: readings in over MQTT, predictions out, everything into the archive.

    Stops cleanly on SIGTERM and Ctrl-C: what has arrived is committed and rolled into the archive.
    """
    import signal
    import time

    from pipeline.commands.compose import folder
    from pipeline.commands.logs import start_logging
    from pipeline.commands.observe import observed
    from pipeline.commands.service import service

    config = console.config(**{"data.dir": data_dir}, **broker_flags(broker))
    start_logging(console, log_format)
    stopping = False

    def stop_soon(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_soon)
    until_s = None if seconds is None else time.monotonic() + seconds
    with service(config, wait=wait) as (live, connection, model), observed(config, live, connection, model):
        console.say(
            f"listening to {config.mqtt.host}:{config.mqtt.port} {config.mqtt.readings_topic}, "
            f"data in {folder(config.data.path)}, "
            + (f"model {model.version}" if model else "no model yet: features only (`thrumcast train` makes one)")
        )
        if (watch := live.models) is not None:
            signal.signal(signal.SIGHUP, lambda *_: watch.look_again())
        live.run(lambda: stopping or (until_s is not None and time.monotonic() >= until_s))
        served = live.engine.predictor
        counts = {name: live.counts[name] for name in ("received", "committed", "duplicate", "late", "quarantined")}
    console.result(
        {"messages": counts, "model": served.version if served else None, "data": str(config.data.path)},
        " ".join(f"{name}={n}" for name, n in counts.items()),
    )
