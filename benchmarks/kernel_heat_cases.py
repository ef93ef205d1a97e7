"""Heat: our kernels and their alternatives on the same plates.

Plates are around 293 K with one hot spot and some noise, so that no number is small enough to be
slow. They go on from where the run before has left them, in what is timed; the first answers are
compared, and may differ by 1e-10 of their range.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import kernel_alternatives as alternatives
import kernel_ours as ours
import numpy as np
from kernel_duels import Duel, Prepared, Run, faster, there
from kernel_results import Check, Marks
from kernel_yardsticks import heat_in_c

MIXING = 0.2
ROOM, SPOT, NOISE = 293.0, 80.0, 0.1  # K
MANY, MANY_STEPS = 256, 16  # few steps, so that it counts that each plate comes from memory
JAX_STEPS = 20  # of 200: it takes seconds for these
LARGEST_DIFFERENCE = 1e-10


def plate_of(side: int, seed: int = 1) -> np.ndarray:
    """Return temperatures (y, x) [K]."""
    place = np.linspace(-0.5, 0.5, side)
    spot = SPOT * np.exp(-(place[:, None] ** 2 + place**2) / 0.02)
    return ROOM + spot + np.random.default_rng(seed).normal(scale=NOISE, size=spot.shape)


def check_heat(mine: np.ndarray, other: np.ndarray) -> Check:
    """Compare final temperatures."""
    return Check((float(np.abs(mine - other).max() / np.ptp(other)),), LARGEST_DIFFERENCE)


def our_heat(advance: ours.Advance | None, plates: np.ndarray, steps: int) -> Prepared:
    """Return a kernel of ours on a copy of a plate, or of many."""
    advance, state = there(advance), plates.copy()

    def run() -> np.ndarray:
        advance(state, MIXING, steps)
        return state

    return Prepared(run, float(plates.size * steps))


def run_after_run(advance: ours.Advance, plates: np.ndarray, steps: int) -> Prepared:
    """Return a kernel for one plate on a copy of many, one after the other."""
    state = plates.copy()

    def run() -> np.ndarray:
        for plate in state:
            advance(plate, MIXING, steps)
        return state

    return Prepared(run, float(plates.size * steps))


class HeatRival(NamedTuple):
    """An alternative for one plate, made from (plate, mixing, steps); fewer steps if it is slow."""

    against: str
    make: Callable[[np.ndarray, float, int], Run]
    marks: Marks
    steps: int = 0


def heat_duel(side: int, steps: int, rival: HeatRival) -> Duel:
    """Return one plate against one alternative."""
    other_steps = rival.steps or steps

    def mine(count: int) -> Prepared:
        return our_heat(ours.advance_one, plate_of(side), count)

    def other() -> Prepared:
        note = f"{other_steps} steps, scaled" if rival.steps else ""
        run = rival.make(plate_of(side), MIXING, other_steps)
        return Prepared(run, float(side * side * other_steps), note)

    return Duel(
        f"heat {side}² x {steps}",
        rival.against,
        "Gcell/s",
        rival.marks,
        partial(mine, steps),
        other,
        check_heat,
        bound="heat",
        same=partial(mine, other_steps) if rival.steps else None,
    )


def frames_duel(side: int, steps: int, every: int) -> Duel:
    """Return one plate whose frames are kept against the same one of which only the last is."""

    def mine() -> Prepared:
        state, frames = plate_of(side), np.zeros((steps // every, side, side))

        def run() -> np.ndarray:
            ours.advance_and_keep(state, MIXING, every, frames)
            return state

        return Prepared(run, float(side * side * steps))

    return Duel(
        f"heat {side}² x {steps}, each {every}th kept",
        "ours, the last kept",
        "Gcell/s",
        Marks(0.9, 1),
        mine,
        lambda: our_heat(ours.advance_one, plate_of(side), steps),
        check_heat,
        bound="heat",
    )


def many_duel(steps: int) -> Duel:
    """Return many plates at once against the better of ours for one plate, run after run."""

    @cache
    def plates() -> np.ndarray:
        return np.stack([plate_of(200, seed) for seed in range(MANY)])

    kernels = {"all threads in a run": ours.advance_one, "one thread": ours.advance_serial}
    return Duel(
        f"heat, {MANY} runs of 200² x {steps}",
        "ours for one run, run after run",
        "Gcell/s",
        Marks(1.5, 2.0),
        lambda: our_heat(ours.advance_many, plates(), steps),
        lambda: faster(
            {
                name: partial(run_after_run, kernel, plates(), steps)
                for name, kernel in kernels.items()
            }
        ),
        check_heat,
        bound="heat",
    )


def heat_duels(threads: int) -> list[Duel]:
    """Return all of them, with what two threads have to reach."""
    c = ("C, OpenMP, threads that persist", partial(heat_in_c, threads=threads))
    frames = ("teaching kernel, all frames", alternatives.heat_in_frames)
    devito = ("Devito", alternatives.heat_by_devito)
    jax = ("JAX", alternatives.heat_by_jax)
    return [
        heat_duel(200, 4000, HeatRival(*frames, Marks(7, 11))),
        heat_duel(200, 4000, HeatRival(*c, Marks(1.3, 2))),
        heat_duel(1024, 1000, HeatRival(*c, Marks(1.8, 3))),
        heat_duel(1024, 1000, HeatRival(*devito, Marks(5, 8))),
        heat_duel(4096, 200, HeatRival(*c, Marks(3, 5))),
        heat_duel(4096, 200, HeatRival(*devito, Marks(5, 8))),
        heat_duel(4096, 200, HeatRival(*jax, Marks(35, 60), JAX_STEPS)),
        frames_duel(200, 4000, 16),
        frames_duel(200, 4000, 100),
        frames_duel(1024, 1000, 100),
        many_duel(MANY_STEPS),
        many_duel(400),
    ]
