"""Where compiled kernels are kept: one folder for every state of the sources.

Numba notices when the file of a cached function changes, but not when a function that it calls in another file does:
after an upgrade in place, old arithmetic would go on under a new schema's name. So the folder is named after all
sources that hold kernels.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def choose() -> None:
    """Say where before numba is imported; a folder that somebody has chosen stands."""
    if VARIABLE in os.environ:
        return
    home = Path(__file__).resolve().parent
    sources = sorted([*(home / "core").rglob("*.py"), *(home.parent / "sim").glob("*.py")])
    state = "".join(f"{path}{(found := path.stat()).st_mtime_ns}{found.st_size}\n" for path in sources)
    name = f"kernels-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    user = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "thrumcast"
    for place in (home / "__pycache__", user, Path(tempfile.gettempdir()) / f"thrumcast-{os.getuid()}"):
        try:
            (place / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place / name, os.W_OK) and (place / name).stat().st_uid == os.getuid():
            os.environ[VARIABLE] = str(place / name)
            return
