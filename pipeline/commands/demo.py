"""`thrumcast demo`: a private broker, a simulated plant, a model and the service, without any setup."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import PATH, Console, use_system_allocator, with_console

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen

    from pipeline.commands.board import Board
    from pipeline.config.tables import Config

MARKER = "written by thrumcast demo.txt"  # a folder without this file is not ours, and is never emptied
PRETRAINED = "models/pretrained"
REDRAW_S = 1.0
PRINT_EVERY_S = 10.0  # if the output is not a terminal


@click.command(name="demo")
@click.option("--seconds", type=click.FloatRange(min=5), help="Duration [default: until Ctrl-C].")
@click.option("--machines", type=click.IntRange(min=1), default=8, help="Number of machines.")
@click.option("--seed", type=click.IntRange(min=0), default=7, help="The same seed gives the same plant.")
@click.option(
    "--no-browser", is_flag=True, help="Do not open the page in a browser; its address is printed either way."
)
@click.option(
    "--data",
    "data_dir",
    type=PATH,
    default=Path("demo-data"),
    help="Output folder; emptied at the start if an earlier demo wrote it.",
)
@with_console
def command(
    console: Console, seconds: float | None, machines: int, seed: int, no_browser: bool, data_dir: Path
) -> None:
    """Watch a small simulated plant fail, with all of thrumcast running on this machine.

    Half of the machines develop a fault within the first two minutes. All output is in ./demo-data.
    """
    use_system_allocator()
    import signal
    import sys
    import time

    from pipeline.commands.board import Board
    from pipeline.edges.broker import PrivateBroker
    from pipeline.service.compose import observed, service

    _fresh(data_dir)
    board = Board()
    life_s = seconds or 120.0
    stopping = False

    def stop_soon(*_: object) -> None:
        nonlocal stopping
        stopping = True

    with PrivateBroker(data_dir / "broker") as broker:
        address = {"mqtt.host": broker.host, "mqtt.port": broker.port, "web.bind": _free_bind(console)}
        resolved = console.resolve({"data.dir": data_dir, **address})
        config = resolved.config
        console.say(_install_model(config))
        _read_nameplates(machines, seed, data_dir)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop_soon)
        with (
            service(config, wait=False, companions=(board,)) as (live, connection, model),
            observed(config, live, connection, resolved.settings) as endpoints,
        ):
            drawn_s = 0.0
            plant = _plant(broker.port, machines, life_s, seed, data_dir)
            console.say(
                f"{broker.kind} on port {broker.port}, {machines} machines, model {model.version if model else '-'}; "
                f"{f'{seconds:g} s' if seconds else 'Ctrl-C ends'}"
            )
            if endpoints.address is not None:
                _show_page(console, f"http://{endpoints.address}/", open_it=not no_browser)
            ends_s = time.monotonic() + seconds if seconds else None
            try:
                while not stopping and (ends_s is None or time.monotonic() < ends_s) and plant.poll() is None:
                    live.turn(lambda: stopping)
                    every_s = REDRAW_S if sys.stderr.isatty() else PRINT_EVERY_S
                    if board.lines and time.monotonic() - drawn_s >= every_s:
                        drawn_s = time.monotonic()
                        _draw(console, board)
            finally:
                plant.terminate()
                plant.wait(timeout=10)
            live.run(lambda: True)
            counts = dict(live.counts)
    stored = _stored(config)
    document = {
        "messages": counts,
        "stored": stored,
        "windows": board.windows,
        "predictions": board.predictions,
        "predictions_that_name_the_truth": board.right,
        "predictions_with_known_truth": board.judged,
        "alarms": board.alarms,
        "model": model.version if model else None,
        "data": str(data_dir),
    }
    console.result(document, "\n".join(_summary(board, stored, counts, data_dir)))


def _fresh(data_dir: Path) -> None:
    """Makes an empty data directory. Removes one of an earlier demo, refuses any other content."""
    from pipeline.errors import ArchiveError

    if data_dir.exists() and any(data_dir.iterdir()):
        if not (data_dir / MARKER).exists():
            msg = f"expected an empty folder or one of an earlier demo, found: {data_dir}"
            raise ArchiveError(msg, hint="name another one: thrumcast demo --data DIR")
        shutil.rmtree(data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        (data_dir / MARKER).write_text("Every `thrumcast demo` removes and creates this folder.\n", encoding="utf-8")
    except OSError as error:
        msg = f"expected a folder that can be written, found: {data_dir}: {error}"
        raise ArchiveError(msg, hint="name another one: thrumcast demo --data DIR") from error


def _free_bind(console: Console) -> str:
    """Where to serve the page: web.bind, or a free port on loopback if that one is taken."""
    import socket

    from pipeline.config.bind import split_bind

    bind = console.config().web.bind
    host, port = split_bind(bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return bind
    except OSError:
        return "127.0.0.1:0"


def _show_page(console: Console, url: str, *, open_it: bool) -> None:
    """Says where the page is, and opens it where somebody sits at a terminal."""
    import sys
    import webbrowser

    console.say(f"page: {url}")
    if open_it and sys.stdout.isatty():
        webbrowser.open(url)


def _install_model(config: Config) -> str:
    """Registers the model of the package as champion; returns a remark."""
    from models import bundle
    from models.registry import Registry
    from pipeline.config.specs import feature_spec

    shipped = bundle.load(Path(__file__).resolve().parents[2] / PRETRAINED)
    shipped.check_fits(feature_spec(config).schema)
    registry = Registry(config.data.path)
    version = registry.add(shipped)
    registry.point("champion", version, why="the model that comes with thrumcast")
    return f"model: the one that comes with thrumcast, trained on {shipped.data.get('source', 'simulated machines')}"


def _sim(machines: int, seed: int) -> list[str]:
    """The command line of the simulator of this plant."""
    import sys

    return [sys.executable, "-m", "pipeline", "sim", "--quiet", "--machines", str(machines), "--seed", str(seed)]


def _read_nameplates(machines: int, seed: int, data_dir: Path) -> None:
    """Stores the facts of the machines, as at commissioning: a model needs the teeth of a gear to see it wear."""
    import subprocess

    subprocess.run([*_sim(machines, seed), "--nameplates", str(data_dir)], check=True, stdout=subprocess.DEVNULL)


def _plant(port: int, machines: int, life_s: float, seed: int, data_dir: Path) -> Popen[bytes]:
    """The simulated plant, in a process of its own."""
    import os
    import subprocess

    command = _sim(machines, seed)
    command += ["--life-s", f"{life_s:g}", "--onset", "0.1", "0.5", "--broker", f"mqtt://127.0.0.1:{port}"]
    with (data_dir / "sim.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _draw(console: Console, board: Board) -> None:
    import sys

    if sys.stderr.isatty() and not console.quiet:
        click.echo("\x1b[2J\x1b[H", nl=False, err=True)
    console.say(board.text() + "\n")


def _stored(config: Config) -> dict[str, int]:
    from pipeline.edges.store.check import survey

    stocks, _ = survey(config.data.path)
    rows: dict[str, int] = {}
    for stock in stocks:
        rows[stock.kind] = rows.get(stock.kind, 0) + stock.rows
    return rows


def _summary(board: Board, stored: dict[str, int], counts: dict[str, int], data_dir: Path) -> Iterator[str]:
    yield f"{counts.get('received', 0)} messages, {counts.get('committed', 0)} committed"
    yield f"stored in {data_dir}/archive: " + ", ".join(f"{n} {kind} rows" for kind, n in sorted(stored.items()))
    if board.judged:
        share = 100 * board.right / board.judged
        yield f"predictions: {board.predictions}, {share:.0f} % name the true state"
    yield f"alarms: {len(board.alarms)}"
    yield from (f"  {alarm}" for alarm in board.alarms)
    yield f"next: python -c \"import pandas; print(pandas.read_parquet('{data_dir}/archive/predictions'))\""
