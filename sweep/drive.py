"""Hand out blocks to an engine until none is left: batches, a bounded window, lost workers.

Nothing here knows a store or a study: it is given what is left to do, how to word a batch, how
to ask whether a block is committed, and at which point of it a worker died.
"""

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sweep.blame import Attempt
from sweep.deadline import Deadline
from sweep.engines import Done, Engine, Lost, Outcome, Raised
from sweep.errors import Dropped, raised_error
from sweep.feed import Feed
from sweep.marks import NO_POINT, WHOLE_BLOCK
from sweep.plan import Block
from sweep.worker import Receipt

BATCH_SECONDS = 2.0  # a batch is to take this long, much beside its messages (Dask: 15 ms)
LOOK_SECONDS = 1.0  # between two looks at what workers are at
COMPILE_SECONDS = 60.0  # that a point may take beside its deadline, of which only its worker knows
LONG_SECONDS = 5.0  # a batch that takes longer is not queued behind another
MOST_ATTEMPTS = 3  # at a block whose workers are lost, nobody knows at which point
PAUSE_SECONDS = 0.2  # while others are at all that is left
KILL_SECONDS = 120.0  # within which a launcher kills all ranks when one has died
END_SECONDS = 15.0  # before the end of its time, a run drops what is in flight and closes
SMOOTHING = 0.3  # weight of the newest batch in the estimate of a block's time


@dataclass
class Tally:
    """What has become of a run so far; the counts of points are of the whole sweep."""

    points: int
    done: int
    failed: int
    stale: int = 0  # did not come out as before
    noted: int = 0  # points that warned, logged or printed
    computed: int = 0  # points of this run
    compute_seconds: float = 0.0
    compile_seconds: float = 0.0
    write_seconds: float = 0.0
    lost_workers: int = 0
    lost_blocks: list[tuple[Block, str]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Points that are neither done nor failed."""
        return self.points - self.done - self.failed

    def add(self, receipt: Receipt) -> None:
        """Count a finished task."""
        self.count(receipt["points"] - receipt["stale"], receipt["failed"])
        self.stale += receipt["stale"]
        self.noted += receipt["noted"]
        self.computed += receipt["points"]
        self.compute_seconds += receipt["compute_seconds"]
        self.compile_seconds += receipt["compile_seconds"]
        self.write_seconds += receipt["write_seconds"]

    def count(self, points: int, failed: int) -> None:
        """Count the points of a block that is committed."""
        self.done += points - failed
        self.failed += failed


class Stop:
    """A person's wish to end: asked once, blocks in flight are finished; twice, dropped.

    Before there are any, the first wish raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.is_short_of_time = False  # a batch system says that the end is near
        self._has_blocks = False
        self._is_held = False
        self._may_drop = False

    @contextmanager
    def on_signals(
        self, say: Callable[[str], None], *, in_job: bool = False, with_ranks: bool = False
    ) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM as that wish, where this is the main thread.

        With `in_job`, as a batch system means them: SIGUSR1 says that time is nearly over, so
        that no more blocks are begun, and SIGTERM that the end comes within seconds. `with_ranks`
        SIGUSR2 says the latter. SIGTERM is what a launcher sends after the death of a rank, before
        it kills them all. That is waited for: to end in order would wipe out what tells who is to
        blame, and what was handed out now would be repeated.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: object) -> None:
            self.asked += 1
            if not self._has_blocks:
                if self.asked == 1 and not self._is_held:
                    raise KeyboardInterrupt
                return  # it is ending already, or will
            if self.asked == 1:
                say("Stopping when the blocks in flight are done; Ctrl-C again drops them.")
            elif self._may_drop:
                raise Dropped

        def end(number: int, frame: object) -> None:
            self.asked += self._has_blocks  # they are not waited for
            ask(number, frame)

        def hurry(number: int, frame: object) -> None:
            self.is_short_of_time = True

        def wait_to_be_killed(number: int, frame: object) -> None:
            over = time.monotonic() + KILL_SECONDS
            while not self.asked:
                if time.monotonic() > over:
                    os._exit(128 + number)
                time.sleep(PAUSE_SECONDS)

        handlers = {signal.SIGINT: ask, signal.SIGTERM: end if in_job else ask}
        if in_job:
            handlers[signal.SIGUSR1] = hurry
        if in_job and with_ranks:
            handlers |= {signal.SIGTERM: wait_to_be_killed, signal.SIGUSR2: end}
        old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let what is done inside come to its end before the first wish is granted."""
        self._is_held, before = True, self.asked
        try:
            yield
        finally:
            self._is_held = False
        if self.asked > before:
            raise KeyboardInterrupt

    def begin_blocks(self) -> None:
        """Say that from now on there are blocks to finish."""
        self._has_blocks = True

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Let the second wish end what runs inside, however long it would take, by `Dropped`."""
        self._may_drop = True
        try:
            yield
        finally:
            self._may_drop = False


@dataclass(frozen=True)
class Orders:
    """What a drive asks of workers.

    Parameters
    ----------
    function
        ``"module:function"`` that runs a batch and returns receipts.
    arguments
        Its arguments but ``blocks``, ``submitted`` and ``limits``.
    deadline
        How long a point may take.
    retries
        How often a point that raised is tried again.
    fail_fast
        Whether to stop when a point has failed.
    until
        When this run has to be over, on the monotonic clock [s]: nothing is begun that may not
        come to its end before. None: whenever.
    """

    function: str
    arguments: Mapping[str, Any]
    deadline: Deadline = field(default_factory=Deadline)
    retries: int = 0
    fail_fast: bool = False
    until: float | None = None


@dataclass
class _Batch:
    """A batch in flight: since when, the deadline that its worker minds, and what it is at."""

    attempts: list[Attempt]
    since: float
    hard_seconds: float | None
    at: tuple[int, int] | None = None  # block and point, as far as is known
    at_since: float = 0.0

    @property
    def points(self) -> int:
        return sum(attempt.block.points for attempt in self.attempts)

    def look(self, block: int, point: int) -> None:
        """Take note of what its worker is at."""
        if (block, point) != self.at:
            self.at, self.at_since = (block, point), time.monotonic()

    def most_seconds(self, retries: int) -> float:
        """Return how long its worker may be at the same, its own timer out of order."""
        assert self.hard_seconds is not None
        block, point = self.at or (0, NO_POINT)
        if point == NO_POINT:
            return math.inf
        sizes = (a.block.points for a in self.attempts if a.block.number == block)
        points = max(sizes, default=1) if point == WHOLE_BLOCK else 1
        return 2.0 * self.hard_seconds * (1 + retries) * points + COMPILE_SECONDS


class Drive:
    """One run's loop over an engine.

    Parameters
    ----------
    engine
        Started.
    feed
        What is left to do.
    orders
        What is asked of workers.
    failed_points
        Tells how many points of a block failed, or None if the block is not committed.
    marks
        Tells what workers are at, or were when they died: (block's number, number of the attempt,
        point), of each.
    """

    def __init__(
        self,
        engine: Engine,
        feed: Feed,
        orders: Orders,
        failed_points: Callable[[Block], int | None],
        marks: Callable[[], Iterable[tuple[int, int, int]]],
    ) -> None:
        self._engine = engine
        self._feed = feed
        self._tried: int | None = None  # ticket of the last suspect
        self._again: deque[Attempt] = deque()
        self._orders = orders
        self._failed_points = failed_points
        self._marks = marks
        self._looked = time.monotonic()
        self._block_seconds: float | None = None  # measured, smoothed
        self._live: dict[int, _Batch] = {}
        self._overdue: set[int] = set()  # tickets whose workers were ended for it
        self._is_over = False  # a point failed, and nobody wants more
        self.is_out_of_time = False  # what is left does not end in time

    def run(self, tally: Tally, stop: Stop, report: Callable[[Tally], None]) -> None:
        """Hand out everything, or until asked to stop; `report` is called again and again.

        Raises
        ------
        WorkerError
            If a worker could not do its part: read the study, say.
        StoreError, DiskError
            If it could not write the store.
        """
        stop.begin_blocks()
        with suppress(Dropped):
            while stop.asked < 2:
                if self._is_late():
                    self.is_out_of_time = True  # what is in flight is dropped
                    break
                self.is_out_of_time |= stop.is_short_of_time
                is_filling = not (stop.asked or self._is_over or self.is_out_of_time)
                if is_filling:
                    self._fill(tally)
                if not self._live:
                    if not is_filling or self.is_out_of_time or self._has_nothing():
                        break
                    if not self._engine.capacity:
                        break
                    time.sleep(PAUSE_SECONDS)
                with stop.dropping():
                    ended = self._engine.wait(0.2)
                for ticket, outcome in ended:
                    if ticket in self._live:  # else a call of before: workers were prepared
                        self._take(ticket, outcome, tally)
                self._end_overdue()
                report(tally)

    # --- handing out ---------------------------------------------------------------------

    def _has_nothing(self) -> bool:
        return not self._again and self._feed.is_over()

    def _is_late(self) -> bool:
        until = self._orders.until
        return until is not None and time.monotonic() > until - END_SECONDS

    def _fill(self, tally: Tally) -> None:
        while len(self._live) < self._window() and not self._is_quiet():
            batch = self._next_batch(tally)
            if not batch:
                return
            if not all(self._fits(attempt.block) for attempt in batch):
                for attempt in batch:
                    self._feed.release(attempt.block)
                self.is_out_of_time = True
                return
            orders = self._orders
            hard = orders.deadline.hard_seconds
            limits = {"seconds": orders.deadline.seconds, "retries": orders.retries}
            ticket = self._engine.submit(
                orders.function,
                {
                    **orders.arguments,
                    "blocks": [attempt.message() for attempt in batch],
                    "submitted": time.time(),
                    "limits": {**limits, "hard_seconds": hard},
                },
            )
            self._live[ticket] = _Batch(batch, time.monotonic(), hard)
            if batch[0].is_suspect:
                self._tried = ticket

    def _is_quiet(self) -> bool:
        """Tell whether a suspect is at work that nothing else may be beside."""
        tried = self._live.get(self._tried) if self._tried else None
        return tried is not None and tried.attempts[0].needs_quiet

    def _fits(self, block: Block) -> bool:
        """Tell whether a block will come to its end in time, as far as its time is known."""
        if self._orders.until is None:
            return True
        known = self._orders.deadline.block_seconds(block.points)
        takes = max(self._block_seconds or 0.0, known)
        waits = BATCH_SECONDS + (0.0 if self._is_long() else LONG_SECONDS)  # behind others
        return time.monotonic() + waits + takes < self._orders.until - END_SECONDS

    def _window(self) -> int:
        """Return how many batches may be in flight: one a worker while they may be long ones."""
        is_short = self._block_seconds is not None and not self._is_long()
        return self._engine.capacity * (2 if is_short else 1)

    def _is_long(self) -> bool:
        return self._block_seconds is not None and self._block_seconds > LONG_SECONDS

    def _next_batch(self, tally: Tally) -> list[Attempt]:
        """Return as many blocks as fill a batch's time; one alone if it was tried before.

        What somebody else has committed meanwhile is counted and left out.
        """
        if not self._again and (batch := self._fresh_batch(tally)):
            return batch
        if not self._again or (self._again[0].needs_quiet and self._live):
            return []
        return [self._again.popleft()]

    def _fresh_batch(self, tally: Tally) -> list[Attempt]:
        """Return blocks that nobody has tried, as far as is known.

        At a suspect a whole process died: one is tried at a time, so that another death says more.
        """
        batch: list[Attempt] = []
        wanted = self._batch_blocks()
        while len(batch) < wanted:
            is_none_tried = not self._again and self._tried not in self._live
            attempt = self._feed.next(suspects=is_none_tried)
            if attempt is None:
                break
            failed = self._failed_points(attempt.block)
            if failed is not None:
                tally.count(attempt.block.points, failed)
                self._feed.release(attempt.block)
            elif attempt.is_suspect:
                self._again.append(attempt)
            else:
                batch.append(attempt)
        return batch

    def _batch_blocks(self) -> int:
        if self._block_seconds is None:
            return 1
        fills = int(BATCH_SECONDS / max(self._block_seconds, 1e-6))
        balanced = math.ceil(self._feed.left / (2 * self._engine.capacity))
        return max(1, min(fills, balanced))

    def _end_overdue(self) -> None:
        """End workers that should have ended by themselves.

        A worker minds the deadline itself, unless none was known when its batch was handed out,
        or a model has put its timer out of order. For the first, all points of a batch get
        their time, and as much for waiting in line; the others are seen to stand still.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        self._look()
        hard = self._orders.deadline.hard_seconds
        for ticket, batch in self._live.items():
            if batch.hard_seconds is not None:
                is_overdue = now - batch.at_since > batch.most_seconds(self._orders.retries)
            else:
                is_overdue = hard is not None and now - batch.since > 2 * hard * batch.points
            if is_overdue and ticket not in self._overdue:
                self._overdue.add(ticket)
                self._engine.kill(ticket)

    def _look(self) -> None:
        """Take note of what the workers are at."""
        batches = {
            (attempt.block.number, attempt.number): batch
            for batch in self._live.values()
            for attempt in batch.attempts
        }
        for block, number, point in self._marks():
            if batch := batches.get((block, number)):
                batch.look(block, point)

    # --- taking back ---------------------------------------------------------------------

    def _take(self, ticket: int, outcome: Outcome, tally: Tally) -> None:
        batch = self._live.pop(ticket).attempts
        match outcome:
            case Done(receipts):
                for receipt in receipts:
                    tally.add(receipt)
                    if receipt["compute_seconds"]:  # else somebody else had done it
                        self._learn(receipt)
                for attempt in batch:
                    self._feed.release(attempt.block)
                self._is_over |= self._orders.fail_fast and tally.failed > 0
            case Lost():
                tally.lost_workers += 1
                if ticket in self._overdue:
                    outcome = Lost("It took too long, beside the other points.", "timeout")
                self._take_lost(batch, outcome, tally)
            case Raised(kind, text, trace):
                raise raised_error(kind, text, trace)

    def _learn(self, receipt: Receipt) -> None:
        computing = receipt["compute_seconds"]
        self._orders.deadline.learn(receipt["points"], receipt["slowest_seconds"], computing)
        took = computing + receipt["write_seconds"]
        if self._block_seconds is None:
            self._block_seconds = took
        self._block_seconds += SMOOTHING * (took - self._block_seconds)

    def _take_lost(self, batch: list[Attempt], lost: Lost, tally: Tally) -> None:
        """Count what was committed; find out who is to blame; have the rest tried again.

        Blocks are computed one after the other, so the first that is not committed was at work,
        and those behind it had not begun.
        """
        left = []
        for attempt in batch:
            failed = self._failed_points(attempt.block)
            if failed is None:
                left.append(attempt)
            else:
                tally.count(attempt.block.points, failed)
                self._feed.release(attempt.block)
        if left:
            at_work = left[0]
            own = (at_work.block.number, at_work.number)
            point = next((mark[2] for mark in self._marks() if mark[:2] == own), None)
            at_work.take_death(point, lost)
            if at_work.unexplained >= MOST_ATTEMPTS:
                tally.lost_blocks.append((at_work.block, lost.reason))
                self._feed.release(at_work.block)
                del left[0]
        self._again.extendleft(reversed(left))
