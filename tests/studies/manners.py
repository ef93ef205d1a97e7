"""What may a function do? One deed a point; all have an outcome, and none harms the next point."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from sweep import Axis, Coord, Pipeline, Var

HOME = str(Path.cwd())


class Answer(NamedTuple):
    """A number and a field."""

    number: Annotated[float, Var((), "m")]
    field: Annotated[np.ndarray, Var(("x",), "m")]


class Other(NamedTuple):
    """Has another name for the field."""

    number: float
    feld: np.ndarray


DEEDS = [
    *("nothing", "close sys.stdout", "close stdout", "print", "print in C", "be strict", "warn"),
    *("warn again", "log", "fork", "chdir", "look around", "stop", "seterr", "divide", "mutate"),
    *("nan", "exit", "interrupt", "raise", "wrong names", "dict", "shape", "complex", "text"),
    *("generator", "objects", "none", "huge"),
]


def behave(deed: str, table: Any = (1.0, 2.0, 3.0)) -> Answer:
    """Do it, and answer as if nothing had been."""
    if deed in SAYINGS:
        SAYINGS[deed]()
    elif deed in TRACES:
        TRACES[deed](table)
    elif deed in ANSWERS:
        return ANSWERS[deed]()  # type: ignore[no-any-return]
    return Answer(1.0, np.arange(3.0))


def say_in_c() -> None:
    """Write to the descriptor, as a library in C would."""
    os.write(1, b"from far below\n")


SAYINGS = {
    "print": lambda: print("hello"),
    "print in C": say_in_c,
    "warn": lambda: warnings.warn("careful", RuntimeWarning, stacklevel=1),
    "warn again": lambda: warnings.warn("careful", RuntimeWarning, stacklevel=1),
    "log": lambda: logging.getLogger("model").warning("step %d", 3),
}


def fork(table: Any) -> None:
    """Fork, and let the child go on as if it were us."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)


def look_around(table: Any) -> None:
    """Find the working folder where it was."""
    assert str(Path.cwd()) == HOME, Path.cwd()


def divide(table: Any) -> None:
    """Divide by zero, which numpy was told to raise at, by another point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isinf(np.ones(1) / np.zeros(1)).all()


def mutate(table: Any) -> None:
    """Change an argument."""
    assert list(table) == [1.0, 2.0, 3.0]
    if isinstance(table, list):
        table.append(4.0)


TRACES: Any = {
    "fork": fork,
    "chdir": lambda table: os.chdir("/"),
    "look around": look_around,
    "seterr": lambda table: np.seterr(all="raise"),
    "divide": divide,
    "mutate": mutate,
    "close stdout": lambda table: os.close(1),
    "close sys.stdout": lambda table: sys.stdout.close(),
    "be strict": lambda table: warnings.simplefilter("error"),
    "stop": lambda table: next(iter([])),
    "exit": lambda table: sys.exit(3),
    "interrupt": lambda table: (_ for _ in ()).throw(KeyboardInterrupt),
    "raise": lambda table: {}["missing"],
}

ANSWERS: Any = {
    "nan": lambda: Answer(np.nan, np.full(3, np.nan)),
    "wrong names": lambda: Other(1.0, np.arange(3.0)),
    "dict": lambda: {"number": 1.0, "field": np.arange(3.0)},
    "shape": lambda: Answer(1.0, np.arange(4.0)),
    "complex": lambda: Answer(1.0, np.arange(3.0) + 1j),
    "text": lambda: Answer("one", np.arange(3.0)),  # type: ignore[arg-type]
    "generator": lambda: Answer(1.0, (float(i) for i in range(3))),  # type: ignore[arg-type]
    "objects": lambda: Answer(1.0, np.array([1.0, None, {}], dtype=object)),
    "none": lambda: None,
    "huge": lambda: Answer(10**400, np.arange(3.0)),
}

pipeline = Pipeline(behave, axes=[Axis("deed", DEEDS)], coords=[Coord("x", range(3))])
