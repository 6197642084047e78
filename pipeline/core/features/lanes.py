"""Eight windows at a time: a vector type for Numba kernels.

Numbers of eight windows stand side by side in memory (index [k, lane], flat: k * LANES + lane), and every operation
works on all eight. No sum runs across lanes, so a window's numbers do not depend on its neighbours, to the last bit,
and code that branches on the bin or the band costs nothing extra. LLVM maps the type to the registers of the machine.

    a = load(x, k * LANES); store(y, k * LANES, a * 0.5 + load(x, 0))
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import cgutils as numba_cgutils
from numba.core import imputils
from numba.core.typing import templates
from numba.extending import models, register_model
from numba.np import arrayobj as numba_arrayobj

from pipeline.core.features.compiled import intrinsic

# Numba's compiler is untyped, or typed for other uses; `ir` is the LLVM that this Numba was built with.
types: Any = numba.types
cgutils: Any = numba_cgutils
arrayobj: Any = numba_arrayobj
lower_builtin: Any = imputils.lower_builtin
signature: Any = templates.signature
infer_global: Any = templates.infer_global
ir: Any = cgutils.ir
Value = Any
Builder = Any

LANES = 8

_I32 = ir.IntType(32)
_F32 = ir.FloatType()
VECTOR = ir.VectorType(_F32, LANES)
INTS = ir.VectorType(_I32, LANES)
FUSE = ("contract",)  # a * b + c may be one instruction; nothing else may be changed


_Type: Any = types.Type
_PrimitiveModel: Any = models.PrimitiveModel


class LanesType(_Type):
    """The type of a value that holds one float32 for each of eight windows."""

    def __init__(self) -> None:
        super().__init__(name="lanes")


lanes = LanesType()


@register_model(LanesType)
class _LanesModel(_PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, VECTOR)


def constant(value: float) -> Value:
    """A number in all lanes, as LLVM writes it."""
    return ir.Constant(VECTOR, [float(np.float32(value))] * LANES)


def int_constant(value: int) -> Value:
    """The same for 32-bit integers."""
    return ir.Constant(INTS, [value] * LANES)


def _splat(builder: Builder, scalar: Value) -> Value:
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), int_constant(0))


def _operator(symbol: Callable[..., Any], emit: Callable[[Builder, Value, Value], Value]) -> None:
    """Teach Numba `symbol` for lanes with lanes and for lanes with a number."""

    @infer_global(symbol)
    class _Template(templates.AbstractTemplate):
        def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
            if len(args) == 2 and lanes in args and all(a == lanes or isinstance(a, types.Number) for a in args):
                return signature(lanes, *(a if a == lanes else types.float32 for a in args))
            return None

    def lowered(context: Any, builder: Builder, sig: Any, args: tuple[Value, ...]) -> Value:
        left, right = (v if t == lanes else _splat(builder, v) for v, t in zip(args, sig.args, strict=True))
        return emit(builder, left, right)

    for pair in ((lanes, lanes), (lanes, types.float32), (types.float32, lanes)):
        lower_builtin(symbol, *pair)(lowered)


_operator(operator.add, lambda b, x, y: b.fadd(x, y, flags=FUSE))
_operator(operator.sub, lambda b, x, y: b.fsub(x, y, flags=FUSE))
_operator(operator.mul, lambda b, x, y: b.fmul(x, y, flags=FUSE))
_operator(operator.truediv, lambda b, x, y: b.fdiv(x, y, flags=FUSE))


def _pointer(context: Any, builder: Builder, array_type: Any, array: Value, index: Value) -> Value:
    data = arrayobj.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), VECTOR.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """The eight float32 from `array[index]` on; nothing is checked."""

    def emit(context: Any, builder: Builder, sig: Any, args: tuple[Value, ...]) -> Value:
        value = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1]))
        value.align = 4
        return value

    return lanes(array, types.intp), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write eight float32 to `array[index]` and after; nothing is checked."""

    def emit(context: Any, builder: Builder, sig: Any, args: tuple[Value, ...]) -> Value:
        builder.store(args[2], _pointer(context, builder, sig.args[0], args[0], args[1])).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), emit


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """One number in all lanes."""
    return lanes(types.float32), lambda context, builder, sig, args: _splat(builder, args[0])


@intrinsic
def greater(typing: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """Lane by lane: `yes` where a > b, else `no`."""

    def emit(context: Any, builder: Builder, sig: Any, args: tuple[Value, ...]) -> Value:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return lanes(lanes, lanes, lanes, lanes), emit


def call(builder: Builder, name: str, value: Value) -> Value:
    """One of LLVM's own functions of a vector."""
    kind = ir.FunctionType(VECTOR, [VECTOR])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), [value])


def _function(name: str) -> Callable[[Any, Any], Any]:
    def typed(typing: Any, value: Any) -> Any:
        def emit(context: Any, builder: Builder, sig: Any, args: tuple[Value, ...]) -> Value:
            return call(builder, name, args[0])

        return lanes(lanes), emit

    return typed


absolute = intrinsic(_function("fabs"))
square_root = intrinsic(_function("sqrt"))


@intrinsic
def load_rows(typing: Any, addresses: Any, first: Any, offset: Any) -> Any:
    """Samples [offset, offset + 8) of the eight rows at addresses[first:first + 8], as eight lanes, one per sample."""
    columns = types.UniTuple(lanes, LANES)

    def emit(context: Any, builder: Builder, sig: Any, args: tuple[Value, ...]) -> Value:
        table = arrayobj.make_array(sig.args[0])(context, builder, args[0]).data
        rows = []
        for lane in range(LANES):
            at = builder.add(args[1], ir.Constant(args[1].type, lane))
            row = builder.inttoptr(builder.load(builder.gep(table, [at])), _F32.as_pointer())
            value = builder.load(builder.bitcast(builder.gep(row, [args[2]]), VECTOR.as_pointer()))
            value.align = 4
            rows.append(value)
        return context.make_tuple(builder, columns, transposed(builder, rows))

    return columns(addresses, types.intp, types.intp), emit


@intrinsic
def sums(typing: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """The sum of each of eight vectors, as one vector."""

    def emit(context: Any, builder: Builder, sig: Any, args: tuple[Value, ...]) -> Value:
        columns = transposed(builder, list(args))
        while len(columns) > 1:
            pairs = zip(columns[::2], columns[1::2], strict=True)
            columns = [builder.fadd(x, y) for x, y in pairs]
        return columns[0]

    return lanes(*[lanes] * LANES), emit


def transposed(builder: Builder, rows: list[Value]) -> list[Value]:
    """The 8 x 8 transpose: three rounds of exchanging halves, quarters and eighths."""
    for span in (4, 2, 1):
        low = [lane if not lane & span else lane - span + LANES for lane in range(LANES)]
        high = [lane + span if not lane & span else lane + LANES for lane in range(LANES)]
        exchanged = list(rows)
        for i in range(LANES):
            if not i & span:
                for where, mask in ((i, low), (i + span, high)):
                    order = ir.Constant(INTS, mask)
                    exchanged[where] = builder.shuffle_vector(rows[i], rows[i + span], order)
        rows = exchanged
    return rows


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


# log2 and exp2 are a polynomial each; the exponent is read from or written to the bits.
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
