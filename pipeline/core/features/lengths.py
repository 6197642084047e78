"""Lengths whose Fourier transform is fast: products of 2, 3 and 5, the lengths that `features/fft.py` takes.

scipy.fft has the same two functions, but importing it adds 125 ms to a start of the service.
"""

from __future__ import annotations

PRIMES = (2, 3, 5)


def next_fast_length(n: int) -> int:
    """The smallest such length that is not below n >= 1."""
    _check(n)
    while not _is_fast(n):
        n += 1
    return n


def previous_fast_length(n: int) -> int:
    """The largest such length that is not above n >= 1."""
    _check(n)
    while not _is_fast(n):
        n -= 1
    return n


def _check(n: int) -> None:
    """The search for a fast length below 1 would never end."""
    if n < 1:
        msg = f"expected a length of at least 1, found: {n}"
        raise ValueError(msg)


def _is_fast(n: int) -> bool:
    for prime in PRIMES:
        while n % prime == 0:
            n //= prime
    return n == 1
