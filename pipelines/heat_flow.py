"""How soon is the middle of an ice-cold plate at room temperature, once one edge is heated?

A square plate starts at 0 degC and stands in melting ice on three sides; its top edge is held at
`t_top`. The centre tends to about t_top / 4, so below some 80 degC it never gets to 20 degC at
all, and just above it is slow. With `ds` the dataset of the sweep, the answer for each metal and
top edge is

    ds.time.where(ds.centre_temperature >= 20).min("frame")

The diffusivity only sets the clock: for one `t_top` the temperatures of all metals are the same
frame by frame, and `time` tells them apart.
"""

from typing import Annotated, NamedTuple

import numba
import numpy as np

from pipelines.frames import frame_numbers, kept_steps
from pipelines.kernels import heat
from sweep import Axis, Coord, Needs, Pipeline, Var

# AISI 304 steel, carbon steel, brass, aluminium, copper at 300 K (Incropera & DeWitt, table A.1).
METALS = [3.95e-6, 17.7e-6, 33.9e-6, 97.1e-6, 117e-6]  # m2 s-1
LARGEST_STABLE_MIXING = 0.25  # Press et al., Numerical Recipes, 3rd ed., section 20.2, in 2-D
# Measured: starting threads costs 10 to 40 us a step, one thread does 512 x 512 nodes in 200 us.
FEWEST_NODES_FOR_THREADS = 512


class HeatFlow(NamedTuple):
    """The plate at the end, and what was recorded on the way."""

    temperature: Annotated[np.ndarray, Var(("y", "x"), "degC", "temperature at the end")]
    mean_temperature: Annotated[np.ndarray, Var(("frame",), "degC", "mean over all nodes")]
    centre_temperature: Annotated[np.ndarray, Var(("frame",), "degC", "temperature of the centre")]
    time: Annotated[np.ndarray, Var(("frame",), "s", "time since the start")]


def heat_flow(
    diffusivity: float = 117e-6,
    length: float = 0.1,
    nx: int = 200,
    steps: int = 30_000,
    mixing: float = 0.25,
    t_top: float = 100.0,
    t_bottom: float = 0.0,
    t_left: float = 0.0,
    t_right: float = 0.0,
    t_initial: float = 0.0,
    frames: int = 101,
) -> HeatFlow:
    """Heat a square plate whose edges are held at fixed temperatures (explicit differences, FTCS).

    Parameters
    ----------
    diffusivity
        Thermal diffusivity [m2 s-1], above 0.
    length
        Side of the plate [m], above 0. Nodes are length / (nx - 1) apart, so that the outermost
        ones are on the edges. (The usual teaching example divides by nx, which changes the time
        axis only.)
    nx
        Nodes a side, at least 3; the plate is (y, x), and row 0 is its bottom.
    steps
        Updates done, at least 0.
    mixing
        diffusivity dt / dx^2 [1], above 0 and at most 1/4; it sets dt.
    t_top, t_bottom, t_left, t_right
        Temperatures of the edges [degC]; corners belong to the top and the bottom.
    t_initial
        Temperature of all inner nodes at the start [degC].
    frames
        Kept instants: after round(linspace(0, steps, frames)) updates. At most steps + 1, and at
        least 2 unless steps is 0.

    Returns
    -------
    HeatFlow
        temperature (y, x) [degC] after the last update; mean_temperature over all nodes and
        centre_temperature of node (nx // 2, nx // 2), both (frame,) [degC]; time (frame,) [s].

    Raises
    ------
    ValueError
        For a value outside its range; the message says what to take.
    """
    kept = kept_steps(steps, frames)
    dt = time_step(diffusivity, length, nx, mixing)
    plate = initial_plate(nx, t_top, t_bottom, t_left, t_right, t_initial)
    threads = numba.get_num_threads() if nx >= FEWEST_NODES_FOR_THREADS else 1
    advance = heat.advance_parallel if threads > 1 else heat.advance  # the same bits

    mean, centre = np.empty(frames), np.empty(frames)
    for k, more in enumerate(np.diff(kept, prepend=0)):
        advance(plate, mixing, more)
        mean[k], centre[k] = plate.mean(), plate[nx // 2, nx // 2]
    return HeatFlow(plate, mean, centre, kept * dt)


def time_step(diffusivity: float, length: float, nx: int, mixing: float) -> float:
    """Time from one update to the next [s], mixing dx^2 / diffusivity; ValueError as heat_flow."""
    for name, value in {"diffusivity": diffusivity, "length": length}.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} = {value}: take a finite value above 0.")
    if nx < 3:
        raise ValueError(f"nx = {nx} leaves no node inside the plate: take 3 or more.")
    if not 0 < mixing <= LARGEST_STABLE_MIXING:
        raise ValueError(
            f"mixing = {mixing}: take a value above 0 and at most {LARGEST_STABLE_MIXING}, "
            "the largest that is stable."
        )
    return mixing * (length / (nx - 1)) ** 2 / diffusivity


def initial_plate(
    nx: int, t_top: float, t_bottom: float, t_left: float, t_right: float, t_initial: float
) -> np.ndarray:
    """Temperatures (y, x) [degC] at the start; the corners belong to the bottom and the top."""
    plate = np.full((nx, nx), float(t_initial))
    plate[:, 0], plate[:, -1] = t_left, t_right
    plate[0, :], plate[-1, :] = t_bottom, t_top
    return plate


def nodes(nx: int, length: float) -> np.ndarray:
    """Positions of the nodes along a side [m], edges included."""
    return np.linspace(0.0, length, nx)


pipeline = Pipeline(
    heat_flow,
    axes=[
        Axis("diffusivity", METALS, "m2 s-1"),
        Axis("t_top", [60.0, 80.0, 100.0, 150.0, 200.0, 300.0, 400.0], "degC"),
    ],
    coords=[
        Coord("x", nodes, "m", "distance from the left edge"),
        Coord("y", nodes, "m", "distance from the bottom edge"),
        Coord("frame", frame_numbers, long_name="number of the kept instant"),
    ],
    needs=Needs(cores=1, memory="1 GB", minutes=5),
    units={
        "length": "m",
        "t_bottom": "degC",
        "t_left": "degC",
        "t_right": "degC",
        "t_initial": "degC",
    },
)
