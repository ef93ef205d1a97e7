"""How far are the errands of a day? Points that note their beginning, may be held, may go wrong.

Nothing here is heavy to import: many processes do.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from sweep import Axis, Pipeline, Var


def errand(
    street: int, house: int, pause: float = 0.0, deeds: str = ""
) -> Annotated[float, Var((), "m", "how far it is")]:
    """Go there; `deeds` says what happens on the way: "leave 2 3 and topple 1 1"."""
    if (notes := os.environ.get("NOTES")) and (who := whose()):
        note(Path(notes), f"{street} {house} {who}\n")
        while street >= first_held(Path(notes).with_name("held")):
            time.sleep(0.05)
    time.sleep(pause)
    for deed in filter(None, deeds.split(" and ")):
        name, at_street, at_house = deed.split()
        if (at_street, at_house) == (str(street), str(house)):
            DEEDS[name]()
    return street + house / 10


def whose() -> str:
    """Return the batch job that this is in, as 12_0 for an array's element, or $WHO.

    It is "" where points are timed.
    """
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format_map(os.environ)
    return os.environ.get("SLURM_JOB_ID") or os.environ.get("WHO", "")


def note(notes: Path, line: str) -> None:
    """Add a line to a file that others write to."""
    handle = os.open(notes, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(handle, line.encode())
    os.close(handle)


def first_held(file: Path) -> float:
    """Return the first street whose points are to wait."""
    with suppress(FileNotFoundError, ValueError):  # ValueError: it is being written
        return int(file.read_text())
    return float("inf")


def leave() -> None:
    """End the worker."""
    os._exit(5)


def topple() -> None:
    """Kill who drives the worker, in a batch job; it is a person's command elsewhere."""
    if "SLURM_JOB_ID" in os.environ:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)


DEEDS = {"leave": leave, "topple": topple}

pipeline = Pipeline(errand, axes=[Axis("street", range(4)), Axis("house", range(4))])
