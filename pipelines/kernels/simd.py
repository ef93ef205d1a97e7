"""What numba lacks for kernels near the hardware's limit: vectors of 64 bytes.

A `Vector` is 8 float64 or 16 float32 numbers, whatever the machine: one register where there is
AVX-512, two or four where there is less. So a kernel written with them gives the same bits
everywhere, but for the last ones of what begins with `rsqrt_seed`, and of `fma` where the machine
has none. Inside of a kernel they read as numbers do::

    for j in range(0, n, lanes(a)):
        store(out, j, fma(load(a, j), load(b, j), load(c, j)))

Arrays are one-dimensional and contiguous, float64 or float32; indices count their elements, may
stand anywhere (an aligned place is quicker; `store_past_caches` needs one), and are not checked.
Vectors exist inside of compiled functions only.

Why not leave it to the compiler: LLVM takes half of the register's width on most machines with
AVX-512, counts references and checks for overlap at every row, and does not find the reciprocal
root. Measured on a plate of 200 x 200: 2.8 against 5 Gcell/s on one thread.
"""

import functools
import operator
import sys
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, overload, register_jitable, register_model

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


HAS_RSQRT = bool(numba.config.ENABLE_AVX) and "+avx512f" in _host_features().split(
    ","
)  # the reciprocal root to 14 bits


@intrinsic
def lanes(typing: Any, array: Any) -> Any:
    """Return how many numbers a vector of an array's kind has: 8 or 16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.intp, Vector(array.dtype).lanes)

    return types.intp(array), generate


def _start(context: Any, builder: Any, array: Any, value: Any) -> Any:
    """Return the pointer to an array's first number; of a pointer, itself."""
    if isinstance(array, types.CPointer):
        return value
    return cgutils.create_struct_proxy(array)(context, builder, value).data


def _place(context: Any, builder: Any, array: Any, value: Any, index: Any, kind: Vector) -> Any:
    """Return a pointer to the vector of a kind that begins at an array's index."""
    start = _start(context, builder, array, value)
    return builder.bitcast(builder.gep(start, [index]), context.get_value_type(kind).as_pointer())


@intrinsic
def start_of(typing: Any, array: Any) -> Any:
    """Return an array's numbers without the array, for functions called for each few numbers.

    They stand for the array in all functions here, and can be indexed; unlike with an array, no
    references to it are counted at each call. The array has to outlive them, and to be contiguous,
    in the order of C: numba refuses others.
    """
    if array.layout != "C":
        raise TypingError(f"start_of({array}): take a contiguous array, in the order of C.")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _start(context, builder, array, arguments[0])

    return types.CPointer(array.dtype)(array), generate


def _require_one_kind(array: Any, vector: Vector) -> None:
    if array.dtype != vector.dtype:
        raise TypingError(f"{vector} cannot be written into {array}: take an array of its kind.")


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
    """Write a vector into an array of its kind, from array[index] on."""
    _require_one_kind(array, vector)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments[0], arguments[1], vector)
        builder.store(arguments[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def before_aligned(typing: Any, array: Any, index: Any) -> Any:
    """Return how many numbers there are from array[index] to the next multiple of 64 bytes.

    In an array that does not begin at a multiple of its numbers' size none stands at one: more than
    any array has.
    """
    size = array.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = _start(context, builder, array, arguments[0])
        address = builder.ptrtoint(builder.gep(start, [arguments[1]]), arguments[1].type)
        number = functools.partial(ir.Constant, address.type)
        missing = builder.and_(builder.neg(address), number(BYTES - 1))
        is_whole = builder.icmp_unsigned("==", builder.urem(missing, number(size)), number(0))
        return builder.select(is_whole, builder.udiv(missing, number(size)), number(sys.maxsize))

    return types.intp(array, types.intp), generate


@intrinsic
def store_past_caches(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector into an array of its kind at an index whose address is a multiple of 64 bytes.

    Memory is not read before, which a store into the caches does, and the caches keep what they
    have. Other threads see it after a `fence` of this one.
    """
    _require_one_kind(array, vector)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments[0], arguments[1], vector)
        written = builder.store(arguments[2], place, align=BYTES)
        one = builder.module.add_metadata([ir.Constant(_INDEX, 1)])
        written.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def fence(typing: Any) -> Any:
    """Let others see all that was written before, by whatever store, before what follows.

    On x86 this is an instruction with a lock, or mfence: either empties the buffers in which stores
    past the caches wait. Source: Intel 64 and IA-32 Architectures Software Developer's Manual,
    volume 3, "Methods of Caching Available", write combining.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Begin to bring array[index] into the first-level cache; the place may be anywhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = _start(context, builder, array, arguments[0])
        place = builder.gep(start, [arguments[1]])
        to_read, all_levels, data = (ir.Constant(_INDEX, value) for value in (0, 3, 1))
        inputs = [place, to_read, all_levels, data]
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), inputs)
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


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


@intrinsic
def one_in(typing: Any, array: Any, lane: Any) -> Any:
    """Return a vector of an array's kind with 1 in one lane and 0 in all others.

    If it has no such lane, all are 0.
    """
    kind = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = context.get_value_type(kind)
        numbers = ir.VectorType(arguments[1].type, kind.lanes)
        is_that = builder.icmp_signed(
            "==",
            ir.Constant(numbers, list(range(kind.lanes))),
            _repeated(builder, arguments[1], numbers),
        )
        return builder.uitofp(is_that, vector)

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
def fma_each(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c for each of the vectors of two tuples, b and c, as long as each other."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        factor, *tuples = arguments
        name, vector = _named("fmuladd", a), factor.type
        parts, before = (cgutils.unpack_tuple(builder, one) for one in tuples)
        pairs = zip(parts, before, strict=True)
        sums = [_call(builder, name, vector, [factor, *pair]) for pair in pairs]
        return context.make_tuple(builder, c, sums)

    return c(a, b, c), generate


@intrinsic
def load_each(typing: Any, array: Any, index: Any, like: Any) -> Any:
    """Return as many vectors as a tuple has, one after the other from array[index] on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        size, kind = array.dtype.bitwidth // 8, like.dtype
        place = _place(context, builder, array, arguments[0], arguments[1], kind)
        places = [builder.gep(place, [_INDEX(k)]) for k in range(like.count)]
        vectors = [builder.load(one, align=size) for one in places]
        return context.make_tuple(builder, like, vectors)

    return like(array, types.intp, like), generate


@intrinsic
def store_each(typing: Any, array: Any, index: Any, vectors: Any) -> Any:
    """Write the vectors of a tuple into an array, one after the other from array[index] on."""
    _require_one_kind(array, vectors.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        size, kind = array.dtype.bitwidth // 8, vectors.dtype
        place = _place(context, builder, array, arguments[0], arguments[1], kind)
        for k, vector in enumerate(cgutils.unpack_tuple(builder, arguments[2])):
            builder.store(vector, builder.gep(place, [_INDEX(k)]), align=size)
        return context.get_dummy_value()

    return types.void(array, types.intp, vectors), generate


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
    kind, size = Vector(source.dtype), source.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, place, step, out, out_place, out_step = arguments
        rows = []
        for _ in range(kind.lanes):
            begin = _place(context, builder, source, array, place, kind)
            rows.append(builder.load(begin, align=size))
            place = builder.add(place, step)
        for column in _exchanged(builder, rows):
            begin = _place(context, builder, target, out, out_place, kind)
            builder.store(column, begin, align=size)
            out_place = builder.add(out_place, out_step)
        return context.get_dummy_value()

    indices = (types.intp, types.intp)
    return types.void(source, *indices, target, *indices), generate


def _exchanged(builder: Any, rows: list[Any]) -> list[Any]:
    """Exchange rows and columns: log2(n) times, blocks of d x d lanes change places."""
    n, d = len(rows), len(rows) // 2
    while d:
        for i in (i for i in range(n) if not i & d):
            rows[i], rows[i + d] = _blocks_exchanged(builder, rows[i], rows[i + d], d)
        d //= 2
    return rows


def _blocks_exchanged(builder: Any, upper: Any, lower: Any, d: int) -> tuple[Any, Any]:
    """Let each second d lanes of the upper row change places with those before in the lower row."""
    n = upper.type.count
    stay = [i if not i & d else n + i - d for i in range(n)]
    move = [i + d if not i & d else n + i for i in range(n)]
    return (
        builder.shuffle_vector(upper, lower, _lanes_of(stay)),
        builder.shuffle_vector(upper, lower, _lanes_of(move)),
    )


@intrinsic
def sums_of_lanes(typing: Any, array: Any, index: Any, pitch: Any) -> Any:
    """Return a vector whose lane k is the sum of all lanes of that at array[index + k pitch].

    Halves of vectors are added, then quarters, and so on.
    """
    kind = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, at, step = arguments
        rows = []
        for _ in range(kind.lanes):
            place = _place(context, builder, array, numbers, at, kind)
            rows.append(builder.load(place, align=array.dtype.bitwidth // 8))
            at = builder.add(at, step)
        while len(rows) > 1:
            d = len(rows) // 2
            pairs = zip(rows[:d], rows[d:], strict=True)
            rows = [builder.fadd(*_blocks_exchanged(builder, *pair, d)) for pair in pairs]
        return rows[0]

    return kind(array, types.intp, types.intp), generate


@register_jitable
def aligned(count: int, like: np.ndarray) -> np.ndarray:
    """Return so many zeros of an array's kind whose first one is at a multiple of 64 bytes."""
    size = like.itemsize
    room = np.zeros(count + BYTES // size, like.dtype)
    first = -room.ctypes.data % BYTES // size
    return room[first : first + count]
