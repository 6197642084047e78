"""Logarithm and power of two on lanes: a polynomial each, and the exponent read from or written to the bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.features.compiled import intrinsic
from pipeline.core.features.lanes import FUSE, INTS, VECTOR, Builder, Value, call, constant, int_constant, lanes


def _polynomial(builder: Builder, x: Value, coefficients: tuple[float, ...]) -> Value:
    total: Value = constant(coefficients[0])
    for coefficient in coefficients[1:]:
        total = builder.fadd(builder.fmul(total, x, flags=FUSE), constant(coefficient), flags=FUSE)
    return total


def _log2_coefficients() -> tuple[float, ...]:
    """log2(m) / (m - 1) for a mantissa m in [1, 2), interpolated at Chebyshev nodes; error of the log below 2e-6."""
    nodes = np.cos(np.pi * (np.arange(7) + 0.5) / 7) / 2 + 1.5
    return tuple(np.polyfit(nodes - 1.5, np.log2(nodes) / (nodes - 1), 6))


def _exp2_coefficients() -> tuple[float, ...]:
    nodes = np.cos(np.pi * (np.arange(7) + 0.5) / 7) / 2 + 0.5
    return tuple(np.polyfit(nodes, 2.0**nodes, 6))


_LOG2 = _log2_coefficients()
_EXP2 = _exp2_coefficients()


@intrinsic
def log2(typing: Any, value: Any) -> Any:
    """Base-2 logarithm of lanes that are not negative; about -127 for 0."""

    def emit(context: Any, builder: Builder, sig: Any, args: tuple[Value, ...]) -> Value:
        bits = builder.bitcast(args[0], INTS)
        exponent = builder.sub(builder.lshr(bits, int_constant(23)), int_constant(127))
        mantissa_bits = builder.or_(builder.and_(bits, int_constant(0x7FFFFF)), int_constant(0x3F800000))
        mantissa = builder.bitcast(mantissa_bits, VECTOR)
        slope = _polynomial(builder, builder.fsub(mantissa, constant(1.5)), _LOG2)
        fraction = builder.fmul(builder.fsub(mantissa, constant(1.0)), slope, flags=FUSE)
        return builder.fadd(builder.sitofp(exponent, VECTOR), fraction, flags=FUSE)

    return lanes(lanes), emit


@intrinsic
def exp2(typing: Any, value: Any) -> Any:
    """2 to the power of lanes in [-126, 126]; relative error below 3e-7."""

    def emit(context: Any, builder: Builder, sig: Any, args: tuple[Value, ...]) -> Value:
        whole = call(builder, "floor", args[0])
        power = _polynomial(builder, builder.fsub(args[0], whole), _EXP2)
        exponent = builder.shl(builder.add(builder.fptosi(whole, INTS), int_constant(127)), int_constant(23))
        return builder.fmul(power, builder.bitcast(exponent, VECTOR))

    return lanes(lanes), emit
