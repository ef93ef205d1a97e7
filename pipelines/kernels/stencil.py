"""Heat conduction in a plate, discretised: what all heat kernels compute, CPU, CUDA and implicit.

Temperatures T[i, j] stand on nodes (y, x), dy and dx apart. With the flux through the face between
two nodes, of conductivity k (harmonic mean of the two; Patankar 1980, section 4.2-3),

    rho c dT/dt = d/dx (k dT/dx) + d/dy (k dT/dy) + q

becomes, one explicit step of dt later (FTCS; Press et al., Numerical Recipes, section 20.2),

    T'[i, j] = T + east[i, j] (T[i, j+1] - T) - east[i, j-1] (T - T[i, j-1])
                 + north[i, j] (T[i+1, j] - T) - north[i-1, j] (T - T[i-1, j]) + source[i, j]

with east = k dt / (rho c dx^2), north = k dt / (rho c dy^2), source = q dt / (rho c). Beyond an
edge that is neither held nor periodic stands a ghost node, second order in the spacing (Patankar
1980, section 4.2; Strikwerda 2004, section 6.3): inner is the edge node's neighbour inside,

    T_ghost = T_inner + gain - loss T_edge,    gain = 2 dx (flux + h T_far) / k,  loss = 2 dx h / k

and the face to the ghost is as the face to the inner node. What is kept without source, if all
edges are insulated or periodic, is the heat: the sum over the nodes, in which the nodes of an
insulated edge count half, those of two such edges a quarter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FIXED, OPEN, PERIODIC = 0, 1, 2
SIDES = ("bottom", "top", "left", "right")  # rows 0 and -1, columns 0 and -1


class Edge(NamedTuple):
    """What happens at one side of a plate; make it by one of the functions below.

    kind is FIXED, OPEN or PERIODIC; flux, transfer and far count at an OPEN one.
    """

    kind: int
    flux: float | np.ndarray = 0.0  # W m-2, into the plate
    transfer: float | np.ndarray = 0.0  # W m-2 K-1
    far: float | np.ndarray = 0.0  # K (or the plate's unit), of what surrounds it


def held() -> Edge:
    """Return an edge whose nodes keep the temperatures that they have at the start."""
    return Edge(FIXED)


def insulated() -> Edge:
    """Return an edge through which no heat goes."""
    return Edge(OPEN)


def heated(flux: float | np.ndarray) -> Edge:
    """Return an edge through which heat comes in: flux [W m-2], a number or one a node."""
    return Edge(OPEN, flux=flux)


def convective(transfer: float | np.ndarray, far: float | np.ndarray) -> Edge:
    """Return an edge that a fluid of temperature `far` flows by.

    transfer is the heat-transfer coefficient [W m-2 K-1], at least 0: the flux into the plate is
    transfer (far - T).
    """
    return Edge(OPEN, transfer=transfer, far=far)


def periodic() -> Edge:
    """Return an edge that is joined to the opposite one, which has to be periodic, too."""
    return Edge(PERIODIC)


class Stencil(NamedTuple):
    """One update: numbers without dimension, but `source` and `gain` [K].

    mixing_y, mixing_x
        north and east where they are the same at all faces; not used elsewhere.
    north, east
        (y, x): of the face above and to the right of each node; (0, 0) where uniform.
    source
        (y, x): added in one update; (0, 0) where there is none.
    edges
        (4,) int64: kinds of bottom, top, left, right.
    gain_y, loss_y
        (2, x): of the ghosts below the bottom and above the top.
    gain_x, loss_x
        (2, y): of the ghosts to the left and to the right.

    The arrays are contiguous and of the plate's own kind, float64 or float32.
    """

    mixing_y: float
    mixing_x: float
    north: np.ndarray
    east: np.ndarray
    source: np.ndarray
    edges: np.ndarray
    gain_y: np.ndarray
    loss_y: np.ndarray
    gain_x: np.ndarray
    loss_x: np.ndarray


class Stencils(NamedTuple):
    """The updates of many plates of one shape: as `Stencil`, with a leading dimension of runs.

    mixing_y and mixing_x are (run,) float64; edges stay (4,), the same for all.
    """

    mixing_y: np.ndarray
    mixing_x: np.ndarray
    north: np.ndarray
    east: np.ndarray
    source: np.ndarray
    edges: np.ndarray
    gain_y: np.ndarray
    loss_y: np.ndarray
    gain_x: np.ndarray
    loss_x: np.ndarray


def stencil(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    dt: float,
    conductivity: float | np.ndarray,
    heat_capacity: float = 1.0,
    edges: Sequence[Edge] = (held(), held(), held(), held()),
    source: float | np.ndarray = 0.0,
    dtype: type[np.floating] = np.float64,
) -> Stencil:
    """Return the update of a plate.

    Parameters
    ----------
    shape
        Nodes (y, x), at least 3 each.
    spacing
        dy, dx [m], above 0. Of n nodes across a periodic direction the period is n spacings.
    dt
        Step [s], above 0. That it is stable is not checked: see `largest_stable_step`.
    conductivity
        k [W m-1 K-1], above 0: a number, or one a node (y, x).
    heat_capacity
        rho c, of a volume [J m-3 K-1], above 0. With 1, `conductivity` is the diffusivity.
    edges
        Of bottom, top, left, right. Corners belong to a held bottom or top first.
    source
        q [W m-3]: a number, or one a node (y, x).
    dtype
        float64 or float32: of the plate, and of all arrays.

    Raises
    ------
    ValueError
        For a value outside its range; the message says what to take.
    """
    _check(shape, spacing, dt, heat_capacity, edges)
    dy, dx = spacing
    k = np.asarray(conductivity, np.float64)
    if not np.all((k > 0) & np.isfinite(k)):
        raise ValueError(f"conductivity has the value {_worst(k)}: take finite values above 0.")
    unit_y, unit_x = dt / (heat_capacity * dy**2), dt / (heat_capacity * dx**2)
    is_uniform = k.ndim == 0
    north_k = k if is_uniform else _faces(np.broadcast_to(k, shape), 0, edges[1].kind)
    east_k = k if is_uniform else _faces(np.broadcast_to(k, shape), 1, edges[3].kind)
    none = np.zeros((0, 0), dtype)
    gain_y, loss_y = _ghosts(edges[:2], dy, _beside(north_k, 0), shape[1])
    gain_x, loss_x = _ghosts(edges[2:], dx, _beside(east_k, 1), shape[0])
    has_source = np.any(np.asarray(source) != 0)
    heating = np.broadcast_to(np.asarray(source) * dt / heat_capacity, shape)
    return Stencil(
        mixing_y=float(k * unit_y) if is_uniform else 0.0,
        mixing_x=float(k * unit_x) if is_uniform else 0.0,
        north=none if is_uniform else np.ascontiguousarray(north_k * unit_y, dtype),
        east=none if is_uniform else np.ascontiguousarray(east_k * unit_x, dtype),
        # A copy: what is broadcast cannot be written to, for which kernels would be compiled anew.
        source=np.array(heating, dtype, order="C") if has_source else none,
        edges=np.array([edge.kind for edge in edges], np.int64),
        gain_y=gain_y.astype(dtype),
        loss_y=loss_y.astype(dtype),
        gain_x=gain_x.astype(dtype),
        loss_x=loss_x.astype(dtype),
    )


def stacked(each: Sequence[Stencil]) -> Stencils:
    """Return the updates of many plates as one value.

    Raises
    ------
    ValueError
        If their shapes or the kinds of their edges differ, or some are uniform and others not.
    """
    first = each[0]
    for one in each:
        if (one.edges != first.edges).any():
            raise ValueError(
                f"edges of kinds {one.edges} and {first.edges}: take the same for all."
            )
        for name in ("north", "source", "gain_y", "gain_x"):
            shapes = getattr(one, name).shape, getattr(first, name).shape
            if shapes[0] != shapes[1]:
                raise ValueError(f"{name} of shapes {shapes[0]} and {shapes[1]}: take one for all.")
    columns = {name: np.stack([getattr(s, name) for s in each]) for name in Stencil._fields}
    return Stencils(**(columns | {"edges": first.edges}))


def largest_stable_step(unit: Stencil) -> float:
    """Return the longest step [s] whose update is stable, from the stencil of a step of 1 s.

    Up to it no node's own coefficient is negative, so that without sources no node gets warmer or
    colder than all (the maximum principle). For a uniform plate that is the limit of von Neumann,
    1 / (2 diffusivity (1/dx^2 + 1/dy^2)); where conductivity varies or fluid flows by, a little
    less than what would do.
    """
    return float(1 / outflow(unit).max())


def outflow(unit: Stencil) -> np.ndarray:
    """Return the sum of all coefficients that draw on a node (y, x): 1 is the limit."""
    bottom, top, left, right = unit.edges
    north, south = _coefficients(unit.north, unit.mixing_y, 0, top, unit)
    east, west = _coefficients(unit.east, unit.mixing_x, 1, right, unit)
    total: np.ndarray = north + south + east + west
    total[0] += south[0] * unit.loss_y[0]
    total[-1] += north[-1] * unit.loss_y[1]
    total[:, 0] += west[:, 0] * unit.loss_x[0]
    total[:, -1] += east[:, -1] * unit.loss_x[1]
    for kind, nodes in zip((bottom, top), (total[0], total[-1]), strict=True):
        if kind == FIXED:
            nodes[:] = 0
    for kind, nodes in zip((left, right), (total[:, 0], total[:, -1]), strict=True):
        if kind == FIXED:
            nodes[:] = 0
    return total


def _coefficients(
    faces: np.ndarray, mixing: float, axis: int, last: int, unit: Stencil
) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients (y, x) of the faces after and before each node along an axis."""
    shape = (unit.gain_x.shape[1], unit.gain_y.shape[1])
    if faces.size == 0:
        return np.full(shape, mixing), np.full(shape, mixing)
    after = np.moveaxis(faces.astype(np.float64), axis, 0).copy()
    if last != PERIODIC:
        after[-1] = after[-2]
    before = np.roll(after, 1, axis=0)
    if last != PERIODIC:
        before[0] = after[0]
    return np.moveaxis(after, 0, axis), np.moveaxis(before, 0, axis)


def _check(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    dt: float,
    heat_capacity: float,
    edges: Sequence[Edge],
) -> None:
    for name, count in zip(("ny", "nx"), shape, strict=True):
        if count < 3:
            raise ValueError(f"{name} = {count} leaves no node inside the plate: take 3 or more.")
    values = {"dy": spacing[0], "dx": spacing[1], "dt": dt, "heat_capacity": heat_capacity}
    for name, value in values.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} = {value}: take a finite value above 0.")
    for first, second in ((0, 1), (2, 3)):
        if (edges[first].kind == PERIODIC) != (edges[second].kind == PERIODIC):
            raise ValueError(
                f"Of {SIDES[first]} and {SIDES[second]} one is periodic and one is not: "
                "make both so, or none."
            )
    for side, edge in zip(SIDES, edges, strict=True):
        for name in ("flux", "transfer", "far"):
            given = np.asarray(getattr(edge, name), np.float64)
            if not np.isfinite(given).all() or (name == "transfer" and (given < 0).any()):
                least = ", at least 0" if name == "transfer" else ""
                raise ValueError(
                    f"{name} = {_worst(given)} at the {side} edge: take a finite value{least}."
                )


def _worst(values: np.ndarray) -> float:
    """Return a value that is not finite, else the smallest."""
    flat = np.ravel(values)
    return float(flat[~np.isfinite(flat)][0] if not np.isfinite(flat).all() else flat.min())


def _faces(k: np.ndarray, axis: int, last: int) -> np.ndarray:
    """Return the conductivity (y, x) of the face after each node along an axis.

    After the last node it is that to the first one if periodic, else that of the face before.
    """
    following = np.roll(k, -1, axis)
    mean = np.moveaxis(2 * k * following / (k + following), axis, 0)
    if last != PERIODIC:
        mean[-1] = mean[-2]
    return np.moveaxis(mean, 0, axis)


def _beside(faces_k: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the conductivities of the faces inside of the first and of the last nodes."""
    if faces_k.ndim == 0:
        return faces_k, faces_k
    along = np.moveaxis(faces_k, axis, 0)
    return along[0], along[-2]


def _ghosts(
    edges: Sequence[Edge], spacing: float, inside: tuple[np.ndarray, np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return gain and loss (2, node) of the ghosts beyond two opposite edges."""
    gain, loss = np.zeros((2, count)), np.zeros((2, count))
    for which, (edge, k) in enumerate(zip(edges, inside, strict=True)):
        if edge.kind == OPEN:
            gain[which] = 2 * spacing * (edge.flux + edge.transfer * np.asarray(edge.far)) / k
            loss[which] = 2 * spacing * np.asarray(edge.transfer) / k
    return gain, loss
