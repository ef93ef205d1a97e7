"""The pull of the nearest bodies alone: which those are, and the sum over them.

Acceleration of body i, softened as in `gravity`, with d = position[j] - position[i]:

    a_i = g sum_j m_j d / (|d|^2 + softening^2)^(3/2)        j: the k nearest other bodies

Nearest means by |d|^2 = dx^2 + (dy^2 + dz^2), each step rounded as the processor's fused
multiply-add does; of bodies at the same distance, the one with the smaller number. The terms are
added in that order. Where there are fewer than k others, all of them count.

The bodies stand in the boxes of `tree` (Friedman, Bentley & Finkel 1977,
doi:10.1145/355744.355745): the nearer half is looked into first, and no box that is farther away
than the k-th smallest distance so far. (Comparing all bodies, 8 distances at a time, was a third
quicker for 50 bodies, as quick for 200 and slower for more.)

Arrays: position and out (body, xyz), mass (body,), float64 or narrower; all sums are made in
float64. Any consistent units do: softening [length], g [length^3 mass^-1 time^-2]. At softening 0
a body in the place of another one does not pull it. Nothing is checked. A body whose place is NaN
or infinite is nobody's neighbour, and one that finds fewer than k for that reason gets NaN.
"""

import numpy as np
from numba import njit, prange

from pipelines.kernels.boxes import (
    BLOCK,
    LEAF,
    SHARES,
    WORKERS,
    Tree,
    build,
    build_parallel,
    next_share,
    sow,
)
from pipelines.kernels.simd import fma, load, splat, store

NOBODY = -1
FARTHEST = float(np.finfo(np.float64).max)  # what is farther away is nowhere
NEARLY = 1 - 2.0**-50  # a box is no farther away than its bodies, however both were rounded


@njit(nogil=True, forceinline=True)
def set_squares(
    tree: Tree, start: int, stop: int, x: float, y: float, z: float, squares: np.ndarray
) -> None:
    """Write the squares of the distances of a point from places [start, stop), whole blocks."""
    px, py, pz = splat(squares, x), splat(squares, y), splat(squares, z)
    for i in range(start, stop, BLOCK):
        dx, dy, dz = load(tree.x, i) - px, load(tree.y, i) - py, load(tree.z, i) - pz
        store(squares, i - start, fma(dx, dx, fma(dy, dy, dz * dz)))


@njit(nogil=True, forceinline=True)
def insert(
    square: float, seat: int, nearest: np.ndarray, seats: np.ndarray, order: np.ndarray, last: int
) -> None:
    """Put a place that is nearer than the last of the nearest ones where it belongs; drop that."""
    i = last
    while i > 0 and nearest[i - 1] > square:
        nearest[i], seats[i] = nearest[i - 1], seats[i - 1]
        i -= 1
    while i > 0 and nearest[i - 1] == square and order[seats[i - 1]] > order[seat]:
        nearest[i], seats[i] = nearest[i - 1], seats[i - 1]
        i -= 1
    nearest[i], seats[i] = square, seat


@njit(nogil=True, forceinline=True)
def gap(tree: Tree, node: int, x: float, y: float, z: float) -> float:
    """Return the square of the distance of a point from a node's box."""
    dx = max(tree.box[node, 0] - x, x - tree.box[node, 3], 0.0)
    dy = max(tree.box[node, 1] - y, y - tree.box[node, 4], 0.0)
    dz = max(tree.box[node, 2] - z, z - tree.box[node, 5], 0.0)
    square: float = (dx * dx + dy * dy + dz * dz) * NEARLY
    return square


@njit(nogil=True, cache=True)
def search(tree: Tree, root: int, first: int, last: int, out_index: np.ndarray) -> None:
    """Find the nearest others of the bodies in places [first, last) of a tree."""
    order, child, span = tree.order, tree.child, tree.span
    n, blocks = len(order), len(tree.x) // BLOCK
    k = out_index.shape[1]
    nearest, seats, squares = np.empty(k), np.full(k, NOBODY), np.empty(BLOCK * LEAF)
    waiting, gaps = np.empty(2 * blocks, np.int64), np.empty(2 * blocks)
    for place in range(first, last):
        x, y, z = tree.x[place], tree.y[place], tree.z[place]
        nearest[:], seats[:], limit = FARTHEST, NOBODY, FARTHEST
        waiting[0], gaps[0], count = root, 0.0, 1
        while count:
            count -= 1
            node = waiting[count]
            if gaps[count] > limit:
                continue
            if node < blocks:
                one, two = np.int64(child[node, 0]), np.int64(child[node, 1])
                to_one, to_two = gap(tree, one, x, y, z), gap(tree, two, x, y, z)
                if to_one < to_two:
                    one, two, to_one, to_two = two, one, to_two, to_one
                waiting[count], gaps[count] = one, to_one
                count += to_one <= limit
                waiting[count], gaps[count] = two, to_two
                count += to_two <= limit
            else:
                start, stop = BLOCK * span[node, 0], BLOCK * span[node, 1]
                set_squares(tree, start, stop, x, y, z, squares)
                for j in range(start, min(stop, n)):
                    square = squares[j - start]
                    if not square <= limit or j == place:
                        continue
                    if square < limit or order[j] < order[seats[k - 1]]:
                        insert(square, j, nearest, seats, order, k - 1)
                        limit = nearest[k - 1]
        for i in range(k):
            seat = seats[i]
            out_index[order[place], i] = NOBODY if seat == NOBODY else order[seat]


@njit(nogil=True, cache=True)
def nearest(position: np.ndarray, k: int, out_index: np.ndarray) -> None:
    """Write the numbers of the k nearest others of each body (body, k), nearest first.

    Where there are fewer others than k, the rest of the row is -1. On one thread.
    """
    n = len(position)
    out_index[:] = NOBODY
    found = out_index[:, : min(k, n - 1)]
    if found.size == 0:
        return
    tree = sow(position)
    root = build(np.ones(n), 1.0, tree)
    first = np.int64(0)  # not the literal, for which it would be compiled once more
    search(tree, root, first, n, found)


@njit(nogil=True, cache=True, parallel=True)
def search_parallel(tree: Tree, root: int, out_index: np.ndarray) -> None:
    """Find the nearest of all bodies of a tree, bodies shared among threads."""
    n = len(out_index)
    taken = np.zeros(min(SHARES, n), np.int64)
    shares = len(taken)
    for _ in prange(WORKERS):
        share = next_share(taken, 0)
        while share < shares:
            search(tree, root, n * share // shares, n * (share + 1) // shares, out_index)
            share = next_share(taken, share + 1)


@njit(nogil=True, cache=True)
def nearest_parallel(position: np.ndarray, k: int, out_index: np.ndarray) -> None:
    """Write what `nearest` does, bodies shared among threads."""
    n = len(position)
    out_index[:] = NOBODY
    found = out_index[:, : min(k, n - 1)]
    if found.size == 0:
        return
    tree = sow(position)
    root = build_parallel(np.ones(n), 1.0, tree)
    search_parallel(tree, root, found)


@njit(nogil=True, cache=True, error_model="numpy")
def pull(
    i: int, position: np.ndarray, mass: np.ndarray, softening: float, bodies: np.ndarray
) -> tuple[float, float, float]:
    """Acceleration of body i along x, y and z by some others, for g = 1."""
    ax = ay = az = 0.0
    for j in bodies:
        if j == NOBODY:
            return np.nan, np.nan, np.nan
        dx = np.float64(position[j, 0]) - position[i, 0]
        dy = np.float64(position[j, 1]) - position[i, 1]
        dz = np.float64(position[j, 2]) - position[i, 2]
        square = dx * dx + dy * dy + dz * dz + softening * softening
        weight = mass[j] / (square * np.sqrt(square)) if square > 0.0 else 0.0
        ax += weight * dx
        ay += weight * dy
        az += weight * dz
    return ax, ay, az


@njit(nogil=True, cache=True)
def accelerations(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, k: int, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) by the k nearest others into `out`, on one thread."""
    n = len(mass)
    index = np.empty((n, max(min(k, n - 1), 0)), np.int64)
    nearest(position, k, index)
    for i in range(n):
        ax, ay, az = pull(i, position, mass, softening, index[i])
        out[i, 0], out[i, 1], out[i, 2] = g * ax, g * ay, g * az


@njit(nogil=True, cache=True, parallel=True)
def pull_parallel(
    tree: Tree,
    root: int,
    position: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    index: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write the accelerations by the nearest others, who are written into index (body, k)."""
    n = len(mass)
    taken = np.zeros(min(SHARES, n), np.int64)
    shares = len(taken)
    for _ in prange(WORKERS):
        share = next_share(taken, 0)
        while share < shares:
            first, last = n * share // shares, n * (share + 1) // shares
            search(tree, root, first, last, index)
            for i in tree.order[first:last]:
                ax, ay, az = pull(i, position, mass, softening, index[i])
                out[i, 0], out[i, 1], out[i, 2] = g * ax, g * ay, g * az
            share = next_share(taken, share + 1)


@njit(nogil=True, cache=True)
def accelerations_parallel(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, k: int, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) by the k nearest others into `out`, on all threads."""
    n = len(mass)
    index = np.empty((n, max(min(k, n - 1), 0)), np.int64)
    if index.size == 0:
        out[:] = 0.0
    else:
        tree = sow(position)
        root = build_parallel(np.ones(n), 1.0, tree)
        found = index[:, :k]  # all of it, but of the kind that `search` is compiled for already
        pull_parallel(tree, root, position, mass, softening, g, found, out)
