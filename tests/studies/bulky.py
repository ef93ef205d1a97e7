"""How much noise fits on a disk? Sixty fields of 50 kB that nothing compresses."""

import os
import time
from typing import Annotated

import numpy as np

from sweep import Axis, Coord, Pipeline, Var


def noise(
    row: int, column: int, rng: np.random.Generator
) -> Annotated[np.ndarray, Var(("x",), "1", "noise", "uint8")]:
    """Draw 50,000 bytes."""
    time.sleep(float(os.environ.get("PAUSE", 0)))
    return rng.integers(0, 256, 50_000, np.uint8)


pipeline = Pipeline(
    noise,
    axes=[Axis("row", range(10)), Axis("column", range(6))],
    coords=[Coord("x", range(50_000))],
)
