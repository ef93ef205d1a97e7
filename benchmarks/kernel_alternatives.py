"""What one would take instead of our kernels: teaching kernels in numba, and other packages.

Each function takes the inputs and returns a run: what is timed, and returns the answer. Packages
are imported here, when they are asked for; none of them has to be there.
"""

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from kernel_yardsticks import NotThereError
from numba import njit, prange
from scipy.spatial import cKDTree

Run = Callable[[], np.ndarray]


def package(name: str) -> Any:
    """Import a package of the dependency group `bench`."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise NotThereError("not installed: pip install --group bench") from None


# --- heat ---------------------------------------------------------------------------------


@njit(nogil=True)
def fill_frames(frames: np.ndarray, mixing: float) -> None:
    """Compute all frames (time, y, x) from the first, as tutorials do."""
    times, rows, columns = frames.shape
    for k in range(times - 1):
        for i in range(1, rows - 1):
            for j in range(1, columns - 1):
                frames[k + 1, i, j] = frames[k, i, j] + mixing * (
                    frames[k, i + 1, j]
                    + frames[k, i - 1, j]
                    + frames[k, i, j + 1]
                    + frames[k, i, j - 1]
                    - 4.0 * frames[k, i, j]
                )


def heat_in_frames(plate: np.ndarray, mixing: float, steps: int) -> Run:
    """Return the teaching kernel, on one thread; the memory of its frames has been touched."""
    frames = np.empty((steps + 1, *plate.shape))
    frames[:] = plate

    def run() -> np.ndarray:
        fill_frames(frames, mixing)
        return frames[-1]

    return run


def heat_by_devito(plate: np.ndarray, mixing: float, steps: int) -> Run:
    """Return Devito's operator for the inner nodes, `steps` each time, an even number."""
    os.environ.setdefault("DEVITO_LANGUAGE", "openmp")
    os.environ.setdefault("DEVITO_LOGGING", "ERROR")
    devito = package("devito")
    grid = devito.Grid(plate.shape, dtype=np.float64)
    u = devito.TimeFunction(name="u", grid=grid, time_order=1, space_order=2)
    u.data[:] = plate  # both of its times, for the edges are not computed
    t, (y, x) = grid.stepping_dim, grid.dimensions
    vertical, horizontal = u[t, y + 1, x] + u[t, y - 1, x], u[t, y, x - 1] + u[t, y, x + 1]
    fresh = mixing * (vertical + horizontal) + (1.0 - 4.0 * mixing) * u
    operator = devito.Operator([devito.Eq(u.forward, fresh, subdomain=grid.interior)])

    def run() -> np.ndarray:
        operator.apply(time_M=steps - 1)
        return np.asarray(u.data[0])

    return run


def heat_by_jax(plate: np.ndarray, mixing: float, steps: int) -> Run:
    """Return a compiled loop over whole arrays, on the CPU; each run begins with the plate."""
    jax = package("jax")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)

    def step(_: int, old: Any) -> Any:
        vertical = old[2:, 1:-1] + old[:-2, 1:-1]
        horizontal = old[1:-1, :-2] + old[1:-1, 2:]
        inner = mixing * (vertical + horizontal) + (1.0 - 4.0 * mixing) * old[1:-1, 1:-1]
        return old.at[1:-1, 1:-1].set(inner)

    advance = jax.jit(partial(jax.lax.fori_loop, 0, steps, step))
    begin = jax.numpy.asarray(plate)
    return lambda: np.asarray(advance(begin))


# --- gravity ------------------------------------------------------------------------------


@njit(nogil=True, parallel=True, fastmath=True)
def pull_as_taught(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write accelerations (body, xyz) as tutorials do: a loop over xyz, and a cube."""
    for i in prange(mass.size):
        for k in range(3):
            out[i, k] = 0.0
        for j in range(mass.size):
            if i != j:
                square = softening * softening
                for k in range(3):
                    square += (position[j, k] - position[i, k]) ** 2
                distance = np.sqrt(square)
                for k in range(3):
                    out[i, k] += g * mass[j] * (position[j, k] - position[i, k]) / distance**3


def gravity_as_taught(position: np.ndarray, mass: np.ndarray, softening: float, g: float) -> Run:
    """Return the teaching kernel, threaded and with fastmath, in the precision of the arrays."""
    out = np.empty_like(position)
    kind = position.dtype.type

    def run() -> np.ndarray:
        pull_as_taught(position, mass, kind(softening), kind(g), out)
        return out

    return run


def gravity_by_pytreegrav(
    position: np.ndarray, mass: np.ndarray, g: float, method: str, theta: float = 0.7
) -> Run:
    """Return pytreegrav's accelerations without softening, for its softening is another formula."""
    accelerations = package("pytreegrav").Accel
    options = {"G": g, "method": method, "theta": theta, "parallel": True}
    return lambda: np.asarray(accelerations(position, mass, **options))


@njit(nogil=True)
def pull_of_some(
    i: int,
    near: np.ndarray,
    position: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    out: np.ndarray,
) -> None:
    """Write the acceleration of body i by the bodies `near`, itself left out."""
    ax = ay = az = 0.0
    for j in near:
        if j != i:
            dx = position[j, 0] - position[i, 0]
            dy = position[j, 1] - position[i, 1]
            dz = position[j, 2] - position[i, 2]
            square = dx * dx + dy * dy + dz * dz + softening * softening
            weight = g * mass[j] / (square * np.sqrt(square))
            ax += weight * dx
            ay += weight * dy
            az += weight * dz
    out[i, 0], out[i, 1], out[i, 2] = ax, ay, az


def gravity_by_queries(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, k: int
) -> Run:
    """Return the pull of the k nearest: a tree of SciPy's, asked for each body inside the loop.

    The sum over the neighbours is compiled, so that the queries are nearly all of the time.
    """
    out = np.empty_like(position)

    def run() -> np.ndarray:
        tree = cKDTree(position)
        for i in range(mass.size):
            _, near = tree.query(position[i], k + 1)
            pull_of_some(i, near, position, mass, softening, g, out)
        return out

    return run
