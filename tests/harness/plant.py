"""A small plant for tests of the whole: blocks that cost little, a service as a process, and what it stored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.core.records import Block, StreamKey

RATE_HZ = 1024.0
MAIN = "import sys; from pipeline.cli import main; sys.exit(main())"
SETTINGS = {
    "THRUMCAST_WINDOW__LENGTH_S": "0.5",
    "THRUMCAST_WINDOW__HOP_S": "0.25",
    "THRUMCAST_FEATURES__BANDWIDTH_HZ": "400",
    "THRUMCAST_FEATURES__ENVELOPE_LOW_HZ": "50",
    "THRUMCAST_FEATURES__ENVELOPE_HIGH_HZ": "400",
    "THRUMCAST_COMMIT__INTERVAL_S": "0.1",
    "THRUMCAST_ARCHIVE__ROLL_S": "0.5",
    "THRUMCAST_ARCHIVE__ROLL_ROWS": "200",
    "OMP_NUM_THREADS": "1",
}


def blocks(streams: int, per_stream: int, *, n: int = 128, channels: int = 3, seed: int = 5) -> list[Block]:
    """Blocks of all streams in time order."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(per_stream):
        for s in range(streams):
            made.append(
                Block(
                    key=StreamKey(f"pump-{s:02d}", "de"),
                    session=1_700_000_000 + s,
                    index=i * n,
                    t0_ns=1_760_000_000_000_000_000 + round(i * n * 1e9 / RATE_HZ),
                    rate_hz=RATE_HZ,
                    channels=tuple("xyz"[:channels]),
                    unit="g",
                    samples=rng.standard_normal((channels, n)).astype(np.float32),
                    speed_rpm=1500.0,
                    truth="healthy",
                )
            )
    return made


@dataclass
class Service:
    """`thrumcast run` as a process that can be killed."""

    data_dir: Path
    port: int
    settings: dict[str, str] = field(default_factory=lambda: dict(SETTINGS))
    process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        command = [sys.executable, "-c", MAIN, "run", "--wait"]
        command += ["--data", str(self.data_dir), "--broker", f"mqtt://127.0.0.1:{self.port}"]
        env = os.environ | self.settings | environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        log = (self.data_dir.parent / "service.log").open("ab")
        self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        log.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def log(self) -> str:
        return (self.data_dir.parent / "service.log").read_text()
