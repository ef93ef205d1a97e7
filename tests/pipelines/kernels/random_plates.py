"""What the tests of all heat kernels compare with: the formula of `stencil` in plain numpy."""

from typing import NamedTuple

import numpy as np

from pipelines.kernels.stencil import (
    FIXED,
    OPEN,
    PERIODIC,
    Edge,
    Stencil,
    convective,
    heated,
    held,
    insulated,
    largest_stable_step,
    periodic,
    stencil,
)

SPACING = 0.5, 0.8  # dy, dx


class Case(NamedTuple):
    """A plate and its update; prints as its name."""

    name: str
    plate: np.ndarray
    stencil: Stencil

    def __repr__(self) -> str:
        return self.name


def cases(dtype=np.float64, shape=(7, 11), of_stable=0.9):
    """Random plates with all kinds of edges, uniform and not, with source and without.

    of_stable is the step as a multiple of the largest stable one.
    """
    rng = np.random.default_rng(8)
    along_x, along_y = rng.random(shape[1]), rng.random(shape[0])
    edges = {
        "held": (held(), held(), held(), held()),
        "insulated": (insulated(), insulated(), insulated(), insulated()),
        "periodic": (periodic(), periodic(), periodic(), periodic()),
        "open": (
            heated(along_x),
            convective(along_x, 2.0),
            convective(0.7, along_y),
            heated(-0.4),
        ),
        "a ring in x": (held(), convective(0.4, along_x), periodic(), periodic()),
        "a ring in y": (periodic(), periodic(), insulated(), held()),
        "mixed": (insulated(), held(), convective(along_y, -1.0), heated(along_y)),
    }
    return [
        case(f"{name}, {kind}", shape, sides, conductivity, source, of_stable, dtype)
        for name, sides in edges.items()
        for kind, conductivity, source in (
            ("uniform", 0.3, 0.0),
            ("varying with source", rng.uniform(0.1, 1.5, shape), rng.normal(size=shape)),
        )
    ]


def case(
    name: str,
    shape: tuple[int, int],
    edges: tuple[Edge, Edge, Edge, Edge],
    conductivity: float | np.ndarray,
    source: float | np.ndarray = 0.0,
    of_stable: float = 0.9,
    dtype: type = np.float64,
) -> Case:
    """A random plate whose step is that multiple of the largest stable one."""
    unit = stencil(shape, SPACING, 1.0, conductivity, 1.3, edges, source)
    dt = of_stable * largest_stable_step(unit)
    plate = np.random.default_rng(9).normal(size=shape).astype(dtype)
    return Case(name, plate, stencil(shape, SPACING, dt, conductivity, 1.3, edges, source, dtype))


def updated(plate: np.ndarray, stencil: Stencil, steps: int = 1) -> np.ndarray:
    """The plate some explicit steps later, in float64."""
    plate = plate.astype(np.float64)
    for _ in range(steps):
        plate = reference_update(plate, stencil)
    return plate


def reference_update(plate: np.ndarray, stencil: Stencil) -> np.ndarray:
    """The plate one explicit step later, in float64: the formula, with a ring of ghosts."""
    ny, nx = plate.shape
    bottom, top, left, right = stencil.edges
    ghosts = np.pad(plate.astype(np.float64), 1, mode="wrap")
    inside = slice(1, -1)
    if bottom == OPEN:
        ghosts[0, inside] = plate[1] + stencil.gain_y[0] - stencil.loss_y[0] * plate[0]
    if top == OPEN:
        ghosts[-1, inside] = plate[-2] + stencil.gain_y[1] - stencil.loss_y[1] * plate[-1]
    if left == OPEN:
        ghosts[inside, 0] = plate[:, 1] + stencil.gain_x[0] - stencil.loss_x[0] * plate[:, 0]
    if right == OPEN:
        ghosts[inside, -1] = plate[:, -2] + stencil.gain_x[1] - stencil.loss_x[1] * plate[:, -1]

    uniform = stencil.north.size == 0
    north = np.full((ny, nx), stencil.mixing_y) if uniform else stencil.north.astype(np.float64)
    east = np.full((ny, nx), stencil.mixing_x) if uniform else stencil.east.astype(np.float64)
    south, west = np.roll(north, 1, 0), np.roll(east, 1, 1)
    if bottom != PERIODIC:  # the face to a ghost is as the face inside
        north[-1], south[0] = north[-2], north[0]
    if left != PERIODIC:
        east[:, -1], west[:, 0] = east[:, -2], east[:, 0]

    here = ghosts[inside, inside]
    new = here + north * (ghosts[2:, inside] - here) - south * (here - ghosts[:-2, inside])
    new += east * (ghosts[inside, 2:] - here) - west * (here - ghosts[inside, :-2])
    if stencil.source.size:
        new += stencil.source
    for kind, nodes in ((bottom, 0), (top, -1)):
        if kind == FIXED:
            new[nodes] = plate[nodes]
    for kind, nodes in ((left, 0), (right, -1)):
        if kind == FIXED:
            new[:, nodes] = plate[:, nodes]
    return new
