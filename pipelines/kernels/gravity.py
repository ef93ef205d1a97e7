"""Self-gravitating bodies: direct summation with Plummer softening.

Acceleration, its rate of change (the jerk) and potential of body i (Plummer 1911; Aarseth 1963;
Makino & Aarseth 1992, Publ. Astron. Soc. Japan 44, 141; Dehnen & Read 2011, section 3,
doi:10.1140/epjp/i2011-11055-3), with d = position[j] - position[i], u = velocity[j] - velocity[i]
and s = |d|^2 + softening^2:

    a_i    =  g sum_j m_j d s^(-3/2)
    jerk_i =  g sum_j m_j (u - 3 (d.u) s^(-1) d) s^(-3/2)
    phi_i  = -g sum_j m_j s^(-1/2)                               j != i

Positions, velocities, accelerations and jerks are (body, xyz), masses and potentials (body,), all
float64 or float32, which is twice as quick: sums are made in the kind of the positions. Any
consistent units do: softening [length], g [length^3 mass^-1 time^-2]. softening is at least 0; at
0, two bodies in one place give NaN. Nothing is checked: s^(1/2) has to be 1e-102 to 1e104 in
float64, 1e-12 to 1e13 in float32, and masses and sums in the range of their kind. float32 tells
places apart by 6e-8 of their distance from 0: give them as seen from the middle of the bodies.

Each lane of a vector is a body, the target, and all lanes meet other bodies, the sources, one after
the other. Two vectors of targets are a tile. What j does to i is what i does to j but for the sign
and the mass: so each pair is computed once, for both of its bodies, unless they are in one tile.
What a source gets from its targets is added up lane by lane, and over the lanes later. Inside a
tile each body meets all, itself too: with no mass, and with s raised by 1, which would be 0 without
softening. (Of less than some 100 bodies it would be quicker to compute each pair twice: three take
0.6 us instead of 0.3.)

Bodies are cut into blocks, and the work into pairs of blocks, which threads draw. Each pair has
places of its own for its sums, and these are added in the order of the blocks. The cut depends on
how many bodies there are, and on nothing else: so the sums have the same bits on any number of
threads, and for registers of any width, but for what begins with another root (see `simd.py`).

Powers of s are made from a root y of 14 bits or more, and a few terms of the binomial series:

    s^(-p/2) = y^p (1 + e)^(-p/2)        e = s y^2 - 1, |e| <= 2^-13

The first term leaves 3e-8, enough for float32; three leave 6e-16. (With two, made the best ones of
their range, 1e-12 are left in a pair and 2.7e-12 were seen in a sum; the third costs 5 %.)
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

from pipelines.kernels.simd import (
    aligned,
    fma,
    fma_each,
    lanes,
    load,
    load_each,
    one_in,
    rsqrt_seed,
    splat,
    spread,
    store,
    store_each,
    sums_of_lanes,
)
from pipelines.kernels.words import draw_word

# Sources whose sums stay in the cache while all targets of a block pass by: three sums of each are
# 24 KiB. Smaller ones are work for more threads (1,000 bodies are 36 pairs of blocks), but to add
# up lanes takes the longer.
CHUNK = 128
# Blocks of bodies, at most, each of whole chunks. Their pairs, 136, are work for some dozens of
# threads; their sums are 384 bytes a body, in float64.
BLOCKS = 16


@njit(nogil=True, forceinline=True)
def series(kind: Any, e: Any, first: float, second: float, third: float) -> Any:
    """Return 1 + first e + second e^2 + third e^3, or less where less will do."""
    one = splat(kind, 1.0)
    if lanes(kind) == 16:
        return fma(e, splat(kind, first), one)
    slope = fma(e, fma(e, splat(kind, third), splat(kind, second)), splat(kind, first))
    return fma(e, slope, one)


@njit(nogil=True, forceinline=True)
def root(kind: Any, s: Any) -> Any:
    """Return y, y^2 and e."""
    y = rsqrt_seed(s)
    square = y * y
    return y, square, fma(s, square, splat(kind, -1.0))


@njit(nogil=True, forceinline=True)
def distances(bodies: Any, i: int, j: int, least: Any) -> Any:
    """Return d of source j from the targets from i on, and s, with `least` for softening^2."""
    x, y, z = bodies[1], bodies[2], bodies[3]
    dx, dy, dz = spread(x, j) - load(x, i), spread(y, j) - load(y, i), spread(z, j) - load(z, i)
    return dx, dy, dz, fma(dx, dx, fma(dy, dy, fma(dz, dz, least)))


# The laws: what a target gets from a source of mass 1, as a weight and what it is the weight of.


@njit(nogil=True, forceinline=True)
def pull(bodies: Any, i: int, j: int, least: Any) -> Any:
    """Return s^(-3/2), and d."""
    kind = bodies[0]
    dx, dy, dz, s = distances(bodies, i, j, least)
    near, square, e = root(kind, s)
    return near * square * series(kind, e, -3 / 2, 15 / 8, -35 / 16), (dx, dy, dz)


@njit(nogil=True, forceinline=True)
def pull_and_jerk(bodies: Any, i: int, j: int, least: Any) -> Any:
    """Return s^(-3/2), and d and u - 3 (d.u) s^(-1) d."""
    kind, vx, vy, vz = bodies[0], bodies[4], bodies[5], bodies[6]
    dx, dy, dz, s = distances(bodies, i, j, least)
    ux, uy = spread(vx, j) - load(vx, i), spread(vy, j) - load(vy, i)
    uz = spread(vz, j) - load(vz, i)
    near, square, e = root(kind, s)
    inverse = square * series(kind, e, -1.0, 1.0, -1.0)
    turn = splat(kind, -3.0) * fma(dx, ux, fma(dy, uy, dz * uz)) * inverse
    weight = near * square * series(kind, e, -3 / 2, 15 / 8, -35 / 16)
    return weight, (dx, dy, dz, fma(turn, dx, ux), fma(turn, dy, uy), fma(turn, dz, uz))


@njit(nogil=True, forceinline=True)
def depth(bodies: Any, i: int, j: int, least: Any) -> Any:
    """Return s^(-1/2), and 1."""
    kind = bodies[0]
    _, _, _, s = distances(bodies, i, j, least)
    near, _, e = root(kind, s)
    return near * series(kind, e, -1 / 2, 3 / 8, -5 / 16), (splat(kind, 1.0),)


@njit(nogil=True, forceinline=True)
def one_zero(kind: Any) -> Any:
    """Return the sums of no sources."""
    return (splat(kind, 0.0),)


@njit(nogil=True, forceinline=True)
def three_zeros(kind: Any) -> Any:
    """Return the sums of no sources."""
    zero = splat(kind, 0.0)
    return zero, zero, zero


@njit(nogil=True, forceinline=True)
def six_zeros(kind: Any) -> Any:
    """Return the sums of no sources."""
    return three_zeros(kind) + three_zeros(kind)


@njit(nogil=True, forceinline=True)
def meet_itself(
    law: Callable[..., Any], bodies: Any, i: int, last: int, softening: float, nothing: Any
) -> Any:
    """Return what the two vectors of targets from i on get from each other, those before last."""
    mass, more = bodies[0], i + lanes(bodies[0])
    least, one = splat(mass, softening * softening), splat(mass, 1.0)
    sums = more_sums = nothing
    for j in range(i, last):
        itself, more_itself = one_in(mass, j - i), one_in(mass, j - more)
        weight, parts = law(bodies, i, j, least + itself)
        more_weight, more_parts = law(bodies, more, j, least + more_itself)
        m = spread(mass, j)
        sums = fma_each(m * (one - itself) * weight, parts, sums)
        more_sums = fma_each(m * (one - more_itself) * more_weight, more_parts, more_sums)
    return sums, more_sums


@njit(nogil=True, forceinline=True)
def meet(
    law: Callable[..., Any],
    bodies: Any,
    i: int,
    first: int,
    last: int,
    softening: float,
    both_sums: Any,
    back: np.ndarray,
    at: int,
) -> Any:
    """Add to the sums of the two vectors of targets from i on what sources first ... last - 1 give.

    What these get is added to `back`, from `at` on: (source, sum, lane), flat. Two vectors are
    quicker than one, because sources, and what they get, are loaded for both.
    """
    mass, width, more = bodies[0], lanes(bodies[0]), i + lanes(bodies[0])
    least, m_i, m_more = splat(mass, softening * softening), load(mass, i), load(mass, more)
    sums, more_sums = both_sums
    for j in range(first, last):
        weight, parts = law(bodies, i, j, least)
        more_weight, more_parts = law(bodies, more, j, least)
        m_j = spread(mass, j)
        sums = fma_each(m_j * weight, parts, sums)
        more_sums = fma_each(m_j * more_weight, more_parts, more_sums)
        returned = fma_each(m_more * more_weight, more_parts, load_each(back, at, sums))
        store_each(back, at, fma_each(m_i * weight, parts, returned))
        at += len(sums) * width
    return sums, more_sums


@njit(nogil=True, forceinline=True)
def meet_blocks(
    law: Callable[..., Any],
    nothing: Any,
    sign: float,
    bodies: Any,
    n: int,
    softening: float,
    totals: np.ndarray,
    drawn: np.ndarray,
) -> None:
    """Draw pairs of blocks until there are none left, and add up what their bodies get.

    totals is what bodies get from those of a block: (block, sum, body), flat. sign is that of what
    a source gets from a target, if the other way around it is +1.
    """
    kind, width, count = bodies[0], lanes(bodies[0]), len(nothing)
    size, tile, block, blocks = kind.size, 2 * width, block_size(n), blocks_of(n)
    number = draw_word(drawn, 0)
    if number >= pairs_of(blocks):
        return
    back = aligned(0 if n <= tile else min(CHUNK, size) * count * width, kind)
    while number < pairs_of(blocks):
        targets, sources = pair_of_blocks(number, blocks)
        of_targets, of_sources = sources * count * size, targets * count * size
        for first in range(sources * block, min(sources * block + block, n), CHUNK):
            last = min(first + CHUNK, n)
            is_alone = last - targets * block <= tile  # the first tile: nobody else gets anything
            used = 0 if is_alone else filled_up(last - first, kind) * count * width
            for place in range(0, used, width):
                store(back, place, splat(kind, 0.0))
            for i in range(targets * block, min(targets * block + block, last), tile):
                both_sums = nothing, nothing
                if i >= first:
                    both_sums = meet_itself(law, bodies, i, min(i + tile, last), softening, nothing)
                begin = max(first, i + tile)
                at = (begin - first) * count * width
                both_sums = meet(law, bodies, i, begin, last, softening, both_sums, back, at)
                for k in range(count):
                    add_to(totals, of_targets + k * size + i, both_sums[0][k])
                    add_to(totals, of_targets + k * size + i + width, both_sums[1][k])
            for k in range(0 if is_alone else count):
                for j in range(first, last, width):
                    returned = sums_of_lanes(back, ((j - first) * count + k) * width, count * width)
                    add_to(totals, of_sources + k * size + j, splat(kind, sign) * returned)
        number = draw_word(drawn, 0)


@njit(nogil=True, forceinline=True)
def add_to(numbers: np.ndarray, at: int, vector: Any) -> None:
    """Add a vector to the numbers that begin at `at`."""
    store(numbers, at, load(numbers, at) + vector)


@njit(nogil=True, forceinline=True)
def block_size(n: int) -> int:
    """Return how many of n bodies are in a block: whole chunks."""
    return max(1, (n + BLOCKS * CHUNK - 1) // (BLOCKS * CHUNK)) * CHUNK


@njit(nogil=True, forceinline=True)
def blocks_of(n: int) -> int:
    """Return how many blocks n bodies are cut into."""
    return (n + block_size(n) - 1) // block_size(n)


@njit(nogil=True, forceinline=True)
def pairs_of(blocks: int) -> int:
    """Return how many pairs of blocks there are, those of a block with itself included."""
    return blocks * (blocks + 1) // 2


@njit(nogil=True, forceinline=True)
def pair_of_blocks(number: int, blocks: int) -> tuple[int, int]:
    """Return the blocks of targets and of sources, none of these before those."""
    targets = 0
    while number >= blocks - targets:
        number -= blocks - targets
        targets += 1
    return targets, targets + number


@njit(nogil=True, forceinline=True)
def filled_up(n: int, kind: np.ndarray) -> int:
    """Return how many bodies there are with those that fill up the last pair of vectors."""
    tile = 2 * lanes(kind)
    return (n + tile - 1) // tile * tile


@njit(nogil=True, forceinline=True)
def columns(position: np.ndarray, mass: np.ndarray) -> Any:
    """Return masses and coordinates, each in an array of its own, of the positions' kind.

    Bodies that fill up are targets of their own tile alone: nobody gets anything from them.
    """
    n, size = mass.size, filled_up(mass.size, position)
    table = aligned(4 * size, position)
    for i in range(n):
        table[i] = mass[i]
        for axis in range(3):
            table[(axis + 1) * size + i] = position[i, axis]
    return table[:size], table[size : 2 * size], table[2 * size : 3 * size], table[3 * size :]


@njit(nogil=True, forceinline=True)
def room_for(sums: int, n: int, kind: np.ndarray) -> np.ndarray:
    """Return zeros for so many sums of n bodies: (block, sum, body), flat."""
    return aligned(blocks_of(n) * sums * filled_up(n, kind), kind)


@njit(nogil=True, forceinline=True)
def add_blocks(totals: np.ndarray, sums: int, n: int) -> None:
    """Add up what bodies get from all blocks, in their order, in place of that from the first."""
    size = sums * filled_up(n, totals)
    for place in range(0, size, lanes(totals)):
        total = load(totals, place)
        for block in range(1, blocks_of(n)):
            total = total + load(totals, block * size + place)
        store(totals, place, total)


@njit(nogil=True, forceinline=True)
def write(totals: np.ndarray, first: int, factor: float, out: np.ndarray) -> None:
    """Write three sums, from the first on, times a factor into `out` (body, xyz)."""
    size = filled_up(out.shape[0], totals)
    for i in range(out.shape[0]):
        for axis in range(3):
            out[i, axis] = factor * totals[(first + axis) * size + i]


@njit(nogil=True, cache=True)
def accelerations(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, on one thread."""
    n, bodies, totals = mass.size, columns(position, mass), room_for(3, mass.size, position)
    nothing, drawn = three_zeros(position), np.zeros(1, np.int64)
    meet_blocks(pull, nothing, -1.0, bodies, n, softening, totals, drawn)
    add_blocks(totals, 3, n)
    write(totals, 0, g, out)


@njit(nogil=True, cache=True, parallel=True)
def accelerations_parallel(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, pairs shared among threads."""
    n, bodies, totals = mass.size, columns(position, mass), room_for(3, mass.size, position)
    drawn = np.zeros(1, np.int64)
    for _ in prange(pairs_of(blocks_of(n))):
        nothing = three_zeros(position)
        meet_blocks(pull, nothing, -1.0, bodies, n, softening, totals, drawn)
    add_blocks(totals, 3, n)
    write(totals, 0, g, out)


@njit(nogil=True, cache=True)
def potentials(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the potential (body,) at every body into `out`, on one thread."""
    n, bodies, totals = mass.size, columns(position, mass), room_for(1, mass.size, position)
    nothing, drawn = one_zero(position), np.zeros(1, np.int64)
    meet_blocks(depth, nothing, 1.0, bodies, n, softening, totals, drawn)
    add_blocks(totals, 1, n)
    for i in range(n):
        out[i] = -g * totals[i]


@njit(nogil=True, cache=True, parallel=True)
def potentials_parallel(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the potential (body,) at every body into `out`, pairs shared among threads."""
    n, bodies, totals = mass.size, columns(position, mass), room_for(1, mass.size, position)
    drawn = np.zeros(1, np.int64)
    for _ in prange(pairs_of(blocks_of(n))):
        nothing = one_zero(position)
        meet_blocks(depth, nothing, 1.0, bodies, n, softening, totals, drawn)
    add_blocks(totals, 1, n)
    for i in range(n):
        out[i] = -g * totals[i]


@njit(nogil=True, cache=True)
def accelerations_and_jerks(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    acceleration: np.ndarray,
    jerk: np.ndarray,
) -> None:
    """Write the accelerations and jerks (body, xyz) of all bodies, on one thread."""
    n, totals = mass.size, room_for(6, mass.size, position)
    bodies = columns(position, mass) + columns(velocity, mass)[1:]
    nothing, drawn = six_zeros(position), np.zeros(1, np.int64)
    meet_blocks(pull_and_jerk, nothing, -1.0, bodies, n, softening, totals, drawn)
    add_blocks(totals, 6, n)
    write(totals, 0, g, acceleration)
    write(totals, 3, g, jerk)


@njit(nogil=True, cache=True, parallel=True)
def accelerations_and_jerks_parallel(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    acceleration: np.ndarray,
    jerk: np.ndarray,
) -> None:
    """Write the accelerations and jerks (body, xyz) of all bodies, pairs shared among threads."""
    n, totals = mass.size, room_for(6, mass.size, position)
    bodies = columns(position, mass) + columns(velocity, mass)[1:]
    drawn = np.zeros(1, np.int64)
    for _ in prange(pairs_of(blocks_of(n))):
        nothing = six_zeros(position)
        meet_blocks(pull_and_jerk, nothing, -1.0, bodies, n, softening, totals, drawn)
    add_blocks(totals, 6, n)
    write(totals, 0, g, acceleration)
    write(totals, 3, g, jerk)
