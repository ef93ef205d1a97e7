"""Self-gravity of many bodies by a tree: what is far away is summed in lumps (Barnes & Hut 1986).

Acceleration and potential of body i, softened as in `gravity`, with d = position[j] - position[i]:

    a_i = g sum_j m_j d / (|d|^2 + softening^2)^(3/2)
    phi_i = -g sum_j m_j / (|d|^2 + softening^2)^(1/2)        j != i

A lump of mass M whose bodies lie at c + x acts from its centre of mass c by its monopole and its
quadrupole, the first terms of the Taylor series of the same softened law. With d = c - position[i],
s^2 = |d|^2 + softening^2 and S = sum_j m_j x x^T (Dehnen & Read 2011, section 3,
doi:10.1140/epjp/i2011-11055-3):

    phi_i = -g (M / s + (3 d.S.d / s^5 - tr S / s^3) / 2)
    a_i = g ((M + (15 d.S.d / s^4 - 3 tr S / s^2) / 2) d - 3 S d / s^2) / s^3

The way of the bodies through this file:

1. `build`: boxes around the bodies are halved in space along their longest side, down to leaves of
   a few blocks of 8 bodies. The bodies of a node follow one another in the order of the tree.
2. `walk`: once for a whole group of neighbouring bodies (Barnes 1990, J. Comput. Phys. 87, 161),
   it lists the lumps to take and the bodies to sum one by one. A lump is taken by a group whose box
   is farther from its centre of mass than size / theta, the size being the distance from there to
   the farthest corner of the lump's box (Salmon & Warren 1994, doi:10.1006/jcph.1994.1050, on why
   not less). So a lump never holds bodies of the group, and theta above 1 acts as 1.
3. `pull_group`, `sink_group`: the two lists are summed, 8 bodies of the group at a time.

theta = 0 is direct summation. Relative errors of the accelerations of 1e5 bodies, a Plummer sphere
and a gaussian with a softening of 0.01, and how many lumps and bodies a body meets on average:

    theta    root of mean square    largest          lumps          bodies
    0.3      7e-5       7e-5        1e-3   3e-3      1480   1140    6900   4500
    0.5      5e-4       5e-4        2e-2   2e-2       720    510    1930   1340
    0.7      1.6e-3     1.9e-3      3e-2   8e-2       420    280     930    690
    1.0      9e-3       1.1e-2      0.4    0.4        240    150     510    380

Without quadrupoles, which double the operations for a lump, errors were 6 to 8 times as large at
0.7. Leaves of 1 to 4 blocks and groups of 4 to 8 made no difference beyond a tenth. Cuts at the
median instead of the middle gave sparse outskirts such long boxes that a body of the Plummer sphere
met 4 times as many others.

Arrays: position and out (body, xyz), mass and potentials (body,), float64 or narrower; all sums are
made in float64. Any consistent units do: softening [length], g [length^3 mass^-1 time^-2], masses
of at least 0 and up to 1e80, distances between 1e-70 and 1e50. Bodies in one place do not
accelerate one another, whatever the softening. Nothing is checked; a NaN among the positions makes
every result NaN.

Results do not depend on the number of threads; those on the order of the bodies lie within the
tree's error.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from pipelines.kernels.simd import fma, load, read_word, rsqrt_seed, splat, spread, store, take_word

BLOCK = 8  # bodies that are summed at once: the lanes of a vector of float64
LEAF = 2  # blocks in a leaf, at most
GROUP = 6  # blocks in a group, at most
SHARES = 256  # parts that threads take one after the other
PARTS = 8  # parts of the bodies, at least, of which threads build a tree each
ALONE = 512  # blocks below which one thread builds a tree, in less than 1 ms
WORKERS = 64  # threads of use
NEAREST = 1e-150  # [length^2] keeps 1 / s^3 of a body and itself finite, and is lost in all else
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
    root: int = grow(mass, theta, tree, 0, len(tree.x) // BLOCK)
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


@njit(nogil=True, cache=True)
def find_groups(tree: Tree, root: int) -> np.ndarray:
    """Return the nodes that are walked for: the largest ones of no more than GROUP blocks."""
    groups = np.empty(len(tree.x) // BLOCK, np.int64)
    stack = np.empty(len(tree.x) // BLOCK + 1, np.int64)
    stack[0], waiting, found = root, 1, 0
    while waiting:
        waiting -= 1
        node = stack[waiting]
        if tree.span[node, 1] - tree.span[node, 0] <= GROUP:
            groups[found] = node
            found += 1
        else:
            stack[waiting], stack[waiting + 1] = tree.child[node, 1], tree.child[node, 0]
            waiting += 2
    return groups[:found]


class Lists(NamedTuple):
    """What acts on a group, and room for the walk that finds it."""

    nodes: np.ndarray  # (node,) nodes to look at
    halves: np.ndarray  # (node,) the ones after these
    lumps: np.ndarray  # (node,) nodes to take as lumps
    leaves: np.ndarray  # (leaf,) leaves to take body by body
    blocks: np.ndarray  # (block,) the first places of their blocks, and of the group's own


@njit(nogil=True, cache=True)
def room(tree: Tree) -> Lists:
    """Return lists that are large enough for any group of a tree."""
    nodes = len(tree.gate) + 2
    return Lists(
        np.empty(nodes, np.uint32),
        np.empty(nodes, np.uint32),
        np.empty(nodes, np.uint32),
        np.empty(nodes, np.uint32),
        np.empty(nodes, np.int64),
    )


@njit(nogil=True, cache=True)
def walk(tree: Tree, root: int, group: int, lists: Lists) -> tuple[int, int]:
    """List what acts on a group of bodies; return the numbers of lumps and of blocks.

    The blocks of the group itself come first. The tree is gone through level by level and without
    branches: a node is written to all the lists that it might belong to, and those grow that it
    does belong to.
    """
    box, gate, child = tree.box, tree.gate, tree.child
    x0, y0, z0 = box[group, 0], box[group, 1], box[group, 2]
    x1, y1, z1 = box[group, 3], box[group, 4], box[group, 5]
    blocks = len(tree.x) // BLOCK
    nodes, halves = lists.nodes, lists.halves
    nodes[0], count, lumps, leaves = root, 1, 0, 0
    while count:
        opened = 0
        for i in range(count):
            node = nodes[i]
            x, y, z = gate[node, 0], gate[node, 1], gate[node, 2]
            dx = max(x0 - x, x - x1, 0.0)
            dy = max(y0 - y, y - y1, 0.0)
            dz = max(z0 - z, z - z1, 0.0)
            taken = dx * dx + dy * dy + dz * dz > gate[node, 3]
            others = (not taken) & (node != group)
            lists.lumps[lumps] = lists.leaves[leaves] = node
            lumps += taken
            leaves += others & (node >= blocks)
            halves[opened], halves[opened + 1] = child[node, 0], child[node, 1]
            opened += 2 * (others & (node < blocks))
        nodes, halves, count = halves, nodes, opened
    found = add_blocks(tree, group, lists.blocks, 0)
    for i in range(leaves):
        found = add_blocks(tree, lists.leaves[i], lists.blocks, found)
    return lumps, found


@njit(nogil=True, cache=True)
def add_blocks(tree: Tree, node: int, places: np.ndarray, count: int) -> int:
    """Add the first places of a node's blocks to so many others; return how many there are then."""
    for block in range(tree.span[node, 0], tree.span[node, 1]):
        places[count] = BLOCK * block
        count += 1
    return count


@njit(nogil=True, forceinline=True)
def add_pull(body: Any, j: int, x: Any, y: Any, z: Any, e2: Any, sums: Any) -> Any:
    """Add m d / s^3 of the body in place j to the sums for bodies at x, y, z.

    With u close to 1 / s and h = s^2 u^2 - 1, 1 / s^3 is u^3 (1 + h)^(-3/2); three terms of the
    binomial series are right to rounding, as h is at most 2^-13.
    """
    dx, dy, dz = spread(body.x, j) - x, spread(body.y, j) - y, spread(body.z, j) - z
    square = fma(dx, dx, fma(dy, dy, fma(dz, dz, e2)))
    u = rsqrt_seed(square)
    u2 = u * u
    h = fma(square, u2, splat(body.x, -1.0))
    series = fma(h, fma(h, splat(body.x, -35 / 16), splat(body.x, 15 / 8)), splat(body.x, -3 / 2))
    w = spread(body.mass, j) * (u * u2) * fma(h, series, splat(body.x, 1.0))
    return fma(w, dx, sums[0]), fma(w, dy, sums[1]), fma(w, dz, sums[2])


@njit(nogil=True, forceinline=True)
def add_depth(body: Any, j: int, x: Any, y: Any, z: Any, e2: Any, total: Any, counts: Any) -> Any:
    """Add m / s of the body in place j, where it counts, to the total for bodies at x, y, z."""
    dx, dy, dz = spread(body.x, j) - x, spread(body.y, j) - y, spread(body.z, j) - z
    square = fma(dx, dx, fma(dy, dy, fma(dz, dz, e2)))
    u = rsqrt_seed(square)
    h = fma(square * u, u, splat(body.x, -1.0))
    series = fma(h, fma(h, splat(body.x, -5 / 16), splat(body.x, 3 / 8)), splat(body.x, -1 / 2))
    return fma(counts * spread(body.mass, j) * u, fma(h, series, splat(body.x, 1.0)), total)


@njit(nogil=True, forceinline=True)
def seen(lump: np.ndarray, i: int, x: Any, y: Any, z: Any, e2: Any) -> Any:
    """Return d, 1 / s, -3 S d and -3 d.S.d of the lump whose numbers begin at i.

    1 / s is good to 6e-13: two terms of the series.
    """
    dx, dy, dz = spread(lump, i) - x, spread(lump, i + 1) - y, spread(lump, i + 2) - z
    square = fma(dx, dx, fma(dy, dy, fma(dz, dz, e2)))
    u = rsqrt_seed(square)
    h = fma(square * u, u, splat(lump, -1.0))
    u = fma(u * h, fma(h, splat(lump, 3 / 8), splat(lump, -1 / 2)), u)
    xx, xy, xz = spread(lump, i + 4), spread(lump, i + 5), spread(lump, i + 6)
    yy, yz, zz = spread(lump, i + 7), spread(lump, i + 8), spread(lump, i + 9)
    qx = fma(xx, dx, fma(xy, dy, xz * dz))
    qy = fma(xy, dx, fma(yy, dy, yz * dz))
    qz = fma(xz, dx, fma(yz, dy, zz * dz))
    return dx, dy, dz, u, qx, qy, qz, fma(qx, dx, fma(qy, dy, qz * dz))


@njit(nogil=True, forceinline=True)
def add_pull_of_lump(lump: np.ndarray, i: int, x: Any, y: Any, z: Any, e2: Any, sums: Any) -> Any:
    """Add the pull of the lump whose numbers begin at i to the sums for bodies at x, y, z."""
    dx, dy, dz, u, qx, qy, qz, q = seen(lump, i, x, y, z, e2)
    u2 = u * u
    u3 = u2 * u
    u5 = u2 * u3
    half = fma(splat(lump, -5 / 2) * u2, q, spread(lump, i + 10))
    w = u3 * fma(u2, half, spread(lump, i + 3))
    return (
        fma(u5, qx, fma(w, dx, sums[0])),
        fma(u5, qy, fma(w, dy, sums[1])),
        fma(u5, qz, fma(w, dz, sums[2])),
    )


@njit(nogil=True, forceinline=True)
def add_depth_of_lump(lump: np.ndarray, i: int, x: Any, y: Any, z: Any, e2: Any, total: Any) -> Any:
    """Add the depth of the lump whose numbers begin at i to the total for bodies at x, y, z."""
    _, _, _, u, _, _, _, q = seen(lump, i, x, y, z, e2)
    u2 = u * u
    half = fma(splat(lump, -1 / 2) * u2, q, splat(lump, 1 / 3) * spread(lump, i + 10))
    return fma(u, fma(u2, half, spread(lump, i + 3)), total)


@njit(nogil=True, cache=True)
def pull_group(
    tree: Tree, root: int, group: int, softening: float, g: float, lists: Lists, out: np.ndarray
) -> None:
    """Write the accelerations of a group's bodies into out (body, xyz)."""
    lumps, blocks = walk(tree, root, group, lists)
    lump, pulls = tree.lump.reshape(-1), np.empty(3 * BLOCK)
    zero, e2 = splat(pulls, 0.0), splat(pulls, softening * softening + NEAREST)
    for place in range(BLOCK * tree.span[group, 0], BLOCK * tree.span[group, 1], BLOCK):
        x, y, z = load(tree.x, place), load(tree.y, place), load(tree.z, place)
        sums = zero, zero, zero
        for k in range(blocks):
            for j in range(lists.blocks[k], lists.blocks[k] + BLOCK):
                sums = add_pull(tree, j, x, y, z, e2, sums)
        for k in range(lumps):
            at = TERMS * np.int64(lists.lumps[k])
            sums = add_pull_of_lump(lump, at, x, y, z, e2, sums)
        store(pulls, 0, sums[0])
        store(pulls, BLOCK, sums[1])
        store(pulls, 2 * BLOCK, sums[2])
        for i in range(min(BLOCK, len(out) - place)):
            for axis in range(3):
                out[tree.order[place + i], axis] = g * pulls[BLOCK * axis + i]


@njit(nogil=True, cache=True)
def sink_group(
    tree: Tree, root: int, group: int, softening: float, g: float, lists: Lists, out: np.ndarray
) -> None:
    """Write the potentials of a group's bodies into out (body,)."""
    lumps, blocks = walk(tree, root, group, lists)
    lump, depths = tree.lump.reshape(-1), np.empty(BLOCK)
    zero, e2 = splat(depths, 0.0), splat(depths, softening * softening + NEAREST)
    own = tree.span[group, 1] - tree.span[group, 0]
    itself = BLOCK * own  # counts[itself + i - j] is 0 for i = j, and 1 else
    counts = np.ones(2 * itself)
    counts[itself] = 0.0
    for place in range(BLOCK * tree.span[group, 0], BLOCK * tree.span[group, 1], BLOCK):
        x, y, z = load(tree.x, place), load(tree.y, place), load(tree.z, place)
        total = zero
        for j in range(BLOCK * tree.span[group, 0], BLOCK * tree.span[group, 1]):
            total = add_depth(tree, j, x, y, z, e2, total, load(counts, itself + place - j))
        for k in range(own, blocks):
            for j in range(lists.blocks[k], lists.blocks[k] + BLOCK):
                total = add_depth(tree, j, x, y, z, e2, total, splat(depths, 1.0))
        for k in range(lumps):
            at = TERMS * np.int64(lists.lumps[k])
            total = add_depth_of_lump(lump, at, x, y, z, e2, total)
        store(depths, 0, total)
        for i in range(min(BLOCK, len(out) - place)):
            out[tree.order[place + i]] = -g * depths[i]


@njit(nogil=True, cache=True)
def accelerations(
    position: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    theta: float,
    out: np.ndarray,
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, on one thread."""
    if len(mass):
        tree = sow(position)
        root = build(mass, theta, tree)
        lists = room(tree)
        for group in find_groups(tree, root):
            pull_group(tree, root, group, softening, g, lists, out)


@njit(nogil=True, cache=True)
def potentials(
    position: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    theta: float,
    out: np.ndarray,
) -> None:
    """Write the potential (body,) at every body into `out`, on one thread."""
    if len(mass):
        tree = sow(position)
        root = build(mass, theta, tree)
        lists = room(tree)
        for group in find_groups(tree, root):
            sink_group(tree, root, group, softening, g, lists, out)


@njit(nogil=True, cache=True, parallel=True)
def pull_parallel(tree: Tree, root: int, softening: float, g: float, out: np.ndarray) -> None:
    """Write the accelerations of a tree's bodies; threads take some groups after the other."""
    groups = find_groups(tree, root)
    taken = np.zeros(min(SHARES, len(groups)), np.int64)
    for _ in prange(WORKERS):
        share = next_share(taken, 0)
        if share < len(taken):
            lists = room(tree)
            while share < len(taken):
                for i in range(share, len(groups), len(taken)):
                    pull_group(tree, root, groups[i], softening, g, lists, out)
                share = next_share(taken, share + 1)


@njit(nogil=True, cache=True, parallel=True)
def sink_parallel(tree: Tree, root: int, softening: float, g: float, out: np.ndarray) -> None:
    """Write the potentials of a tree's bodies; threads take some groups after the other."""
    groups = find_groups(tree, root)
    taken = np.zeros(min(SHARES, len(groups)), np.int64)
    for _ in prange(WORKERS):
        share = next_share(taken, 0)
        if share < len(taken):
            lists = room(tree)
            while share < len(taken):
                for i in range(share, len(groups), len(taken)):
                    sink_group(tree, root, groups[i], softening, g, lists, out)
                share = next_share(taken, share + 1)


@njit(nogil=True, cache=True)
def accelerations_parallel(
    position: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    theta: float,
    out: np.ndarray,
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, on all threads."""
    if len(mass):
        tree = sow(position)
        pull_parallel(tree, build_parallel(mass, theta, tree), softening, g, out)


@njit(nogil=True, cache=True)
def potentials_parallel(
    position: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    theta: float,
    out: np.ndarray,
) -> None:
    """Write the potential (body,) at every body into `out`, on all threads."""
    if len(mass):
        tree = sow(position)
        sink_parallel(tree, build_parallel(mass, theta, tree), softening, g, out)
