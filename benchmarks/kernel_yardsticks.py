"""Yardsticks in C, which are our own: compiled when they are needed, and called with arrays."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fPIC", "-fopenmp")
WIDE = "-mprefer-vector-width=512"  # left to itself, gcc takes half of what AVX-512 has
FAST = "-ffast-math"
ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector


class NotThereError(Exception):
    """What cannot be compared here, and what to do about it."""


def compiler() -> str:
    """Return the C compiler that is there."""
    for name in (os.environ.get("CC", ""), "gcc", "cc"):
        if name and (found := shutil.which(name)):
            return found
    raise NotThereError("no C compiler: install gcc, or set CC")


def compiler_version() -> str:
    """Return the first line of what the compiler says of itself."""
    try:
        return _output([compiler(), "--version"]).partition("\n")[0]
    except NotThereError as error:
        return str(error)


@cache
def library(name: str, *options: str) -> ctypes.CDLL:
    """Return the library of a C file beside this one.

    It is linked without -ffast-math: with it, gcc's start-up code would make the whole process
    round small numbers to zero.
    """
    with tempfile.TemporaryDirectory(prefix="sweep-yardsticks-") as folder:
        made, library = Path(folder) / "made.o", Path(folder) / "made.so"
        source = [*options, "-c", str(HERE / name), "-o", str(made)]
        try:
            _output([compiler(), *FLAGS, WIDE, *source])
        except NotThereError:  # a compiler, or a machine, that does not know the width
            _output([compiler(), *FLAGS, *source])
        _output([compiler(), "-shared", "-fopenmp", str(made), "-lm", "-o", str(library)])
        return ctypes.CDLL(str(library))


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotThereError(f"the C compiler failed: {done.stderr.strip()}")
    return done.stdout


def aligned(like: np.ndarray) -> np.ndarray:
    """Return a contiguous copy that begins with a line of the cache, for C at its best."""
    raw = np.empty(like.nbytes + ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT
    copy = raw[begin : begin + like.nbytes].view(like.dtype).reshape(like.shape)
    copy[...] = like
    return copy


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """Return where the array begins."""
    return ctypes.c_void_p(array.ctypes.data)


def heat_in_c(
    plate: np.ndarray, mixing: float, steps: int, threads: int
) -> Callable[[], np.ndarray]:
    """Return what advances a copy of the plate (y, x) in C, `steps` each time, an even number."""
    even, odd = aligned(plate), aligned(plate)
    rows, columns = (ctypes.c_long(length) for length in plate.shape)
    advance = library("kernel_heat.c").advance
    sizes = (rows, columns, ctypes.c_double(mixing), ctypes.c_long(steps), ctypes.c_int(threads))

    def run() -> np.ndarray:
        advance(pointer(even), pointer(odd), *sizes)
        return even

    return run


def gravity_in_c(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, threads: int
) -> Callable[[], np.ndarray]:
    """Return what computes accelerations in C, in the precision of the arrays.

    The coordinates are copied to arrays of their own before, not in the run.
    """
    kind = ctypes.c_float if position.dtype == np.float32 else ctypes.c_double
    options = (FAST, "-DREAL=float") if kind is ctypes.c_float else (FAST,)
    accelerations = library("kernel_gravity.c", *options).accelerations
    given = [*(aligned(position[:, axis]) for axis in range(3)), aligned(mass)]
    made = [aligned(np.zeros_like(mass)) for _ in range(3)]
    constants = (ctypes.c_long(mass.size), kind(softening), kind(g))

    def run() -> np.ndarray:
        arrays = [*map(pointer, given)], [*map(pointer, made)]
        accelerations(*arrays[0], *constants, *arrays[1], ctypes.c_int(threads))
        return np.stack(made, axis=1)

    return run
