"""Our kernels as the benchmark calls them: whatever changes in their signatures is changed here.

None is a kernel that is not there yet. Plates are (y, x), positions and `out` (body, xyz); the kind
of the arrays, float64 or float32, decides the precision.
"""

from collections.abc import Callable

import numpy as np

from pipelines.kernels import gravity, heat

# Advance a plate in place: (plate, mixing, steps).
Advance = Callable[[np.ndarray, float, int], None]
# Write accelerations: (position, mass, softening, g, out).
Pull = Callable[[np.ndarray, np.ndarray, float, float, np.ndarray], None]
# The same with an accuracy before `out`: the opening angle of a tree, the number of neighbours.
RoughPull = Callable[[np.ndarray, np.ndarray, float, float, float, np.ndarray], None]
NearPull = Callable[[np.ndarray, np.ndarray, float, float, int, np.ndarray], None]

advance_one: Advance = heat.advance_parallel
advance_serial: Advance = heat.advance
advance_many: Advance | None = None  # plates (run, y, x)

pull: Pull = gravity.accelerations_parallel
pull_by_tree: RoughPull | None = None
pull_by_neighbours: NearPull | None = None
