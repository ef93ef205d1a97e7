"""How much is done in a second? Points that sleep, so that cores do not matter."""

import time
from typing import Annotated

from sweep import Axis, Pipeline, Var

TASK_SECONDS = 1.0


def nap(row: int, column: int) -> Annotated[float, Var((), "1", "their sum")]:
    """Sleep for a task's time."""
    time.sleep(TASK_SECONDS)
    return float(row + column)


pipeline = Pipeline(nap, axes=[Axis("row", range(30)), Axis("column", range(30))])
