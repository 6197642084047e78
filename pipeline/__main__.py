"""`python -m pipeline`: the thrumcast command, where it is not installed or another interpreter is meant."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
