"""How the kernels are compiled: once, kept on disk, and again whenever any source that they are made of changes.

Numba keeps machine code beside the file of a function and throws it away when that file changes, but not when the file
of a function that it calls does. So the name under which a kernel is kept carries a digest of all the
sources that were imported before it, its own included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numba
from numba.core import caching
from numba.core.runtime import nrt

_numba: Any = numba  # typed for other uses than these
_runtime: Any = nrt.rtsys
_FunctionCache: Any = caching.FunctionCache
_INNER = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
}
_seen: set[str] = set()
_digest = hashlib.sha256()


def _stamped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under a name that changes with the sources."""
    module = function.__module__
    if module not in _seen:
        _seen.add(module)
        loader: Any = function.__globals__.get("__loader__")
        source = loader.get_source(module) if hasattr(loader, "get_source") else None
        _digest.update((source or module).encode())
    function.__qualname__ = f"{function.__qualname__}_{_digest.hexdigest()[:12]}"
    return function


class _Kept(_FunctionCache):
    """Code on disk, loaded as it is.

    Numba's own loads all that it may compile with before it looks on the disk, scipy.linalg included: more than half
    of what a start of the service computes. What is not on the disk is compiled, and the compiler loads that by itself.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        _runtime.initialize(target_context)  # arrays are counted by it, which the code takes for granted
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def intrinsic(function: Callable[..., Any]) -> Any:
    """A piece of LLVM for use in kernels."""
    return _numba.extending.intrinsic(_stamped(function))


def entry(function: Callable[..., Any]) -> Any:
    """Compiled code that Python calls. It runs without the interpreter's lock, and 0/0 is NaN."""
    dispatcher = _numba.njit(cache=True, nogil=True, error_model="numpy")(_stamped(function))
    dispatcher._cache = _Kept(function)
    return dispatcher


def kernel(function: Callable[..., Any]) -> Any:
    """Compiled code that only compiled code calls.

    It needs no way in from Python, which for arguments of many arrays is most of what there is to compile. And it
    counts no references, which are locked instructions by the dozen for every call: whoever calls holds the arrays.
    So it allocates none, and returns none that it was given.
    """
    return _numba.njit(**_INNER)(_stamped(function))


def inlined(function: Callable[..., Any]) -> Any:
    """A kernel that becomes part of its callers: where handing over its arrays takes longer than its work."""
    return _numba.njit(**_INNER, forceinline=True)(_stamped(function))
