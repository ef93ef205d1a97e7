"""What numba lacks for kernels near the hardware's limit: vectors of 64 bytes, and atomic words.

A `Vector` is 8 float64 or 16 float32 numbers, whatever the machine: one register where there is
AVX-512, two or four where there is less. So a kernel written with them gives the same bits
everywhere, but for the last ones of what begins with `rsqrt_seed`, and of `fma` where the machine
has none. Inside of a kernel they read as numbers do::

    for j in range(0, n, lanes(a)):
        store(out, j, fma(load(a, j), load(b, j), load(c, j)))

Arrays are one-dimensional and contiguous, float64 or float32; indices count their elements, may
stand anywhere (an aligned place is quicker), and are not checked. Vectors exist inside of compiled
functions only.

Why not leave it to the compiler: LLVM takes half of the register's width on most machines with
AVX-512, counts references and checks for overlap at every row, and does not find the reciprocal
root. Measured on a plate of 200 x 200: 2.8 against 5 Gcell/s on one thread.
"""

import operator
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

BYTES = 64
_INDEX = ir.IntType(32)


class Vector(types.Type):  # type: ignore[misc]
    """The type of 64 bytes of numbers of one kind."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = 8 * BYTES // dtype.bitwidth
        super().__init__(name=f"Vector({self.lanes} x {dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Vector) -> None:
        element = ir.DoubleType() if kind.dtype == types.float64 else ir.FloatType()
        super().__init__(manager, kind, ir.VectorType(element, kind.lanes))


def _host_features() -> str:
    """Return what numba compiles for: its own setting, or all that this machine has."""
    told = numba.config.CPU_FEATURES
    return str(told if told is not None else llvm.get_host_cpu_features().flatten())


HAS_RSQRT = "+avx512f" in _host_features().split(",")  # the reciprocal root to 14 bits


@intrinsic
def lanes(typing: Any, array: Any) -> Any:
    """Return how many numbers a vector of an array's kind has: 8 or 16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.intp, Vector(array.dtype).lanes)

    return types.intp(array), generate


def _place(context: Any, builder: Any, array: Any, value: Any, index: Any, kind: Vector) -> Any:
    """Return a pointer to the vector of a kind that begins at an array's index."""
    data = cgutils.create_struct_proxy(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), context.get_value_type(kind).as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return the vector that begins at array[index]."""
    kind = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments[0], arguments[1], kind)
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return kind(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector into an array, from array[index] on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments[0], arguments[1], vector)
        builder.store(arguments[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def splat(typing: Any, array: Any, number: Any) -> Any:
    """Return a vector of an array's kind with one number in all lanes."""
    kind = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _repeated(builder, arguments[1], context.get_value_type(kind))

    return kind(array, array.dtype), generate


@intrinsic
def spread(typing: Any, array: Any, index: Any) -> Any:
    """Return a vector with array[index] in all lanes.

    Quicker than splat(array, array[index]), where numba lets a negative index count from the end:
    that costs ten instructions for four arrays, on ports that vectors need.
    """
    kind = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, arguments[0]).data
        number = builder.load(builder.gep(data, [arguments[1]]))
        return _repeated(builder, number, context.get_value_type(kind))

    return kind(array, types.intp), generate


def _repeated(builder: Any, number: Any, vector: Any) -> Any:
    none = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(none, number, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(one, none, _lanes_of([0] * vector.count))


def _lanes_of(numbers: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INDEX, len(numbers)), numbers)


def _arithmetic(symbol: Callable[..., Any], instruction: str) -> None:
    """Let an operator of Python's work lane by lane, without contraction of any kind."""

    @intrinsic
    def apply(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return a(a, a), generate

    @overload(symbol)
    def choose(a: Any, b: Any) -> Any:
        def implement(a: Any, b: Any) -> Any:
            return apply(a, b)

        return implement if isinstance(a, Vector) and a == b else None


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")


def _call(builder: Any, name: str, result: Any, arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _named(name: str, kind: Vector) -> str:
    return f"llvm.{name}.v{kind.lanes}f{kind.dtype.bitwidth}"


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once where the machine can, twice where it cannot."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, _named("fmuladd", a), arguments[0].type, arguments)

    return a(a, a, a), generate


@intrinsic
def sqrt(typing: Any, a: Any) -> Any:
    """Return the square roots."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, _named("sqrt", a), arguments[0].type, arguments)

    return a(a), generate


@intrinsic
def rsqrt_seed(typing: Any, a: Any) -> Any:
    """Return 1 / sqrt(a): to 2^-14 relative where HAS_RSQRT, else to the last bit but one.

    Of 0 it is infinite. Source: Intel 64 and IA-32 Architectures Software Developer's Manual,
    volume 2, VRSQRT14PD and VRSQRT14PS.
    """
    letter, bits = ("d", ir.IntType(8)) if a.lanes == 8 else ("s", ir.IntType(16))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = arguments[0].type
        if HAS_RSQRT:
            inputs = [arguments[0], arguments[0], ir.Constant(bits, 2**a.lanes - 1)]
            return _call(builder, f"llvm.x86.avx512.rsqrt14.p{letter}.512", vector, inputs)
        root = _call(builder, _named("sqrt", a), vector, arguments)
        return builder.fdiv(ir.Constant(vector, [1.0] * a.lanes), root)

    return a(a), generate


@intrinsic
def from_left(typing: Any, a: Any) -> Any:
    """Return the lanes moved up by one: lane i is lane i - 1, lane 0 the last one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        order = _lanes_of([a.lanes - 1, *range(a.lanes - 1)])
        return builder.shuffle_vector(arguments[0], arguments[0], order)

    return a(a), generate


@intrinsic
def from_right(typing: Any, a: Any) -> Any:
    """Return the lanes moved down by one: lane i is lane i + 1, the last one lane 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        order = _lanes_of([*range(1, a.lanes), 0])
        return builder.shuffle_vector(arguments[0], arguments[0], order)

    return a(a), generate


@intrinsic
def transpose(
    typing: Any, source: Any, at: Any, pitch: Any, target: Any, to: Any, target_pitch: Any
) -> Any:
    """Copy a square of lanes x lanes numbers, its rows and columns exchanged.

    Row i of it begins at source[at + i pitch]; column j goes to target[to + j target_pitch].
    """
    kind = Vector(source.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, first, pitch, out, to, out_pitch = arguments

        def place(which: Any, value: Any, start: Any, step: Any, i: int) -> Any:
            index = builder.add(start, builder.mul(step, ir.Constant(step.type, i)))
            return _place(context, builder, which, value, index, kind)

        bytes_each = source.dtype.bitwidth // 8
        rows = [
            builder.load(place(source, array, first, pitch, i), align=bytes_each)
            for i in range(kind.lanes)
        ]
        for i, column in enumerate(_exchanged(builder, rows)):
            builder.store(column, place(target, out, to, out_pitch, i), align=bytes_each)
        return context.get_dummy_value()

    indices = (types.intp, types.intp)
    return types.void(source, *indices, target, *indices), generate


def _exchanged(builder: Any, rows: list[Any]) -> list[Any]:
    """Exchange rows and columns: log2(n) times, blocks of d x d lanes change places."""
    n, d = len(rows), len(rows) // 2
    while d:
        stay = [i if not i & d else n + i - d for i in range(n)]
        move = [i + d if not i & d else n + i for i in range(n)]
        for i in (i for i in range(n) if not i & d):
            upper, lower = rows[i], rows[i + d]
            rows[i] = builder.shuffle_vector(upper, lower, _lanes_of(stay))
            rows[i + d] = builder.shuffle_vector(upper, lower, _lanes_of(move))
        d //= 2
    return rows


@intrinsic
def read_word(typing: Any, array: Any, index: Any) -> Any:
    """Return array[index] of int64, and let nothing that follows be read before it (acquire)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        return builder.load_atomic(place, ordering="acquire", align=8)

    return types.int64(array, types.intp), generate


@intrinsic
def write_word(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write array[index] of int64 after all that was written before it (release)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        builder.store_atomic(arguments[2], place, ordering="release", align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), generate


@intrinsic
def take_word(typing: Any, array: Any, index: Any) -> Any:
    """Turn array[index] of int64 from 0 into 1; tell whether it was this call that did."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        zero, one = (ir.Constant(ir.IntType(64), value) for value in (0, 1))
        pair = builder.cmpxchg(place, zero, one, "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(array, types.intp), generate


@intrinsic
def let_others_run(typing: Any) -> Any:
    """Give the rest of this thread's time slice to others (POSIX sched_yield)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(builder, "sched_yield", ir.IntType(32), [])
        return context.get_dummy_value()

    return types.void(), generate


def aligned(count: int, dtype: Any) -> np.ndarray:
    """Return so many zeros of a kind whose first one is at a multiple of 64 bytes."""
    size = np.dtype(dtype).itemsize
    room = np.zeros(count + BYTES // size, dtype)
    first = -room.ctypes.data % BYTES // size
    return room[first : first + count]
