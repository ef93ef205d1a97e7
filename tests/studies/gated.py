"""What do sixty sums come to, once somebody opens the gate?"""

import os
import time
from pathlib import Path
from typing import Annotated

from sweep import Axis, Pipeline, Var


def total(row: int, column: int, gate: str = "") -> Annotated[float, Var((), "m", "their sum")]:
    """Add two numbers when the file `gate` is there; leave a note beside it who is waiting."""
    Path(f"{gate}.{os.getpid()}").touch()
    while not Path(gate).exists():
        time.sleep(0.01)
    return float(row + column / 10)


pipeline = Pipeline(total, axes=[Axis("row", range(10)), Axis("column", range(6))])
