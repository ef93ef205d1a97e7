"""How far does a walker get who is driven one way and shaken at random? The campaign's sweep.

Outputs of every kind (a number, a field, an integer), random numbers, points without an answer
(NaN, done all the same) and points that fail: what a campaign of faults has to bring through
unharmed. Under a campaign (`fault_killers.ORDERS`) the processes that import it come to harm.
"""

import os
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from sweep import Axis, Coord, Pipeline, Var

STEPS = 32


class Walk(NamedTuple):
    """A walk along a line."""

    reach: Annotated[float, Var((), "m", "farthest place; NaN if the walker never left")]
    path: Annotated[np.ndarray, Var(("step",), "m", "places", "float32")]
    turns: Annotated[int, Var((), "1", "changes of direction")]


def walk(drive: float, shake: float, rng: np.random.Generator, pause: float = 0.03) -> Walk:
    """Wait `pause` [s] and walk `STEPS` steps; two of the points fail.

    Those that are not shaken stay where they are.
    """
    time.sleep(pause)
    if (drive, shake) in {(0.5, 0.75), (1.5, 0.25)}:
        raise ArithmeticError(f"the walker fell at drive={drive}, shake={shake}")
    steps = shake * rng.normal(drive, 1.0, STEPS)
    path = np.cumsum(steps)
    reach = np.abs(path).max() if shake else np.nan
    return Walk(reach, path, int(np.count_nonzero(np.diff(np.sign(steps)))))


pipeline = Pipeline(
    walk,
    axes=[
        Axis("drive", np.arange(16) / 8, "m"),
        Axis("shake", np.arange(15) / 8),
    ],
    coords=[Coord("step", np.arange(STEPS))],
    units={"pause": "s"},
    entropy=2026,
)

if "SWEEP_FAULTS" in os.environ:
    import fault_killers

    fault_killers.install(Path(os.environ["SWEEP_FAULTS"]))
