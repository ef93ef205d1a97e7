"""Boxes around bodies, halved down to a few blocks each: the tree that sums and searches walk.

`build`: boxes are halved in space along their longest side, down to leaves of a few blocks of 8
bodies. The bodies of a node follow one another in the order of the tree, and each node knows its
lump: the mass of its bodies, their centre and their quadrupole, as `tree.py` sums them.

Cuts at the median instead of the middle gave sparse outskirts such long boxes that a body of a
Plummer sphere met 4 times as many others. Leaves of 1 to 4 blocks made no difference beyond a
tenth.

Arrays are float64; position is (body, xyz), mass (body,). Nothing is checked. The tree does not
depend on the number of threads.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from pipelines.kernels.words import read_word, take_word

BLOCK = 8  # bodies that are summed at once: the lanes of a vector of float64
LEAF = 2  # blocks in a leaf, at most
SHARES = 256  # parts that threads take one after the other
PARTS = 8  # parts of the bodies, at least, of which threads build a tree each
ALONE = 512  # blocks below which one thread builds a tree, in less than 1 ms
WORKERS = 64  # threads of use
TERMS = 11  # numbers that describe a lump: centre, mass, -3 S, its trace halved


class Tree(NamedTuple):
    """Bodies in the order of a tree, and its nodes.

    A node is named by the block at which it is split, a leaf by the number of blocks plus its
    first one: each boundary between blocks splits one node. The last block is filled up with
    bodies of no mass in the place of the last one.
    """

    order: np.ndarray  # (place,) which body is there, without the ones that fill up
    x: np.ndarray  # (place,) [length]
    y: np.ndarray
    z: np.ndarray
    mass: np.ndarray  # (place,)
    child: np.ndarray  # (node, 2) the nodes that it was split into
    span: np.ndarray  # (node, 2) its first block, and the one after its last
    box: np.ndarray  # (node, 6) smallest x, y, z of its bodies, and the largest
    lump: np.ndarray  # (node, TERMS) x, y, z of the centre, mass, -3 S as xx xy xz yy yz zz, ...
    gate: np.ndarray  # (node, 4) its centre, and the square of the distance to open it within


@njit(nogil=True, cache=True)
def sow(position: np.ndarray) -> Tree:
    """Return the arrays for a tree of bodies, which are in the order they came in."""
    n = len(position)
    blocks = (n + BLOCK - 1) // BLOCK
    places, nodes = BLOCK * blocks, 2 * blocks
    x, y, z = np.empty(places), np.empty(places), np.empty(places)
    for i in range(n):
        x[i], y[i], z[i] = position[i, 0], position[i, 1], position[i, 2]
    return Tree(
        np.arange(n),
        x,
        y,
        z,
        np.zeros(places),
        np.zeros((nodes, 2), np.uint32),
        np.zeros((nodes, 2), np.int64),
        np.empty((nodes, 6)),
        np.empty((nodes, TERMS)),
        np.empty((nodes, 4)),
    )


@njit(nogil=True, cache=True)
def exchange(tree: Tree, i: int, j: int) -> None:
    """Let the bodies in two places change places."""
    tree.x[i], tree.x[j] = tree.x[j], tree.x[i]
    tree.y[i], tree.y[j] = tree.y[j], tree.y[i]
    tree.z[i], tree.z[j] = tree.z[j], tree.z[i]
    tree.order[i], tree.order[j] = tree.order[j], tree.order[i]


@njit(nogil=True, cache=True)
def part(tree: Tree, along: np.ndarray, start: int, stop: int, middle: float) -> int:
    """Move the bodies in places [start, stop) with a coordinate below the middle to the front.

    Returns the place behind them. Each step is the same for all: no branch is mispredicted.
    """
    end = start
    for i in range(start, stop):
        below = along[i] < middle
        exchange(tree, i, end)
        end += below
    return end


@njit(nogil=True, cache=True)
def move_end(tree: Tree, along: np.ndarray, start: int, end: int, stop: int, target: int) -> None:
    """Move the end of the lower part of [start, stop) to a place nearby, body by body."""
    while end > target:
        largest = start
        for i in range(start, end):
            if along[i] > along[largest]:
                largest = i
        end -= 1
        exchange(tree, largest, end)
    while end < target:
        smallest = end
        for i in range(end, stop):
            if along[i] < along[smallest]:
                smallest = i
        exchange(tree, smallest, end)
        end += 1


@njit(nogil=True, cache=True)
def surround(tree: Tree, start: int, stop: int) -> tuple[float, float, float, float, float, float]:
    """Return the smallest x, y, z of the bodies in places [start, stop), and the largest."""
    x0 = x1 = tree.x[start]
    y0 = y1 = tree.y[start]
    z0 = z1 = tree.z[start]
    for i in range(start, stop):
        x, y, z = tree.x[i], tree.y[i], tree.z[i]
        x0, x1 = x if x < x0 else x0, x if x > x1 else x1
        y0, y1 = y if y < y0 else y0, y if y > y1 else y1
        z0, z1 = z if z < z0 else z0, z if z > z1 else z1
    return x0, y0, z0, x1, y1, z1


@njit(nogil=True, cache=True)
def split(tree: Tree, first: int, last: int) -> tuple[int, int]:
    """Order the bodies of blocks [first, last) by halves; return the node and where they meet.

    The cut is at the middle of the longest side, moved to the nearest boundary between blocks; of
    bodies that are all in one place, at the middle block. What a leaf holds is not moved.
    """
    start, stop = BLOCK * first, min(BLOCK * last, len(tree.order))
    x0, y0, z0, x1, y1, z1 = surround(tree, start, stop)
    if last - first <= LEAF:
        node, cut = len(tree.x) // BLOCK + first, last
    else:
        along, low, high = tree.x, x0, x1
        if y1 - y0 > high - low:
            along, low, high = tree.y, y0, y1
        if z1 - z0 > high - low:
            along, low, high = tree.z, z0, z1
        if high > low:
            end = part(tree, along, start, stop, low + 0.5 * (high - low))
            cut = min(max((end + BLOCK // 2) // BLOCK, first + 1), last - 1)
            move_end(tree, along, start, end, stop, BLOCK * cut)
        else:
            cut = (first + last) // 2
        node = cut
    tree.span[node, 0], tree.span[node, 1] = first, last
    tree.box[node, 0], tree.box[node, 1], tree.box[node, 2] = x0, y0, z0
    tree.box[node, 3], tree.box[node, 4], tree.box[node, 5] = x1, y1, z1
    return node, cut


@njit(nogil=True, cache=True)
def add_lump(lump: np.ndarray, node: int, x: float, y: float, z: float, mass: float) -> None:
    """Add a point of mass to the second moments -3 S of a node about its centre."""
    dx, dy, dz = x - lump[node, 0], y - lump[node, 1], z - lump[node, 2]
    lump[node, 4] -= 3.0 * mass * dx * dx
    lump[node, 5] -= 3.0 * mass * dx * dy
    lump[node, 6] -= 3.0 * mass * dx * dz
    lump[node, 7] -= 3.0 * mass * dy * dy
    lump[node, 8] -= 3.0 * mass * dy * dz
    lump[node, 9] -= 3.0 * mass * dz * dz


@njit(nogil=True, cache=True, error_model="numpy")
def centre(tree: Tree, node: int, mass: float, mx: float, my: float, mz: float) -> None:
    """Set a node's mass and its centre: of mass, within its box; of the box, if it has no mass."""
    for k in range(4, TERMS):
        tree.lump[node, k] = 0.0
    tree.lump[node, 3] = mass
    for axis, moment in enumerate((mx, my, mz)):
        low, high = tree.box[node, axis], tree.box[node, 3 + axis]
        middle = moment / mass if mass > 0.0 else low + 0.5 * (high - low)
        tree.lump[node, axis] = min(max(middle, low), high)


@njit(nogil=True, cache=True)
def weigh_leaf(mass: np.ndarray, tree: Tree, leaf: int) -> None:
    """Set a leaf's lump from its bodies; fill its last block up."""
    n = len(mass)
    m = mx = my = mz = 0.0
    for i in range(BLOCK * tree.span[leaf, 0], BLOCK * tree.span[leaf, 1]):
        if i < n:
            tree.mass[i] = mass[tree.order[i]]
            m += tree.mass[i]
            mx += tree.mass[i] * tree.x[i]
            my += tree.mass[i] * tree.y[i]
            mz += tree.mass[i] * tree.z[i]
        else:
            tree.x[i], tree.y[i], tree.z[i] = tree.x[n - 1], tree.y[n - 1], tree.z[n - 1]
    centre(tree, leaf, m, mx, my, mz)
    for i in range(BLOCK * tree.span[leaf, 0], BLOCK * tree.span[leaf, 1]):
        add_lump(tree.lump, leaf, tree.x[i], tree.y[i], tree.z[i], tree.mass[i])


@njit(nogil=True, cache=True)
def weigh_both(tree: Tree, node: int) -> None:
    """Set a node's lump from its halves."""
    lump, one, two = tree.lump, tree.child[node, 0], tree.child[node, 1]
    mx = lump[one, 3] * lump[one, 0] + lump[two, 3] * lump[two, 0]
    my = lump[one, 3] * lump[one, 1] + lump[two, 3] * lump[two, 1]
    mz = lump[one, 3] * lump[one, 2] + lump[two, 3] * lump[two, 2]
    centre(tree, node, lump[one, 3] + lump[two, 3], mx, my, mz)
    for half in (one, two):
        add_lump(lump, node, lump[half, 0], lump[half, 1], lump[half, 2], lump[half, 3])
        for k in range(4, 10):
            lump[node, k] += lump[half, k]


@njit(nogil=True, cache=True, error_model="numpy")
def weigh(mass: np.ndarray, theta: float, tree: Tree, node: int) -> None:
    """Set a node's lump, and within which distance of its centre it is opened."""
    if node >= len(tree.x) // BLOCK:
        weigh_leaf(mass, tree, node)
    else:
        weigh_both(tree, node)
    lump, box = tree.lump, tree.box
    lump[node, 10] = 0.5 * (lump[node, 4] + lump[node, 7] + lump[node, 9])
    square = 0.0
    for axis in range(3):
        middle = lump[node, axis]
        square += max(middle - box[node, axis], box[node, 3 + axis] - middle) ** 2
        tree.gate[node, axis] = middle
    tree.gate[node, 3] = square / min(theta, 1.0) ** 2


# What there is to build is a table of ranges, (range, 5): first block, the one after the last, the
# row of the range that it is a half of and which half, and the node that it becomes.
FIRST, LAST, PARENT, SIDE, NODE = range(5)


@njit(nogil=True, cache=True)
def add_halves(plan: np.ndarray, row: int, cut: int, end: int) -> int:
    """Add both sides of a cut to the plan, whose end it was; return its new end."""
    if cut == plan[row, LAST]:
        return end
    for side in range(2):
        half = plan[end + side]
        half[FIRST] = cut if side else plan[row, FIRST]
        half[LAST] = plan[row, LAST] if side else cut
        half[PARENT], half[SIDE] = row, side
    return end + 2


@njit(nogil=True, cache=True)
def finish(mass: np.ndarray, theta: float, tree: Tree, plan: np.ndarray, row: int) -> None:
    """Weigh the node of a row of the plan whose halves are finished; make it its parent's child."""
    node, parent = plan[row, NODE], plan[row, PARENT]
    weigh(mass, theta, tree, node)
    if parent >= 0:
        tree.child[plan[parent, NODE], plan[row, SIDE]] = node


@njit(nogil=True, cache=True)
def grow(mass: np.ndarray, theta: float, tree: Tree, first: int, last: int) -> int:
    """Build the part of a tree that holds blocks [first, last); return its topmost node."""
    plan = np.empty((2 * (last - first), 5), np.int64)
    plan[0, FIRST], plan[0, LAST], plan[0, PARENT] = first, last, -1
    row, end = 0, 1
    while row < end:
        node, cut = split(tree, plan[row, FIRST], plan[row, LAST])
        plan[row, NODE] = node
        end = add_halves(plan, row, cut, end)
        row += 1
    for row in range(end - 1, -1, -1):
        finish(mass, theta, tree, plan, row)
    return int(plan[0, NODE])


@njit(nogil=True, cache=True)
def build(mass: np.ndarray, theta: float, tree: Tree) -> int:
    """Make a tree of some bodies, at least one; return its topmost node. On one thread."""
    first = np.int64(0)  # not the literal, for which it would be compiled once more
    root: int = grow(mass, theta, tree, first, len(tree.x) // BLOCK)
    return root


@njit(nogil=True, cache=True)
def next_share(taken: np.ndarray, share: int) -> int:
    """Take the first share from this one on that no thread has taken; return it, or their number.

    taken (share,) int64 is 0 where nobody works. Threads that take what comes next are done at the
    same time, whatever each share costs; what they compute does not depend on who did it.
    """
    while share < len(taken):
        if read_word(taken, share) == 0 and take_word(taken, share):
            return share
        share += 1
    return share


@njit(nogil=True, cache=True, parallel=True)
def build_parallel(mass: np.ndarray, theta: float, tree: Tree) -> int:
    """Make the same tree as `build`, the topmost splits on one thread, what is below on all.

    On a busy machine each parallel region may wait for a thread that is not running: with one
    region instead of one per level, 1e5 bodies took 20 ms there instead of 130.
    """
    blocks = len(tree.x) // BLOCK
    if blocks < ALONE:
        return int(build(mass, theta, tree))
    large = blocks // PARTS
    plan = np.empty((2 * blocks, 5), np.int64)
    plan[0, FIRST], plan[0, LAST], plan[0, PARENT] = 0, blocks, -1
    row, end = 0, 1
    while row < end:
        first, last = plan[row, FIRST], plan[row, LAST]
        plan[row, NODE] = -1
        if last - first > large:
            plan[row, NODE], cut = split(tree, first, last)
            end = add_halves(plan, row, cut, end)
        row += 1

    taken = np.zeros(end, np.int64)
    for _ in prange(WORKERS):
        row = next_share(taken, 0)
        while row < end:
            if plan[row, NODE] < 0:
                plan[row, NODE] = grow(mass, theta, tree, plan[row, FIRST], plan[row, LAST])
            row = next_share(taken, row + 1)
    for row in range(end - 1, -1, -1):
        finish(mass, theta, tree, plan, row)
    return int(plan[0, NODE])
