"""Our kernels as the benchmark calls them: whatever changes in their signatures is changed here.

None is a kernel that is not there yet. Plates are (y, x), positions and `out` (body, xyz); the kind
of the arrays, float64 or float32, decides the precision.
"""

from collections.abc import Callable

import numpy as np

from pipelines.kernels import gravity, heat, neighbours, tree
from pipelines.kernels.stencil import Stencil, stacked, stencil

# Advance a plate in place: (plate, mixing, steps).
Advance = Callable[[np.ndarray, float, int], None]
# Write accelerations: (position, mass, softening, g, out).
Pull = Callable[[np.ndarray, np.ndarray, float, float, np.ndarray], None]
# The same with an accuracy before `out`: the opening angle of a tree, the number of neighbours.
RoughPull = Callable[[np.ndarray, np.ndarray, float, float, float, np.ndarray], None]
NearPull = Callable[[np.ndarray, np.ndarray, float, float, int, np.ndarray], None]


def _update(shape: tuple[int, int], mixing: float) -> Stencil:
    return stencil(shape, (1.0, 1.0), mixing, 1.0)


def advance_one(plate: np.ndarray, mixing: float, steps: int) -> None:
    """Advance a plate with held edges on all threads."""
    heat.advance_parallel(plate, _update(plate.shape, mixing), steps)


def advance_and_keep(plate: np.ndarray, mixing: float, every: int, frames: np.ndarray) -> None:
    """Advance a plate with held edges on all threads, and keep it after so many steps each."""
    kept = every * np.arange(1, len(frames) + 1)
    heat.history_parallel(plate, _update(plate.shape, mixing), kept, frames)


def advance_serial(plate: np.ndarray, mixing: float, steps: int) -> None:
    """Advance a plate with held edges on one thread."""
    heat.advance(plate, _update(plate.shape, mixing), steps)


def advance_many(plates: np.ndarray, mixing: float, steps: int) -> None:
    """Advance many plates (run, y, x), each on one thread."""
    each = _update(plates.shape[1:], mixing)
    heat.advance_many(plates, stacked([each] * len(plates)), steps)


pull: Pull = gravity.accelerations_parallel
pull_by_tree: RoughPull = tree.accelerations_parallel
pull_by_neighbours: NearPull = neighbours.accelerations_parallel
