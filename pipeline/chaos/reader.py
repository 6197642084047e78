"""A reader in a process of its own: opens every Parquet file again and again, and says what it could not read.

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


def main(data_dir: Path) -> dict[str, object]:
    """Reads until stdin is closed."""
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    passes, unreadable, doubled, known = 0, [], 0, {}
    while not ended.wait(PAUSE_S) or passes == 0:
        keys: Counter[tuple[object, ...]] = Counter()
        for path in sorted((data_dir / "archive" / "features").rglob("*.parquet")):
            try:
                stat = path.stat()
                seen = (path, stat.st_mtime_ns, stat.st_ino)
                if seen not in known:
                    table = pq.ParquetFile(path).read(columns=["machine", "point", "session", "window"])
                    known[seen] = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
                keys.update(known[seen])
            except FileNotFoundError:
                continue  # compacted away between listing and opening, as any reader of a folder must expect
            except (OSError, pa.ArrowException) as error:
                unreadable.append(f"{path.name}: {error}")
        doubled = max(doubled, sum(n - 1 for n in keys.values()))
        passes += 1
    return {"passes": passes, "unreadable": unreadable, "doubled": doubled, "at": time.time()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))) + "\n")
