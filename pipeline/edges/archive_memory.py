"""Memory that rows took on their way into a file goes back to the system; allocators would keep most of it.

What still holds rows holds their memory, so this comes after the last name of them. Allocators keep pieces for each
thread: rolls and merges read with `use_threads=False`, so that each leaves its pieces where it finds them again.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa


def give_back() -> None:
    """Takes milliseconds, without the interpreter's lock. Where the C library cannot, Arrow's part has to do."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)
