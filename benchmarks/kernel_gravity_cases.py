"""Gravity: our kernels and their alternatives on the same bodies.

Positions are of a normal distribution, masses within a factor of three. Errors are those of the
accelerations of some bodies, each relative to itself, against plain sums in long doubles. All
compute one formula; pytreegrav's softening is another, so that there is none on either side there.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import kernel_alternatives as alternatives
import kernel_ours as ours
import numpy as np
from kernel_duels import Duel, Prepared, Run, faster, there
from kernel_results import Check, Marks
from kernel_yardsticks import gravity_in_c

SOFTENING, G = 0.01, 1.0
LIMITS = {"float64": 1e-12, "float32": 1e-5}  # of errors, and the precisions
SAMPLE = 200  # bodies whose acceleration is checked
TREE_BODIES, TREE_SAMPLE, TREE_THETA = 100_000, 1000, 0.7
THETAS = np.arange(1.5, 0.09, -0.05)  # opening angles that ours tries, the roughest first
NEAR_BODIES, NEAREST = 1000, 16


class Bodies(NamedTuple):
    """Positions (body, xyz) and masses (body,), and the softening of their pull."""

    position: np.ndarray
    mass: np.ndarray
    softening: float

    def of_kind(self, kind: str) -> "Bodies":
        """Return the same in another precision."""
        return Bodies(self.position.astype(kind), self.mass.astype(kind), self.softening)


def bodies_of(count: int, kind: str, softening: float = SOFTENING) -> Bodies:
    """Return bodies of a normal distribution."""
    rng = np.random.default_rng(count)
    position, mass = rng.normal(size=(count, 3)), rng.uniform(0.5, 1.5, count) / count
    return Bodies(position, mass, softening).of_kind(kind)


def exact(
    bodies: Bodies, chosen: np.ndarray, kind: type[np.floating] = np.longdouble
) -> np.ndarray:
    """Return the accelerations (body, xyz) of the chosen bodies, by plain sums of long doubles."""
    position, mass = np.asarray(bodies.position, kind), np.asarray(bodies.mass, kind)
    found: np.ndarray = np.empty((chosen.size, 3), kind)
    for row, i in enumerate(chosen):
        difference = position - position[i]
        square = (difference**2).sum(axis=1) + kind(bodies.softening) ** 2
        square[i] = 1  # whatever it is, the body does not pull itself: its difference is 0
        found[row] = G * ((mass / (square * np.sqrt(square)))[:, None] * difference).sum(axis=0)
    return found


def sample(count: int, most: int) -> np.ndarray:
    """Return so many bodies at most, evenly chosen."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.intp))


def relative_errors(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return how far each acceleration (body, xyz) is off, relative to its own length."""
    off = np.sqrt(((found - true) ** 2).sum(axis=1))
    return np.asarray(off / np.sqrt((true**2).sum(axis=1)), np.float64)


def check_gravity(bodies: Bodies, mine: np.ndarray, other: np.ndarray) -> Check:
    """Hold the errors of ours and of the other against the limit of the precision."""
    chosen = sample(bodies.mass.size, SAMPLE)
    true = exact(bodies, chosen)
    errors = tuple(float(relative_errors(one[chosen], true).max()) for one in (mine, other))
    return Check(errors, LIMITS[bodies.mass.dtype.name])


def our_gravity(pull: Callable[..., None], bodies: Bodies, *accuracy: float) -> Prepared:
    """Return a kernel of ours for direct sums, or with its accuracy for another; work is bodies."""
    position, mass, softening = bodies
    out = np.empty_like(position)

    def run() -> np.ndarray:
        pull(position, mass, softening, G, *accuracy, out)
        return out

    return Prepared(run, float(mass.size))


def pairs_of(run: Run, bodies: Bodies) -> Prepared:
    """Return a direct sum, whose work is pairs."""
    return Prepared(run, float(bodies.mass.size) ** 2)


def direct_duel(
    bodies: Bodies, against: str, marks: Marks, other: Callable[[Bodies], Prepared]
) -> Duel:
    """Return the direct sum of some bodies against one alternative."""
    kind = bodies.mass.dtype.name
    return Duel(
        f"direct gravity, N = {bodies.mass.size}, {kind}",
        against,
        "Gpair/s",
        marks,
        lambda: pairs_of(our_gravity(there(ours.pull), bodies).run, bodies),
        partial(other, bodies),
        partial(check_gravity, bodies),
        bound=kind,
    )


def taught(bodies: Bodies) -> Prepared:
    """Return the teaching kernel; against float32 the faster of both precisions."""

    def of_kind(kind: str) -> Prepared:
        return pairs_of(alternatives.gravity_as_taught(*bodies.of_kind(kind), G), bodies)

    if bodies.mass.dtype == np.float64:
        return of_kind("float64")
    return faster({f"its arrays {kind}": partial(of_kind, kind) for kind in LIMITS})


def in_c(bodies: Bodies, threads: int) -> Prepared:
    """Return the yardstick in C."""
    return pairs_of(gravity_in_c(*bodies, G, threads), bodies)


def by_pytreegrav(bodies: Bodies) -> Prepared:
    """Return its sum over all pairs."""
    run = alternatives.gravity_by_pytreegrav(bodies.position, bodies.mass, G, "bruteforce")
    return pairs_of(run, bodies)


def direct_duels(count: int, threads: int) -> list[Duel]:
    """Return the duels of direct sums of so many bodies; pytreegrav's have no softening."""
    double, single = (bodies_of(count, kind) for kind in LIMITS)
    c = partial(in_c, threads=threads)
    return [
        direct_duel(double, "teaching kernel, parallel, fastmath", Marks(6, 7.5), taught),
        direct_duel(double, "C, -ffast-math, OpenMP", Marks(3, 3.7), c),
        direct_duel(
            bodies_of(count, "float64", 0.0), "pytreegrav, all pairs", Marks(4, 5), by_pytreegrav
        ),
        direct_duel(single, "teaching kernel, parallel, fastmath", Marks(12, 16), taught),
        direct_duel(single, "C float32, -ffast-math, OpenMP", Marks(1.4, 1.8), c),
    ]


# --- gravity, not of all pairs ------------------------------------------------------------


def tree_duel() -> Duel:
    """Return our tree against pytreegrav's, ours as rough as makes no larger error.

    The error is the root of the mean square of the relative errors of some bodies, against the sum
    over all pairs.
    """

    @cache
    def inputs() -> tuple[Bodies, np.ndarray, np.ndarray]:
        bodies = bodies_of(TREE_BODIES, "float64", 0.0)
        chosen = sample(TREE_BODIES, TREE_SAMPLE)
        return bodies, chosen, exact(bodies, chosen, np.float64)

    def off(found: np.ndarray) -> float:
        _, chosen, true = inputs()
        return float(np.sqrt((relative_errors(found[chosen], true) ** 2).mean()))

    def other() -> Prepared:
        position, mass, _ = inputs()[0]
        run = alternatives.gravity_by_pytreegrav(position, mass, G, "tree", TREE_THETA)
        return Prepared(run, float(mass.size), f"theta {TREE_THETA}")

    def mine() -> Prepared:
        pull = there(ours.pull_by_tree)
        most = off(other().run())
        for theta in THETAS:
            candidate = our_gravity(pull, inputs()[0], float(theta))
            if off(candidate.run()) <= most:
                return candidate._replace(note=f"theta {theta:.2f} of ours")
        return candidate

    return Duel(
        f"tree, N = {TREE_BODIES}, rms error equal",
        "pytreegrav",
        "Mbody/s",
        Marks(2, 5),
        mine,
        other,
        lambda found, others: Check((off(found),), off(others)),
        scale=1e6,
    )


def neighbour_duel() -> Duel:
    """Return the pull of the nearest against a query for each body."""
    bodies = bodies_of(NEAR_BODIES, "float64")
    position, mass, softening = bodies

    def other() -> Prepared:
        run = alternatives.gravity_by_queries(position, mass, softening, G, NEAREST)
        return Prepared(run, float(mass.size))

    def check(mine: np.ndarray, others: np.ndarray) -> Check:
        error = relative_errors(mine, others).max()
        return Check((float(error),), LIMITS["float64"])

    return Duel(
        f"neighbours, N = {NEAR_BODIES}, k = {NEAREST}",
        "cKDTree, a query for each body",
        "Mbody/s",
        Marks(7, 20),
        lambda: our_gravity(there(ours.pull_by_neighbours), bodies, NEAREST),
        other,
        check,
        scale=1e6,
    )


def gravity_duels(threads: int) -> list[Duel]:
    """Return all of them, with what two threads have to reach."""
    return [
        *direct_duels(1_000, threads),
        *direct_duels(10_000, threads),
        tree_duel(),
        neighbour_duel(),
    ]
