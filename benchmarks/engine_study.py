"""How high is a ball that was thrown upwards? Ten thousand points that cost next to nothing."""

from typing import Annotated

import numpy as np

from sweep import Axis, Pipeline, Var

SPEEDS = np.linspace(1.0, 100.0, 100)  # m s-1
TIMES = np.linspace(0.1, 10.0, 100)  # s


def height(speed: float, time: float) -> Annotated[float, Var((), "m", "height above the hand")]:
    """Return the height of the ball without drag."""
    return speed * time - 9.81 * time**2 / 2


pipeline = Pipeline(height, axes=[Axis("speed", SPEEDS, "m s-1"), Axis("time", TIMES, "s")])
