"""The loop over an engine: how much is in flight, how large batches are, how a run is stopped."""

import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from feeds import PlanFeed

import sweep.drive
from sweep.blame import Attempt
from sweep.deadline import Deadline
from sweep.drive import (
    BATCH_SECONDS,
    END_SECONDS,
    LONG_SECONDS,
    PAUSE_SECONDS,
    Drive,
    Orders,
    Stop,
    Tally,
)
from sweep.engines import Arguments, Done, Outcome
from sweep.plan import Block, Grid, Plan
from sweep.worker import Receipt


class PromptEngine:
    """Computes nothing: ends the oldest call whenever it is waited for.

    Every block took `block_seconds`. `while_waiting` is called with the number of the wait.
    """

    def __init__(
        self,
        capacity: int,
        block_seconds: float = 0.001,
        while_waiting: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.name = "prompt"
        self.capacity = capacity
        self.block_seconds = block_seconds
        self.while_waiting = while_waiting
        self.batches: list[list[int]] = []
        self.in_flight: dict[int, list[int]] = {}
        self.in_flight_at_submit: list[int] = []
        self.waits = 0

    def start(self) -> None:
        """Do nothing."""

    def submit(self, function: str, arguments: Arguments) -> int:
        batch = [number for number, *_ in arguments["blocks"]]
        self.batches.append(batch)
        self.in_flight[len(self.batches)] = batch
        self.in_flight_at_submit.append(len(self.in_flight))
        return len(self.batches)

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        self.waits += 1
        self.while_waiting(self.waits)
        if not self.in_flight:
            return []
        ticket = min(self.in_flight)
        receipts = [self.receipt(number) for number in self.in_flight.pop(ticket)]
        return [(ticket, Done(receipts))]

    def receipt(self, block: int) -> Receipt:
        return Receipt(
            block=block,
            points=1,
            failed=0,
            stale=0,
            noted=0,
            slowest_seconds=0.6 * self.block_seconds,
            compute_seconds=0.6 * self.block_seconds,
            compile_seconds=100.0,  # once, and no part of what a block takes
            write_seconds=0.4 * self.block_seconds,
        )

    def kill(self, ticket: int) -> bool:
        return False

    def close(self) -> None:
        self.in_flight.clear()


def drive(
    engine: PromptEngine,
    blocks: int,
    stop: Stop | None = None,
    report: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Hand out so many blocks of one point, and return what became of them."""
    plan = Plan(Grid((blocks,), (1,)), np.zeros(blocks, bool))
    tally = Tally(points=blocks, done=0, failed=0)
    orders = Orders("a:b", {})
    made = Drive(
        engine, PlanFeed(plan.remaining(), plan.blocks_left), orders, lambda block: None, lambda: []
    )
    made.run(tally, stop or Stop(), report)
    return tally


@pytest.mark.parametrize("block_seconds", [1e-5, 0.1, 3.0, 60.0])
def test_every_block_is_handed_out_once_and_counted(block_seconds: float) -> None:
    engine = PromptEngine(3, block_seconds)
    tally = drive(engine, 100)
    assert sorted(number for batch in engine.batches for number in batch) == list(range(100))
    assert (tally.done, tally.computed, tally.left) == (100, 100, 0)
    assert tally.compute_seconds == pytest.approx(100 * 0.6 * block_seconds)


class TestInFlight:
    @pytest.mark.parametrize("capacity", [1, 4])
    def test_are_never_more_than_two_batches_a_worker(self, capacity: int) -> None:
        engine = PromptEngine(capacity, block_seconds=1.0)
        drive(engine, 100)
        assert max(engine.in_flight_at_submit) == 2 * capacity

    def test_is_a_batch_behind_the_one_that_runs_so_that_no_worker_waits_for_us(self) -> None:
        engine = PromptEngine(2, block_seconds=1.0)
        drive(engine, 100)
        assert engine.in_flight_at_submit[:5] == [1, 2, 2, 3, 4]  # two more when one has ended
        assert set(engine.in_flight_at_submit[4:]) == {4}

    def test_is_one_batch_a_worker_where_blocks_are_long(self) -> None:
        engine = PromptEngine(2, block_seconds=1.01 * LONG_SECONDS)
        drive(engine, 20)
        assert engine.in_flight_at_submit == [1, *[2] * 19]


class TestBatches:
    @pytest.mark.parametrize(("block_seconds", "blocks"), [(0.5, 4), (1.5, 1), (60.0, 1)])
    def test_are_of_two_seconds_or_one_block(self, block_seconds: float, blocks: int) -> None:
        engine = PromptEngine(2, block_seconds)
        drive(engine, 1000)
        sizes = [len(batch) for batch in engine.batches]
        assert max(sizes) == blocks
        assert blocks == 1 or blocks * block_seconds <= BATCH_SECONDS

    def test_are_of_one_block_until_one_has_ended(self) -> None:
        engine = PromptEngine(2, block_seconds=1e-4)
        drive(engine, 1000)
        assert [len(batch) for batch in engine.batches[:3]] == [1, 1, 250]

    def test_get_shorter_when_blocks_get_slower(self) -> None:
        engine = PromptEngine(1, block_seconds=0.1)

        def slow_down(wait: int) -> None:
            engine.block_seconds = 0.1 if wait < 20 else 1.0

        engine.while_waiting = slow_down
        drive(engine, 1000)
        sizes = [len(batch) for batch in engine.batches]
        assert max(sizes[:20]) == 20
        assert set(sizes[-20:]) <= {1, 2}

    def test_leave_work_for_every_worker_to_the_end(self) -> None:
        engine = PromptEngine(5, block_seconds=1e-6)
        drive(engine, 100)
        left = 100
        for batch in engine.batches:
            assert len(batch) <= -(-left // 10)
            left -= len(batch)


class TestStop:
    def test_asked_once_finishes_the_blocks_in_flight_and_hands_out_no_other(self) -> None:
        said: list[str] = []
        engine = PromptEngine(2, 1.0, interrupting_at(3))
        stop = Stop()
        with stop.on_signals(said.append):
            tally = drive(engine, 100, stop)
        handed_out = [number for batch in engine.batches for number in batch]
        assert stop.asked == 1
        assert engine.in_flight == {}
        assert tally.done == len(handed_out) < 100
        assert engine.waits == len(engine.batches)
        assert said == ["Stopping when the blocks in flight are done; Ctrl-C again drops them."]

    def test_asked_twice_drops_the_blocks_in_flight_at_once(self) -> None:
        engine = PromptEngine(2, 1.0, interrupting_at(3, 4))
        stop = Stop()
        with stop.on_signals(lambda text: None):
            tally = drive(engine, 100, stop)
        ended = engine.batches[:3]  # the fourth wait is left by the second Ctrl-C
        assert stop.asked == 2
        assert tally.done == sum(map(len, ended))
        assert len(engine.in_flight) == len(engine.batches) - 3 > 0

    def test_asked_twice_between_two_waits_drops_them_too(self) -> None:
        engine = PromptEngine(2, 1.0)
        stop = Stop()

        def press_twice(tally: Tally) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        with stop.on_signals(lambda text: None):
            tally = drive(engine, 100, stop, report=press_twice)
        assert (stop.asked, engine.waits, tally.done) == (2, 1, 1)
        assert len(engine.in_flight) == 1

    def test_asked_before_there_are_blocks_ends_at_once(self) -> None:
        stop = Stop()
        with stop.on_signals(lambda text: None), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_gives_signals_back_to_who_had_them(self, number: signal.Signals) -> None:
        before: Any = signal.getsignal(number)
        with Stop().on_signals(lambda text: None):
            assert signal.getsignal(number) is not before
        assert signal.getsignal(number) is before


def interrupting_at(*waits: int) -> Callable[[int], None]:
    """Return what presses Ctrl-C during these waits."""

    def press(wait: int) -> None:
        if wait in waits:
            signal.raise_signal(signal.SIGINT)

    return press


# --- the end of the time that there is ----------------------------------------------------


class Clock:
    """A clock that goes on when an engine is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now, time=time.time, sleep=self.pass_by)
        monkeypatch.setattr(sweep.drive, "time", clock)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class NotingFeed(PlanFeed):
    """Notes what it is given back."""

    def __init__(self, blocks: int, points: int = 1) -> None:
        plan = Plan(Grid((blocks * points,), (points,)), np.zeros(blocks, bool))
        super().__init__(plan.remaining(), blocks)
        self.released: list[int] = []

    def release(self, block: Block) -> None:
        self.released.append(block.number)


class SteadyEngine(PromptEngine):
    """Computes one block after the other on each of its workers, as long as each takes."""

    def __init__(self, clock: Clock, capacity: int, block_seconds: float) -> None:
        super().__init__(capacity, block_seconds)
        self.clock = clock
        self.free_at = [clock.now] * capacity
        self.ends: dict[int, float] = {}

    def submit(self, function: str, arguments: Arguments) -> int:
        ticket = super().submit(function, arguments)
        free_at = min(self.free_at)
        end = max(self.clock.now, free_at) + self.block_seconds * len(self.batches[-1])
        self.free_at[self.free_at.index(free_at)] = self.ends[ticket] = end
        return ticket

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        self.clock.pass_by(timeout)
        ended = [ticket for ticket, end in self.ends.items() if end <= self.clock.now]
        for ticket in ended:
            del self.ends[ticket]
        made = [(t, [self.receipt(n) for n in self.in_flight.pop(t)]) for t in ended]
        return [(ticket, Done(receipts)) for ticket, receipts in made]


def drive_until(
    until: float, engine: PromptEngine, feed: NotingFeed, deadline: Deadline | None = None
) -> tuple[Drive, Tally]:
    orders = Orders("a:b", {}, deadline or Deadline(), until=until)
    made = Drive(engine, feed, orders, lambda block: None, lambda: [])
    tally = Tally(points=feed.left, done=0, failed=0)
    made.run(tally, Stop(), lambda tally: None)
    return made, tally


class TestUntil:
    @pytest.mark.parametrize("block_seconds", [0.5, 3.0, 20.0, 200.0])
    def test_nothing_is_begun_that_would_not_end_in_time(
        self, block_seconds: float, clock: Clock
    ) -> None:
        engine, feed = SteadyEngine(clock, 2, block_seconds), NotingFeed(10_000)
        until = clock.now + 1000.0
        made, tally = drive_until(until, engine, feed)
        handed_out = [number for batch in engine.batches for number in batch]
        assert clock.now <= until - END_SECONDS
        assert made.is_out_of_time
        assert engine.in_flight == {}  # nothing had to be dropped
        assert tally.done == len(handed_out) < 10_000
        used = tally.done * block_seconds / 2
        assert used > 1000.0 - 2 * block_seconds - END_SECONDS - 20.0  # and time not left idle
        assert set(feed.released) >= set(handed_out)

    def test_what_was_claimed_and_does_not_fit_is_given_back(self, clock: Clock) -> None:
        engine, feed = SteadyEngine(clock, 2, 200.0), NotingFeed(10)
        drive_until(clock.now + 500.0, engine, feed)
        begun = {number for batch in engine.batches for number in batch}
        (claimed,) = set(feed.released) - begun
        assert claimed == 10 - feed.left - 1

    def test_a_point_counts_as_the_pipeline_says_before_any_was_computed(
        self, clock: Clock
    ) -> None:
        engine, feed = SteadyEngine(clock, 2, 60.0), NotingFeed(10)
        made, tally = drive_until(clock.now + 70.0, engine, feed, Deadline(needs_seconds=60.0))
        assert (made.is_out_of_time, tally.done, engine.batches) == (True, 0, [])

    def test_a_block_counts_as_long_as_the_slowest_point_was_that_is_known(
        self, clock: Clock
    ) -> None:
        engine, feed = SteadyEngine(clock, 2, 60.0), NotingFeed(10)
        known = Deadline(slowest=60.0, points=100, seconds_in_all=200.0)
        made, tally = drive_until(clock.now + 70.0, engine, feed, known)
        assert (made.is_out_of_time, tally.done, engine.batches) == (True, 0, [])

    @pytest.mark.parametrize(
        "known",
        [Deadline(needs_seconds=300.0), Deadline(slowest=50.0, points=10_000, seconds_in_all=60.0)],
    )
    def test_many_points_are_not_all_taken_for_the_slowest(
        self, known: Deadline, clock: Clock
    ) -> None:
        engine, feed = SteadyEngine(clock, 2, 1.0), NotingFeed(10, points=500)
        made, tally = drive_until(clock.now + 600.0, engine, feed, known)
        assert (made.is_out_of_time, tally.left) == (False, 0)

    def test_what_takes_longer_than_was_known_is_dropped_before_the_end(self, clock: Clock) -> None:
        engine, feed = SteadyEngine(clock, 2, 1e9), NotingFeed(4)
        until = clock.now + 100.0
        made, tally = drive_until(until, engine, feed)
        assert until - END_SECONDS <= clock.now <= until - END_SECONDS + 1.0
        assert made.is_out_of_time
        assert (tally.done, len(engine.in_flight)) == (0, 2)

    def test_nothing_is_begun_where_the_time_is_over_before_it_began(self, clock: Clock) -> None:
        engine, feed = SteadyEngine(clock, 2, 1.0), NotingFeed(4)
        made, tally = drive_until(clock.now - 1.0, engine, feed)
        assert (made.is_out_of_time, tally.done, engine.batches) == (True, 0, [])

    def test_all_that_fits_is_all_that_is_left(self, clock: Clock) -> None:
        engine, feed = SteadyEngine(clock, 2, 1.0), NotingFeed(4)
        made, tally = drive_until(clock.now + 100.0, engine, feed)
        assert (made.is_out_of_time, tally.left) == (False, 0)


class TestBatchSystem:
    """What its signals mean."""

    def test_finishes_the_blocks_in_flight_and_begins_no_other_when_it_says_time_is_short(
        self,
    ) -> None:
        engine = PromptEngine(2, 1.0, sending_at(signal.SIGUSR1, 3))
        stop, feed = Stop(), NotingFeed(100)
        made = Drive(engine, feed, Orders("a:b", {}), lambda block: None, lambda: [])
        tally = Tally(points=100, done=0, failed=0)
        with stop.on_signals(fail_to_say, in_job=True):
            made.run(tally, stop, lambda tally: None)
        handed_out = [number for batch in engine.batches for number in batch]
        assert (made.is_out_of_time, stop.asked) == (True, 0)
        assert (tally.done, engine.in_flight) == (len(handed_out), {})
        assert len(engine.batches) == 4 + 2  # as many as two waits made room for

    def test_drops_them_when_it_ends_a_job(self) -> None:
        engine = PromptEngine(2, 1.0, sending_at(signal.SIGTERM, 3))
        stop = Stop()
        with stop.on_signals(fail_to_say, in_job=True):
            tally = drive(engine, 100, stop)
        assert stop.asked == 2
        assert tally.done == sum(map(len, engine.batches[:2]))
        assert len(engine.in_flight) == len(engine.batches) - 2 > 0

    def test_ends_at_once_before_there_are_blocks(self) -> None:
        stop = Stop()
        with stop.on_signals(fail_to_say, in_job=True), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)

    def test_may_say_that_time_is_short_before_there_are_blocks(self) -> None:
        engine, stop = PromptEngine(2, 1.0), Stop()
        with stop.on_signals(fail_to_say, in_job=True):
            signal.raise_signal(signal.SIGUSR1)
            tally = drive(engine, 100, stop)
        assert (tally.done, engine.batches) == (0, [])

    def test_is_waited_for_when_it_kills_all_ranks_after_the_death_of_one(self) -> None:
        def be_told(wait: int) -> None:
            if wait == 3:  # a job is ended by both, a step by the first alone, and a kill
                threading.Timer(0.5, signal.raise_signal, [signal.SIGUSR2]).start()
                signal.raise_signal(signal.SIGTERM)
                told.append(stop.asked)

        engine, stop, told = PromptEngine(2, 1.0, be_told), Stop(), list[int]()
        with stop.on_signals(fail_to_say, in_job=True, with_ranks=True):
            drive(engine, 100, stop)
        assert told == []  # it has dropped what was in flight
        assert stop.asked == 2

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
    def test_gives_signals_back_to_who_had_them(self, number: signal.Signals) -> None:
        before: Any = signal.getsignal(number)
        with Stop().on_signals(fail_to_say, in_job=True):
            assert signal.getsignal(number) is not before
        assert signal.getsignal(number) is before

    def test_means_nothing_outside_of_a_job(self) -> None:
        before: Any = signal.getsignal(signal.SIGUSR1)
        with Stop().on_signals(fail_to_say):
            assert signal.getsignal(signal.SIGUSR1) is before


def sending_at(number: signal.Signals, *waits: int) -> Callable[[int], None]:
    """Return what sends a signal during these waits."""

    def send(wait: int) -> None:
        if wait in waits:
            signal.raise_signal(number)

    return send


def fail_to_say(text: str) -> None:
    raise AssertionError(f"nobody reads in a job: {text}")


# --- others ---------------------------------------------------------------------------------


class LateFeed(NotingFeed):
    """Has nothing for a while: others are at all that is left."""

    def __init__(self, blocks: int, waits: int) -> None:
        super().__init__(blocks)
        self.waits = waits

    def next(self, *, suspects: bool = True) -> Attempt | None:
        self.waits -= 1
        return None if self.waits > 0 else super().next()


class TestOthers:
    def test_are_waited_for_while_the_feed_is_not_over(self, clock: Clock) -> None:
        engine, feed = PromptEngine(2, 1.0), LateFeed(4, waits=10)
        made = Drive(engine, feed, Orders("a:b", {}), lambda block: None, lambda: [])
        tally, begun = Tally(points=4, done=0, failed=0), clock.now
        made.run(tally, Stop(), lambda tally: None)
        assert tally.left == 0
        assert clock.now - begun >= 9 * PAUSE_SECONDS  # not in a hurry

    def test_are_not_waited_for_when_the_time_is_over(self, clock: Clock) -> None:
        feed = LateFeed(4, waits=10**6)
        made, tally = drive_until(clock.now + 100.0, PromptEngine(2, 1.0), feed)
        assert (made.is_out_of_time, tally.left) == (True, 4)

    def test_that_have_committed_a_block_meanwhile_are_counted_and_it_is_given_back(self) -> None:
        engine, feed = PromptEngine(2, 1.0), NotingFeed(10)
        failed = {3: 1, 4: 0}
        made = Drive(
            engine, feed, Orders("a:b", {}), lambda block: failed.get(block.number), lambda: []
        )
        tally = Tally(points=10, done=0, failed=0)
        made.run(tally, Stop(), lambda tally: None)
        assert (tally.done, tally.failed, tally.computed) == (9, 1, 8)
        assert sorted(feed.released) == list(range(10))

    def test_are_left_alone_by_a_drive_without_workers(self) -> None:
        engine, feed = PromptEngine(0, 1.0), NotingFeed(10)
        made = Drive(engine, feed, Orders("a:b", {}), lambda block: None, lambda: [])
        made.run(Tally(points=10, done=0, failed=0), Stop(), lambda tally: None)
        assert (engine.batches, feed.left) == ([], 10)
