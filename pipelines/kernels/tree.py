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

1. `boxes.build`: boxes around the bodies are halved, down to leaves of a few blocks of 8 bodies.
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
0.7. Groups of 4 to 8 blocks made no difference beyond a tenth.

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

from pipelines.kernels.boxes import (
    BLOCK,
    SHARES,
    TERMS,
    WORKERS,
    Tree,
    build,
    build_parallel,
    next_share,
    sow,
)
from pipelines.kernels.simd import fma, load, rsqrt_seed, splat, spread, store

GROUP = 6  # blocks in a group, at most
NEAREST = 1e-150  # [length^2] keeps 1 / s^3 of a body and itself finite, and is lost in all else


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
    none = np.int64(0)  # not the literal, for which it would be compiled once more
    found = add_blocks(tree, group, lists.blocks, none)
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
