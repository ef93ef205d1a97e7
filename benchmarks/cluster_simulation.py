"""Shares, claims and the feeder on a large cluster: where they stop scaling, and what disks see.

    python benchmarks/cluster_simulation.py [--workers 10 1000] [--block-seconds 1 60 600]

A discrete-event simulation (`cluster_events.py`) of four ways to compute a sweep:

* ``array of 1``: elements of a job array with a worker each, each with a share, and claims;
* ``array of 100``: the same with a hundred workers an element (with fewer, all in one);
* ``mpi`` and ``dask``: one process feeds all workers.

What each step costs, in seconds and in operations on metadata, is measured first, with the store,
the feed and the drive themselves (`cluster_costs.py`, which needs strace). Then real processes of
``sweep work`` are counted and timed: the exit code is 1 if the simulation tells other numbers.

Assumed, and not measured, are the file server, which does so many operations in a second, fairly
for all, each of which takes at least a trip; and that all begin at once, and nobody dies. The
efficiency is the time of who hands out at no cost divided by that until the last commit. Where
it is under 0.9 a letter says why: (s)erver, at its limit half of the time; else the (p)rocess
that hands out. What Python takes to start, from which disk ever, is not in it.

Thousands of elements that find nothing free ask a server of any rate for so much that this takes
hours to simulate: that is left out.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cluster_costs import (
    Cost,
    Costs,
    Message,
    calls_in,
    measure,
    mpi_messages,
    print_table,
    run_elements,
    time_messages,
)
from cluster_events import Outcome, Rules, Server, Sweep, Team, perfect

from sweep.drive import LOOK_SECONDS
from sweep.engines import make_engine
from sweep.feed import MOST_DOUBTS
from sweep.journal import journals, read_from

SEED = 20261122
WAYS = {"array of 1": 1, "array of 100": 100, "mpi": None, "dask": None}  # workers of a process
SIGMA = 0.3  # of the logarithm of a block's time: most are within a third
GIVE_UP = 2.0  # times the perfect makespan
MOST_FREE = 1000  # elements that are simulated with a file server of any rate
LEAST = 0.9  # efficiency that is called scaling
NAPS, NAP_SECONDS, NAP_SIGMA = 20, 0.5, 1.0  # of each real worker
DRAWS = 11
MOST_WRONG = (0.1, 0.25)  # of the operations a block, and of the time: others compute here, too


@dataclass(frozen=True)
class Case:
    """What is simulated: so many blocks for each worker, of so many seconds on average."""

    way: str
    workers: int
    seconds: float
    blocks: int
    server: Server
    rules: Rules

    def on(self, rate: float) -> "Case":
        """Return the same with a file server of this rate."""
        return replace(self, server=self.server._replace(rate=rate))

    @property
    def best(self) -> float:
        """The makespan of who hands out at no cost."""
        return self.seconds * _best(self.workers, self.blocks)


class Found(NamedTuple):
    """What a case came to."""

    case: Case
    outcome: Outcome

    @property
    def efficiency(self) -> float:
        """The best time divided by the one that was found."""
        return self.case.best / self.outcome.makespan

    @property
    def text(self) -> str:
        """The efficiency, and a letter for what limits it."""
        if not self.outcome.is_done:
            return f"< {1 / GIVE_UP:.1f}{self._reason}"
        return f"{self.efficiency:.2f}{self._reason if self.efficiency < LEAST else ''}"

    @property
    def _reason(self) -> str:
        busy = self.outcome.operations / self.case.server.rate
        return "s" if busy > self.outcome.makespan / 2 else "p"


class Laboratory(NamedTuple):
    """Simulates cases with costs that were measured."""

    costs: Costs
    messages: dict[str, Message]

    def simulate(self, case: Case) -> Found:
        """Simulate a case, while there is hope."""
        each = min(WAYS[case.way] or case.workers, case.workers)
        team = Team(case.workers // each, each, self.messages[case.way], case.way == "mpi")
        seconds = case.seconds * _times(case.workers, case.blocks)
        sweep = Sweep(seconds, team, self.costs, case.server, case.rules)
        return Found(case, sweep.run(GIVE_UP * case.best))


def _times(workers: int, blocks: int) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    return rng.lognormal(-(SIGMA**2) / 2, SIGMA, workers * blocks)


@cache
def _best(workers: int, blocks: int) -> float:
    return perfect(_times(workers, blocks), workers)


def short(number: float) -> str:
    """Return a number with two or three digits that count: 5.3 k."""
    power = min(3, max(0, int(math.log10(max(number, 1.0) * 1.005)) // 3))
    value = number / 1000**power
    return f"{value:.{1 if value < 9.95 else 0}f} {' kMG'[power]}".rstrip()


# --- real processes -----------------------------------------------------------------------


def check(folder: Path, costs: Costs, message: Message) -> bool:
    """Print what real elements call and how long they take, and what is simulated."""
    rng = np.random.default_rng(SEED)
    here = costs._replace(doubt=costs.doubt_near, join=Cost(costs.join.operations, 0.0))
    rows, is_right = [], True
    for elements in (2, 4):
        count = NAPS * elements
        naps = NAP_SECONDS * rng.lognormal(-(NAP_SIGMA**2) / 2, NAP_SIGMA, count + 1)
        calls, took, came = _real(folder / f"real-{elements}", naps, elements)
        team = Team(elements, 1, message)
        runs = [
            Sweep(naps, team, here, Server(), came=came, held=1, seed=seed).run()
            for seed in range(DRAWS)
        ]
        told = [run.all_operations / count for run in runs]
        lasted = [run.makespan for run in runs]
        pairs = ((told, calls / count), (lasted, took))
        ratios = [statistics.median(drawn) / real for drawn, real in pairs]
        is_right &= all(
            abs(ratio - 1) < most for ratio, most in zip(ratios, MOST_WRONG, strict=True)
        )
        rows.append(
            [str(elements), str(count)]
            + [
                text
                for (drawn, real), ratio in zip(pairs, ratios, strict=True)
                for text in (
                    f"{real:.2f}",
                    f"{statistics.median(drawn):.2f} ({min(drawn):.2f} to {max(drawn):.2f})",
                    f"{ratio:.3f}",
                )
            ]
        )
    print(f"Real processes of sweep work; points that sleep, {NAP_SECONDS} s on average.\n")
    head = "elements | blocks | operations a block, counted | simulated | ratio"
    print_table(f"{head} | seconds, measured | simulated | ratio", rows)
    return is_right


def _real(folder: Path, naps: np.ndarray, elements: int) -> tuple[int, float, list[float]]:
    """Return what real elements called, how long they took, and when each began."""
    store = run_elements(folder, naps, elements)
    records = [one for path in journals(store.journal_folder) for one, _ in read_from(path, 0)]
    came, calls = [], 0
    for number in range(elements):
        log = folder / f"{number}.strace"
        calls += len(list(calls_in(log, folder)))
        pids = {int(line.split()[0]) for line in log.read_text(errors="replace").splitlines()}
        came.append(min(one["started"] for one in records if one["pid"] in pids))
    begun = min(came)
    return calls, max(one["ended"] for one in records) - begun, [one - begun for one in came]


# --- tables -------------------------------------------------------------------------------


def print_costs(costs: Costs, kinds: dict[str, str], messages: dict[str, Message]) -> None:
    """Print what was measured."""
    rows = [
        [name, f"{one.operations:.4g}", f"{1000 * one.seconds:.3f} ms", kinds.get(name, "")]
        for name, one in costs._asdict().items()
    ]
    print_table("step | operations | time | which", rows)
    rows = [
        [name, f"{1000 * one.seconds:.2f} ms", f"{1000 * one.rest_seconds:.1f} ms"]
        for name, one in messages.items()
    ]
    print_table("a call and its answer | of the driver | at rest", rows)


def cases_of(asked: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases, with a file server of any rate."""
    server = Server(math.inf, asked.trip_milliseconds / 1000)
    rules = Rules(asked.look_seconds, asked.doubts)
    for workers in sorted(asked.workers):
        for seconds in asked.block_seconds:
            for way in WAYS:
                yield Case(way, workers, seconds, asked.blocks, server, rules)


def simulate_all(
    laboratory: Laboratory, cases: Sequence[Case], rates: Sequence[float]
) -> list[list[Found | None]]:
    """Simulate each case, with a file server of any rate, and of those that it would exceed."""
    large_first = sorted(cases, key=lambda case: -case.workers)
    easy = [case for case in large_first if case.workers // (WAYS[case.way] or 1000) <= MOST_FREE]
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        free = dict(zip(easy, pool.map(laboratory.simulate, easy), strict=True))
        slow = [
            case.on(rate)
            for case in large_first
            for rate in rates
            if case not in free or free[case].outcome.peak > rate
        ]
        found = free | dict(zip(slow, pool.map(laboratory.simulate, slow), strict=True))
    return [
        [found.get(case.on(rate), free.get(case)) for rate in (math.inf, *rates)] for case in cases
    ]


def print_efficiency(rows: Sequence[Sequence[Found | None]], rates: Sequence[float]) -> None:
    """Print how efficient each way is, and what it asks of the fastest file server."""
    table = []
    for row in rows:
        case, outcome, *_ = next(filter(None, row))
        table.append(
            [
                f"{case.workers:,}",
                f"{case.seconds:g} s",
                case.way,
                f"{outcome.operations / outcome.commits:,.0f}" if outcome.is_done else "",
                short(outcome.operations / outcome.makespan),
                short(outcome.peak),
                *(found.text if found else "" for found in row),
            ]
        )
    head = "workers | a block | way | operations a block | a second, mean | most | any server"
    print_table(" | ".join((head, *(f"{short(rate)} a second" for rate in rates))), table)


def print_limits(rows: Sequence[Sequence[Found | None]], rates: Sequence[float]) -> None:
    """Print up to which of the sizes each way scales with file servers of these rates."""
    limits: dict[tuple[str, float], list[int]] = {}
    for row in rows:
        for column, found in enumerate(row[1:]):
            assert found
            own = limits.setdefault((found.case.way, found.case.seconds), [0] * len(rates))
            if found.efficiency >= LEAST:
                own[column] = max(own[column], found.case.workers)
    print(f"The most workers, of those simulated, with an efficiency of {LEAST} at least.\n")
    print_table(
        " | ".join(("way", "a block", *(f"{short(rate)} a second" for rate in rates))),
        (
            [way, f"{seconds:g} s", *(f"{number:,}" for number in numbers)]
            for (way, seconds), numbers in sorted(limits.items())
        ),
    )


def main() -> int:
    """Measure, check, simulate; 1 if the simulation is wrong about real processes."""
    assert __doc__ is not None
    asked = _arguments(__doc__)
    begun = time.monotonic()
    print(f"{os.cpu_count()} cores; load over the last minute {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="sweep-simulation-") as name:
        costs, kinds, outside = measure(Path(name))
        local = time_messages(make_engine("processes", workers=2), 1000)
        messages = dict.fromkeys(WAYS, local) | {
            "mpi": mpi_messages(),
            "dask": time_messages(make_engine("dask", workers=2), 500),
        }
        print_costs(costs, kinds, messages)
        print(f"An element and its worker call {outside:,} times outside the store.")
        is_right = check(Path(name), costs, local)
    laboratory = Laboratory(costs, messages)
    rows = simulate_all(laboratory, list(cases_of(asked)), asked.rates)
    print_efficiency(rows, asked.rates)
    print_limits(rows, asked.rates)
    print(f"{time.monotonic() - begun:.0f} s")
    return 0 if is_right else 1


def _arguments(text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, metavar="N")
    add("--workers", type=int, nargs="+", default=[10, 1000, 100_000])
    add("--block-seconds", type=float, nargs="+", default=[1.0, 60.0, 600.0])
    add("--blocks", type=int, default=5, help="of each worker  [5]")
    add("--rates", type=float, nargs="*", default=[1e5, 1e4], help="of the file server  [1e5 1e4]")
    add("--trip-milliseconds", type=float, default=0.3, help="of an operation  [0.3]")
    add("--look-seconds", type=float, default=LOOK_SECONDS, help="between two looks at marks")
    add("--doubts", type=int, default=MOST_DOUBTS, help="claims of others tried after a look")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
