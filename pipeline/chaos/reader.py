"""A reader process: reads every Parquet file repeatedly and reports files that it could not read.

Every 50 ms it reads new and replaced files completely; every five seconds it reads all files again.
`python -m pipeline.chaos.reader DATA_DIR` runs until its standard input ends and then prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PAUSE_S = 0.05
AGAIN_S = 5.0  # time after which unchanged files are read again
KEYS = ["machine", "point", "session", "window"]
KINDS = ("features", "predictions")  # kinds whose rows have unique keys
Rows = list[tuple[object, ...]]


def main(data_dir: Path) -> dict[str, object]:
    """Reads until stdin is closed."""
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    passes, opened, doubled = 0, 0, 0
    unreadable: list[str] = []
    known: dict[tuple[Path, int, int], Rows] = {}
    counted: set[tuple[Path, int, int]] = set()
    anew_s = time.monotonic()
    while not ended.wait(PAUSE_S) or passes == 0:
        if time.monotonic() - anew_s > AGAIN_S:
            known, anew_s = {}, time.monotonic()
        seen: set[tuple[Path, int, int]] = set()
        for path in sorted((data_dir / "archive").glob("[a-z]*/**/*.parquet")):
            try:
                stat = path.stat()
                file = (path, stat.st_mtime_ns, stat.st_ino)
                if file not in known:
                    table = pq.ParquetFile(path).read()  # whole: every column must be there
                    keys = [table[name].to_pylist() for name in KEYS] if path.parent.parent.name in KINDS else []
                    known[file] = list(zip(*keys, strict=True))
                    opened += 1
                seen.add(file)
            except FileNotFoundError:
                continue  # compacted between listing and opening; every reader of a folder must expect that
            except (OSError, pa.ArrowException) as error:
                unreadable.append(f"{path.name}: {error}")
        if seen != counted:
            rows = Counter((file[0].parent.parent.name, key) for file in seen for key in known[file])
            doubled, counted = max(doubled, sum(n - 1 for n in rows.values())), seen
        passes += 1
    return {"passes": passes, "opened": opened, "unreadable": unreadable, "doubled": doubled, "at": time.time()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))) + "\n")
