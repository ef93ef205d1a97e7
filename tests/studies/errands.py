"""How long do errands take? Points that wait, note that they were begun, and may end badly.

Nothing here is heavy to import: many processes do.
"""

import os
import signal
import time
from pathlib import Path
from typing import Annotated

from sweep import Axis, Pipeline, Var


def errand(
    street: int, house: int, pause: float = 0.0, deeds: str = ""
) -> Annotated[float, Var((), "m", "how far it is")]:
    """Go there; `deeds` says what happens on the way: "leave 2 3 and fail 4 1"."""
    note(street, house)
    time.sleep(pause)
    for deed in filter(None, deeds.split(" and ")):
        name, at_street, at_house = deed.split()
        if (at_street, at_house) == (str(street), str(house)):
            DEEDS[name]()
    return street + house / 10


def note(street: int, house: int) -> None:
    """Leave a line in the file $NOTES, if there is one: the point, and in which job or by $WHO."""
    if notes := os.environ.get("NOTES"):
        who = os.environ.get("SLURM_JOB_ID") or os.environ.get("WHO", "")
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            who = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format_map(os.environ)
        handle = os.open(notes, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(handle, f"{street} {house} {who}\n".encode())
        os.close(handle)


def leave() -> None:
    """End the worker."""
    os._exit(5)


def topple() -> None:
    """Kill who drives the worker, in a batch job; it is a person's command elsewhere."""
    if "SLURM_JOB_ID" in os.environ:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)


def linger() -> None:
    """Take long, in the first job that comes here."""
    here = Path(os.environ["NOTES"]).with_name("lingered")
    if "SLURM_JOB_ID" in os.environ and not here.exists():
        here.touch()
        time.sleep(600)


def fail() -> None:
    """Raise."""
    raise ValueError("nobody is at home")


DEEDS = {"leave": leave, "topple": topple, "linger": linger, "fail": fail}

pipeline = Pipeline(errand, axes=[Axis("street", range(4)), Axis("house", range(4))])
