"""Eight windows at a time: a vector type for Numba kernels.

Eight numbers of eight windows stand side by side in memory (index [k, lane], flat: k * LANES + lane), and
every operation works on the eight at once. No sum runs across lanes, so what is computed for a
window does not depend on its neighbours, to the last bit, and code that branches on the bin or the
band is as fast as code that does not. LLVM turns the type into whatever registers the machine has.

    a = load(x, k * LANES); store(y, k * LANES, a * 0.5 + load(x, 0))
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import models, register_model
from numba.np import arrayobj

LANES = 8

intrinsic: Any = (
    extending.intrinsic
)  # its results are called with fewer arguments than it was given, which no type says

# Compiled code that Python calls, and code that only compiled code calls: the latter needs no way in from Python,
# which for arguments of many arrays is most of what there is to compile.
entry: Any = njit(cache=True, nogil=True, error_model="numpy")
_inner: Any = njit  # its type does not know the last two
kernel: Any = _inner(cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

_I32 = ir.IntType(32)
_F32 = ir.FloatType()
_VECTOR = ir.VectorType(_F32, LANES)
_INTS = ir.VectorType(_I32, LANES)
_FUSE = ("contract",)  # a * b + c may be one instruction; nothing else may be changed


class LanesType(types.Type):
    """The type of a value that holds one float32 for each of eight windows."""

    def __init__(self) -> None:
        super().__init__(name="lanes")


lanes = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _VECTOR)  # type: ignore[no-untyped-call]


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [float(np.float32(value))] * LANES)


def _int_constant(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * LANES)


def _splat(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), _int_constant(0))


def _operator(symbol: Callable[..., Any], emit: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> None:
    """Teach Numba `symbol` for lanes with lanes and for lanes with a number."""

    @infer_global(symbol)
    class _Template(AbstractTemplate):
        def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
            if len(args) == 2 and lanes in args and all(a == lanes or isinstance(a, types.Number) for a in args):
                return signature(lanes, *(a if a == lanes else types.float32 for a in args))
            return None

    def lowered(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ...]) -> ir.Value:
        left, right = (v if t == lanes else _splat(builder, v) for v, t in zip(args, sig.args, strict=True))
        return emit(builder, left, right)

    for pair in ((lanes, lanes), (lanes, types.float32), (types.float32, lanes)):
        lower_builtin(symbol, *pair)(lowered)


_operator(operator.add, lambda b, x, y: b.fadd(x, y, flags=_FUSE))
_operator(operator.sub, lambda b, x, y: b.fsub(x, y, flags=_FUSE))
_operator(operator.mul, lambda b, x, y: b.fmul(x, y, flags=_FUSE))
_operator(operator.truediv, lambda b, x, y: b.fdiv(x, y, flags=_FUSE))


def _pointer(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    data = arrayobj.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """The eight float32 from `array[index]` on; nothing is checked."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ...]) -> ir.Value:
        value = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1]))
        value.align = 4
        return value

    return lanes(array, types.intp), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write eight float32 to `array[index]` and after; nothing is checked."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ...]) -> ir.Value:
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

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ...]) -> ir.Value:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return lanes(lanes, lanes, lanes, lanes), emit


def _call(builder: ir.IRBuilder, name: str, value: ir.Value) -> ir.Value:
    kind = ir.FunctionType(_VECTOR, [_VECTOR])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), [value])


def _function(name: str) -> Callable[[Any, Any], Any]:
    def typed(typing: Any, value: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ...]) -> ir.Value:
            return _call(builder, name, args[0])

        return lanes(lanes), emit

    return typed


absolute = intrinsic(_function("fabs"))
square_root = intrinsic(_function("sqrt"))


def _polynomial(builder: ir.IRBuilder, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    total: ir.Value = _constant(coefficients[0])
    for coefficient in coefficients[1:]:
        total = builder.fadd(builder.fmul(total, x, flags=_FUSE), _constant(coefficient), flags=_FUSE)
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

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ...]) -> ir.Value:
        bits = builder.bitcast(args[0], _INTS)
        exponent = builder.sub(builder.lshr(bits, _int_constant(23)), _int_constant(127))
        mantissa_bits = builder.or_(builder.and_(bits, _int_constant(0x7FFFFF)), _int_constant(0x3F800000))
        mantissa = builder.bitcast(mantissa_bits, _VECTOR)
        slope = _polynomial(builder, builder.fsub(mantissa, _constant(1.5)), _LOG2)
        fraction = builder.fmul(builder.fsub(mantissa, _constant(1.0)), slope, flags=_FUSE)
        return builder.fadd(builder.sitofp(exponent, _VECTOR), fraction, flags=_FUSE)

    return lanes(lanes), emit


@intrinsic
def exp2(typing: Any, value: Any) -> Any:
    """2 to the power of lanes in [-126, 126]; relative error below 3e-7."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ...]) -> ir.Value:
        whole = _call(builder, "floor", args[0])
        power = _polynomial(builder, builder.fsub(args[0], whole), _EXP2)
        exponent = builder.shl(builder.add(builder.fptosi(whole, _INTS), _int_constant(127)), _int_constant(23))
        return builder.fmul(power, builder.bitcast(exponent, _VECTOR))

    return lanes(lanes), emit


@intrinsic
def load_rows(typing: Any, addresses: Any, first: Any, offset: Any) -> Any:
    """Samples [offset, offset + 8) of the eight rows at addresses[first:first + 8], as eight lanes, one per sample."""
    columns = types.UniTuple(lanes, LANES)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ...]) -> ir.Value:
        table = arrayobj.make_array(sig.args[0])(context, builder, args[0]).data
        rows = []
        for lane in range(LANES):
            at = builder.add(args[1], ir.Constant(args[1].type, lane))
            row = builder.inttoptr(builder.load(builder.gep(table, [at])), _F32.as_pointer())
            value = builder.load(builder.bitcast(builder.gep(row, [args[2]]), _VECTOR.as_pointer()))
            value.align = 4
            rows.append(value)
        return context.make_tuple(builder, columns, transposed(builder, rows))

    return columns(addresses, types.intp, types.intp), emit


@intrinsic
def sums(typing: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """The sum of each of eight vectors, as one vector."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ...]) -> ir.Value:
        columns = transposed(builder, list(args))
        while len(columns) > 1:
            pairs = zip(columns[::2], columns[1::2], strict=True)
            columns = [builder.fadd(x, y) for x, y in pairs]
        return columns[0]

    return lanes(*[lanes] * LANES), emit


def transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """The 8 x 8 transpose: three rounds of exchanging halves, quarters and eighths."""
    for span in (4, 2, 1):
        low = [lane if not lane & span else lane - span + LANES for lane in range(LANES)]
        high = [lane + span if not lane & span else lane + LANES for lane in range(LANES)]
        exchanged = list(rows)
        for i in range(LANES):
            if not i & span:
                for where, mask in ((i, low), (i + span, high)):
                    order = ir.Constant(_INTS, mask)
                    exchanged[where] = builder.shuffle_vector(rows[i], rows[i + span], order)
        rows = exchanged
    return rows
