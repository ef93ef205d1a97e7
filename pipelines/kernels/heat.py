"""Heat conduction on a square grid: the explicit five-point update of a plate with fixed edges.

One update of an inner node (FTCS; Press et al., Numerical Recipes, 3rd ed., section 20.2) is

    T' = mixing (up + down + left + right) + (1 - 4 mixing) T,    mixing = diffusivity dt / dx^2

The neighbours are added as (up + down) + (left + right), so that a plate and its mirror image give
the same bits.
"""

import numpy as np
from numba import njit, prange


@njit(nogil=True, cache=True)
def advance(plate: np.ndarray, mixing: float, steps: int) -> None:
    """Advance a plate by some updates, on one thread.

    Parameters
    ----------
    plate
        Temperatures (y, x), float64, any unit; changed in place. The outermost rows and columns
        keep their values.
    mixing
        diffusivity dt / dx^2 [1], in (0, 1/4]: above it the update is unstable. Not checked.
    steps
        Number of updates, at least 0.
    """
    rows, columns = plate.shape
    keep = 1.0 - 4.0 * mixing
    old, new = plate, plate.copy()
    for _ in range(steps):
        for i in range(1, rows - 1):
            for j in range(1, columns - 1):
                vertical = old[i + 1, j] + old[i - 1, j]
                horizontal = old[i, j - 1] + old[i, j + 1]
                new[i, j] = mixing * (vertical + horizontal) + keep * old[i, j]
        old, new = new, old
    for i in range(rows):  # not plate[:, :] = old, which takes numba 6 s to compile, this 0.4 s
        for j in range(columns):
            plate[i, j] = old[i, j]


@njit(nogil=True, cache=True, parallel=True)
def advance_parallel(plate: np.ndarray, mixing: float, steps: int) -> None:
    """Advance a plate by some updates, rows shared among threads; see `advance`."""
    rows, columns = plate.shape
    keep = 1.0 - 4.0 * mixing
    old, new = plate, plate.copy()
    for _ in range(steps):
        for i in prange(1, rows - 1):
            for j in range(1, columns - 1):
                vertical = old[i + 1, j] + old[i - 1, j]
                horizontal = old[i, j - 1] + old[i, j + 1]
                new[i, j] = mixing * (vertical + horizontal) + keep * old[i, j]
        old, new = new, old
    for i in range(rows):
        for j in range(columns):
            plate[i, j] = old[i, j]
