"""Two programs timed in turn, and the ratio of their times: nothing here knows what they do.

Ours, the other, ours, the other: what else the machine does meets both alike, and each pair gives
one ratio. Quick runs are repeated inside a measurement, so that the clock and a late thread count
for little.
"""

import statistics
import time
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

Run = Callable[[], object]
Clock = Callable[[], float]


class Timed(NamedTuple):
    """What is timed: a run, how many in one measurement, and the units of work of each."""

    run: Run
    calls: int
    work: float


class Pair(NamedTuple):
    """One measurement of each: seconds for a unit of work."""

    ours: float
    other: float

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.other / self.ours


class Ratio(NamedTuple):
    """How many times as fast ours is: the median of the pairs, the lowest and the highest."""

    median: float
    low: float
    high: float


def ratio_of(pairs: list[Pair]) -> Ratio:
    """Return the median and the range of the pairs' ratios."""
    ratios = [pair.ratio for pair in pairs]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def median_of(pairs: list[Pair]) -> Pair:
    """Return the median of ours, and of the other's: not of one pair, nor of the ratios."""
    ours, others = zip(*pairs, strict=True)
    return Pair(statistics.median(ours), statistics.median(others))


def calls_to_fill(seconds: float, run: Run, clock: Clock = time.perf_counter) -> int:
    """Return how many runs fill so many seconds, by the time of one run, which is warm."""
    begun = clock()
    run()
    return max(1, ceil(seconds / max(clock() - begun, 1e-9)))


def interleave(
    ours: Timed,
    other: Timed,
    count: int,
    pause: float = 0.02,
    clock: Clock = time.perf_counter,
) -> list[Pair]:
    """Measure both in turn, so many times.

    The pause [s] before each measurement lets the other's threads stop spinning: OpenMP's wait for
    a millisecond or some before they sleep.
    """
    return [Pair(*(_measure(one, pause, clock) for one in (ours, other))) for _ in range(count)]


def _measure(one: Timed, pause: float, clock: Clock) -> float:
    """Return the seconds that a unit of work takes."""
    time.sleep(pause)
    if one.calls > 1:
        one.run()  # wakes the threads, fills the caches; long runs do not need it
    begun = clock()
    for _ in range(one.calls):
        one.run()
    return (clock() - begun) / (one.calls * one.work)
