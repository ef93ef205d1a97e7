"""The pull on every body, by the method that a number names: what integrators ask for.

Arrays and units are those of `gravity`, in float64. What the methods do with theta and neighbours
stands in their own files; the others take no notice of them.
"""

import numpy as np
from numba import njit

from pipelines.kernels import gravity

DIRECT = 0  # all pairs
DIRECT_FLOAT32 = 1  # all pairs, positions and masses rounded to float32 and summed in it


@njit(nogil=True, cache=True)
def accelerations(
    method: int,
    position: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    theta: float,
    neighbours: int,
    out: np.ndarray,
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, on one thread."""
    if method == DIRECT:
        gravity.accelerations(position, mass, softening, g, out)
    elif method == DIRECT_FLOAT32:
        near, light = position.astype(np.float32), mass.astype(np.float32)
        gravity.accelerations(near, light, softening, g, out)


@njit(nogil=True, cache=True)
def accelerations_parallel(
    method: int,
    position: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    theta: float,
    neighbours: int,
    out: np.ndarray,
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, bodies shared among threads."""
    if method == DIRECT:
        gravity.accelerations_parallel(position, mass, softening, g, out)
    elif method == DIRECT_FLOAT32:
        near, light = position.astype(np.float32), mass.astype(np.float32)
        gravity.accelerations_parallel(near, light, softening, g, out)
