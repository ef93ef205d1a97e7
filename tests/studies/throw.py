"""How high is a ball after a while, thrown straight up?

One stage a point, and the same for a whole block at once.
"""

from typing import Annotated

import numpy as np

from sweep import Axis, Pipeline, Stage, Var


def height(
    speed: float, time: float = 0.5, g: float = 9.81
) -> Annotated[float, Var((), "m", "height")]:
    """Height of the ball [m]."""
    if speed == 13:
        raise ValueError("unlucky")
    return speed * time - g * time**2 / 2


def heights(
    speed: np.ndarray, time: np.ndarray, g: float = 9.81
) -> Annotated[np.ndarray, Var((), "m", "height")]:
    """Heights of the balls [m], shape (points,)."""
    if np.any(np.equal(speed, 13)):
        raise ValueError("unlucky")
    return speed * time - g * time**2 / 2


AXES = [
    Axis("speed", [10.0, 13.0, 20.0, 25.0, 30.0], "m s-1"),
    Axis("time", [0.5, 1.0, 1.5, 2.0], "s"),
]
UNITS = {"g": "m s-2"}

pipeline = Pipeline(height, axes=AXES, units=UNITS)
vectorized = Pipeline(Stage(heights, vectorized=True), axes=AXES, units=UNITS)
