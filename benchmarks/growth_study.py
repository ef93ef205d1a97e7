"""How much work is a point? Twenty milliseconds, noted when it ends; and an array of 10 kB."""

import os
import time
from typing import Annotated

import numpy as np

from sweep import Axis, Coord, Pipeline, Var

WORK_SECONDS = 0.02


def work(
    slow: float, fast: int, rng: np.random.Generator
) -> Annotated[np.ndarray, Var(("x",), "1", "noise")]:
    """Keep a core busy for `WORK_SECONDS`, and leave a line in the file $WORK_NOTES, if any."""
    end = time.thread_time() + WORK_SECONDS
    while time.thread_time() < end:
        pass
    if notes := os.environ.get("WORK_NOTES"):
        handle = os.open(notes, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(handle, f"{slow} {fast}\n".encode())
        os.close(handle)
    return rng.normal(slow, 1.0, 1250)


pipeline = Pipeline(
    work,
    axes=[Axis("slow", np.arange(10.0)), Axis("fast", range(100))],
    coords=[Coord("x", np.arange(1250))],
)
