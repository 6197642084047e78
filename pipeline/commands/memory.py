"""Where a process that runs for months gets its memory from."""

from __future__ import annotations

import os


def frugal() -> None:
    """Lets Arrow use the C library's memory, unless the environment says otherwise; before pyarrow is imported.

    Arrow's own allocator keeps what other threads gave back until it is asked for more, some 10 MB that come and go
    from roll to roll. The C library's is given back as a whole after each roll and merge.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
