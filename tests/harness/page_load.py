"""What the live page costs: `python tests/harness/page_load.py`.

A process of its own serves the page over a made-up plant: 20 machines, each with a new window ten times a second. Its
CPU time is taken without a viewer, with one, with ten, and with one whose client stops reading; then that of chromium
on the fleet view. `--browser URL` takes that of chromium on any page, such as a machine of `thrumcast demo`.

CPU time, not wall time: shares are of one core, and hold on a machine that does other work meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

MACHINES = 20
UPDATES_PER_S = 10
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def serve() -> None:
    """The measured process: prints its port, then its windows come until stdin ends."""
    from harness.paged import paged
    from harness.plant import turn
    from pipeline.service.http import WebServer

    turns = [turn(range(MACHINES), ["normal"] * 18 + ["warning", "alarm"], window) for window in range(200)]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with (
        tempfile.TemporaryDirectory() as folder,
        paged(Path(folder)) as served,
        served.page,
        WebServer("127.0.0.1:0", {}, (), served.page.app, served.page.stop) as server,
    ):
        print(server.port, flush=True)  # noqa: T201
        window = 0
        while not ended.wait(1 / UPDATES_PER_S):
            window += 1
            served.page.companion.turns.append(turns[window % len(turns)]._replace(at_s=time.time()))


def cpu_s(pids: list[int]) -> float:
    """CPU time of these processes until now; of those that have ended, nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def share(pids: list[int], seconds: float) -> float:
    """Share of one core that these processes use from now on."""
    before, began_s = cpu_s(pids), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(pids) - before) / (time.monotonic() - began_s)


def reader(port: int, *, reads: bool = True) -> socket.socket:
    """A client of the event stream."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def read() -> None:
        with contextlib.suppress(OSError):
            while client.recv(65_536):
                pass

    if reads:
        threading.Thread(target=read, daemon=True).start()
    return client


@contextlib.contextmanager
def chromium(url: str) -> Iterator[list[int]]:
    """Chromium on a page, and its processes."""
    from harness.browsing import DESK, launched

    with launched() as browser:
        page = browser.new_page(viewport=DESK)
        page.goto(url)
        page.wait_for_selector("main .panel")
        page.wait_for_timeout(5000)
        yield [pid for pid in family(os.getpid()) if "chrom" in Path(f"/proc/{pid}/cmdline").read_text()]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--serve", action="store_true")
    asked.add_argument("--browser", metavar="URL")
    asked.add_argument("--seconds", type=float, default=20.0)
    given = asked.parse_args()
    if given.serve:
        serve()
        return
    if given.browser:
        with chromium(given.browser) as pids:
            print(f"chromium on {given.browser}: {share(pids, given.seconds):.1%} of a core")  # noqa: T201
        return
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        time.sleep(3.0)
        alone = share([process.pid], given.seconds)
        print(f"{MACHINES} machines, {UPDATES_PER_S} updates/s; server without a viewer: {alone:.1%} of a core")  # noqa: T201
        clients: list[socket.socket] = []
        for count in (1, 10):
            clients += [reader(port) for _ in range(count - len(clients))]
            print(f"server with {count}: {share([process.pid], given.seconds):.1%}")  # noqa: T201
        clients.append(reader(port, reads=False))
        print(f"and one more that never reads: {share([process.pid], given.seconds):.1%}")  # noqa: T201
        for client in clients:
            client.shutdown(socket.SHUT_RDWR)
        with chromium(f"http://127.0.0.1:{port}/") as pids:
            print(f"chromium on the fleet: {share(pids, given.seconds):.1%}, server {share([process.pid], 5.0):.1%}")  # noqa: T201
        process.communicate()


if __name__ == "__main__":
    main()
