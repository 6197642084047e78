"""`thrumcast demo`: a private broker, a simulated plant, a model and the service, without any setup."""

from __future__ import annotations

import os
import shutil
import time
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import PATH, Console, use_system_allocator, with_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import Popen

    from pipeline.commands.board import Board
    from pipeline.config.tables import Config
    from sim.scenario import Scenario

MARKER = "written by thrumcast demo.txt"  # a folder without this file is not ours, and is never emptied
STAGE, ORDERS, RESULT = "stage.json", "orders.jsonl", "result.json"  # between the demo, its service and its plant
POLL_S = 0.1
PRETRAINED = "models/pretrained"
REDRAW_S = 1.0
PRINT_EVERY_S = 10.0  # if the output is not a terminal


@click.command(name="demo")
@click.option("--seconds", type=click.FloatRange(min=5), help="Duration [default: until Ctrl-C].")
@click.option("--machines", type=click.IntRange(min=1), default=8, help="Number of machines.")
@click.option("--seed", type=click.IntRange(min=0), default=11, help="The same seed gives the same plant.")
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
@click.option("--serve", type=PATH, hidden=True, help="Be the service of a demo that is described in this file.")
@with_console
def command(
    console: Console,
    seconds: float | None,
    machines: int,
    seed: int,
    no_browser: bool,
    data_dir: Path,
    serve: Path | None,
) -> None:
    """Watch a small simulated plant fail, and break it yourself, with all of thrumcast running on this machine.

    Within two minutes a bearing breaks, a sensor fails, a machine stops and starts, and one gets a fault that no model
    knows. A strip at the bottom of the page says what to look at, and lets you break more. All output is in
    ./demo-data.
    """
    if serve is not None:
        _serve(console, serve)
        return
    import json
    import signal

    from pipeline.edges.broker import PrivateBroker
    from sim.scenario import parse
    from sim.stage import ACTS, DEMO, DOINGS

    _fresh(data_dir)
    shown_dir, data_dir = str(data_dir), data_dir.resolve()
    stopping = False

    def stop_soon(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_soon)
    with PrivateBroker(data_dir / "broker") as broker:
        settings = {"data.dir": str(data_dir), "mqtt.host": broker.host, "mqtt.port": broker.port}
        console.say(_install_model(console.resolve(settings).config))
        scenario = data_dir / "plant.toml"
        scenario.write_text(DEMO, encoding="utf-8")
        sim = _sim(scenario, machines, seed)
        _read_nameplates(sim, data_dir)
        plant = _plant(sim, broker.port, data_dir)
        named = [*_names(parse(tomllib.loads(DEMO)), machines)]
        stage = {
            "settings": settings,
            "began_ms": time.time() * 1000,
            "acts": [asdict(act) for act in ACTS if act.machine in named],
            "machines": named,
            "doings": list(DOINGS),
            "says": f"{broker.kind} on port {broker.port}, {machines} machines",
            "browser": not no_browser,
            "shown_dir": shown_dir,
        }
        (data_dir / STAGE).write_text(json.dumps(stage), encoding="utf-8")
        try:
            ends_s = time.monotonic() + seconds if seconds else float("inf")
            code = _supervise(console, data_dir, plant, lambda: stopping or time.monotonic() >= ends_s)
        finally:
            plant.terminate()
            plant.wait(timeout=10)
    if code:
        raise SystemExit(code)
    document = json.loads((data_dir / RESULT).read_text(encoding="utf-8"))
    console.result(document["document"], document["text"])


def _supervise(console: Console, data_dir: Path, plant: Popen[bytes], stopping: Callable[[], bool]) -> int:
    """Run the service until it ends by itself, is to stop, or the plant has ended. One that was killed runs again."""
    import signal
    import subprocess
    import sys

    command = [sys.executable, "-m", "pipeline", "demo", "--serve", str(data_dir / STAGE)]
    command += ["--config", str(console.config_file)] if console.config_file else []
    command += ["--quiet"] if console.quiet else []
    while True:
        service = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
        told = False
        while service.poll() is None:
            if not told and (stopping() or plant.poll() is not None):
                plant.terminate()  # first, so that what it sent is taken
                plant.wait(timeout=10)
                service.send_signal(signal.SIGTERM)
                told = True
            time.sleep(POLL_S)
        if service.returncode != -signal.SIGKILL or stopping():
            return max(service.returncode, 0)
        console.say("the service was killed; it starts again")


def _serve(console: Console, stage: Path) -> None:
    """The service of the demo, with the page and its strip, until it is to stop or the demo is gone."""
    use_system_allocator()
    import json
    import signal
    import sys

    from pipeline.commands.board import Board
    from pipeline.page.demo import Guide
    from pipeline.service.compose import observed, service

    told = json.loads(stage.read_text(encoding="utf-8"))
    if "web.bind" not in told["settings"]:  # a service that was killed comes back at the same address
        told["settings"]["web.bind"] = _free_bind(console)
    resolved = console.resolve(told["settings"])
    config, parent, stopping = resolved.config, os.getppid(), False

    def stop_soon(*_: object) -> None:
        nonlocal stopping
        stopping = True

    def over() -> bool:
        return stopping or os.getppid() != parent

    signal.signal(signal.SIGTERM, stop_soon)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the demo's: it stops the plant first
    guide = Guide(
        told["began_ms"],
        tuple(told["acts"]),
        tuple(told["machines"]),
        tuple(told["doings"]),
        config.data.path / ORDERS,
    )
    board = Board()
    with (
        service(config, wait=False, companions=(board,)) as (live, connection, model),
        observed(config, live, connection, resolved.settings, guide) as endpoints,
    ):
        console.say(f"{told['says']}, model {model.version if model else '-'}; Ctrl-C ends")
        if endpoints.address is not None:
            _show_page(console, f"http://{endpoints.address}/", open_it=told["browser"])
        stage.write_text(json.dumps(told | {"browser": False}), encoding="utf-8")  # a browser opens once
        drawn_s = 0.0
        while not over():
            live.turn(over)
            every_s = REDRAW_S if sys.stderr.isatty() else PRINT_EVERY_S
            if board.lines and time.monotonic() - drawn_s >= every_s:
                drawn_s = time.monotonic()
                _draw(console, board)
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
        "data": told["shown_dir"],
    }
    text = "\n".join(_summary(board, stored, counts, told["shown_dir"]))
    (config.data.path / RESULT).write_text(json.dumps({"document": document, "text": text}), encoding="utf-8")


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
        with socket.create_server((host, port), family=family) as taken:
            return bind if port else f"{host}:{taken.getsockname()[1]}"  # the same after a restart
    except OSError:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            return f"127.0.0.1:{taken.getsockname()[1]}"


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


def _sim(scenario: Path, machines: int, seed: int) -> list[str]:
    """The command line of the simulator of this plant."""
    import sys

    command = [sys.executable, "-m", "pipeline", "sim", "--quiet", "--scenario", str(scenario)]
    return [*command, "--machines", str(machines), "--seed", str(seed)]


def _names(scenario: Scenario, machines: int) -> Iterator[str]:
    """The ids of the machines of the demo's plant; a larger plant has further ones of the usual kinds."""
    from sim.population import KINDS

    for number in range(machines):
        table = scenario.machines[number] if number < len(scenario.machines) else None
        yield f"{(table and table.kind) or KINDS[number % len(KINDS)]}-{number + 1:02d}"


def _read_nameplates(sim: list[str], data_dir: Path) -> None:
    """Stores the facts of the machines, as at commissioning: a model needs the teeth of a gear to see it wear."""
    import subprocess

    subprocess.run([*sim, "--nameplates", str(data_dir)], check=True, stdout=subprocess.DEVNULL)


def _plant(sim: list[str], port: int, data_dir: Path) -> Popen[bytes]:
    """The simulated plant, in a process of its own."""
    import subprocess

    command = [*sim, "--orders", str(data_dir / ORDERS), "--broker", f"mqtt://127.0.0.1:{port}"]
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


def _summary(board: Board, stored: dict[str, int], counts: dict[str, int], data_dir: str) -> Iterator[str]:
    yield f"{counts.get('received', 0)} messages, {counts.get('committed', 0)} committed"
    yield f"stored in {data_dir}/archive: " + ", ".join(f"{n} {kind} rows" for kind, n in sorted(stored.items()))
    if board.judged:
        share = 100 * board.right / board.judged
        yield f"predictions: {board.predictions}, {share:.0f} % name the true state"
    yield f"alarms: {len(board.alarms)}"
    yield from (f"  {alarm}" for alarm in board.alarms)
    yield f"next: python -c \"import pandas; print(pandas.read_parquet('{data_dir}/archive/predictions'))\""
