"""Who is to blame for a worker's death: an engine that injects faults, and what is left of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.blame import ENOUGH_DEATHS, ENOUGH_UNKNOWN, Attempt
from sweep.deadline import ENOUGH_POINTS, LEARNED_AT_LEAST, LEARNED_TIMES, Deadline
from sweep.drive import MOST_ATTEMPTS, Drive, Orders, Stop, Tally
from sweep.engines import Arguments, Cause, Done, Lost, Outcome
from sweep.feed import PlanFeed
from sweep.marks import NO_POINT, WHOLE_BLOCK
from sweep.plan import Block, Grid, Plan
from sweep.worker import Receipt

BLOCK = Grid((10,), (10,)).block(0)


class TestAttempt:
    def test_is_told_in_two_numbers_until_a_worker_died(self) -> None:
        assert Attempt(BLOCK).message() == [0, 1]

    @pytest.mark.parametrize(
        ("cause", "deaths", "kind"),
        [
            ("died", ENOUGH_DEATHS, "WorkerDied"),
            ("memory", ENOUGH_DEATHS, "OutOfMemory"),
            ("unknown", ENOUGH_UNKNOWN, "WorkerDied"),
            ("timeout", 1, "Timeout"),
        ],
    )
    def test_suspects_a_point_first_and_condemns_it_for_cause(
        self, cause: Cause, deaths: int, kind: str
    ) -> None:
        attempt = Attempt(BLOCK)
        for death in range(1, deaths):
            attempt.take_death(7, Lost("gone", cause))
            assert attempt.message() == [0, 1 + death, 7, []]
        attempt.take_death(7, Lost("gone", cause))
        assert attempt.message() == [0, 1 + deaths, None, [[7, kind, "gone"]]]

    def test_blames_nobody_where_nobody_knows_the_point(self) -> None:
        attempt = Attempt(BLOCK)
        for point in (None, NO_POINT):
            attempt.take_death(point, Lost("gone"))
        assert (attempt.unexplained, attempt.condemned, attempt.first) == (2, {}, None)

    def test_has_a_vectorized_block_computed_point_by_point(self) -> None:
        attempt = Attempt(BLOCK)
        attempt.take_death(WHOLE_BLOCK, Lost("gone"))
        assert attempt.unexplained == 0
        assert attempt.message() == [0, 2, None, []]


class TestDeadline:
    def test_is_unknown_at_first(self) -> None:
        assert Deadline().hard_seconds is None

    def test_is_learned_from_the_slowest_point_and_never_short(self) -> None:
        deadline = Deadline()
        deadline.learn(ENOUGH_POINTS, 1e-3)
        assert deadline.hard_seconds == LEARNED_AT_LEAST
        deadline.learn(1, 50.0)
        deadline.learn(1, 1.0)
        assert deadline.hard_seconds == LEARNED_TIMES * 50.0

    def test_is_what_a_person_says_and_some_grace(self) -> None:
        deadline = Deadline(10.0, needs_seconds=5.0)
        deadline.learn(1000, 1e-3)
        assert deadline.hard_seconds == 12.5

    def test_is_twice_what_the_pipeline_needs(self) -> None:
        assert Deadline(None, needs_seconds=60.0).hard_seconds == 120.0


# --- an engine that injects faults ---------------------------------------------------------


@dataclass
class FaultyEngine:
    """Computes blocks of points as workers do, and loses those that `fault` says.

    `fault(block, point, attempt)` returns how the worker ends at a point, or None.
    """

    fault: Callable[[int, int, int], Lost | None]
    points: int
    capacity: int = 2
    name: str = "faulty"
    committed: dict[int, dict[int, str]] = field(default_factory=dict)
    marks: dict[tuple[int, int], int] = field(default_factory=dict)
    queue: list[tuple[int, list[list[Any]]]] = field(default_factory=list)
    tickets: int = 0
    deaths: int = 0

    def start(self) -> None:
        """Do nothing."""

    def submit(self, function: str, arguments: Arguments) -> int:
        self.tickets += 1
        self.queue.append((self.tickets, arguments["blocks"]))
        return self.tickets

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        if not self.queue:
            return []
        ticket, batch = self.queue.pop(0)
        receipts = []
        for number, attempt, *care in batch:
            lost = self.compute(number, attempt, *care)
            if lost:
                self.deaths += 1
                return [(ticket, lost)]
            failed = list(self.committed[number].values()).count("failed")
            receipts.append(receipt(number, self.points, failed))
        return [(ticket, Done(receipts))]

    def compute(
        self, number: int, attempt: int, first: int | None = None, condemned: Any = ()
    ) -> Lost | None:
        fates = {point: "failed" for point, *_ in condemned}
        for point in sorted(set(range(self.points)) - set(fates), key=lambda p: p != first):
            self.marks[number, attempt] = point
            if lost := self.fault(number, point, attempt):
                return lost
            fates[point] = "done"
        self.marks[number, attempt] = NO_POINT
        if lost := self.fault(number, NO_POINT, attempt):
            return lost
        self.committed[number] = fates
        return None

    def failed_points(self, block: Block) -> int | None:
        fates = self.committed.get(block.number)
        return None if fates is None else list(fates.values()).count("failed")

    def kill(self, ticket: int) -> bool:
        return False

    def close(self) -> None:
        """Do nothing."""


def receipt(block: int, points: int, failed: int) -> Receipt:
    return Receipt(
        block=block,
        points=points,
        failed=failed,
        stale=0,
        noted=0,
        slowest_seconds=0.1,
        compute_seconds=0.1,
        compile_seconds=0.0,
        write_seconds=0.0,
    )


def drive(engine: FaultyEngine, blocks: int, *, fail_fast: bool = False) -> Tally:
    plan = Plan(Grid((blocks * engine.points,), (engine.points,)), np.zeros(blocks, bool))
    tally = Tally(points=blocks * engine.points, done=0, failed=0)
    made = Drive(
        engine,
        PlanFeed(plan.remaining(), plan.blocks_left),
        Orders("a:b", {}, fail_fast=fail_fast),
        engine.failed_points,
        lambda: [(*attempt, point) for attempt, point in engine.marks.items()],
    )
    made.run(tally, Stop(), lambda tally: None)
    return tally


@given(
    poison=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=6),
    cause=st.sampled_from(["died", "memory", "timeout", "unknown"]),
)
def test_exactly_the_points_that_kill_fail_and_all_others_are_done(
    poison: set[tuple[int, int]], cause: Cause
) -> None:
    engine = FaultyEngine(
        lambda block, point, _: Lost("gone", cause) if (block, point) in poison else None, 4
    )
    tally = drive(engine, 6)
    assert (tally.done, tally.failed, tally.left) == (24 - len(poison), len(poison), 0)
    failed = {
        (block, point)
        for block, fates in engine.committed.items()
        for point, fate in fates.items()
        if fate == "failed"
    }
    assert failed == poison
    assert engine.deaths <= ENOUGH_UNKNOWN * len(poison)


@given(st.data())
def test_workers_that_die_by_chance_cost_no_point(data: st.DataObject) -> None:
    chosen = data.draw(
        st.sets(st.tuples(st.integers(0, 9), st.integers(-1, 3)), max_size=12), label="deaths"
    )
    once = set(chosen)

    def by_chance(block: int, point: int, attempt: int) -> Lost | None:
        if (block, point) in once:
            once.remove((block, point))
            return Lost("killed by SIGKILL")
        return None

    engine = FaultyEngine(by_chance, 4)
    tally = drive(engine, 10)
    assert (tally.done, tally.failed) == (40, 0)
    assert engine.deaths == tally.lost_workers == len(chosen)


def test_a_block_whose_workers_die_between_points_is_left_and_costs_no_other() -> None:
    engine = FaultyEngine(
        lambda block, point, _: Lost("gone") if (block, point) == (3, NO_POINT) else None, 4
    )
    tally = drive(engine, 6)
    assert (tally.done, tally.failed, tally.left) == (20, 0, 4)
    ((block, reason),) = tally.lost_blocks
    assert (block.number, reason) == (3, "gone")
    assert engine.deaths == MOST_ATTEMPTS


def test_a_loss_after_the_commit_is_no_loss() -> None:
    class Late(FaultyEngine):
        def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
            ended = super().wait(timeout)
            return [(ticket, Lost("gone")) for ticket, _ in ended]

    engine = Late(lambda *_: None, 4)
    tally = drive(engine, 6)
    assert (tally.done, tally.left) == (24, 0)
    assert max(attempt for _, attempt in engine.marks) == 1  # nothing was computed twice


def test_fail_fast_hands_out_nothing_more() -> None:
    engine = FaultyEngine(
        lambda block, point, _: Lost("gone", "timeout") if (block, point) == (0, 2) else None, 4
    )
    tally = drive(engine, 100, fail_fast=True)
    assert tally.failed == 1
    assert tally.left > 0
