"""The simulation of benchmarks/cluster_simulation.py: whatever is at odds with it, work is kept."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep.study import load_module

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BLOCKS = 300


@pytest.fixture(scope="module")
def events() -> Any:
    return load_module(BENCHMARKS / "cluster_events.py")


def simulated(events: Any, team: Any, rate: float) -> tuple[Any, Any, float]:
    seconds = np.random.default_rng(1).lognormal(0.0, 1.0, BLOCKS)
    costs = events.Costs(*[events.Cost(2.0, 0.001)] * len(events.Costs._fields))
    sweep = events.Sweep(seconds, team, costs, events.Server(rate, 0.0003))
    return sweep, sweep.run(), seconds.sum() / (team.processes * team.workers)


@pytest.mark.parametrize("rate", [math.inf, 1000.0])
@pytest.mark.parametrize(("processes", "workers", "is_passive"), [(10, 1, False), (1, 10, True)])
def test_each_block_is_committed_once_in_no_less_than_the_time_that_it_takes(
    events: Any, processes: int, workers: int, is_passive: bool, rate: float
) -> None:
    team = events.Team(processes, workers, events.Message(0.001, 0.01), is_passive)

    sweep, outcome, least = simulated(events, team, rate)

    assert outcome.is_done
    assert sweep.blocks.commits == BLOCKS
    assert set(sweep.blocks.state) == {events.RELEASED}
    assert (sweep.blocks.free, sweep.blocks.claimed, sweep.blocks.left) == (0, 0, 0)
    assert least < outcome.makespan < 3 * least


def test_a_file_server_does_no_more_than_it_can_and_all_that_it_is_asked_for(events: Any) -> None:
    team = events.Team(10, 1, events.Message(0.0, 0.0))

    _, free, _ = simulated(events, team, math.inf)
    _, slow, _ = simulated(events, team, 100.0)

    assert free.peak > 100.0
    assert slow.peak <= 100.0 * (1 + 1e-9)
    assert slow.makespan > free.makespan
    assert slow.all_operations >= BLOCKS * (2.0 + 2.0)  # claimed and committed, at least
