"""One run on one store, from its number to its summary: the drive, the record, the tables."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.changes import same_code
from sweep.deadline import Deadline
from sweep.definition import Pipeline
from sweep.delivery import Message
from sweep.drive import Drive, Orders, Stop, Tally
from sweep.engines import Engine
from sweep.errors import (
    StoreBusy,
    resume_command,
    short_path,
    writing,
)
from sweep.journal import recent_records
from sweep.marks import read_marks, remove_marks
from sweep.options import Options
from sweep.plan import Block, Plan
from sweep.progress import Reporter
from sweep.provenance import gather
from sweep.source import code_hash
from sweep.store import Store, count_failed, is_settled
from sweep.store.lease import Lease
from sweep.store.tables import Tables
from sweep.study import Study, script_of

FOLD_SECONDS = 30.0  # between two renewals of the tables
JOIN_SECONDS = 10.0  # that the other driver may take to end when nothing is left


@dataclass(frozen=True)
class Summary:
    """What became of a run."""

    store: Path
    run: int | None  # None where nothing was left to do
    tally: Tally
    seconds: float
    workers: int
    interrupted: bool
    code_changed_since: int | None  # the run that had another code
    failed_fast: bool = False  # a point failed, and the rest was left

    @property
    def code_text(self) -> str:
        """What to say where the code is another than that of an earlier run."""
        return (
            f"The code has changed since run {self.code_changed_since}; the points of this run "
            f"have run={self.run}."
        )

    @property
    def efficiency(self) -> float:
        """The part of the workers' time that was spent in the stages."""
        return self.tally.compute_seconds / max(self.seconds * self.workers, 1e-9)


def lost_text(summary: Summary) -> str:
    """Say why points are left: which blocks lost their workers too often, say."""
    if summary.failed_fast:
        return f"Stopped since a point failed; {summary.tally.left} points are left."
    if summary.tally.stale:
        return (
            f"{summary.tally.stale} points that were done did not come out the same when their "
            "blocks were computed again, and are stale now: their values are those of before. "
            f"/events says which. To take the new ones: {resume_command(summary.store)}"
        )
    if not summary.tally.lost_blocks:
        return f"{summary.tally.left} points are left: the engine took no more work."
    block, reason = summary.tally.lost_blocks[0]
    count = len(summary.tally.lost_blocks)
    return (
        f"{count} block{'s' * (count > 1)} lost a worker again and again and stayed pending, the "
        f"first at {block.start}: {reason}. If a point needs more memory than there is, "
        "give fewer --workers; then resume."
    )


class Running:
    """One run on one store, from its number to its summary."""

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        study: Study | None,
        engine: Engine,
        message: Message,
        lease: Lease | None,
    ) -> None:
        self.store, self.pipeline = store, pipeline
        self.lease = lease  # None beside another driver
        # Not beside the first points: Python 3.11's parser fails if two threads are at it.
        self.file, source = (study.file, study.source) if study else script_of(pipeline)
        self.engine, self.message = engine, message
        self.record: dict[str, Any] = {
            "started": time.time(),
            "ended": None,
            "state": "running",
            "engine": f"{engine.name}, workers: {engine.capacity}",
            "argv": sys.argv,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "source": dict(source),
            "code_hash": code_hash(source),
        }
        self.tables = Tables(store)
        self._folded = time.monotonic()

    def go(self, options: Options, stop: Stop, reporter: Reporter, begun: float) -> Summary:
        """Compute what is left, keep record of it, and return what became of it.

        `begun` is when the run was asked for, on the monotonic clock [s].
        """
        if self.lease:
            _note_the_killed(self.store)
        number = self.store.begin_run(self.record)
        todo, done, failed = self.store.survey()
        tally = Tally(self.store.grid.points, done, failed)
        reporter.say(self._opening(todo))
        orders = self._orders(number, options)
        drive = Drive(
            self.engine,
            todo,
            orders,
            self._failed_points,
            lambda: self._marks(number),
        )
        with ThreadPoolExecutor(1) as beside:
            described = beside.submit(self._describe, number)
            try:
                with reporter.watching(tally):
                    drive.run(tally, stop, lambda now: self._tick(now, reporter))
            finally:
                try:
                    described.result()
                finally:
                    self._end(number, tally, stop)
        if not self.lease:
            self._fold_after_the_other(tally)
        return Summary(
            self.store.path,
            number,
            tally,
            time.monotonic() - begun,
            self.engine.capacity,
            interrupted=bool(stop.asked and tally.left),
            code_changed_since=self._other_code(number),
            failed_fast=bool(options.fail_fast and tally.failed and tally.left),
        )

    def _fold_after_the_other(self, tally: Tally) -> None:
        """Put what we did into the tables, if the other driver, which has ended, did not."""
        patience = time.monotonic() + (0.0 if tally.left else JOIN_SECONDS)
        while True:
            try:
                with Lease.take(self.store):
                    self.tables.catch_up()
                return
            except StoreBusy:
                if time.monotonic() > patience:  # it is still at work, and will do it
                    return
                time.sleep(0.1)

    def _orders(self, number: int, options: Options) -> Orders:
        deadline = Deadline(options.timeout, 60.0 * self.pipeline.needs.minutes)
        for record in recent_records(self.store.journal_folder):
            deadline.learn(record["points"], record.get("slowest_seconds", 0.0))
        return Orders(
            "sweep.worker:run_batch",
            {
                "store": str(self.store.path),
                "study": dict(self.message),
                "run": number,
                "threads": self.pipeline.needs.cores,
            },
            deadline,
            options.retries,
            options.fail_fast,
            backwards=self.lease is None,
        )

    def _opening(self, todo: Plan) -> str:
        axes = " x ".join(f"{size} {dim}" for dim, size in self.pipeline.dims.items())
        link = getattr(self.engine, "dashboard_link", "")
        shown = f", dashboard at {link}" if link else ""
        blocks = f"{todo.blocks_left} block{'s' * (todo.blocks_left > 1)}"
        workers = f"{self.engine.capacity} worker{'s' * (self.engine.capacity > 1)}"
        return (
            f"{short_path(self.store.path)}: {todo.points_left} of {todo.grid.points} points to do"
            f"{axes and f' ({axes})'}, {blocks}, on {self.engine.name}, {workers}{shown}"
        )

    def _describe(self, number: int) -> None:
        """Take down who and what runs, beside the first points and not before them."""
        self.record |= gather(self.file, sys.argv)
        self.store.update_run(number, self.record)

    def _tick(self, tally: Tally, reporter: Reporter) -> None:
        reporter.update(tally)
        if self.lease and time.monotonic() - self._folded > FOLD_SECONDS:
            self._fold()
            self._folded = time.monotonic()

    def _fold(self) -> None:
        """Renew the tables, if they are still ours to renew."""
        if self.lease and not self.lease.holds():
            raise StoreBusy(
                f"Another driver took {short_path(self.store.path)} over while this one stood "
                "still. What is committed is kept, and the other goes on."
            )
        self.tables.fold()

    def _marks(self, run: int) -> Iterator[tuple[int, int, int]]:
        """Yield what the workers of a run are at: block, attempt, point."""
        return (mark[1:] for mark in read_marks(self.store.mark_folder) if mark.run == run)

    def _failed_points(self, block: Block) -> int | None:
        status = self.store.read_status(block)
        if status is None or not is_settled(status):
            return None
        return count_failed(status)

    def _end(self, number: int, tally: Tally, stop: Stop) -> None:
        if not self.lease or tally.left:  # others were at it, or blocks are done in part
            counts = self.store.count_points()
            tally.done, tally.failed = counts["done"], counts["failed"]
        state = "complete" if not tally.left else "interrupted" if stop.asked else "incomplete"
        self.record |= {"ended": time.time(), "state": state}
        self.store.update_run(number, self.record)
        remove_marks(self.store.mark_folder, number)
        if self.lease:
            self._fold()

    def _other_code(self, number: int) -> int | None:
        """Return the newest run before this one whose code was another; None if there is none."""
        own = self.record["source"]
        earlier = [n for n in self.store.run_files() if n < number]
        others = []
        for n in earlier:
            source = self.store.read_run(n).get("source")  # a merge has none
            if source and not same_code(own, source):
                others.append(n)
        return others[-1] if others else None


def _note_the_killed(store: Store) -> None:
    """Put an end to the record of runs of this machine whose process is gone."""
    for number in store.run_files():
        record = store.read_run(number)
        is_here = record["hostname"] == socket.gethostname()
        if record["state"] == "running" and is_here and not _is_alive(record["pid"]):
            store.update_run(number, {**record, "state": "killed"})
            remove_marks(store.mark_folder, number)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _tally(store: Store) -> Tally:
    _, done, failed = store.survey()
    return Tally(store.grid.points, done, failed)


def nothing_left(store: Store) -> Summary:
    """Put in order what a driver that was killed left undone, and say what there is."""
    with writing(store.path), suppress(StoreBusy), Lease.take(store):
        _note_the_killed(store)
        Tables(store).catch_up()
    return Summary(store.path, None, _tally(store), 0.0, 0, False, None)
