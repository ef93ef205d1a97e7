"""A study of everything a pipeline can be, small enough to check by hand.

Two stages, a product of a text axis, a zipped pair and a resolution; an output whose length
follows the resolution; whole numbers, truth values and random numbers; one point that raises.
"""

from typing import Annotated, NamedTuple

import numpy as np

from sweep import Axis, Coord, Pipeline, Var


def start(seed: int, rng: np.random.Generator) -> np.ndarray:
    """Draw four numbers; memoised, because nothing of it is stored."""
    return np.append(rng.random(3), seed)


class Walk(NamedTuple):
    """What one point leaves behind."""

    profile: Annotated[np.ndarray, Var(("x",), "m", "height along x")]
    total: Annotated[float, Var((), "m2")]
    steps: Annotated[int, Var(())]
    rising: Annotated[bool, Var(())]
    noise: Annotated[float, Var((), "m", dtype="float32")]


def walk(
    start: np.ndarray, shape: str, slope: float, seed: int, n: int, rng: np.random.Generator
) -> Walk:
    """Walk up a slope."""
    if shape == "square" and slope > 2 and n == 5:
        raise ValueError(f"too steep: {slope}")
    x = positions(n)
    profile = start[0] + slope * (x if shape == "line" else x**2)
    total = float(np.trapezoid(profile, x))
    return Walk(profile, total, n * seed, slope > 0, float(rng.normal()))


def positions(n: int) -> np.ndarray:
    """Positions along x [m]."""
    return np.linspace(0.0, 1.0, n)


pipeline = Pipeline(
    [start, walk],
    axes=[
        Axis("shape", ["line", "square"]),
        Axis(("slope", "seed"), [(1.5, 1), (-2.0, 2), (2.5, 1)], ("1", ""), dim="pair"),
        Axis("n", [3, 5]),
    ],
    coords=[Coord("x", positions, "m")],
)
