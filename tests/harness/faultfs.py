"""The file layer that fails on demand (faultfs.c), built with the C compiler of the machine."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faultfs.c")


@dataclass
class FaultFS:
    """What a preloaded process may do with the files of one directory; changes at once, in the running process."""

    library: Path
    root: Path
    orders: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "THRUMCAST_FAULTFS_ROOT": str(self.root),
            "THRUMCAST_FAULTFS_ORDER": str(self.orders),
        }

    def order(self, text: str) -> None:
        """Such as `write ENOSPC`, `fsync EIO 0.5`, `fsync sleep 2`, `fsync hold`, or nothing."""
        fresh = self.orders.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.orders)


def build(directory: Path, root: Path) -> FaultFS:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the file layer that fails on demand")
    library = directory / "faultfs.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    made = FaultFS(library, root.resolve(), directory / "faultfs.order")
    made.order("")
    return made
