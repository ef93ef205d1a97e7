"""The law by which bodies pull each other: what the integrators ask for, whatever it is.

A law is a named tuple; which one it is decides, while an integrator is compiled, which kernel it
calls. So each is compiled on its first use only, and a new law is a class and a line in each table.
Arrays and units are those of `gravity`, in float64.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from pipelines.kernels import gravity, neighbours, tree


class Direct(NamedTuple):
    """All pairs."""

    softening: float
    g: float


class DirectFloat32(NamedTuple):
    """All pairs; masses, and positions seen from their centre, rounded to float32 and summed."""

    softening: float
    g: float


class Tree(NamedTuple):
    """All pairs, but distant bodies in lumps, by the accuracy parameter theta (0 to 1)."""

    softening: float
    g: float
    theta: float


class Neighbours(NamedTuple):
    """The nearest `neighbours` other bodies of each body only."""

    softening: float
    g: float
    neighbours: int


Law = Direct | DirectFloat32 | Tree | Neighbours


def accelerations(law: Law, position: np.ndarray, mass: np.ndarray, out: np.ndarray) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, on one thread.

    To be called from compiled code.
    """
    raise NotImplementedError("call this from a function that numba compiles")


def accelerations_parallel(
    law: Law, position: np.ndarray, mass: np.ndarray, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, work shared among threads.

    To be called from compiled code.
    """
    raise NotImplementedError("call this from a function that numba compiles")


@njit(nogil=True, cache=True)
def near(position: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Return positions (body, xyz) from the centre of mass, in float32: it is fine near 0 only."""
    rounded = np.empty(position.shape, np.float32)
    total = mass.sum()
    for k in range(3):
        centre = 0.0
        for i in range(mass.size):
            centre += mass[i] * position[i, k]
        centre = centre / total if total > 0 else 0.0
        for i in range(mass.size):
            rounded[i, k] = position[i, k] - centre
    return rounded


SERIAL: dict[type, Callable[..., None]] = {
    Direct: lambda law, position, mass, out: gravity.accelerations(
        position, mass, law.softening, law.g, out
    ),
    DirectFloat32: lambda law, position, mass, out: gravity.accelerations(
        near(position, mass), mass.astype(np.float32), law.softening, law.g, out
    ),
    Tree: lambda law, position, mass, out: tree.accelerations(
        position, mass, law.softening, law.g, law.theta, out
    ),
    Neighbours: lambda law, position, mass, out: neighbours.accelerations(
        position, mass, law.softening, law.g, law.neighbours, out
    ),
}
PARALLEL: dict[type, Callable[..., None]] = {
    Direct: lambda law, position, mass, out: gravity.accelerations_parallel(
        position, mass, law.softening, law.g, out
    ),
    DirectFloat32: lambda law, position, mass, out: gravity.accelerations_parallel(
        near(position, mass), mass.astype(np.float32), law.softening, law.g, out
    ),
    Tree: lambda law, position, mass, out: tree.accelerations_parallel(
        position, mass, law.softening, law.g, law.theta, out
    ),
    Neighbours: lambda law, position, mass, out: neighbours.accelerations_parallel(
        position, mass, law.softening, law.g, law.neighbours, out
    ),
}


@overload(accelerations, strict=False)  # a lambda has no annotations
def _choose(law: Any, position: Any, mass: Any, out: Any) -> Callable[..., None]:
    return SERIAL[law.instance_class]


@overload(accelerations_parallel, strict=False)
def _choose_parallel(law: Any, position: Any, mass: Any, out: Any) -> Callable[..., None]:
    return PARALLEL[law.instance_class]
