"""Which kernels take minutes? The sixty points of perilous.py, one of which computes for long.

A file of its own: where a study names numba, each of its workers imports that at its start.
"""

import threading
from typing import Annotated

import numpy as np
from perilous import AXES, DEEDS, risk

from sweep import Pipeline, Var


def release_long() -> None:
    """Compute for two minutes in a kernel that releases the GIL."""
    import numba

    from pipelines.kernels.words import read_word

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def count(stop: np.ndarray) -> float:
        total = 0.0
        while read_word(stop, 0) == 0:
            total += 1.0
        return total

    stop = np.ones(1, np.int64)
    count(stop)  # compiles
    stop[0] = 0
    threading.Timer(110.0, stop.fill, [1]).start()
    count(stop)


DEEDS["release long"] = release_long


def risk_for_long(
    row: int, column: int, deeds: str = "", pause: float = 0.0
) -> Annotated[float, Var((), "m", "their sum")]:
    """Add two numbers, see perilous.py; `deeds` may be "release long 2 2"."""
    return risk(row, column, deeds, pause)


pipeline = Pipeline(risk_for_long, axes=AXES)
