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

from pipelines.kernels.simd import from_left, from_right, lanes, load, store, transpose


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
    i: int,
    start: int,
    wraps: bool,
    room: int,
) -> None:
    """Write numbers[i, start : start + vectors lanes] into a row, with both neighbours.

    Before column 0 and after the last one stand those of the other end if it wraps, else the
    outermost number again. At w[room] is room for a row.
    """
    n, columns = lanes(w), numbers.shape[1]
    count = vectors * n
    inside, outside = max(0, -start), min(count, columns - start)
    for e in range(inside, outside):
        w[room + e] = numbers[i, start + e]
    for e in range(inside):
        w[room + e] = beyond(numbers, i, start + e, wraps)
    for e in range(outside, count):
        w[room + e] = beyond(numbers, i, start + e, wraps)
    if vectors >= n:
        for j in range(0, vectors - n + 1, n):
            transpose(w, room + j, vectors, w, row + j * n, n)
        transpose(w, room + vectors - n, vectors, w, row + count - n * n, n)
    else:
        for e in range(count):
            w[row + e % vectors * n + e // vectors] = w[room + e]
    store(w, row - n, from_left(load(w, row + count - n)))
    store(w, row + count, from_right(load(w, row)))
    w[row - n] = beyond(numbers, i, start - 1, wraps)
    w[row + count + n - 1] = beyond(numbers, i, start + count, wraps)


@njit(nogil=True, cache=True)
def beyond(numbers: np.ndarray, i: int, column: int, wraps: bool) -> float:
    """Return numbers[i, column], also where there is no such column."""
    columns = numbers.shape[1]
    if wraps:
        return float(numbers[i, column % columns])
    return float(numbers[i, min(max(column, 0), columns - 1)])


@njit(nogil=True, cache=True)
def unpack(
    w: np.ndarray,
    row: int,
    vectors: int,
    skip: int,
    numbers: np.ndarray,
    i: int,
    start: int,
    count: int,
    room: int,
) -> None:
    """Write a row's numbers, from number `skip` on, to numbers[i, start : start + count]."""
    n = lanes(w)
    if vectors >= n:
        for j in range(0, vectors - n + 1, n):
            transpose(w, row + j * n, n, w, room + j, vectors)
        transpose(w, row + (vectors - n) * n, n, w, room + vectors - n, vectors)
    else:
        for e in range(vectors * n):
            w[room + e] = w[row + e % vectors * n + e // vectors]
    for e in range(count):
        numbers[i, start + e] = w[room + skip + e]
