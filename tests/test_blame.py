"""Who is to blame for a worker's death: an engine that injects faults, and what is left of it."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from feeds import PlanFeed
from hypothesis import given
from hypothesis import strategies as st

from sweep.blame import ENOUGH_DEATHS, ENOUGH_UNKNOWN, Attempt
from sweep.deadline import ENOUGH_POINTS, LEARNED_AT_LEAST, LEARNED_TIMES, Deadline
from sweep.drive import MOST_ATTEMPTS, Drive, Orders, Stop, Tally
from sweep.engines import Arguments, Cause, Done, Lost, Outcome
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


class TestAttemptAfterAProcess:
    """What follows where all of a process and its workers died."""

    @pytest.mark.parametrize(
        ("ends", "first", "condemned", "needs_quiet"),
        [
            ({}, None, [], False),
            ({4: 1}, 4, [], False),
            ({4: 1, 6: ENOUGH_UNKNOWN - 1}, 6, [], True),
            ({4: ENOUGH_UNKNOWN}, None, [4], False),
            ({4: ENOUGH_UNKNOWN, 6: 1}, 6, [4], False),
            ({4: ENOUGH_UNKNOWN, 6: ENOUGH_UNKNOWN - 1}, 6, [4], True),
        ],
    )
    def test_suspects_the_point_at_which_most_ended_and_condemns_it_in_the_end(
        self, ends: dict[int, int], first: int | None, condemned: list[int], needs_quiet: bool
    ) -> None:
        attempt = Attempt.after(BLOCK, 5, Counter(ends))
        told = attempt.message()
        assert (told[:3], [point for point, *_ in told[3]]) == ([0, 6, first], condemned)
        assert attempt.is_suspect == (first is not None)
        assert attempt.needs_quiet == needs_quiet

    def test_says_why_a_point_failed(self) -> None:
        ((_, kind, text),) = Attempt.after(BLOCK, 3, Counter({4: 3})).message()[3]
        assert (kind, text) == (
            "WorkerDied",
            "3 times all that ran it was killed, its driver, too.",
        )

    def test_is_an_ordinary_one_where_nobody_died(self) -> None:
        assert Attempt.after(BLOCK, 0, Counter()) == Attempt(BLOCK)

    def test_counts_a_worker_that_dies_by_itself(self) -> None:
        attempt = Attempt.after(BLOCK, 1, Counter({4: 1}))
        attempt.take_death(4, Lost("gone", "died"))
        assert (attempt.condemned, attempt.first) == ({}, 4)

    def test_needs_quiet_to_the_end_whichever_of_its_points_comes_first(self) -> None:
        attempt = Attempt.after(BLOCK, 2, Counter({4: 2}))
        attempt.take_death(7, Lost("gone"))
        assert attempt.first == 7
        assert attempt.needs_quiet
        attempt.take_death(4, Lost("gone", "timeout"))
        assert not attempt.needs_quiet


class TestDeadline:
    def test_is_unknown_at_first(self) -> None:
        assert Deadline().hard_seconds is None

    def test_is_learned_from_the_slowest_point_and_never_short(self) -> None:
        deadline = Deadline()
        deadline.learn(ENOUGH_POINTS, 1e-3, 1e-3)
        assert deadline.hard_seconds == LEARNED_AT_LEAST
        deadline.learn(1, 50.0, 50.0)
        deadline.learn(1, 1.0, 1.0)
        assert deadline.hard_seconds == LEARNED_TIMES * 50.0

    def test_is_what_a_person_says_and_some_grace(self) -> None:
        deadline = Deadline(10.0, needs_seconds=5.0)
        deadline.learn(1000, 1e-3, 1.0)
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


# --- whole processes that die ---------------------------------------------------------------


class ProcessDied(BaseException):
    """All is gone, the drive, too."""


@dataclass
class Sweep:
    """What is left of a sweep when its processes die: commits, claims, marks."""

    blocks: int
    points: int
    committed: dict[int, dict[int, str]] = field(default_factory=dict)
    attempts: Counter[int] = field(default_factory=Counter)
    ends: dict[int, Counter[int]] = field(default_factory=dict)
    claimed: set[int] = field(default_factory=set)

    @property
    def plan(self) -> Plan:
        done = np.isin(np.arange(self.blocks), list(self.committed))
        return Plan(Grid((self.blocks * self.points,), (self.points,)), done)

    def failed_points(self, block: Block) -> int | None:
        fates = self.committed.get(block.number)
        return None if fates is None else list(fates.values()).count("failed")

    def inherit(self, marks: dict[tuple[int, int], int]) -> None:
        """Keep what whoever comes next will find of a process that died with these marks."""
        for block in self.claimed:
            self.attempts[block] += 1
            tried = [attempt for number, attempt in marks if number == block]
            if tried:
                self.attempts[block] = max(self.attempts[block], *tried)
                point = marks[block, max(tried)]
                if point >= 0:
                    self.ends.setdefault(block, Counter())[point] += 1
        self.claimed.clear()


class HeirsFeed:
    """Hands out what is left, in an order drawn by chance, with what is known of those before."""

    def __init__(self, sweep: Sweep, rng: random.Random) -> None:
        self.sweep = sweep
        self.blocks = list(sweep.plan.remaining())
        rng.shuffle(self.blocks)

    @property
    def left(self) -> int:
        return len(self.blocks)

    def next(self, *, suspects: bool = True) -> Attempt | None:
        for block in self.blocks:
            ends = self.sweep.ends.get(block.number, Counter())
            if suspects or not ends:
                self.blocks.remove(block)
                self.sweep.claimed.add(block.number)
                return Attempt.after(block, self.sweep.attempts[block.number], ends)
        return None

    def is_over(self) -> bool:
        return not self.blocks

    def release(self, block: Block) -> None:
        self.sweep.claimed.remove(block.number)
        self.sweep.ends.pop(block.number, None)
        self.sweep.attempts.pop(block.number, None)


class BusyEngine:
    """Workers that go on by a point each time, one of them, drawn by chance.

    At a point of `fatal` all of the process dies, at one of `deadly` its worker.
    """

    name = "busy"

    def __init__(
        self,
        sweep: Sweep,
        capacity: int,
        rng: random.Random,
        fatal: set[tuple[int, int]],
        deadly: set[tuple[int, int]],
    ) -> None:
        self.sweep, self.capacity, self.rng = sweep, capacity, rng
        self.fatal, self.deadly = fatal, deadly
        self.marks: dict[tuple[int, int], int] = {}
        self.queue: list[tuple[int, list[list[Any]]]] = []
        self.workers: dict[int, Iterator[Outcome | None]] = {}
        self.suspects: dict[int, int] = {}  # tickets: how often all died at a point of theirs
        self.tickets = 0

    def start(self) -> None:
        """Do nothing."""

    def submit(self, function: str, arguments: Arguments) -> int:
        self.tickets += 1
        batch = arguments["blocks"]
        in_flight = [*self.workers, *(ticket for ticket, _ in self.queue)]
        suspicion = max((self.suspicion(*order) for order in batch), default=0)
        others = [self.suspects.get(ticket, 0) for ticket in in_flight]
        assert not suspicion or not any(others), "two suspects are in flight"
        nearly = ENOUGH_UNKNOWN - 1
        assert not in_flight or max(suspicion, *others) < nearly, "the last time is not alone"
        assert not suspicion or len(batch) == 1
        if suspicion:
            self.suspects[self.tickets] = suspicion
        self.queue.append((self.tickets, batch))
        return self.tickets

    def all_marks(self) -> list[tuple[int, int, int]]:
        return [(*attempt, point) for attempt, point in self.marks.items()]

    def suspicion(
        self, number: int, attempt: int, first: int | None = None, condemned: Any = ()
    ) -> int:
        ends = self.sweep.ends.get(number, Counter())
        out = {point for point, *_ in condemned}
        return max((n for point, n in ends.items() if point not in out), default=0)

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        while self.queue and len(self.workers) < self.capacity:
            ticket, batch = self.queue.pop(0)
            self.workers[ticket] = self.work(batch)
        if not self.workers:
            return []
        ticket = self.rng.choice(sorted(self.workers))
        outcome = next(self.workers[ticket])
        if outcome is None:
            return []
        del self.workers[ticket]
        self.suspects.pop(ticket, None)
        return [(ticket, outcome)]

    def work(self, batch: list[list[Any]]) -> Iterator[Outcome | None]:
        receipts = []
        for number, attempt, *care in batch:
            first, condemned = care or (None, ())
            fates = {point: "failed" for point, *_ in condemned}
            points = sorted(set(range(self.sweep.points)) - set(fates), key=lambda p: p != first)
            for point in points:
                self.marks[number, attempt] = point
                yield None
                if (number, point) in self.fatal:
                    raise ProcessDied
                if (number, point) in self.deadly:
                    yield Lost("gone", "died")
                    return
                fates[point] = "done"
            self.marks[number, attempt] = NO_POINT
            yield None
            self.sweep.committed[number] = fates
            receipts.append(
                receipt(number, self.sweep.points, list(fates.values()).count("failed"))
            )
        yield Done(receipts)

    def kill(self, ticket: int) -> bool:
        return False

    def close(self) -> None:
        """Do nothing."""


PLACES = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 2)), max_size=3)


def computed_by_heirs(
    engine_of: Callable[[Sweep], BusyEngine], rng: random.Random, kills: set[int]
) -> tuple[set[tuple[int, int]], int]:
    """Start one process after the other on a sweep until it is complete.

    Some are killed by others after so many waits. Returns the points that failed, and how many
    processes died.
    """
    sweep = Sweep(blocks=8, points=3)
    deaths = waits = 0

    def be_killed(_: Tally) -> None:
        nonlocal waits
        waits += 1
        if waits in kills:
            raise ProcessDied

    while sweep.plan.blocks_left:
        engine, feed = engine_of(sweep), HeirsFeed(sweep, rng)
        made = Drive(engine, feed, Orders("a:b", {}), sweep.failed_points, engine.all_marks)
        try:
            made.run(Tally(points=24, done=0, failed=0), Stop(), be_killed)
        except ProcessDied:
            deaths += 1
            sweep.inherit(engine.marks)
        assert deaths < 20, "there is no end"
    assert sweep.claimed == set()
    failed = {
        (block, point)
        for block, fates in sweep.committed.items()
        for point, fate in fates.items()
        if fate == "failed"
    }
    return failed, deaths


@given(
    fatal=PLACES,
    deadly=PLACES,
    capacity=st.integers(1, 5),
    rng=st.randoms(use_true_random=False),
)
def test_points_that_take_all_with_them_fail_and_no_other_whatever_was_at_work_beside(
    fatal: set[tuple[int, int]],
    deadly: set[tuple[int, int]],
    capacity: int,
    rng: random.Random,
) -> None:
    failed, deaths = computed_by_heirs(
        lambda sweep: BusyEngine(sweep, capacity, rng, fatal, deadly - fatal), rng, set()
    )
    assert failed == fatal | deadly
    assert deaths <= ENOUGH_UNKNOWN * len(fatal)  # two may be at work when one of them kills


@given(
    kills=st.sets(st.integers(1, 40), max_size=ENOUGH_UNKNOWN - 1),
    deadly=PLACES,
    capacity=st.integers(1, 5),
    rng=st.randoms(use_true_random=False),
)
def test_processes_that_others_kill_cost_no_point(
    kills: set[int], deadly: set[tuple[int, int]], capacity: int, rng: random.Random
) -> None:
    failed, deaths = computed_by_heirs(
        lambda sweep: BusyEngine(sweep, capacity, rng, set(), deadly), rng, kills
    )
    assert failed == deadly
    assert deaths <= len(kills)
