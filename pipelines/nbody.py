"""How small may the softening be for a time step, before close encounters spoil the energy?

Star clusters in equilibrium (Plummer spheres of a few seeds) are followed by leapfrog for four time
units, a little more than one crossing, for a range of softenings and of time steps. Where the step
resolves the encounters, the energy error falls as dt^2 and all seeds agree; where the softening is
too small for it, the error is large and differs from seed to seed. With `ds` the dataset:

    error = ds.energy_error.median("seed")
    error.plot.line(x="dt", hue="softening", xscale="log", yscale="log")

All numbers are in N-body units (Heggie & Mathieu 1986), which have no dimension: g = 1, total mass
1, total energy -1/4.
"""

from typing import Annotated, Literal, NamedTuple

import numba
import numpy as np

from pipelines.frames import frame_numbers, kept_steps
from pipelines.kernels import gravity
from sweep import Axis, Coord, Needs, Pipeline, Var

# Measured: starting threads costs 10 to 40 us a step, one thread does 256 bodies in 300 us.
FEWEST_BODIES_FOR_THREADS = 256
# Four time units each: the steps of one run differ in length only.
RESOLUTIONS = [(1 / 32, 128), (1 / 64, 256), (1 / 128, 512), (1 / 256, 1024), (1 / 512, 2048)]


class Bodies(NamedTuple):
    """Bodies at the start: masses (body,), positions and velocities (body, xyz)."""

    initial_mass: np.ndarray
    initial_position: np.ndarray
    initial_velocity: np.ndarray


class Orbits(NamedTuple):
    """Bodies at the end, and the histories (frame, body, xyz) that `diagnose` needs."""

    mass: Annotated[np.ndarray, Var(("body",), "1", "mass")]
    position: Annotated[np.ndarray, Var(("body", "xyz"), "1", "position at the end")]
    velocity: Annotated[np.ndarray, Var(("body", "xyz"), "1", "velocity at the end")]
    time: Annotated[np.ndarray, Var(("frame",), "1", "time since the start")]
    position_history: np.ndarray
    velocity_history: np.ndarray


class Energies(NamedTuple):
    """Energies on the way, and how well their sum is kept."""

    kinetic_energy: Annotated[np.ndarray, Var(("frame",), "1", "kinetic energy")]
    potential_energy: Annotated[np.ndarray, Var(("frame",), "1", "potential energy, softened")]
    energy_error: Annotated[float, Var((), "1", "largest relative change of the total energy")]


def initial_state(
    n: int = 200, seed: int = 0, profile: Literal["gaussian", "plummer"] = "plummer", g: float = 1.0
) -> Bodies:
    """Draw n bodies (at least 2), the same for the same seed.

    profile "gaussian": masses uniform in [0, 1), positions standard normal, at rest. profile
    "plummer": equal masses of sum 1 in an equilibrium for this g (above 0), of scale radius
    3 pi / 16, so that the total energy is -g / 4 but for the scatter of the draw; centre of mass
    at rest at 0. Raises ValueError for a value outside its range.
    """
    if n < 2:
        raise ValueError(f"n = {n}: take at least 2 bodies.")
    if not 0 < g < np.inf:
        raise ValueError(f"g = {g}: take a finite value above 0.")
    rng = np.random.default_rng(seed)
    if profile == "gaussian":
        return Bodies(rng.random(n), rng.standard_normal((n, 3)), np.zeros((n, 3)))
    if profile == "plummer":
        position, velocity = plummer_sphere(n, rng)
        return Bodies(np.full(n, 1 / n), position, np.sqrt(g) * velocity)
    raise ValueError(f"profile = {profile!r} is unknown: take 'gaussian' or 'plummer'.")


def plummer_sphere(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities (body, xyz) of an equilibrium sphere in N-body units, g = 1.

    Source: Aarseth, Henon & Wielen 1974, Astron. Astrophys. 37, 183, appendix. They draw the
    speed q (in units of that of escape) by rejection from q^2 (1 - q^2)^(7/2); that is the law of
    the root of a beta(3/2, 9/2) variate, which is drawn here.
    """
    scale = 3 * np.pi / 16
    enclosed = rng.random(n) ** (1 / 3)  # third root of the mass inside the body's radius
    radius = enclosed / np.sqrt(1 - enclosed**2)
    speed = np.sqrt(rng.beta(1.5, 4.5, n)) * np.sqrt(2) * (1 + radius**2) ** -0.25
    position = scale * radius[:, None] * directions(n, rng)
    velocity = scale**-0.5 * speed[:, None] * directions(n, rng)
    return position - position.mean(axis=0), velocity - velocity.mean(axis=0)


def directions(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n unit vectors (body, xyz), uniform on the sphere (Muller 1959: scaled normal ones)."""
    vectors = rng.standard_normal((n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def threads_pay(n: int) -> bool:
    """Whether the threaded kernels are the faster ones; both kinds give the same bits."""
    return n >= FEWEST_BODIES_FOR_THREADS and numba.get_num_threads() > 1


def evolve(
    initial_state: Bodies,
    softening: float = 0.05,
    dt: float = 1 / 64,
    steps: int = 256,
    g: float = 1.0,
    frames: int = 33,
) -> Orbits:
    """Follow the bodies by leapfrog for `steps` (at least 0) steps of length dt (above 0).

    Forces are those of Plummer softening (at least 0). Kept are the instants after
    round(linspace(0, steps, frames)) steps; frames is at most steps + 1, and at least 2 unless
    steps is 0. The bodies given are not changed. Raises ValueError for a value outside its range,
    FloatingPointError where bodies met in one point.
    """
    kept = kept_steps(steps, frames)
    if not 0 <= softening < np.inf:
        raise ValueError(f"softening = {softening}: take a finite value, 0 or more.")
    if not 0 < dt < np.inf:
        raise ValueError(f"dt = {dt}: take a finite value above 0.")
    mass, position, velocity = (np.array(array, dtype=np.float64) for array in initial_state)
    advance = gravity.advance_parallel if threads_pay(len(mass)) else gravity.advance

    position_history = np.empty((frames, *position.shape))
    velocity_history = np.empty_like(position_history)
    for k, more in enumerate(np.diff(kept, prepend=0)):
        advance(position, velocity, mass, softening, g, dt, more)
        position_history[k], velocity_history[k] = position, velocity
    if not np.isfinite(position).all():
        raise FloatingPointError(
            f"bodies met in one point with softening = {softening}: take a larger softening."
        )
    return Orbits(mass, position, velocity, kept * dt, position_history, velocity_history)


def diagnose(
    position_history: np.ndarray,
    velocity_history: np.ndarray,
    mass: np.ndarray,
    softening: float = 0.05,
    g: float = 1.0,
) -> Energies:
    """Energies of histories (frame, body, xyz) of bodies of some mass (body,).

    energy_error is the maximum over the frames of |E - E0| / |E0|, E0 the total energy at the
    first. softening and g are those of the forces.
    """
    potentials = gravity.potentials_parallel if threads_pay(len(mass)) else gravity.potentials
    kinetic = 0.5 * np.sum(mass[:, None] * velocity_history**2, axis=(1, 2))
    potential, at_bodies = np.empty(len(position_history)), np.empty(len(mass))
    for k, position in enumerate(position_history):
        potentials(position, mass, softening, g, at_bodies)
        potential[k] = 0.5 * np.sum(mass * at_bodies)
    energy = kinetic + potential
    return Energies(kinetic, potential, float(np.max(np.abs(energy / energy[0] - 1))))


def body_numbers(n: int) -> np.ndarray:
    """Values of the dimension `body`: 0, 1, ... n - 1."""
    return np.arange(n)


pipeline = Pipeline(
    [initial_state, evolve, diagnose],
    axes=[
        Axis("softening", np.geomspace(0.001, 0.1, 5)),
        Axis(("dt", "steps"), RESOLUTIONS, dim="resolution"),
        Axis("seed", range(3)),
    ],
    coords=[
        Coord("body", body_numbers, long_name="number of the body"),
        Coord("xyz", ["x", "y", "z"], long_name="direction"),
        Coord("frame", frame_numbers, long_name="number of the kept instant"),
    ],
    needs=Needs(cores=1, memory="1 GB", minutes=5),
)
