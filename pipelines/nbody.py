"""How small may the softening be for a time step, before close encounters spoil the energy?

Star clusters in equilibrium (Plummer spheres of a few seeds) are followed by leapfrog for four time
units, a little more than one crossing, for a range of softenings and of time steps. Where the step
resolves the encounters, the energy error falls as dt^2 and all seeds agree; where the softening is
too small for it, the error is large and differs from seed to seed. With `ds` the dataset:

    error = ds.energy_drift.max("frame").median("seed")
    error.plot.line(x="dt", hue="softening", xscale="log", yscale="log")

All numbers are in N-body units (Heggie & Mathieu 1986), which have no dimension: g = 1, total mass
1, total energy -1/4.

Other questions are a matter of parameters. `profile`: what the bodies are at the start; `method`:
how their forces are found; `integrator`: how they are followed, at a fixed step or, by "hermite",
at steps as short as close encounters need. Three bodies that throw one out, and what accuracy does
to them:

    sweep run pipelines/nbody.py profile=pythagorean integrator=hermite softening=0 seed=0
        dt=1 steps=70 frames=71 eta=1e-2,1e-3,1e-4
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, get_args

import numba
import numpy as np

from pipelines.bodies import DRAWN, KNOWN, Bodies, number_of_bodies, read
from pipelines.frames import frame_numbers, kept_steps
from pipelines.kernels import forces, gravity, integrators, tree
from sweep import Axis, Coord, Needs, Pipeline, Var

Method = Literal["auto", "direct", "tree", "neighbours"]
Integrator = Literal["leapfrog", "yoshida", "hermite"]
Precision = Literal["float64", "float32"]
Device = Literal["cpu", "cuda"]

# Measured: 128 bodies take 18 us on one thread and 23 us on two, 256 bodies 57 and 44 us.
FEWEST_BODIES_FOR_THREADS = 256
# Measured on two threads: all pairs of 8,000 bodies take 21 ms, the tree 11 ms, at theta = 0.5
# with an error of 6e-4; those of 12,000 take 47 and 19 ms, those of 4,000 both 5 ms. Digits are
# given away for a factor of more than two only.
FEWEST_BODIES_FOR_TREE = 10_000
# Four time units each: the steps of one run differ in length only.
RESOLUTIONS = [(1 / 32, 128), (1 / 64, 256), (1 / 128, 512), (1 / 256, 1024), (1 / 512, 2048)]
FRACTIONS = np.array([0.1, 0.5, 0.9])  # of the mass, inside of the Lagrangian radii
COMPOSITIONS = {"leapfrog": integrators.LEAPFROG, "yoshida": integrators.YOSHIDA}


class Orbits(NamedTuple):
    """Bodies at the end, and the histories (frame, body, xyz) that `diagnose` needs."""

    mass: Annotated[np.ndarray, Var(("body",), "1", "mass")]
    position: Annotated[np.ndarray, Var(("body", "xyz"), "1", "position at the end")]
    velocity: Annotated[np.ndarray, Var(("body", "xyz"), "1", "velocity at the end")]
    time: Annotated[np.ndarray, Var(("frame",), "1", "time since the start")]
    position_history: np.ndarray
    velocity_history: np.ndarray


class Diagnostics(NamedTuple):
    """What is conserved, or should be, and how the bodies are spread, on the way."""

    kinetic_energy: Annotated[np.ndarray, Var(("frame",), "1", "kinetic energy")]
    potential_energy: Annotated[np.ndarray, Var(("frame",), "1", "potential energy, softened")]
    total_energy: Annotated[np.ndarray, Var(("frame",), "1", "total energy")]
    energy_drift: Annotated[np.ndarray, Var(("frame",), "1", "relative change of the total energy")]
    momentum: Annotated[np.ndarray, Var(("frame", "xyz"), "1", "momentum")]
    momentum_drift: Annotated[np.ndarray, Var(("frame",), "1", "change of the momentum")]
    angular_momentum: Annotated[np.ndarray, Var(("frame", "xyz"), "1", "angular momentum about 0")]
    angular_momentum_drift: Annotated[
        np.ndarray, Var(("frame",), "1", "change of the angular momentum")
    ]
    virial_ratio: Annotated[
        np.ndarray, Var(("frame",), "1", "twice the kinetic over minus the potential energy")
    ]
    centre_of_mass: Annotated[np.ndarray, Var(("frame", "xyz"), "1", "centre of mass")]
    lagrangian_radius: Annotated[
        np.ndarray,
        Var(("frame", "fraction"), "1", "distance from the centre of mass that holds a fraction"),
    ]


def initial_state(
    n: int | None = None,
    seed: int = 0,
    profile: str = "plummer",
    g: float = 1.0,
    eccentricity: float = 0.5,
) -> Bodies:
    """Return the bodies at the start, the same for the same seed.

    profile, each explained at the function of its name in `pipelines.bodies`:

    * drawn, n of them (at least 2; 200 where n is None), centre of mass at rest at 0 but for the
      first: "gaussian", the teaching example; "plummer", a cluster in equilibrium; "cold-sphere",
      which falls in on itself; "disk", turning about a central mass;
    * known: "two-body", an ellipse of some eccentricity (0 to below 1); "figure-eight" and
      "pythagorean", problems of three bodies;
    * the path of a file that ends in .npz or .zarr and holds the arrays mass (body,), position and
      velocity (body, xyz), which are taken as they are. A store knows the path alone: what a
      changed file holds goes into points that are still to be computed, unnoticed.

    Where the profile says how many bodies there are, n is None or this number. All velocities but
    a file's go with the root of g (above 0). Raises ValueError for a value outside its range,
    FileNotFoundError where there is no such file.
    """
    n = number_of_bodies(n, profile)
    if seed < 0:
        raise ValueError(f"seed = {seed}: take a whole number, 0 or more.")
    if not 0 < g < np.inf:
        raise ValueError(f"g = {g}: take a finite value above 0.")
    if not 0 <= eccentricity < 1:
        raise ValueError(f"eccentricity = {eccentricity}: take 0 or more, and less than 1.")
    if profile in DRAWN:
        bodies = DRAWN[profile](n, np.random.default_rng(seed))
    elif profile in KNOWN:
        bodies = KNOWN[profile](eccentricity)
    else:
        return read(profile)
    return bodies._replace(initial_velocity=np.sqrt(g) * bodies.initial_velocity)


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
    integrator: Integrator = "leapfrog",
    method: Method = "auto",
    precision: Precision = "float64",
    theta: float = 0.5,
    neighbours: int = 16,
    eta: float = 0.01,
    device: Device = "cpu",
) -> Orbits:
    """Follow the bodies for `steps` (at least 0) steps of length dt (above 0).

    Forces are those of Plummer softening (at least 0), found by method: "direct", all pairs;
    "tree", distant bodies in lumps as large as theta (0, all pairs, to 1) lets them be: at 0.5,
    forces are right to 5e-4; "auto", the tree from 10,000 bodies on, where it is more than twice as
    quick; "neighbours", so many nearest other bodies alone, as in the teaching example: neither
    momentum nor energy is kept. In precision "float32", all pairs are computed with 7 digits, at
    twice the speed; bodies are followed in float64 all the same.

    integrator: "leapfrog", order 2, and "yoshida", order 4 at three times the cost, are reversible
    and keep the energy's error small for ever at steps that resolve all encounters; "hermite",
    order 4, fills each dt with as many steps as the accuracy eta (above 0) asks for: their length
    goes with its root, the error with its square. Its method is "direct", in float64.

    device "cuda" is a GPU, for all pairs at a fixed step; float32 is there what bodies are followed
    in, too.

    Kept are the instants after round(linspace(0, steps, frames)) steps; frames is at most steps +
    1, and at least 2 unless steps is 0. The bodies given are not changed. Raises ValueError for a
    value outside its range, FloatingPointError where bodies met in one point, or left the range of
    numbers.
    """
    kept = kept_steps(steps, frames)
    if not 0 <= softening < np.inf:
        raise ValueError(f"softening = {softening}: take a finite value, 0 or more.")
    for name, value in (("dt", dt), ("eta", eta)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} = {value}: take a finite value above 0.")
    mass, position, velocity = (np.array(array, dtype=np.float64) for array in initial_state)
    if not 0 <= theta <= 1:
        raise ValueError(f"theta = {theta}: take 0 (all pairs) to 1 (quickest).")
    law = law_of(len(mass), method, precision, integrator, softening, g, theta, neighbours, device)
    refuse_meetings(softening, position[None])

    histories = np.empty((frames, *position.shape)), np.empty((frames, *position.shape))
    several, arrived = threads_pay(len(mass)), True
    if device == "cuda":
        follow_on_gpu(position, velocity, mass, law, dt, integrator, kept, histories)
    elif integrator == "hermite":
        hermite = integrators.hermite_parallel if several else integrators.hermite
        arrived = hermite(position, velocity, mass, softening, g, eta, dt, kept, *histories)
    else:
        compose = integrators.compose_parallel if several else integrators.compose
        compose(position, velocity, mass, law, dt, COMPOSITIONS[integrator], kept, *histories)
    if not arrived:
        raise FloatingPointError(meeting(softening))
    refuse_meetings(softening, *histories)
    return Orbits(mass, position, velocity, kept * dt, *histories)


def refuse_meetings(softening: float, position_history: np.ndarray, *others: np.ndarray) -> None:
    """Raise FloatingPointError where bodies (frame, body, xyz) met, or a number is not finite.

    Without softening, bodies in one place pull each other without limit, and each method makes
    something else of it. That is looked for in every frame.
    """
    fine = all(np.isfinite(array).all() for array in (position_history, *others))
    if not fine or (softening == 0 and any(map(some_coincide, position_history))):
        raise FloatingPointError(meeting(softening))


def some_coincide(position: np.ndarray) -> bool:
    """Whether two of the bodies (body, xyz) are in one place."""
    ordered = position[np.lexsort(position.T)]
    return bool((ordered[1:] == ordered[:-1]).all(axis=1).any())


def meeting(softening: float) -> str:
    """Say what became of bodies, and what to do about it."""
    return (
        f"bodies met in one point, or left the range of numbers, with softening = {softening}: "
        "take a larger softening, or a smaller dt."
    )


def follow_on_gpu(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    law: forces.Law,
    dt: float,
    integrator: str,
    kept: np.ndarray,
    histories: tuple[np.ndarray, np.ndarray],
) -> None:
    """Follow bodies as `evolve` does, in the precision of the law."""
    from pipelines.kernels import gravity_cuda  # seconds, which nobody else should wait

    kind = np.float32 if isinstance(law, forces.DirectFloat32) else np.float64
    results = position, velocity, *histories
    # float32 is fine near 0 only: bodies are followed as seen from their centre of mass.
    weights = mass / mass.sum() if mass.any() else np.zeros_like(mass)
    centre, drift = weights @ position, weights @ velocity
    x, v = (position - centre).astype(kind), (velocity - drift).astype(kind)
    positions, velocities = (np.empty(history.shape, kind) for history in histories)
    masses, fractions = mass.astype(kind), COMPOSITIONS[integrator]
    gravity_cuda.history(
        x, v, masses, law.softening, law.g, dt, fractions, kept, positions, velocities
    )
    travelled = centre + drift * dt * kept[:, None, None]
    origins = travelled[-1], drift, travelled, drift
    for result, origin, found in zip(results, origins, (x, v, positions, velocities), strict=True):
        result[...] = origin + found


def law_of(
    n: int,
    method: str,
    precision: str,
    integrator: str,
    softening: float,
    g: float,
    theta: float,
    neighbours: int,
    device: str,
) -> forces.Law:
    """Return the law that n bodies follow; raise ValueError where its parameters do not agree."""
    for name, value, allowed in (
        ("method", method, Method),
        ("precision", precision, Precision),
        ("integrator", integrator, Integrator),
        ("device", device, Device),
    ):
        if value not in get_args(allowed):
            known = ", ".join(map(repr, get_args(allowed)))
            raise ValueError(f"{name} = {value!r} is unknown: take one of {known}.")
    single, adaptive = precision == "float32", integrator == "hermite"
    if adaptive and single:
        raise ValueError("integrator = 'hermite' needs all digits: take precision = 'float64'.")
    if (adaptive or single) and method not in ("auto", "direct"):
        culprit = "integrator = 'hermite'" if adaptive else "precision = 'float32'"
        raise ValueError(f"{culprit} cannot be had with method = {method!r}: take 'direct'.")
    if device == "cuda" and (adaptive or method not in ("auto", "direct")):
        culprit, other = f"method = {method!r}", "method = 'direct'"
        if adaptive:
            culprit, other = "integrator = 'hermite'", "another integrator"
        raise ValueError(f"{culprit} is not for a GPU: take {other}, or device = 'cpu'.")
    if single:
        return forces.DirectFloat32(float(softening), float(g))
    if method == "neighbours":
        if not (1 <= neighbours < n and neighbours == int(neighbours)):
            raise ValueError(
                f"neighbours = {neighbours} of {n} bodies: take a whole number, 1 to {n - 1}."
            )
        return forces.Neighbours(float(softening), float(g), int(neighbours))
    may_lump = method == "auto" and not adaptive and device == "cpu"
    if method == "tree" or (may_lump and n >= FEWEST_BODIES_FOR_TREE):
        return forces.Tree(float(softening), float(g), float(theta))
    return forces.Direct(float(softening), float(g))


def diagnose(
    position_history: np.ndarray,
    velocity_history: np.ndarray,
    mass: np.ndarray,
    softening: float = 0.05,
    g: float = 1.0,
    method: Method = "auto",
    precision: Precision = "float64",
    integrator: Integrator = "leapfrog",
    theta: float = 0.5,
    neighbours: int = 16,
    device: Device = "cpu",
) -> Diagnostics:
    """Return what histories (frame, body, xyz) of bodies of some mass (body,) keep, and how well.

    energy_drift is |E - E0| / |E0|, E0 the total energy at the first frame; the other drifts are
    the lengths of what the vectors have changed by since then. In an equilibrium the virial ratio
    is 1 (less with softening: 0.88 in a Plummer sphere with softening = 0.3). A
    Lagrangian radius is the
    distance of the body with which a fraction of the mass is reached, from the centre of mass
    outwards. softening, g and what decides on the law of the forces are those of `evolve`; but
    potential energies are those of all pairs for the method "neighbours", too. Raises
    FloatingPointError where bodies met in one point, or left the range of numbers.
    """
    total, weights = mass.sum(), mass[:, None]
    law = law_of(len(mass), method, precision, integrator, softening, g, theta, neighbours, device)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        kinetic = 0.5 * np.sum(weights * velocity_history**2, axis=(1, 2))
        potential = potential_energies(position_history, mass, law, device)
        energy = kinetic + potential
    refuse_meetings(softening, position_history, energy)
    momentum = mass @ velocity_history
    spin = np.sum(np.cross(position_history, weights * velocity_history), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # no mass, or exactly no energy
        centre = mass @ position_history / total
        drift = np.abs(energy - energy[0]) / np.abs(energy[0])
        virial = -2 * kinetic / potential
    return Diagnostics(
        kinetic,
        potential,
        energy,
        drift,
        momentum,
        np.linalg.norm(momentum - momentum[0], axis=1),
        spin,
        np.linalg.norm(spin - spin[0], axis=1),
        virial,
        centre,
        lagrangian_radii(position_history - centre[:, None], mass),
    )


def potential_energies(
    position_history: np.ndarray, mass: np.ndarray, law: forces.Law, device: str
) -> np.ndarray:
    """Return the potential energy (frame,) of all pairs."""
    if isinstance(law, forces.Neighbours):
        law = forces.Direct(law.softening, law.g)
    if device == "cuda":
        from pipelines.kernels import gravity_cuda

        potentials: Callable[..., None] = gravity_cuda.potentials
    else:
        kernels = tree if isinstance(law, forces.Tree) else gravity
        potentials = kernels.potentials_parallel if threads_pay(len(mass)) else kernels.potentials
    at_bodies = np.empty((len(position_history), len(mass)))
    for position, out in zip(position_history, at_bodies, strict=True):
        potentials(position, mass, *law, out)
    energies: np.ndarray = 0.5 * at_bodies @ mass
    return energies


def lagrangian_radii(offsets: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Return the radii (frame, fraction) within which FRACTIONS of the mass (body,) are.

    offsets (frame, body, xyz) are seen from the centre of mass.
    """
    distance = np.linalg.norm(offsets, axis=2)
    order = np.argsort(distance, axis=1)
    within = np.cumsum(mass[order], axis=1)
    # Sums are rounded: half of the mass of two equal bodies is reached by the first one.
    aim = FRACTIONS * (1 - 1e-12) * within[:, -1:]
    place = np.argmax(within[:, :, None] >= aim[:, None, :], axis=1)
    return np.take_along_axis(distance, np.take_along_axis(order, place, axis=1), axis=1)


def body_numbers(n: int | None, profile: str) -> np.ndarray:
    """Values of the dimension `body`: 0, 1, ... as many as the profile has."""
    return np.arange(number_of_bodies(n, profile))


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
        Coord("fraction", FRACTIONS, long_name="fraction of the mass"),
    ],
    needs=Needs(cores=1, memory="1 GB", minutes=5),
    on_gpus={"method": ["auto", "direct"], "integrator": list(COMPOSITIONS)},
)
