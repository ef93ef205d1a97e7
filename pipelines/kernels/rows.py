"""Rows of a plate, interleaved so that both neighbours of a vector are vectors in their own right.

A row of n numbers is cut into as many pieces as a vector has lanes, each of `vectors` numbers (the
last one may end early). Number e of the row is in lane e // vectors of vector e % vectors: lane by
lane the next vector holds the neighbours to the right, without a load across two cache lines
(Henretty et al. 2011, doi:10.1007/978-3-642-19861-8_13). Before the first vector and after the
last stand two more, of the neighbours of theirs.

In the work array `w`, 1-D, a row is named by the index of its first number; the vector before it
is in front of that. From one row to the next it is `vectors` + 2 vectors.
"""

import numpy as np
from numba import njit

from pipelines.kernels.simd import (
    before_aligned,
    from_left,
    from_right,
    lanes,
    load,
    store,
    store_past_caches,
    transpose,
)


def place(n: int, vectors: int, e: int) -> int:
    """Return where number e of a row is, relative to the row, of vectors of n lanes.

    e is between -1, the number before the first one, and n vectors, that after the last.
    """
    if e < 0:
        return -n
    return vectors * n + n - 1 if e == vectors * n else e % vectors * n + e // vectors


def twin(n: int, vectors: int, e: int) -> int:
    """Return where the same number stands once more, as some vector's neighbour, or its place."""
    lane = e // vectors
    if e % vectors == 0 and 0 < lane < n:
        return vectors * n + lane - 1
    if e % vectors == vectors - 1 and 0 <= lane < n - 1:
        return -n + lane + 1
    return place(n, vectors, e)


@njit(nogil=True, cache=True)
def pack(
    w: np.ndarray,
    row: int,
    vectors: int,
    numbers: np.ndarray,
    columns: int,
    i: int,
    start: int,
    wraps: bool,
    room: int,
) -> None:
    """Interleave columns `start` to `start` + vectors lanes - 1 of row i of some table, 1-D.

    Before column 0 and after the last one stand those of the other end if the table wraps, else the
    outermost number again. At w[room] is room for a row.
    """
    n, first = lanes(w), i * columns
    count = vectors * n
    if start >= 0 and start + count <= columns:
        exchange(w, row, vectors, numbers, first + start)
    else:
        for e in range(count):
            w[room + e] = numbers[first + inside(start + e, columns, wraps)]
        exchange(w, row, vectors, w, room)
    store(w, row - n, from_left(load(w, row + count - n)))
    store(w, row + count, from_right(load(w, row)))
    w[row - n] = numbers[first + inside(start - 1, columns, wraps)]
    w[row + count + n - 1] = numbers[first + inside(start + count, columns, wraps)]


@njit(nogil=True, cache=True)
def inside(column: int, columns: int, wraps: bool) -> int:
    """Return the column that stands for another one, beyond an end perhaps."""
    if 0 <= column < columns:
        return column
    if wraps:
        return int(column % columns)
    return 0 if column < 0 else columns - 1


@njit(nogil=True, cache=True)
def exchange(w: np.ndarray, row: int, vectors: int, numbers: np.ndarray, first: int) -> None:
    """Write numbers[first : first + vectors lanes] into a row; its pieces become lanes."""
    n = lanes(w)
    for j in range(0, vectors - n + 1, n):
        transpose(numbers, first + j, vectors, w, row + j * n, n)
    if vectors >= n:
        transpose(numbers, first + vectors - n, vectors, w, row + (vectors - n) * n, n)
    else:
        for e in range(vectors * n):
            w[row + e % vectors * n + e // vectors] = numbers[first + e]


@njit(nogil=True, cache=True)
def unpack(
    w: np.ndarray,
    row: int,
    vectors: int,
    skip: int,
    numbers: np.ndarray,
    first: int,
    count: int,
    room: int,
    for_later: int,
) -> None:
    """Write a row's numbers, from number `skip` on, to numbers[first : first + count], 1-D.

    At w[room] is room for a row: a table that is not in the cache is written in its order. What is
    for later does not get into the caches; others see it after a `simd.fence`.
    """
    n = lanes(w)
    if vectors >= n:
        for tile in range(0, vectors, n):
            j = min(tile, vectors - n)
            transpose(w, row + j * n, n, w, room + j, vectors)
    else:
        for e in range(vectors * n):
            w[room + e] = w[row + e % vectors * n + e // vectors]
    begin = min(before_aligned(numbers, first), count) if for_later else 0
    end = begin + (count - begin) // n * n
    for e in range(begin):
        numbers[first + e] = w[room + skip + e]
    if for_later:
        for e in range(begin, end, n):
            store_past_caches(numbers, first + e, load(w, room + skip + e))
    else:
        for e in range(begin, end, n):
            store(numbers, first + e, load(w, room + skip + e))
    for e in range(end, count):
        numbers[first + e] = w[room + skip + e]
