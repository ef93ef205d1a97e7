"""Which kernels take minutes? The sixty points of perilous.py, one of which computes for long.

A file of its own: where a study names numba, each of its workers imports that at its start.
"""

import time
from typing import Annotated

import numpy as np
from perilous import AXES, DEEDS, risk

from sweep import Pipeline, Var


def release_long() -> None:
    """Compute for two minutes in a kernel that releases the GIL."""
    import numba

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def count(steps: int) -> float:
        total = 0.0
        for i in range(steps):
            total += np.sqrt(i)
        return total

    count(1)  # compiles
    start = time.monotonic()
    count(10**8)
    steps = 10**8 * 110 / (time.monotonic() - start)
    count(int(steps))


DEEDS["release long"] = release_long


def risk_for_long(
    row: int, column: int, deeds: str = "", pause: float = 0.0
) -> Annotated[float, Var((), "m", "their sum")]:
    """Add two numbers, see perilous.py; `deeds` may be "release long 2 2"."""
    return risk(row, column, deeds, pause)


pipeline = Pipeline(risk_for_long, axes=AXES)
