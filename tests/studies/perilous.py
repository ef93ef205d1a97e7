"""Which points are too much for their workers? Sixty of them, four of which end badly."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np

from sweep import Axis, Pipeline, Stage, Var

Total = Annotated[float, Var((), "m", "their sum")]


def risk(row: int, column: int, deeds: str = "", pause: float = 0.0) -> Total:
    """Add two numbers; `deeds` says what happens on the way: "raise 2 3 and die 4 1"."""
    time.sleep(pause)
    for deed in filter(None, deeds.split(" and ")):
        name, at_row, at_column = deed.rsplit(" ", 2)
        if (at_row, at_column) == (str(row), str(column)):
            DEEDS[name]()
    return float(row + column / 10)


def risk_all(row: np.ndarray, column: np.ndarray, deeds: str = "") -> Total:
    """Do the same for many points at once."""
    pairs = zip(row.tolist(), column.tolist(), strict=True)
    return np.array([risk(*pair, deeds) for pair in pairs])  # type: ignore[return-value]


def eat() -> None:
    """Take all memory."""
    eaten = []
    while True:
        eaten.append(np.ones(1_000_000))


def spawn() -> None:
    """Have another process take memory."""
    eater = "import time; eaten = bytearray(500_000_000); time.sleep(60)"
    subprocess.run([sys.executable, "-c", eater], check=True)


def hang() -> None:
    """Never come to an end, in Python."""
    while True:
        pass


def ignore_the_deadline() -> None:
    """Put the timer out of order that is to end us."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    time.sleep(600)


def hold_the_gil() -> None:
    """Sleep two seconds in C, and let no other thread of Python run."""
    import ctypes

    ctypes.PyDLL(None).usleep(2_000_000)


def hold_long() -> None:
    """Hold the GIL for two minutes, in C."""
    import ctypes

    ctypes.PyDLL(None).usleep(120_000_000)


def leave() -> None:
    """Say something, and be gone."""
    print("the mesh is inside out", flush=True)
    os._exit(5)


def crash() -> None:
    """Read from nowhere."""
    import ctypes

    ctypes.string_at(0)


def end_all() -> None:
    """Take the process along that hands out the points, and with it all other workers."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def fail_twice() -> None:
    """Fail, but for the third time."""
    tries = Path(os.environ["TRIES"])
    with tries.open("a") as file:
        file.write("x")
    if len(tries.read_text()) < 3:
        raise OSError("the licence server is busy")


def fail() -> None:
    """Raise."""
    raise ValueError("bad luck")


DEEDS = {
    "raise": fail,
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "leave": leave,
    "hang": hang,
    "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "ignore": ignore_the_deadline,
    "doze": lambda: time.sleep(1.0),
    "hold": hold_the_gil,
    "hold long": hold_long,
    "eat": eat,
    "spawn": spawn,
    "crash": crash,
    "end all": end_all,
    "flake": fail_twice,
}

AXES = [Axis("row", range(10)), Axis("column", range(6))]
pipeline = Pipeline(risk, axes=AXES)
vectorized = Pipeline(Stage(risk_all, vectorized=True), axes=AXES)
