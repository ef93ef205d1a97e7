"""Which instants of a run are kept: the rule shared by the studies that step through time."""

import numpy as np


def kept_steps(steps: int, frames: int) -> np.ndarray:
    """Return the number of steps done at each kept instant (frame,): round(linspace(0, steps)).

    The first is 0 and the last `steps`; they rise strictly. frames is at most steps + 1, and at
    least 2 unless steps is 0. Raises ValueError otherwise, or where steps is below 0.
    """
    if steps < 0:
        raise ValueError(f"steps = {steps}: take 0 or more.")
    least, most = min(2, steps + 1), steps + 1
    if not least <= frames <= most:
        raise ValueError(
            f"frames = {frames} cannot be kept of steps = {steps}: take {least} to {most} frames."
        )
    return np.round(np.linspace(0, steps, frames)).astype(np.int64)


def frame_numbers(frames: int) -> np.ndarray:
    """Values of the dimension `frame`: 0, 1, ... frames - 1."""
    return np.arange(frames)
