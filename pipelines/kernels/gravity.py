"""Self-gravitating bodies: direct summation with Plummer softening.

Acceleration, its rate of change (the jerk) and potential of body i (Plummer 1911; Aarseth 1963;
Makino & Aarseth 1992, Publ. Astron. Soc. Japan 44, 141; Dehnen & Read 2011, section 3,
doi:10.1140/epjp/i2011-11055-3), with d = position[j] - position[i], u = velocity[j] - velocity[i]
and s = |d|^2 + softening^2:

    a_i    =  g sum_j m_j d s^(-3/2)
    jerk_i =  g sum_j m_j (u - 3 (d.u) s^(-1) d) s^(-3/2)
    phi_i  = -g sum_j m_j s^(-1/2)                               j != i, in the order of j

Positions, velocities, accelerations and jerks are (body, xyz), masses and potentials (body,), all
float64 or float32, which is twice as quick: sums are made in the kind of the positions. Any
consistent units do: softening [length], g [length^3 mass^-1 time^-2]. softening is at least 0; at
0, two bodies in one place give NaN. Nothing is checked: s^(1/2) has to be 1e-102 to 1e104 in
float64, 1e-12 to 1e13 in float32, and masses and sums in the range of their kind. float32 tells
places apart by 6e-8 of their distance from 0: give them as seen from the middle of the bodies.

Each lane of a vector is a body that is pulled (the target); all lanes meet the bodies that pull
(the sources) one after the other. So every body has a sum of its own, in one order, on any number
of threads. A body meets itself, too: with s raised by 1, which would be 0 without softening, and
with d = 0, u = 0 and no mass in phi, so that it adds nothing.

Powers of s are made from a root y of 14 bits or more, and a few terms of the binomial series:

    s^(-p/2) = y^p (1 + e)^(-p/2)        e = s y^2 - 1, |e| <= 2^-13

The first term leaves 3e-8, enough for float32; three leave 6e-16. (With two, made the best ones of
their range, 1e-12 are left in a pair and 2.7e-12 were seen in a sum; the third costs 5 %.)
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

from pipelines.kernels.simd import fma, lanes, load, rsqrt_seed, splat, spread, store

# Sources are added up in runs, and then the runs' sums: of 10,000 bodies in float32, the largest
# error is 2e-6 instead of 1e-5.
RUN = 512


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
def add_pull(bodies: Any, i: int, j: int, least: Any, itself: Any, sums: Any) -> Any:
    """Add m d s^(-3/2) of source j to the sums of the targets from i on."""
    m, x, y, z = bodies
    dx, dy, dz = spread(x, j) - load(x, i), spread(y, j) - load(y, i), spread(z, j) - load(z, i)
    s = fma(dx, dx, fma(dy, dy, fma(dz, dz, least + itself)))
    near, square, e = root(x, s)
    weight = spread(m, j) * near * square * series(x, e, -3 / 2, 15 / 8, -35 / 16)
    return fma(weight, dx, sums[0]), fma(weight, dy, sums[1]), fma(weight, dz, sums[2])


@njit(nogil=True, forceinline=True)
def add_pull_and_jerk(bodies: Any, i: int, j: int, least: Any, itself: Any, sums: Any) -> Any:
    """Add m d s^(-3/2) and m (u - 3 (d.u) s^(-1) d) s^(-3/2) of source j."""
    m, x, y, z, vx, vy, vz = bodies
    dx, dy, dz = spread(x, j) - load(x, i), spread(y, j) - load(y, i), spread(z, j) - load(z, i)
    ux, uy = spread(vx, j) - load(vx, i), spread(vy, j) - load(vy, i)
    uz = spread(vz, j) - load(vz, i)
    s = fma(dx, dx, fma(dy, dy, fma(dz, dz, least + itself)))
    near, square, e = root(x, s)
    weight = spread(m, j) * near * square * series(x, e, -3 / 2, 15 / 8, -35 / 16)
    inverse = square * series(x, e, -1.0, 1.0, -1.0)
    turn = splat(x, -3.0) * fma(dx, ux, fma(dy, uy, dz * uz)) * inverse
    ax, ay, az, jx, jy, jz = sums
    ax, ay, az = fma(weight, dx, ax), fma(weight, dy, ay), fma(weight, dz, az)
    jx, jy = fma(weight, fma(turn, dx, ux), jx), fma(weight, fma(turn, dy, uy), jy)
    return ax, ay, az, jx, jy, fma(weight, fma(turn, dz, uz), jz)


@njit(nogil=True, forceinline=True)
def add_depth(bodies: Any, i: int, j: int, least: Any, itself: Any, sums: Any) -> Any:
    """Add m s^(-1/2) of source j."""
    m, x, y, z = bodies
    dx, dy, dz = spread(x, j) - load(x, i), spread(y, j) - load(y, i), spread(z, j) - load(z, i)
    s = fma(dx, dx, fma(dy, dy, fma(dz, dz, least + itself)))
    near, _, e = root(x, s)
    of_others = spread(m, j) * (splat(x, 1.0) - itself)
    return (fma(of_others * near, series(x, e, -1 / 2, 3 / 8, -5 / 16), sums[0]),)


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
def meet(
    add: Callable[..., Any],
    zeros: Callable[..., Any],
    bodies: Any,
    i: int,
    n: int,
    softening: float,
    lane: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Add up all sources 0 ... n - 1 for the targets from i on, in columns i ... of the totals.

    These are two vectors: 3 to 9 % quicker than one, because sources are loaded for both.
    """
    kind, width, size = bodies[0], lanes(lane), totals.shape[1]
    least, nothing = splat(kind, softening * softening), splat(kind, 0.0)
    more = i + width
    for first in range(0, n, RUN):
        last = min(first + RUN, n)
        begin, end = min(max(i, first), last), min(max(more + width, first), last)
        sums = more_sums = zeros(kind)
        for j in range(first, begin):
            sums = add(bodies, i, j, least, nothing, sums)
            more_sums = add(bodies, more, j, least, nothing, more_sums)
        for j in range(begin, end):
            sums = add(bodies, i, j, least, load(lane, 2 * width + i - j), sums)
            more_sums = add(bodies, more, j, least, load(lane, 2 * width + more - j), more_sums)
        for j in range(end, last):
            sums = add(bodies, i, j, least, nothing, sums)
            more_sums = add(bodies, more, j, least, nothing, more_sums)
        for k in range(len(sums)):
            row = k * size
            store(totals, row + i, load(totals, row + i) + sums[k])
            store(totals, row + more, load(totals, row + more) + more_sums[k])


@njit(nogil=True, forceinline=True)
def padded(rows: int, n: int, kind: np.ndarray) -> np.ndarray:
    """Return zeros (row, body) of an array's kind, with room for pairs of vectors of n bodies."""
    pair = 2 * lanes(kind)
    return np.zeros((rows, (n + pair - 1) // pair * pair), kind.dtype)


@njit(nogil=True, forceinline=True)
def columns(position: np.ndarray, mass: np.ndarray) -> Any:
    """Return masses and coordinates, each in an array of its own, of the positions' kind."""
    table = padded(4, mass.size, position)
    for i in range(mass.size):
        table[0, i] = mass[i]
        table[1, i], table[2, i], table[3, i] = position[i, 0], position[i, 1], position[i, 2]
    return table[0], table[1], table[2], table[3]


@njit(nogil=True, forceinline=True)
def one_lane(kind: np.ndarray) -> np.ndarray:
    """Return zeros with a 1 in the middle: the vector that begins k before it has a 1 in lane k."""
    lane = np.zeros(4 * lanes(kind), kind.dtype)
    lane[2 * lanes(kind)] = 1
    return lane


@njit(nogil=True, forceinline=True)
def write(totals: np.ndarray, first: int, factor: float, out: np.ndarray) -> None:
    """Write three rows of totals, from the first on, times a factor into `out` (body, xyz)."""
    for i in range(out.shape[0]):
        out[i, 0] = factor * totals[first, i]
        out[i, 1] = factor * totals[first + 1, i]
        out[i, 2] = factor * totals[first + 2, i]


@njit(nogil=True, cache=True)
def accelerations(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, on one thread."""
    n, lane, bodies = mass.size, one_lane(position), columns(position, mass)
    totals = padded(3, n, position)
    for block in range(totals.shape[1] // (2 * lanes(position))):
        i = block * 2 * lanes(position)
        meet(add_pull, three_zeros, bodies, i, n, softening, lane, totals)
    write(totals, 0, g, out)


@njit(nogil=True, cache=True, parallel=True)
def accelerations_parallel(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, bodies shared among threads."""
    n, lane, bodies = mass.size, one_lane(position), columns(position, mass)
    totals = padded(3, n, position)
    for block in prange(totals.shape[1] // (2 * lanes(position))):
        i = block * 2 * lanes(position)
        meet(add_pull, three_zeros, bodies, i, n, softening, lane, totals)
    write(totals, 0, g, out)


@njit(nogil=True, cache=True)
def potentials(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the potential (body,) at every body into `out`, on one thread."""
    n, lane, bodies = mass.size, one_lane(position), columns(position, mass)
    totals = padded(1, n, position)
    for block in range(totals.shape[1] // (2 * lanes(position))):
        i = block * 2 * lanes(position)
        meet(add_depth, one_zero, bodies, i, n, softening, lane, totals)
    for i in range(n):
        out[i] = -g * totals[0, i]


@njit(nogil=True, cache=True, parallel=True)
def potentials_parallel(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the potential (body,) at every body into `out`, bodies shared among threads."""
    n, lane, bodies = mass.size, one_lane(position), columns(position, mass)
    totals = padded(1, n, position)
    for block in prange(totals.shape[1] // (2 * lanes(position))):
        i = block * 2 * lanes(position)
        meet(add_depth, one_zero, bodies, i, n, softening, lane, totals)
    for i in range(n):
        out[i] = -g * totals[0, i]


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
    n, lane = mass.size, one_lane(position)
    bodies = columns(position, mass) + columns(velocity, mass)[1:]
    totals = padded(6, n, position)
    for block in range(totals.shape[1] // (2 * lanes(position))):
        i = block * 2 * lanes(position)
        meet(add_pull_and_jerk, six_zeros, bodies, i, n, softening, lane, totals)
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
    """Write the accelerations and jerks (body, xyz) of all bodies, bodies shared among threads."""
    n, lane = mass.size, one_lane(position)
    bodies = columns(position, mass) + columns(velocity, mass)[1:]
    totals = padded(6, n, position)
    for block in prange(totals.shape[1] // (2 * lanes(position))):
        i = block * 2 * lanes(position)
        meet(add_pull_and_jerk, six_zeros, bodies, i, n, softening, lane, totals)
    write(totals, 0, g, acceleration)
    write(totals, 3, g, jerk)
