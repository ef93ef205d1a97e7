"""Words that threads share: 64-bit integers, each read and written as a whole, in an order.

What numba lacks for threads that wait for each other without a lock. Arrays are one-dimensional,
int64 and contiguous; indices are not checked. A word is aligned as numpy aligns it.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _place(context: Any, builder: Any, array: Any, arguments: Any) -> Any:
    """Return a pointer to the word at the index that follows the array."""
    data = cgutils.create_struct_proxy(array)(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


@intrinsic
def read_word(typing: Any, array: Any, index: Any) -> Any:
    """Return array[index] of int64, and let nothing that follows be read before it (acquire)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments)
        return builder.load_atomic(place, ordering="acquire", align=8)

    return types.int64(array, types.intp), generate


@intrinsic
def write_word(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write array[index] of int64 after all that was written before it (release)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments)
        builder.store_atomic(arguments[2], place, ordering="release", align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), generate


@intrinsic
def take_word(typing: Any, array: Any, index: Any) -> Any:
    """Turn array[index] of int64 from 0 into 1; tell whether it was this call that did."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments)
        zero, one = (ir.Constant(ir.IntType(64), value) for value in (0, 1))
        pair = builder.cmpxchg(place, zero, one, "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(array, types.intp), generate


@intrinsic
def draw_word(typing: Any, array: Any, index: Any) -> Any:
    """Return array[index] of int64 and add 1 to it, as one: no two calls get the same."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments)
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(array, types.intp), generate


@intrinsic
def let_others_run(typing: Any) -> Any:
    """Give the rest of this thread's time slice to others (POSIX sched_yield)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate
