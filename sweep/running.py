"""One process's run on one store, from its number to its summary: drive, record, tables.

The driver of a store holds its lease and computes all that is left; one that joins does so beside
it. A process that has a part, an element of a job array say, begins with its share, under a run
number that many have in common, and goes on with what others have not begun.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sweep.changes import same_code
from sweep.deadline import Deadline
from sweep.definition import Pipeline
from sweep.delivery import Message
from sweep.drive import Drive, Orders, Stop, Tally
from sweep.engines import Engine
from sweep.errors import StoreBusy, counted, short_path, writing
from sweep.feed import ClaimedFeed, Feed, ShareFeed
from sweep.journal import recent_records
from sweep.marks import read_marks
from sweep.options import Options
from sweep.plan import Block
from sweep.progress import Reporter
from sweep.provenance import gather
from sweep.source import code_hash
from sweep.store import OPEN_STATES, Store, count_failed, is_settled
from sweep.store.claims import Claims, clear_the_dead
from sweep.store.holder import JobEnded, nobody_knows
from sweep.store.lease import Lease
from sweep.store.tables import Tables
from sweep.study import Study, script_of
from sweep.summary import Summary

FOLD_SECONDS = 30.0  # between two renewals of the tables
JOIN_SECONDS = 10.0  # that the other driver may take to end when nothing is left
RECORDS = 1000  # that are asked how long points take


@dataclass(frozen=True)
class Part:
    """A part in a sweep that other processes compute, too.

    Parameters
    ----------
    run
        Number of the run that it belongs to; None: a run of its own.
    share
        With which share it begins, from 0, of how many.
    until
        When it has to be over [s since 1970]; None: whenever.
    """

    run: int | None = None
    share: tuple[int, int] = (0, 1)
    until: float | None = None


class Running:
    """One process's run on one store, from its number to its summary.

    Parameters
    ----------
    store, pipeline, study
        What to compute; `study` is None for a pipeline of a notebook or a script.
    engine, message
        Where, and how the pipeline is told there.
    lease
        On the store; None beside another driver, and for a part.
    part
        None: all that is left.
    """

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        study: Study | None,
        engine: Engine,
        message: Message,
        lease: Lease | None,
        part: Part | None = None,
    ) -> None:
        self.store, self.pipeline = store, pipeline
        self.engine, self.message = engine, message
        self.lease, self.part = lease, part
        # Not beside the first points: Python 3.11's parser fails if two threads are at it.
        self.file, source = (study.file, study.source) if study else script_of(pipeline)
        self.record = new_record(source, f"{engine.name}, workers: {engine.capacity}")
        self.is_shared = part is not None and part.run is not None
        self.tables = Tables(store)
        self._folded = time.monotonic()

    def go(self, options: Options, stop: Stop, reporter: Reporter, begun: float) -> Summary:
        """Compute what is left, keep record of it, and return what became of it.

        `begun` is when the run was asked for, on the monotonic clock [s].
        """
        if self.lease:
            note_the_killed(self.store, options.has_ended)
        number = self._begin()
        with Claims(self.store, number, options.has_ended).open() as claims:
            feed, tally = self._feed(claims)
            self.points_left = feed.points_left if isinstance(feed, ShareFeed) else None
            reporter.say(self._opening(feed, tally))
            orders = self._orders(number, claims, options)
            drive = Drive(self.engine, feed, orders, self._failed_points, lambda: _marks(claims))
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
            self._settle(number, tally)
        return Summary(
            self.store.path,
            number,
            tally,
            time.monotonic() - begun,
            self.engine.capacity,
            interrupted=bool(stop.asked and tally.left),
            code_changed_since=self._other_code(number),
            failed_fast=bool(options.fail_fast and tally.failed and tally.left),
            out_of_time=bool(drive.is_out_of_time and tally.left),
            has_end=orders.until is not None,
        )

    def _begin(self) -> int:
        """Return the number of the run."""
        if self.part is None or self.part.run is None:
            if self.part:
                self.record["reopened"] = self.store.unsettled()
            return self.store.begin_run(self.record)
        self.record = self.store.read_run(self.part.run)
        if self.record["state"] == "queued":
            self.store.note_begun(self.part.run)
        return self.part.run

    def _feed(self, claims: Claims) -> tuple[Feed, Tally]:
        """Return what is to be computed, and the count of what is done."""
        if self.part:
            share = ShareFeed(claims, self.part.share)
            points = self.store.grid.points
            return share, Tally(points, points - share.points_left(), 0)
        todo, done, failed = self.store.survey()
        feed = ClaimedFeed(claims, todo, backwards=self.lease is None)
        return feed, Tally(self.store.grid.points, done, failed)

    def _orders(self, number: int, claims: Claims, options: Options) -> Orders:
        deadline = Deadline(options.timeout, 60.0 * self.pipeline.needs.minutes)
        for record in islice(recent_records(self.store.journal_folder), RECORDS):
            slowest, computing = record.get("slowest_seconds", 0.0), record["compute_seconds"]
            deadline.learn(record["points"], slowest, computing)
        until = None
        if self.part and self.part.until is not None:
            until = time.monotonic() + self.part.until - time.time()
        return Orders(
            "sweep.worker:run_batch",
            {
                "store": str(self.store.path),
                "study": dict(self.message),
                "run": number,
                "marks": str(claims.mark_folder),
                "threads": self.pipeline.needs.cores,
            },
            deadline,
            options.retries,
            options.fail_fast,
            until,
        )

    def _opening(self, feed: Feed, tally: Tally) -> str:
        axes = " x ".join(f"{size} {dim}" for dim, size in self.pipeline.dims.items())
        link = getattr(self.engine, "dashboard_link", "")
        shown = f", dashboard at {link}" if link else ""
        mine = " to begin with" if self.part else ""
        return (
            f"{short_path(self.store.path)}: {tally.left} of {tally.points} points to do"
            f"{axes and f' ({axes})'}, {counted(feed.left, 'block')}{mine}, on {self.engine.name}, "
            f"{counted(self.engine.capacity, 'worker')}{shown}"
        )

    def _describe(self, number: int) -> None:
        """Take down who and what runs, beside the first points and not before them."""
        if not self.is_shared:
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

    def _failed_points(self, block: Block) -> int | None:
        status = self.store.read_status(block)
        if status is None or not is_settled(status):
            return None
        return count_failed(status)

    def _end(self, number: int, tally: Tally, stop: Stop) -> None:
        if not self.lease or tally.left:  # others were at it, or blocks are done in part
            self._count_anew(tally)
        state = "complete" if not tally.left else "interrupted" if stop.asked else "incomplete"
        if not self.is_shared:
            self.record |= {"ended": time.time(), "state": state}
            self.store.update_run(number, self.record)
        if self.lease:
            if not tally.left:
                complete(self.store)
            self._fold()

    def _count_anew(self, tally: Tally) -> None:
        if self.points_left:  # to read all that there is would be too much for each of many
            tally.done = tally.points - tally.failed - self.points_left()
        else:
            counts = self.store.count_points()
            tally.done, tally.failed = counts["done"], counts["failed"]

    def _settle(self, number: int, tally: Tally) -> None:
        """Bring records and tables up to date, unless the driver that there is will do so."""
        if self.is_shared and tally.left:
            return
        with suppress(StoreBusy), Lease.take(self.store, 0.0 if tally.left else JOIN_SECONDS):
            settle(self.store, number)

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


def new_record(source: Mapping[str, str], engine: str, state: str = "running") -> dict[str, Any]:
    """Return the record of a run that begins now, by this process."""
    return {
        "started": time.time(),
        "ended": None,
        "state": state,
        "engine": engine,
        "argv": sys.argv,
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "source": dict(source),
        "code_hash": code_hash(source),
    }


def settle(store: Store, number: int) -> None:
    """Say in the record of a run if it is complete, and bring the tables up to date.

    For who holds the lease.
    """
    if not store.plan().blocks_left:
        complete(store, number)
        note_the_killed(store)
    Tables(store).catch_up()


def complete(store: Store, *numbers: int) -> None:
    """Say of these runs, and of all submissions, that they are complete: nothing is left.

    The jobs of a submission may have left before, or be waiting still.
    """
    for number in store.run_files():
        record = store.read_run(number)
        is_open = record["state"] in OPEN_STATES
        if is_open and (number in numbers or "jobs" in record):
            store.update_run(number, {**record, "state": "complete", "ended": time.time()})


def _marks(claims: Claims) -> Iterator[tuple[int, int, int]]:
    """Yield what the workers of this process are at: block, attempt, point."""
    return (mark[1:] for mark in read_marks(claims.mark_folder) if mark.run == claims.run)


def note_the_killed(store: Store, has_ended: JobEnded = nobody_knows) -> None:
    """Put an end to what processes left that are gone: records of their runs, claims, marks.

    For who holds the lease.
    """
    clear_the_dead(store, has_ended)
    for number in store.run_files():
        record = store.read_run(number)
        is_own = record["hostname"] == socket.gethostname() and "jobs" not in record
        if record["state"] == "running" and is_own and not _is_alive(record["pid"]):
            store.update_run(number, {**record, "state": "killed"})


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
        note_the_killed(store)
        Tables(store).catch_up()
    return Summary(store.path, None, _tally(store), 0.0, 0, False, None)
