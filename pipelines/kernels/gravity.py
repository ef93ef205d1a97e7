"""Self-gravitating bodies: direct summation with Plummer softening, and the leapfrog integrator.

Acceleration and potential of body i (Plummer 1911; Aarseth 1963; Dehnen & Read 2011, section 3,
doi:10.1140/epjp/i2011-11055-3), with d = position[j] - position[i]:

    a_i = g sum_j m_j d / (|d|^2 + softening^2)^(3/2)
    phi_i = -g sum_j m_j / (|d|^2 + softening^2)^(1/2)        j != i, in the order of j

All arrays are float64: positions, velocities, accelerations (body, xyz), masses and potentials
(body,). Any consistent units do: softening [length], g [length^3 mass^-1 time^-2]. softening is at
least 0; at 0, two bodies in one place give NaN. Nothing is checked.
"""

import numpy as np
from numba import njit, prange


@njit(nogil=True, cache=True, error_model="numpy")
def pull(
    i: int, position: np.ndarray, mass: np.ndarray, softening: float
) -> tuple[float, float, float]:
    """Acceleration of body i along x, y and z, for g = 1."""
    ax = ay = az = 0.0
    for j in range(mass.size):
        if j != i:
            dx = position[j, 0] - position[i, 0]
            dy = position[j, 1] - position[i, 1]
            dz = position[j, 2] - position[i, 2]
            square = dx * dx + dy * dy + dz * dz + softening * softening
            weight = mass[j] / (square * np.sqrt(square))
            ax += weight * dx
            ay += weight * dy
            az += weight * dz
    return ax, ay, az


@njit(nogil=True, cache=True, error_model="numpy")
def depth(i: int, position: np.ndarray, mass: np.ndarray, softening: float) -> float:
    """Potential of the other bodies at body i with its sign turned, for g = 1."""
    total = 0.0
    for j in range(mass.size):
        if j != i:
            dx = position[j, 0] - position[i, 0]
            dy = position[j, 1] - position[i, 1]
            dz = position[j, 2] - position[i, 2]
            total += mass[j] / np.sqrt(dx * dx + dy * dy + dz * dz + softening * softening)
    return total


@njit(nogil=True, cache=True)
def accelerations(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, on one thread."""
    for i in range(mass.size):
        ax, ay, az = pull(i, position, mass, softening)
        out[i, 0], out[i, 1], out[i, 2] = g * ax, g * ay, g * az


@njit(nogil=True, cache=True, parallel=True)
def accelerations_parallel(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`, bodies shared among threads."""
    for i in prange(mass.size):
        ax, ay, az = pull(i, position, mass, softening)
        out[i, 0], out[i, 1], out[i, 2] = g * ax, g * ay, g * az


@njit(nogil=True, cache=True)
def potentials(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the potential (body,) at every body into `out`, on one thread."""
    for i in range(mass.size):
        out[i] = -g * depth(i, position, mass, softening)


@njit(nogil=True, cache=True, parallel=True)
def potentials_parallel(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the potential (body,) at every body into `out`, bodies shared among threads."""
    for i in prange(mass.size):
        out[i] = -g * depth(i, position, mass, softening)


@njit(nogil=True, cache=True)
def advance(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    dt: float,
    steps: int,
) -> None:
    """Advance all bodies by some steps of leapfrog, kick-drift-kick, on one thread.

    position and velocity are changed in place; dt [time] may be negative: the integrator is
    reversible. Source: Dehnen & Read 2011, section 5 (the work named above).
    """
    acceleration = np.empty_like(position)
    accelerations(position, mass, softening, g, acceleration)
    for _ in range(steps):
        velocity += 0.5 * dt * acceleration
        position += dt * velocity
        accelerations(position, mass, softening, g, acceleration)
        velocity += 0.5 * dt * acceleration


@njit(nogil=True, cache=True)
def advance_parallel(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    dt: float,
    steps: int,
) -> None:
    """Advance all bodies as `advance` does, the forces shared among threads."""
    acceleration = np.empty_like(position)
    accelerations_parallel(position, mass, softening, g, acceleration)
    for _ in range(steps):
        velocity += 0.5 * dt * acceleration
        position += dt * velocity
        accelerations_parallel(position, mass, softening, g, acceleration)
        velocity += 0.5 * dt * acceleration
