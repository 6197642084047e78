"""`python -m benchmarks [--json] [--quick] [--only NAME]`: the measured table."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from typing import Any

# The order of the table. Each name is a module with `run(effort) -> Section`.
NAMES = (
    "features", "codec", "windows", "model", "throughput", "archive", "backfill", "recordings", "simulator", "ingest",
    "workers",
)  # fmt: skip
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def main(arguments: list[str]) -> int:
    """Measure, print the table to stdout and the progress to stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measured numbers, each beside what it is compared with."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--quick", action="store_true", help="a few seconds of everything: shows that it works")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--quiet", action="store_true", help="nothing on stderr")
    options = parser.parse_args(arguments)
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # read when numpy loads, so nothing that uses it comes before

    from benchmarks.measure import QUICK, THOROUGH
    from benchmarks.report import facts_text, machine_facts, table_text
    from pipeline.errors import ThrumcastError

    facts = machine_facts()
    sections = []
    began_s = time.monotonic()
    for name in NAMES:
        if options.only and name not in options.only:
            continue
        if not options.quiet:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            sections.append(importlib.import_module(f"benchmarks.{name}").run(QUICK if options.quick else THOROUGH))
        except ThrumcastError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    after = [round(value, 2) for value in os.getloadavg()]
    document: dict[str, Any] = {
        "machine": facts | {"load_average_after": after},
        "quick": options.quick,
        "seconds": round(time.monotonic() - began_s, 1),
    }
    for section in sections:
        document |= section.document
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        print(facts_text(facts, after))
        print(table_text(sections))
        print(f"\n{document['seconds']:g} s. `x` is the ratio to what stands behind it; one thread, float32.")
        if options.quick:
            print("Quick: too short for numbers to be quoted.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
