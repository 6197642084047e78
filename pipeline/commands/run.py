"""`thrumcast run`: the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import (
    Console,
    broker_flags,
    broker_option,
    data_option,
    use_one_thread,
    use_system_allocator,
    with_console,
    without_pandas,
)
from pipeline.commands.logs import log_format_option

if TYPE_CHECKING:
    from threading import Event

    from pipeline.config.tables import Config

STOP_WITHIN_S = 9.0  # a stop that takes longer is cut short


@click.command(name="run")
@data_option
@broker_option
@click.option("--seconds", type=float, help="Stop after this time, in s [default: run until stopped].")
@click.option("--workers", type=int, help="Engine processes [default: 1, the service itself].")
@click.option("--wait", is_flag=True, help="Wait for a broker that is not there yet, instead of failing.")
@log_format_option
@with_console
def command(
    console: Console,
    data_dir: Path | None,
    broker: str | None,
    seconds: float | None,
    workers: int | None,
    wait: bool,
    log_format: str,
) -> None:
    """Listen to the plant: readings come in over MQTT, predictions go out, everything goes into the archive.

    Stops cleanly on SIGTERM and Ctrl-C: what has arrived is committed and rolled into the archive. On a slow disk it
    stays in the journal, and a stop that the disk holds up is cut short after nine seconds; nothing is lost.

    With --workers, so many processes compute features and predictions; connection, journal and archive stay in one. The
    number may change at every start.
    """
    use_system_allocator()
    use_one_thread()
    without_pandas()
    import gc
    import signal
    import threading
    import time

    from pipeline.commands.logs import set_level, start_logging
    from pipeline.service.compose import folder, observed, service

    flags = {"data.dir": data_dir, "run.workers": workers, **broker_flags(broker)}

    def read() -> Config:
        return console.resolve(flags).config

    resolved = console.resolve(flags)
    config = resolved.config
    start_logging(console, log_format, config.log.level)
    stopping, stopped = threading.Event(), threading.Event()

    def stop_soon(*_: object) -> None:
        if not stopping.is_set():  # a second signal may come in the middle of `set`
            stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_soon)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    until_s = None if seconds is None else time.monotonic() + seconds
    threading.Thread(target=_cut_short, args=(stopping, stopped), name="stop", daemon=True).start()
    reread = (read, lambda level: set_level(console, level))
    with (
        service(config, wait=wait, reread=reread) as (live, connection, model),
        observed(config, live, connection, resolved.settings) as endpoints,
    ):
        if endpoints.address is not None:
            console.say(f"page: http://{endpoints.address}/")
        console.say(
            f"listening to {config.mqtt.host}:{config.mqtt.port} {config.mqtt.readings_topic}, "
            f"data in {folder(config.data.path)}, "
            + (f"model {model.version}" if model else "no model yet: features only (`thrumcast train` makes one)")
        )
        if (watch := live.models.watch) is not None:
            signal.signal(signal.SIGHUP, lambda *_: watch.look_again())
        gc.freeze()  # what has been loaded so far stays, so the collector need not visit it again
        live.run(lambda: stopping.is_set() or (until_s is not None and time.monotonic() >= until_s))
        model_now = live.engine.predictor
        counts = {name: live.counts[name] for name in ("received", "committed", "duplicate", "late", "quarantined")}
    stopped.set()
    console.result(
        {"messages": counts, "model": model_now.version if model_now else None, "data": str(config.data.path)},
        " ".join(f"{name}={n}" for name, n in counts.items()),
    )


def _cut_short(stopping: Event, stopped: Event) -> None:
    """End the process if a stop takes too long; on a thread of its own. A kill at any moment loses nothing."""
    import logging
    import os

    stopping.wait()
    if not stopped.wait(STOP_WITHIN_S):
        logging.getLogger("thrumcast.service").warning("stop_cut_short after_s=%g", STOP_WITHIN_S)
        os._exit(0)
