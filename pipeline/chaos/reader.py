"""A reader in a process of its own: opens every Parquet file again and again, and says what it could not read.

It looks every 50 ms: what is new or has been replaced is read whole at once, everything else every five seconds.
`python -m pipeline.chaos.reader DATA_DIR` goes on until its standard input ends; then one line of JSON.
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
AGAIN_S = 5.0  # after which files that have not changed are opened again, too
KEYS = ["machine", "point", "session", "window"]
KINDS = ("features", "predictions")  # of which every row has its own key
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
                continue  # compacted away between listing and opening, as any reader of a folder must expect
            except (OSError, pa.ArrowException) as error:
                unreadable.append(f"{path.name}: {error}")
        if seen != counted:
            rows = Counter((file[0].parent.parent.name, key) for file in seen for key in known[file])
            doubled, counted = max(doubled, sum(n - 1 for n in rows.values())), seen
        passes += 1
    return {"passes": passes, "opened": opened, "unreadable": unreadable, "doubled": doubled, "at": time.time()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))) + "\n")
