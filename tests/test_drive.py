"""The loop over an engine: how much is in flight, how large batches are, how a run is stopped."""

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sweep.drive import BATCH_SECONDS, LONG_SECONDS, Drive, Orders, Stop, Tally
from sweep.engines import Arguments, Done, Outcome
from sweep.feed import PlanFeed
from sweep.plan import Grid, Plan
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
        assert engine.in_flight_at_submit == [1, 2, 3, 4, *[4] * (len(engine.batches) - 4)]

    def test_is_one_batch_a_worker_once_blocks_are_known_to_be_long(self) -> None:
        engine = PromptEngine(2, block_seconds=1.01 * LONG_SECONDS)
        drive(engine, 20)
        assert engine.in_flight_at_submit[:4] == [1, 2, 3, 4]  # before any has ended
        assert set(engine.in_flight_at_submit[4:]) == {2}


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
        assert [len(batch) for batch in engine.batches[:5]] == [1, 1, 1, 1, 249]

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
        assert len(engine.in_flight) == 3

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
