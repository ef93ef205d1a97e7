"""Heat conduction along one row of a plate: the formulas of `stencil.py`, a vector at a time.

Rows are interleaved (`rows.py`); each is named by the index of its first number in the work array
`w`. No operation is contracted or reordered by the compiler: a mirrored row gives mirrored bits,
and what one node loses the next one gets.
"""

import numpy as np
from numba import njit

from pipelines.kernels.simd import fma, lanes, load, splat, store


@njit(nogil=True, cache=True)
def conduct_uniform(
    w: np.ndarray, new: int, below: int, old: int, above: int, vectors: int, mixing: int
) -> None:
    """T' = T + mixing_x ((west + east) + ratio (south + north) + drain T), along a row.

    At w[mixing] are mixing_x, ratio = mixing_y / mixing_x and drain = -2 (1 + ratio), of which the
    last two fit exactly: so a step neither makes heat nor loses any but by rounding to and fro.
    """
    n = lanes(w)
    mixing_x, ratio = splat(w, w[mixing]), splat(w, w[mixing + 1])
    drain = splat(w, w[mixing + 2])
    west, here = load(w, old - n), load(w, old)
    for j in range(0, vectors * n, n):
        east = load(w, old + j + n)
        around = fma(ratio, load(w, below + j) + load(w, above + j), west + east)
        store(w, new + j, fma(mixing_x, fma(drain, here, around), here))
        west, here = here, east


@njit(nogil=True, cache=True)
def conduct_four(
    w: np.ndarray,
    new: tuple[int, int, int, int],
    old: tuple[int, int, int, int, int, int],
    vectors: int,
    mixing: int,
) -> None:
    """Do `conduct_uniform` along four rows, the inner ones of six: with fewer loads for each."""
    n = lanes(w)
    mixing_x, ratio = splat(w, w[mixing]), splat(w, w[mixing + 1])
    drain = splat(w, w[mixing + 2])
    below, above = old[0], old[5]
    west1, here1 = load(w, old[1] - n), load(w, old[1])
    west2, here2 = load(w, old[2] - n), load(w, old[2])
    west3, here3 = load(w, old[3] - n), load(w, old[3])
    west4, here4 = load(w, old[4] - n), load(w, old[4])
    for j in range(0, vectors * n, n):
        east1, east2 = load(w, old[1] + j + n), load(w, old[2] + j + n)
        east3, east4 = load(w, old[3] + j + n), load(w, old[4] + j + n)
        around1 = fma(ratio, load(w, below + j) + here2, west1 + east1)
        around2 = fma(ratio, here1 + here3, west2 + east2)
        around3 = fma(ratio, here2 + here4, west3 + east3)
        around4 = fma(ratio, here3 + load(w, above + j), west4 + east4)
        store(w, new[0] + j, fma(mixing_x, fma(drain, here1, around1), here1))
        store(w, new[1] + j, fma(mixing_x, fma(drain, here2, around2), here2))
        store(w, new[2] + j, fma(mixing_x, fma(drain, here3, around3), here3))
        store(w, new[3] + j, fma(mixing_x, fma(drain, here4, around4), here4))
        west1, here1, west2, here2 = here1, east1, here2, east2
        west3, here3, west4, here4 = here3, east3, here4, east4


@njit(nogil=True, cache=True)
def conduct_varying(
    w: np.ndarray,
    new: int,
    below: int,
    old: int,
    above: int,
    vectors: int,
    south_face: int,
    north_face: int,
    east_face: int,
) -> None:
    """T' = T + ((flux_east - flux_west) + (flux_north - flux_south)), along a row.

    A flux to the east or north is face (T there - T); each is computed once for both its nodes,
    or by the same operations, so that what one node loses the other one gets.
    """
    n = lanes(w)
    here = load(w, old)
    flux_west = load(w, east_face - n) * (here - load(w, old - n))
    for j in range(0, vectors * n, n):
        east = load(w, old + j + n)
        flux_east = load(w, east_face + j) * (east - here)
        flux_north = load(w, north_face + j) * (load(w, above + j) - here)
        flux_south = load(w, south_face + j) * (here - load(w, below + j))
        change = (flux_east - flux_west) + (flux_north - flux_south)
        store(w, new + j, here + change)
        flux_west, here = flux_east, east


@njit(nogil=True, cache=True)
def heat_up(w: np.ndarray, new: int, source: int, vectors: int) -> None:
    """Add the source to a row."""
    n = lanes(w)
    for j in range(0, vectors * n, n):
        store(w, new + j, load(w, new + j) + load(w, source + j))


@njit(nogil=True, cache=True)
def reflect(
    w: np.ndarray, ghost: int, inner: int, edge: int, gain: int, loss: int, vectors: int
) -> None:
    """T_ghost = T_inner + gain - loss T_edge, along the row beyond the bottom or the top."""
    n = lanes(w)
    for j in range(0, vectors * n, n):
        added = load(w, inner + j) + load(w, gain + j)
        store(w, ghost + j, added - load(w, loss + j) * load(w, edge + j))


@njit(nogil=True, cache=True)
def copy_row(w: np.ndarray, new: int, old: int, vectors: int) -> None:
    """Copy a row with its neighbours."""
    n = lanes(w)
    for j in range(-n, vectors * n + n, n):
        store(w, new + j, load(w, old + j))
