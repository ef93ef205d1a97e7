"""How soon is the middle of an ice-cold plate at room temperature, once one edge is heated?

A square plate starts at 0 degC and stands in melting ice on three sides; its top edge is held at
`t_top`. The centre tends to about t_top / 4, so below some 80 degC it never gets to 20 degC at
all, and just above it is slow. With `ds` the dataset of the sweep, the answer for each metal and
top edge is

    ds.time.where(ds.centre_temperature >= 20).min("frame")

The diffusivity only sets the clock: for one `t_top` the temperatures of all metals are the same
frame by frame, and `time` tells them apart.

The same function takes other plates: not square, with edges held, heated, insulated, cooled by a
fluid or joined, with a source, an inclusion, another start, and by large implicit steps.
`heat_flow.py:ensemble` is the same study with all the plates of a block in one call.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, get_args

import numba
import numpy as np

from pipelines.frames import frame_numbers, kept_steps
from pipelines.kernels import heat, heat_implicit
from pipelines.kernels.stencil import (
    Edge,
    Stencil,
    convective,
    heated,
    held,
    insulated,
    largest_stable_step,
    periodic,
    stacked,
    stencil,
)
from sweep import Axis, Coord, Needs, Pipeline, Stage, Var

# AISI 304 steel, carbon steel, brass, aluminium, copper at 300 K (Incropera & DeWitt, table A.1).
METALS = [3.95e-6, 17.7e-6, 33.9e-6, 97.1e-6, 117e-6]  # m2 s-1
TOPS = [60.0, 80.0, 100.0, 150.0, 200.0, 300.0, 400.0]  # degC
# Measured, a step: 32 x 32 nodes take 2.0 us on one thread and 1.9 on two, 128 x 128 8.6 and 5.7.
FEWEST_NODES_FOR_THREADS = 128  # a side
FRAMES_AT_ONCE = 64e6  # bytes: a plate is interleaved anew so often

History = Callable[[np.ndarray, Stencil, np.ndarray, np.ndarray], None]
NODES_AT = {"left": (..., 0), "right": (..., -1), "bottom": (0,), "top": (-1,)}  # (y, x)

ROUNDING = 1e-6  # of float32, some
LARGEST = 1e60  # of any number: squares and products of several stay in range
Kind = Literal["held", "heated", "insulated", "convective", "periodic"]
WORDS = {
    "scheme": ("explicit", "implicit"),
    "precision": ("float64", "float32"),
    "device": ("cpu", "cuda"),
    "initial": ("uniform", "spot", "sine"),
}


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
    height: float | None = None,
    ny: int | None = None,
    top: Kind = "held",
    bottom: Kind = "held",
    left: Kind = "held",
    right: Kind = "held",
    flux: float = 0.0,
    transfer: float = 100.0,
    conductivity: float = 401.0,
    source: float = 0.0,
    inclusion: float = 1.0,
    initial: Literal["uniform", "spot", "sine"] = "uniform",
    amplitude: float = 100.0,
    radius: float = 0.01,
    scheme: Literal["explicit", "implicit"] = "explicit",
    precision: Literal["float64", "float32"] = "float64",
    device: Literal["cpu", "cuda"] = "cpu",
) -> HeatFlow:
    """Heat a plate (explicit differences, FTCS; or implicit ones, Peaceman and Rachford).

    Parameters
    ----------
    diffusivity
        Thermal diffusivity [m2 s-1], above 0; outside of an inclusion.
    length, height
        Sides of the plate along x and y [m], above 0; no height: as the length. Nodes are
        length / (nx - 1) apart, so that the outermost ones are on the edges (length / nx across
        periodic edges). (The usual teaching example divides by nx, which changes the time axis
        only.)
    nx, ny
        Nodes a side, at least 3; no ny: as nx. The plate is (y, x), and row 0 is its bottom.
    steps
        Updates done, at least 0.
    mixing
        diffusivity dt (1/dx^2 + 1/dy^2) / 2 [1], above 0; it sets dt. On a square grid that is
        diffusivity dt / dx^2. Of the explicit scheme at most 1/4, and less where an edge is
        convective.
    t_top, t_bottom, t_left, t_right
        Temperatures of the edges [degC], or of the fluid at a convective one; corners belong to
        the top and the bottom where those are held.
    t_initial
        Temperature of all other nodes at the start [degC].
    frames
        Kept instants: after round(linspace(0, steps, frames)) updates. At most steps + 1, and at
        least 2 unless steps is 0.
    top, bottom, left, right
        What happens at the edges: their temperature is held, or `flux` heats them, or nothing goes
        through, or a fluid cools them, or they are joined to the opposite one.
    flux
        Into the plate through heated edges [W m-2].
    transfer
        Heat-transfer coefficient of convective edges [W m-2 K-1], at least 0.
    conductivity
        Thermal conductivity [W m-1 K-1], above 0. It counts with flux, transfer and source.
    source
        Heat made everywhere [W m-3].
    inclusion
        Conductivity of a disc of `radius` in the middle, relative to the rest, above 0; its heat
        capacity is the same.
    initial
        What is added to t_initial: nothing, amplitude exp(-r^2 / (2 radius^2)) around the centre,
        or amplitude sin(pi x / length) sin(pi y / height).
    amplitude, radius
        Of these [K, m], the radius above 0.
    scheme
        Explicit steps have to be stable; implicit ones may have any length.
    precision
        In which kind of numbers it is computed; what is returned is float64.
    device
        What computes explicit steps: the processor, or a GPU.

    Returns
    -------
    HeatFlow
        temperature (y, x) [degC] after the last update; mean_temperature over all nodes and
        centre_temperature of node (ny // 2, nx // 2), both (frame,) [degC]; time (frame,) [s].

    Raises
    ------
    ValueError
        For a value outside its range; the message says what to take.
    """
    words = {"scheme": scheme, "precision": precision, "device": device, "initial": initial}
    check_words(words | {"top": top, "bottom": bottom, "left": left, "right": right})
    check_numbers(
        above_0={"conductivity": conductivity, "inclusion": inclusion, "radius": radius},
        any_sign={
            "t_top": t_top, "t_bottom": t_bottom, "t_left": t_left, "t_right": t_right,
            "t_initial": t_initial, "flux": flux, "source": source, "amplitude": amplitude,
        },
    )  # fmt: skip
    kept = kept_steps(steps, frames)
    shape = nx if ny is None else ny, nx
    size = length if height is None else height, length
    kinds = {"bottom": bottom, "top": top, "left": left, "right": right}
    outside = {"bottom": t_bottom, "top": t_top, "left": t_left, "right": t_right}
    spacing = spacings(shape, size, kinds)
    dt = time_step(diffusivity, spacing, mixing)
    edges = [edge(kinds[side], flux, transfer, outside[side]) for side in kinds]
    within = disc(shape, spacing, size, radius) if inclusion != 1 else np.zeros(())
    k = conductivity * np.where(within, inclusion, 1.0)
    update = stencil(
        shape, spacing, dt, k, conductivity / diffusivity, edges, source, np.dtype(precision).type
    )
    if scheme == "explicit":
        check_stable(update, dt, mixing)
    plate = initial_plate(shape, kinds, outside, t_initial)
    plate += added(shape, spacing, size, initial, amplitude, radius, kinds)
    with np.errstate(over="ignore"):
        plate = plate.astype(precision)
    if not np.isfinite(plate).all():
        raise ValueError(
            f"precision = {precision!r} cannot hold such temperatures: take 'float64'."
        )

    is_large = shape[0] * shape[1] >= FEWEST_NODES_FOR_THREADS**2 and numba.get_num_threads() > 1
    kernels = heat if scheme == "explicit" else heat_implicit
    history = kernels.history_parallel if is_large else kernels.history  # the same bits
    if device == "cuda":
        history = history_on_gpu(scheme)
    mean, centre = record(history, plate, update, kept)
    return HeatFlow(plate.astype(np.float64), mean, centre, kept * dt)


def history_on_gpu(scheme: str) -> History:
    """Return the kernel for a GPU; ValueError as heat_flow."""
    if scheme != "explicit":
        raise ValueError(
            f"scheme = {scheme!r} is not for a GPU: take 'explicit', or device = 'cpu'."
        )
    from pipelines.kernels import heat_cuda  # seconds, which nobody else should wait

    return heat_cuda.history


def record(
    history: History,
    plate: np.ndarray,
    update: Stencil,
    kept: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Advance a plate, and return its mean and its centre (frame,) after the kept steps."""
    mean, centre = np.empty(len(kept)), np.empty(len(kept))
    several = max(1, int(FRAMES_AT_ONCE) // plate.nbytes)
    room = np.empty((min(several, len(kept)), *plate.shape), plate.dtype)
    done = 0
    for first in range(0, len(kept), several):
        now = slice(first, first + several)
        shown = room[: len(kept[now])]
        history(plate, update, kept[now] - done, shown)
        mean[now] = shown.mean(axis=(1, 2), dtype=np.float64)
        centre[now] = shown[:, plate.shape[0] // 2, plate.shape[1] // 2]
        done = kept[now][-1]
    return mean, centre


def check_words(words: dict[str, str]) -> None:
    """Raise ValueError for a word that is none of those a parameter can be."""
    for name, word in words.items():
        known = WORDS.get(name, get_args(Kind))
        if word not in known:
            raise ValueError(f"{name} = {word!r} is unknown: take one of {', '.join(known)}.")


def check_numbers(above_0: dict[str, float], any_sign: dict[str, float] | None = None) -> None:
    """Raise ValueError for numbers out of range, or so large or small that squares would be."""
    for name, value in above_0.items():
        if not 1 / LARGEST <= value <= LARGEST:
            raise ValueError(
                f"{name} = {value}: take a finite value above 0, from {1 / LARGEST:g} to "
                f"{LARGEST:g}."
            )
    for name, value in (any_sign or {}).items():
        if not abs(value) <= LARGEST:
            raise ValueError(f"{name} = {value}: take a finite value, at most {LARGEST:g}.")


def spacings(
    shape: tuple[int, int], size: tuple[float, float], kinds: dict[str, Kind]
) -> tuple[float, float]:
    """Return dy and dx [m]; ValueError as heat_flow."""
    check_numbers({"length": size[1], "height": size[0]})
    for name, count in {"nx": shape[1], "ny": shape[0]}.items():
        if count < 3:
            raise ValueError(f"{name} = {count} leaves no node inside the plate: take 3 or more.")
    intervals = (
        shape[0] - (kinds["bottom"] != "periodic"),
        shape[1] - (kinds["left"] != "periodic"),
    )
    return size[0] / intervals[0], size[1] / intervals[1]


def time_step(diffusivity: float, spacing: tuple[float, float], mixing: float) -> float:
    """Time from one update to the next [s]; ValueError as heat_flow."""
    check_numbers({"diffusivity": diffusivity, "mixing": mixing})
    dy, dx = spacing
    return mixing * 2 / (1 / dx**2 + 1 / dy**2) / diffusivity


def check_stable(update: Stencil, dt: float, mixing: float) -> None:
    """Raise ValueError if an explicit update of dt [s] is not stable."""
    largest = largest_stable_step(update) * dt
    if dt > largest * (1 + ROUNDING):
        raise ValueError(
            f"mixing = {mixing} makes steps of {dt:.6g} s, and the largest that is stable is "
            f"{largest:.6g} s: take mixing = {rounded_down(mixing * largest / dt)} or less, or "
            "scheme = 'implicit'."
        )


def rounded_down(value: float) -> str:
    """Return a number above 0 with six digits, rounded up by less than the rounding of float32."""
    text = f"{value:.6g}"
    return text if float(text) <= value * (1 + ROUNDING / 2) else f"{value * (1 - 5e-6):.6g}"


def edge(kind: Kind, flux: float, transfer: float, outside: float) -> Edge:
    """Return what happens at an edge."""
    if kind == "heated":
        return heated(flux)
    if kind == "convective":
        return convective(transfer, outside)
    return {"held": held, "insulated": insulated, "periodic": periodic}[kind]()


def initial_plate(
    shape: tuple[int, int],
    kinds: dict[str, Kind],
    outside: dict[str, float],
    t_initial: float,
) -> np.ndarray:
    """Return the temperatures (y, x) [degC] at the start; corners are a held bottom's or top's."""
    plate: np.ndarray = np.full(shape, float(t_initial))
    for side, at in NODES_AT.items():
        if kinds[side] == "held":
            plate[at] = outside[side]
    return plate


def added(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    size: tuple[float, float],
    initial: str,
    amplitude: float,
    radius: float,
    kinds: dict[str, Kind],
) -> np.ndarray:
    """Return what is added to the plate (y, x) [K] at the start; 0 at held edges."""
    if initial == "uniform":
        return np.zeros(shape)
    profile: np.ndarray
    y, x = (np.arange(count)[:, None] * step for count, step in zip(shape, spacing, strict=True))
    if initial == "sine":
        profile = np.sin(np.pi * y / size[0]) * np.sin(np.pi * x.T / size[1])
    else:
        square = (y - size[0] / 2) ** 2 + (x.T - size[1] / 2) ** 2
        profile = np.exp(-square / (2 * radius**2))
    for side, at in NODES_AT.items():
        if kinds[side] == "held":
            profile[at] = 0
    return amplitude * profile


def disc(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    size: tuple[float, float],
    radius: float,
) -> np.ndarray:
    """Tell which nodes (y, x) are within a radius [m] of the middle."""
    y, x = (
        np.arange(count) * step - side / 2
        for count, step, side in zip(shape, spacing, size, strict=True)
    )
    # The last bit aside, so that nodes opposite to each other are both within, or neither is.
    inside: np.ndarray = np.hypot(y[:, None], x) <= radius * (1 + ROUNDING)
    return inside


def heat_flows(
    diffusivity: np.ndarray,
    t_top: np.ndarray,
    length: float = 0.1,
    nx: int = 200,
    steps: int = 30_000,
    mixing: float = 0.25,
    t_initial: float = 0.0,
    frames: int = 101,
) -> HeatFlow:
    """Heat many square plates, a metal and a top edge (run,) each; the others are at 0 degC.

    Parameters and results are those of `heat_flow`, with a leading dimension of runs. The threads
    share the runs, so that none waits for another: quicker than run after run where a plate is
    small (benchmarks/kernels.py compares the two).
    """
    kept = kept_steps(steps, frames)
    kinds: dict[str, Kind] = dict.fromkeys(("bottom", "top", "left", "right"), "held")
    spacing = spacings((nx, nx), (length, length), kinds)
    dts = np.array([time_step(each, spacing, mixing) for each in diffusivity])
    updates = [
        stencil((nx, nx), spacing, dt, each) for dt, each in zip(dts, diffusivity, strict=True)
    ]
    check_stable(updates[0], dts[0], mixing)
    nothing = dict.fromkeys(kinds, 0.0)
    plates = np.stack(
        [initial_plate((nx, nx), kinds, nothing | {"top": each}, t_initial) for each in t_top]
    )
    mean, centre = np.empty((len(plates), frames)), np.empty((len(plates), frames))
    together = stacked(updates)
    for k, more in enumerate(np.diff(kept, prepend=0)):
        heat.advance_many(plates, together, more)
        mean[:, k], centre[:, k] = plates.mean(axis=(1, 2)), plates[:, nx // 2, nx // 2]
    return HeatFlow(plates, mean, centre, dts[:, None] * kept)


def nodes(nx: int, length: float, left: str = "held") -> np.ndarray:
    """Positions of the nodes along x [m], edges included; of periodic ones the left one."""
    return np.linspace(0.0, length, nx, endpoint=left != "periodic")


def rows(
    nx: int, length: float, ny: int | None, height: float | None, bottom: str = "held"
) -> np.ndarray:
    """Positions of the nodes along y [m], edges included; of periodic ones the bottom one."""
    count, end = nx if ny is None else ny, length if height is None else height
    return np.linspace(0.0, end, count, endpoint=bottom != "periodic")


FRAME = Coord("frame", frame_numbers, long_name="number of the kept instant")
AXES = [Axis("diffusivity", METALS, "m2 s-1"), Axis("t_top", TOPS, "degC")]
NEEDS = Needs(cores=1, memory="1 GB", minutes=5)

pipeline = Pipeline(
    heat_flow,
    axes=AXES,
    coords=[
        Coord("x", nodes, "m", "distance from the left edge"),
        Coord("y", rows, "m", "distance from the bottom edge"),
        FRAME,
    ],
    needs=NEEDS,
    on_gpus={"scheme": ["explicit"]},
    units={
        "length": "m",
        "height": "m",
        "t_bottom": "degC",
        "t_left": "degC",
        "t_right": "degC",
        "t_initial": "degC",
        "flux": "W m-2",
        "transfer": "W m-2 K-1",
        "conductivity": "W m-1 K-1",
        "source": "W m-3",
        "amplitude": "K",
        "radius": "m",
    },
)


def square_nodes(nx: int, length: float) -> np.ndarray:
    """Positions of the nodes along a side [m], edges included."""
    return np.linspace(0.0, length, nx)


ensemble = Pipeline(
    Stage(heat_flows, vectorized=True),
    axes=AXES,
    coords=[
        Coord("x", square_nodes, "m", "distance from the left edge"),
        Coord("y", square_nodes, "m", "distance from the bottom edge"),
        FRAME,
    ],
    needs=NEEDS,
    units={"length": "m", "t_initial": "degC"},
)
