"""A short run of the coverage-guided fuzzer, where atheris is installed; `make fuzz` runs it for longer."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_fuzzer_finds_no_bytes_that_the_codec_cannot_name(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "harness" / "fuzz_codec.py"), "-runs=20000", "-seed=1"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 20000 runs" in done.stderr
