"""Hand out blocks to an engine until none is left: batches, a bounded window, lost workers.

Nothing here knows a store or a study: it is given what is left to do, how to word a batch, and
how to ask whether a block is committed.
"""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sweep.engines import Done, Engine, Lost, Outcome, Raised
from sweep.errors import Dropped, raised_error
from sweep.plan import Block, Plan
from sweep.worker import Receipt

BATCH_SECONDS = 2.0  # a batch is to take this long, much beside its messages (Dask: 15 ms)
LONG_SECONDS = 5.0  # a batch that takes longer is not queued behind another
MOST_ATTEMPTS = 3  # at a block whose workers were lost
SMOOTHING = 0.3  # weight of the newest batch in the estimate of a block's time

Attempt = tuple[Block, int]


@dataclass
class Tally:
    """What has become of a run so far; the counts of points are of the whole sweep."""

    points: int
    done: int
    failed: int
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
        self.count(receipt["points"], receipt["failed"])
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
        self._has_blocks = False
        self._is_held = False
        self._may_drop = False

    @contextmanager
    def on_signals(self, say: Callable[[str], None]) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM as that wish, where this is the main thread."""
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

        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
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


class Drive:
    """One run's loop over an engine.

    Parameters
    ----------
    engine
        Started.
    plan
        What is left to do.
    function
        ``"module:function"`` that runs a batch and returns receipts.
    arguments
        Its arguments but ``blocks`` and ``submitted``.
    failed_points
        Tells how many points of a block failed, or None if the block is not committed.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        function: str,
        arguments: Mapping[str, Any],
        failed_points: Callable[[Block], int | None],
    ) -> None:
        self._engine = engine
        self._new = plan.remaining()
        self._left = plan.blocks_left
        self._again: deque[Attempt] = deque()
        self._function = function
        self._arguments = arguments
        self._failed_points = failed_points
        self._block_seconds: float | None = None  # measured, smoothed
        self._live: dict[int, list[Attempt]] = {}

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
                if not stop.asked:
                    self._fill()
                if not self._live:
                    break
                with stop.dropping():
                    ended = self._engine.wait(0.2)
                for ticket, outcome in ended:
                    if ticket in self._live:  # else a call of before: workers were prepared
                        self._take(self._live.pop(ticket), outcome, tally)
                report(tally)

    def _fill(self) -> None:
        while len(self._live) < self._window():
            batch = self._next_batch()
            if not batch:
                return
            blocks = [[block.number, attempt] for block, attempt in batch]
            ticket = self._engine.submit(
                self._function, {**self._arguments, "blocks": blocks, "submitted": time.time()}
            )
            self._live[ticket] = batch

    def _window(self) -> int:
        is_long = self._block_seconds is not None and self._block_seconds > LONG_SECONDS
        return self._engine.capacity * (1 if is_long else 2)

    def _next_batch(self) -> list[Attempt]:
        """Return as many blocks as fill a batch's time; one alone if it was tried before."""
        if self._again:
            return [self._again.popleft()]
        batch = []
        for _ in range(self._batch_blocks()):
            block = next(self._new, None)
            if block is None:
                break
            self._left -= 1
            batch.append((block, 1))
        return batch

    def _batch_blocks(self) -> int:
        if self._block_seconds is None:
            return 1
        fills = int(BATCH_SECONDS / max(self._block_seconds, 1e-6))
        balanced = math.ceil(self._left / (2 * self._engine.capacity))
        return max(1, min(fills, balanced))

    def _take(self, batch: list[Attempt], outcome: Outcome, tally: Tally) -> None:
        match outcome:
            case Done(receipts):
                for receipt in receipts:
                    tally.add(receipt)
                    self._learn(receipt)
            case Lost(reason):
                tally.lost_workers += 1
                for block, attempt in batch:
                    self._take_lost(block, attempt, reason, tally)
            case Raised(kind, text, trace):
                raise raised_error(kind, text, trace)

    def _learn(self, receipt: Receipt) -> None:
        took = receipt["compute_seconds"] + receipt["write_seconds"]
        if self._block_seconds is None:
            self._block_seconds = took
        self._block_seconds += SMOOTHING * (took - self._block_seconds)

    def _take_lost(self, block: Block, attempt: int, reason: str, tally: Tally) -> None:
        """Count a block that was committed before its worker was lost; else try it again."""
        failed = self._failed_points(block)
        if failed is not None:
            tally.count(block.points, failed)
        elif attempt < MOST_ATTEMPTS:
            self._again.append((block, attempt + 1))
        else:
            tally.lost_blocks.append((block, reason))
