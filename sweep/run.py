"""The one place where all meet: study, plan, engine, store, and the record of the run.

Outputs never pass through the driver, and what is true stands on disk: a driver that dies
costs no more than the blocks in flight.
"""

import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweep.changes import refuse_changed_code, same_code
from sweep.deadline import Deadline
from sweep.definition import Pipeline
from sweep.delivery import Message, sent
from sweep.drive import Drive, Orders, Stop, Tally
from sweep.engines import Engine, make_engine, usable_cores
from sweep.engines.memory import usable_memory
from sweep.errors import (
    EngineError,
    StoreBusy,
    StoreError,
    StudyError,
    counted,
    resume_command,
    short_path,
    writing,
)
from sweep.forecast import (
    PILOT_SECONDS,
    PLAN_SECONDS,
    TABLE_FILES,
    Forecast,
    choose_grid,
    forecast,
    measure_commit,
    needs_timing,
    sizes,
    time_a_few,
)
from sweep.grow import extended
from sweep.journal import recent_records
from sweep.marks import read_marks, remove_marks
from sweep.plan import Block, Grid, Plan
from sweep.progress import Reporter
from sweep.provenance import gather
from sweep.source import code_hash
from sweep.store import Store, count_failed, exists
from sweep.store.create import create_store
from sweep.store.lease import Lease
from sweep.store.leftovers import sweep_leftovers
from sweep.store.room import check_room
from sweep.store.tables import Tables, iso_time
from sweep.study import Study, load_study, script_of

FOLD_SECONDS = 30.0  # between two renewals of the tables
JOIN_SECONDS = 10.0  # that the other driver may take to end when nothing is left


@dataclass(frozen=True)
class Options:
    """How to run: which engine, with how many workers, and what to do with points that fail.

    Parameters
    ----------
    on, workers, tls_dir, dashboard
        See `sweep.run`.
    timeout
        How long a point may take [s]; None: as the others show.
    retries
        How often a point that raised is tried again.
    fail_fast
        Stop when a point has failed.
    retry_failed
        Compute the points again that failed in earlier runs.
    accept_changes
        Go on although the code is another than that of the last run.
    join
        Work beside the driver that the store has.
    """

    on: str | Executor = "dask"
    workers: int | None = None
    tls_dir: Path | None = None
    dashboard: bool = False
    timeout: float | None = None
    retries: int = 0
    fail_fast: bool = False
    retry_failed: bool = False
    accept_changes: bool = False
    join: bool = False

    def __post_init__(self) -> None:
        is_number = isinstance(self.timeout, (int, float)) and not isinstance(self.timeout, bool)
        if self.timeout is not None and not (is_number and 0 < self.timeout < math.inf):
            raise EngineError(f"timeout={self.timeout!r}: give seconds, more than 0.")
        if type(self.retries) is not int or self.retries < 0:
            raise EngineError(f"retries={self.retries!r}: give a whole number, 0 or more.")
        if self.join and self.retry_failed:
            raise EngineError(
                "join goes without retry_failed: who joins does what the driver of the store has "
                "to do. Let that finish first."
            )

    def engine(self, pipeline: Pipeline, tasks: int) -> Engine:
        """Return the engine for at most so many tasks of a pipeline, not yet started.

        Raises
        ------
        EngineError
            If there is no such engine, or an option does not go with it.
        """
        if self.workers is not None and (type(self.workers) is not int or self.workers < 1):
            raise EngineError(f"workers={self.workers!r}: give a whole number, at least 1.")
        is_remote = isinstance(self.on, str) and self.on.startswith("tls://")
        if self.workers and (is_remote or self.on == "serial"):
            raise EngineError(
                f"workers={self.workers} does not go with {self.on}, "
                + ("whose workers run already." if is_remote else "which is this very process.")
                + " Leave it out."
            )
        if self.dashboard and self.on != "dask":
            raise EngineError(f"dashboard goes with dask, not with {self.on}.")
        if self.tls_dir and not is_remote:
            raise EngineError(f"tls_dir goes with tls://host:port, not with {self.on}.")
        memory, needs = usable_memory(), pipeline.needs
        fit = max(1, min(usable_cores() // needs.cores, memory // needs.memory_bytes))
        workers = self.workers or min(fit, tasks)
        return make_engine(
            self.on,
            workers=workers,
            threads=needs.cores,
            memory_bytes=memory // workers,
            dashboard=self.dashboard,
            tls_dir=self.tls_dir,
        )


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


def execute(
    pipeline: Pipeline, study: Study | None, path: Path, options: Options, reporter: Reporter
) -> Summary:
    """Compute what is missing of a sweep in the store at `path`, which is made if need be.

    `study` says where the pipeline lies; None sends it to the workers by value.

    Raises
    ------
    StoreBusy
        If the store has another driver.
    StoreMismatch
        If it holds another sweep, or was computed by other code.
    DiskError
        If there is no room for what is left, or the disk refuses.
    """
    pipeline.check_complete()
    begun = time.monotonic()
    with ExitStack() as held:
        store = Store(path) if exists(path) else None
        lease = None
        if store is not None:
            store.check_same(pipeline)
            if not _has_work(store, options):
                return _nothing_left(store)
            with writing(path):
                lease = None if options.join else held.enter_context(Lease.take(store))
                _make_ready(store, pipeline, study, options, reporter)
        elif options.join:
            raise StoreError(f"{path} is no store yet, so there is nothing to join.")
        tasks = store.plan().blocks_left if store else math.prod(pipeline.dims.values())
        engine = options.engine(pipeline, tasks)
        stop = Stop()
        message = held.enter_context(sent(pipeline, study, options.on))
        held.enter_context(stop.on_signals(reporter.say))
        held.callback(engine.close)
        engine.start()
        for _ in range(engine.capacity):
            engine.submit("sweep.worker:prepare", {"study": dict(message)})
        if store is None:
            grid = _grid(pipeline, path, engine, message)
            _check_room(path, pipeline, grid.points, grid.blocks, reporter)
            with stop.held_back():
                store = create_with(pipeline, study, path, grid)
            with writing(path):
                lease = held.enter_context(Lease.take(store))
        if lease is not None:
            held.enter_context(lease.kept_alive())
        running = _Running(store, pipeline, study, engine, message, lease)
        with writing(path):
            return running.go(options, stop, reporter, begun)


def _has_work(store: Store, options: Options) -> bool:
    if store.plan().blocks_left:
        return True
    return options.retry_failed and store.count_points()["failed"] > 0


def _nothing_left(store: Store) -> Summary:
    """Put in order what a driver that was killed left undone, and say what there is."""
    with writing(store.path), suppress(StoreBusy), Lease.take(store):
        _note_the_killed(store)
        Tables(store).catch_up()
    return Summary(store.path, None, _tally(store), 0.0, 0, False, None)


def _make_ready(
    store: Store, pipeline: Pipeline, study: Study | None, options: Options, reporter: Reporter
) -> None:
    """Look whether a run may go on in a store, and clear up before it."""
    if not options.accept_changes:
        refuse_changed_code(store, study.source if study else script_of(pipeline)[1])
    if options.join:
        return
    sweep_leftovers(store.path)
    if options.retry_failed:
        count = store.forget_failures()
        reporter.say(f"{counted(count, 'failed point')} to be tried again.")
    todo = store.plan()
    _check_room(store.path, pipeline, todo.points_left, todo.blocks_left, reporter)


def _check_room(
    path: Path, pipeline: Pipeline, points: int, blocks: int, reporter: Reporter
) -> None:
    _, together, arrays = sizes(pipeline)
    if warning := check_room(path, points * together, blocks * arrays + TABLE_FILES):
        reporter.say(warning)


def resume(path: Path, options: Options, reporter: Reporter, study: Study | None) -> Summary:
    """Compute what is missing in a store; `study` says where its pipeline lies by now."""
    store = Store(path)
    found = study or remembered_study(store)
    return execute(store.bind(found.pipeline), found, store.path, options, reporter)


def extend(
    path: Path,
    values: Callable[[Pipeline], Mapping[str, Any]],
    into: Path | None,
    options: Options,
    reporter: Reporter,
    study: Study | None,
) -> Summary:
    """Add values to the axes of a sweep, and compute the points that are new.

    Parameters
    ----------
    path
        Of the store.
    values
        Returns parameter -> values, given the store's pipeline.
    into
        Where a new store is to be; None to grow in place.
    options, reporter
        How to compute.
    study
        Where the pipeline lies by now, if not where it was.

    Raises
    ------
    StoreError
        If it cannot grow in place; with what to type instead.
    """
    store = Store(path)
    found = study or remembered_study(store)
    bound = store.bind(found.pipeline)
    if not options.accept_changes:
        refuse_changed_code(store, found.source)
    with writing(into or path), Lease.take(store):
        grown = extended(store, bound, values(bound), into)
    store = Store(grown.path)
    return execute(store.bind(found.pipeline), found, store.path, options, reporter)


def remembered_study(store: Store) -> Study:
    """Return the study that a store was made with.

    Raises
    ------
    StudyError
        If it was defined in a notebook or a script, or its file has moved.
    """
    reference = store.header.study
    if reference is None:
        raise StudyError(
            f"The pipeline of {store.path} was defined in a notebook or a script. Resume it "
            "from there: sweep.run(pipeline, store)."
        )
    file = (store.path / reference["file"]).resolve()
    if not file.exists():
        raise StudyError(
            f"The pipeline of {store.path} was in {file}, which is gone. Say where it is now: "
            f"{resume_command(store.path)} --pipeline FILE"
        )
    return load_study(f"{file}:{reference['name']}")


def estimate(
    pipeline: Pipeline, study: Study | None, path: Path | None, workers: int | None
) -> Forecast:
    """Return what is left of a sweep and what it will cost."""
    pipeline.check_complete()
    options = Options("processes", workers)
    points = math.prod(pipeline.dims.values())
    count = options.engine(pipeline, points).capacity
    commit = _commit_seconds(pipeline, path or Path("a.zarr"))
    store = Store(path) if path and exists(path) else None
    if store is not None:
        store.check_same(pipeline)
        todo, failed = store.plan(), store.count_points()["failed"]
        if not todo.blocks_left:
            return forecast(pipeline, store.grid, (0, 0), failed, None, commit, count)
    engine = Options("processes", 1).engine(pipeline, 1)
    with sent(pipeline, study, "processes") as message:
        try:
            engine.start()
            timing = time_a_few(engine, message, pipeline, PLAN_SECONDS)
        finally:
            engine.close()
    if store is not None:
        left = (todo.blocks_left, todo.points_left)
        return forecast(pipeline, store.grid, left, failed, timing, commit, count)
    used = timing if needs_timing(pipeline) else None
    grid = choose_grid(pipeline, used, count, commit)
    return forecast(pipeline, grid, (grid.blocks, grid.points), 0, timing, commit, count)


class _Running:
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
        if self.lease:
            _note_the_killed(self.store)
        number = self.store.begin_run(self.record)
        todo, tally = self.store.plan(), _tally(self.store)
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
        if not self.lease or tally.left:
            counts = self.store.count_points()
            tally.done, tally.failed = counts["done"], counts["failed"]
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
        if status is None or not self.store.is_committed(block):
            return None
        return count_failed(status)

    def _end(self, number: int, tally: Tally, stop: Stop) -> None:
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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _tally(store: Store) -> Tally:
    counts = store.count_points(of_committed_blocks=True)
    return Tally(store.grid.points, counts["done"], counts["failed"])


def _commit_seconds(pipeline: Pipeline, path: Path) -> float:
    return measure_commit(path.absolute().parent, sizes(pipeline)[2])


def _grid(pipeline: Pipeline, path: Path, engine: Engine, message: Message) -> Grid:
    """Return the blocks of a store to be, sized by a few timed points where that matters."""
    timing = None
    if needs_timing(pipeline):
        timing = time_a_few(engine, message, pipeline, PILOT_SECONDS)
    return choose_grid(pipeline, timing, engine.capacity, _commit_seconds(pipeline, path))


def create_with(pipeline: Pipeline, study: Study | None, path: Path, grid: Grid) -> Store:
    """Make the store of a pipeline with these blocks."""
    now = iso_time(time.time())
    name = f"{study.file.name}:{study.name}" if study else pipeline.stages[-1].name
    attributes = {
        "Conventions": "CF-1.11, ACDD-1.3",
        "title": (study and study.title) or name,
        "summary": study.summary if study else "",
        "source": f"sweepzarr {version('sweepzarr')}, {name}",
        "date_created": now,
        "date_modified": now,
    }
    return create_store(path, pipeline, grid, study=_place_of(study, path), attributes=attributes)


def _place_of(study: Study | None, path: Path) -> dict[str, str] | None:
    if study is None:
        return None
    return {
        "file": os.path.relpath(study.file.resolve(), path.resolve()),
        "name": study.name,
    }
