"""Bodies on their way: symplectic compositions of leapfrog, and Hermite with adaptive steps.

Arrays and units are those of `gravity`, in float64; position and velocity are changed in place. A
run is `kept[-1]` intervals of length dt [time]; the bodies after `kept[k]` of them are written to
row k of the histories (frame, body, xyz). Nothing is checked.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from pipelines.kernels import forces, gravity

# Fractions of an interval that leapfrog is applied for, one after the other. The second line is of
# order 4: Yoshida 1990, Phys. Lett. A 150, 262, equation 2.11.
LEAPFROG = np.array([1.0])
YOSHIDA = np.array([1.0, -(2 ** (1 / 3)), 1.0]) / (2 - 2 ** (1 / 3))

SHORTEST = 2.0**-40  # of an interval: bodies that need less are about to meet in one point
# What bodies do at the end of a trial that is much too long does not tell how much: the next one is
# shorter by this factor at most.
STRIDE = 16.0
ROUNDING = 1e-12  # of the largest acceleration: a body pulled less has no time scale to speak of


@njit(nogil=True, cache=True)
def add(array: np.ndarray, factor: float, rate: np.ndarray) -> None:
    """Add factor times rate to an array (body, xyz)."""
    for i in range(array.shape[0]):
        for k in range(3):
            array[i, k] += factor * rate[i, k]


@njit(nogil=True, cache=True)
def keep(array: np.ndarray, frame: int, history: np.ndarray) -> None:
    """Write an array (body, xyz) into a frame: `history[frame] = array` compiles for 5 s longer."""
    for i in range(array.shape[0]):
        for k in range(3):
            history[frame, i, k] = array[i, k]


@njit(nogil=True, forceinline=True)
def follow(
    accelerations: Callable[..., None],
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    law: forces.Law,
    dt: float,
    fractions: np.ndarray,
    kept: np.ndarray,
    position_history: np.ndarray,
    velocity_history: np.ndarray,
) -> None:
    """Do what `compose` does with one of the two functions of `forces`."""
    acceleration, done = np.empty_like(position), 0
    accelerations(law, position, mass, acceleration)
    for frame in range(kept.size):
        for _ in range(kept[frame] - done):
            for step in dt * fractions:
                add(velocity, 0.5 * step, acceleration)
                add(position, step, velocity)
                accelerations(law, position, mass, acceleration)
                add(velocity, 0.5 * step, acceleration)
        done = kept[frame]
        keep(position, frame, position_history)
        keep(velocity, frame, velocity_history)


@njit(nogil=True, cache=True)
def compose(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    law: forces.Law,
    dt: float,
    fractions: np.ndarray,
    kept: np.ndarray,
    position_history: np.ndarray,
    velocity_history: np.ndarray,
) -> None:
    """Take steps of leapfrog, kick-drift-kick, for the given fractions of dt, on one thread.

    dt may be negative: fractions that read the same backwards make a reversible integrator.
    Source: Dehnen & Read 2011, section 5 (see `gravity`).
    """
    histories = position_history, velocity_history
    follow(forces.accelerations, position, velocity, mass, law, dt, fractions, kept, *histories)


@njit(nogil=True, cache=True)
def compose_parallel(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    law: forces.Law,
    dt: float,
    fractions: np.ndarray,
    kept: np.ndarray,
    position_history: np.ndarray,
    velocity_history: np.ndarray,
) -> None:
    """Take steps as `compose` does, the forces shared among threads."""
    histories = position_history, velocity_history
    follow(
        forces.accelerations_parallel,
        position,
        velocity,
        mass,
        law,
        dt,
        fractions,
        kept,
        *histories,
    )


@njit(nogil=True, cache=True)
def predict(
    state: tuple[np.ndarray, ...], step: float, position: np.ndarray, velocity: np.ndarray
) -> None:
    """Write the Taylor series of a state (position, velocity, acceleration, jerk) after a step."""
    x, v, a, j = state
    for i in range(x.shape[0]):
        for k in range(3):
            bend = a[i, k] / 2 + step * j[i, k] / 6
            position[i, k] = x[i, k] + step * (v[i, k] + step * bend)
            velocity[i, k] = v[i, k] + step * (a[i, k] + step * j[i, k] / 2)


@njit(nogil=True, cache=True)
def correct(
    state: tuple[np.ndarray, ...], step: float, acceleration: np.ndarray, jerk: np.ndarray
) -> None:
    """Move a state on, given the acceleration and the jerk at the end of the step."""
    x, v, a, j = state
    for i in range(x.shape[0]):
        for k in range(3):
            a0, a1, j0, j1 = a[i, k], acceleration[i, k], j[i, k], jerk[i, k]
            speed = v[i, k] + step * ((a0 + a1) / 2 + step * (j0 - j1) / 12)
            x[i, k] += step * ((v[i, k] + speed) / 2 + step * (a0 - a1) / 12)
            v[i, k], a[i, k], j[i, k] = speed, a1, j1


@njit(nogil=True, cache=True, error_model="numpy")
def longest_step(
    state: tuple[np.ndarray, ...],
    step: float,
    acceleration: np.ndarray,
    jerk: np.ndarray,
    eta: float,
) -> float:
    """Return the step that is short enough for all bodies, by their derivatives after a step.

    Aarseth 1985, in Multiple Time Scales, page 377: the root of eta (|a| |a''| + |a'|^2) /
    (|a'| |a'''| + |a''|^2), the higher derivatives being those of the Hermite polynomial.
    """
    _, _, a, j = state
    largest, shortest = 0.0, np.inf
    for i in range(a.shape[0]):
        pull = acceleration[i, 0] ** 2 + acceleration[i, 1] ** 2 + acceleration[i, 2] ** 2
        if not pull < np.inf:  # a trial too long for the numbers
            return 0.0
        largest = max(largest, pull)
    for i in range(a.shape[0]):
        before = first = second = third = fourth = 0.0
        for k in range(3):
            a0, a1, j0, j1 = a[i, k], acceleration[i, k], j[i, k], jerk[i, k]
            crackle = (12 * (a0 - a1) / step + 6 * (j0 + j1)) / step**2
            snap = (6 * (a0 - a1) / step + 2 * j0 + 4 * j1) / step
            before, first, second = before + a0**2, first + a1**2, second + j1**2
            third, fourth = third + snap**2, fourth + crackle**2
        above = np.sqrt(first * third) + second
        below = np.sqrt(second * fourth) + third
        # A trial that is too long throws bodies out to where nothing pulls them any more.
        if max(before, first) > ROUNDING**2 * largest and below > 0:
            shortest = min(shortest, above / below)
    return float(np.sqrt(eta * shortest))


@njit(nogil=True, forceinline=True, error_model="numpy")
def fill(
    accelerations_and_jerks: Callable[..., None], arguments: Any, histories: tuple[Any, Any]
) -> bool:
    """Do what `hermite` does with one of the two functions of `gravity`."""
    position, velocity, mass, softening, g, eta, dt, kept = arguments
    position_history, velocity_history = histories
    acceleration, jerk = np.empty_like(position), np.empty_like(position)
    state = position, velocity, acceleration, jerk
    new_position, new_velocity = np.empty_like(position), np.empty_like(position)
    new_acceleration, new_jerk = np.empty_like(position), np.empty_like(position)
    accelerations_and_jerks(position, velocity, mass, softening, g, acceleration, jerk)
    longest, done = dt, 0
    for frame in range(kept.size):
        for _ in range(kept[frame] - done):
            left = dt
            while left > 0:
                pieces = max(np.ceil(left / longest), 1.0)
                step = left / pieces
                if not step > SHORTEST * dt:
                    return False
                predict(state, step, new_position, new_velocity)
                accelerations_and_jerks(
                    new_position, new_velocity, mass, softening, g, new_acceleration, new_jerk
                )
                longest = longest_step(state, step, new_acceleration, new_jerk, eta)
                if step <= 2 * longest:
                    correct(state, step, new_acceleration, new_jerk)
                    left = left - step if pieces > 1 else 0.0
                else:
                    longest = max(longest, step / STRIDE)
        done = kept[frame]
        keep(position, frame, position_history)
        keep(velocity, frame, velocity_history)
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def hermite(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    eta: float,
    dt: float,
    kept: np.ndarray,
    position_history: np.ndarray,
    velocity_history: np.ndarray,
) -> bool:
    """Fill intervals of dt (above 0) with Hermite steps, one length for all bodies, on one thread.

    Order 4, predict-evaluate-correct: Makino & Aarseth 1992. An interval's rest is cut into equal
    steps no longer than Aarseth's criterion of accuracy eta (above 0) says; where a step turns out
    more than twice too long, a shorter one is tried. Returns whether it came to the end: where
    bodies meet in one point, steps come to nothing, and the histories stay unfinished.
    """
    arguments = position, velocity, mass, softening, g, eta, dt, kept
    histories = position_history, velocity_history
    return fill(gravity.accelerations_and_jerks, arguments, histories)


@njit(nogil=True, cache=True, error_model="numpy")
def hermite_parallel(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    eta: float,
    dt: float,
    kept: np.ndarray,
    position_history: np.ndarray,
    velocity_history: np.ndarray,
) -> bool:
    """Follow bodies as `hermite` does, the forces shared among threads."""
    arguments = position, velocity, mass, softening, g, eta, dt, kept
    histories = position_history, velocity_history
    return fill(gravity.accelerations_and_jerks_parallel, arguments, histories)
