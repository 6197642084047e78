"""How the kernels are compiled: once, kept on disk, and again when a source that they are made of changes.

Numba keeps machine code beside the file of a function and drops it when that file changes, but not when a function or
a constant of another file changes. So the name under which a kernel is kept carries a digest of every source of
`pipeline.core.features`, and of the kernel's own module where that is another one: after an upgrade in place, no old
arithmetic runs under a new schema's name. This holds wherever the code is kept (NUMBA_CACHE_DIR, else __pycache__, else
the user's cache).
"""

from __future__ import annotations

import hashlib
import importlib.util
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
from numba.core import caching
from numba.core.runtime import nrt

from pipeline.core import features

_numba: Any = numba  # typed for other uses than these
_runtime: Any = nrt.rtsys
_FunctionCache: Any = caching.FunctionCache
_PACKAGE = f"{features.__name__}."
_INNER = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
}


def entry(function: Callable[..., Any]) -> Any:
    """Compiled code that Python calls. It runs without the interpreter's lock, and 0/0 is NaN."""
    dispatcher = _compiled(function, nogil=True, error_model="numpy")
    dispatcher._cache = _Kept(function)
    return dispatcher


def kernel(function: Callable[..., Any]) -> Any:
    """Compiled code that only compiled code calls.

    It has no wrapper for Python, which is most of what there is to compile when the arguments are many arrays. And it
    counts no references, which cost dozens of locked instructions per call: the caller holds the arrays. So a kernel
    allocates no array, and returns none that it was given.
    """
    return _compiled(function, **_INNER)


def inlined(function: Callable[..., Any]) -> Any:
    """A kernel that becomes part of its callers: for work that is shorter than handing over its arrays."""
    return _compiled(function, **_INNER, forceinline=True)


def intrinsic(function: Callable[..., Any]) -> Any:
    """A piece of LLVM for use in kernels."""
    return _numba.extending.intrinsic(_stamped(function))


class _Kept(_FunctionCache):
    """Code on disk, loaded as it is.

    Before it looks on the disk, Numba's own cache loads all that it may compile with, scipy.linalg included: more than
    half of the CPU time of a start of the service. What is not on the disk is compiled, and then the compiler loads it.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        _runtime.initialize(target_context)  # it counts the references of arrays, which loaded code relies on
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    return _numba.njit(cache=True, **options)(_stamped(function))


def _stamped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under a name that changes with the sources."""
    digest = _package_digest().copy()
    if not function.__module__.startswith(_PACKAGE):
        digest.update(_source(function.__module__, function.__globals__.get("__loader__")))
    function.__qualname__ = f"{function.__qualname__}_{digest.hexdigest()[:12]}"
    return function


@cache
def _package_digest() -> Any:
    """SHA-256 of all sources of `pipeline.core.features`."""
    digest = hashlib.sha256()
    for module in sorted(pkgutil.iter_modules(features.__path__, _PACKAGE), key=lambda one: one.name):
        spec: Any = importlib.util.find_spec(module.name)
        digest.update(_source(module.name, spec.loader))
    return digest


def _source(module: str, loader: Any) -> bytes:
    source = loader.get_source(module) if hasattr(loader, "get_source") else None
    return (source or module).encode()
