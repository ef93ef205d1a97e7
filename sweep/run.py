"""The one place where all meet: study, plan, engine, store, and the record of the run.

Outputs never pass through the driver, and what is true stands on disk: a driver that dies
costs no more than the blocks in flight.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweep.changes import refuse_changed_code, refuse_other_code
from sweep.definition import Pipeline
from sweep.delivery import Message, sent
from sweep.drive import Stop
from sweep.engines import Engine
from sweep.errors import (
    StoreError,
    StudyError,
    counted,
    resume_command,
    writing,
)
from sweep.forecast import (
    PILOT_SECONDS,
    PLAN_SECONDS,
    TABLE_FILES,
    Forecast,
    Timing,
    choose_grid,
    forecast,
    measure_commit,
    needs_timing,
    sizes,
    time_a_few,
)
from sweep.grow import extended
from sweep.options import Options
from sweep.plan import BLOCK_SECONDS, Grid
from sweep.progress import Reporter
from sweep.running import Part, Running, nothing_left
from sweep.store import Store, exists
from sweep.store.claims import refuse_while_claimed
from sweep.store.create import create_store
from sweep.store.lease import Lease
from sweep.store.leftovers import sweep_leftovers
from sweep.store.room import check_room
from sweep.store.tables import iso_time
from sweep.study import Study, load_study, script_of
from sweep.summary import Summary


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
                return nothing_left(store)
            with writing(path):
                lease = None if options.join else held.enter_context(Lease.take(store))
                make_ready(store, pipeline, study, options, reporter)
        elif options.join:
            raise StoreError(f"{path} is no store yet, so there is nothing to join.")
        tasks = store.plan().blocks_left if store else math.prod(pipeline.dims.values())
        stop = Stop()
        held.enter_context(stop.on_signals(reporter.say))
        message = held.enter_context(sent(pipeline, study, options.on))
        engine = held.enter_context(_started(options.engine(pipeline, tasks), message))
        if store is None:
            grid = _grid(pipeline, path, engine, message)
            _check_room(path, pipeline, grid.points, grid.blocks, reporter)
            with stop.held_back():
                store = create_with(pipeline, study, path, grid)
            with writing(path):
                lease = held.enter_context(Lease.take(store))
        if lease is not None:
            held.enter_context(lease.kept_alive())
        running = Running(store, pipeline, study, engine, message, lease)
        with writing(path):
            return running.go(options, stop, reporter, begun)


def work(
    path: Path, part: Part, options: Options, reporter: Reporter, study: Study | None
) -> Summary:
    """Compute a part of what is missing in a store, beside others.

    Raises
    ------
    StoreMismatch
        If the study has changed since the store was made, or since it was last computed.
    """
    begun = time.monotonic()
    store = Store(path)
    found = study or remembered_study(store)
    pipeline = store.bind(found.pipeline)
    if not options.accept_changes:
        if part.run:
            refuse_other_code(store, part.run, found.source)
        else:
            refuse_changed_code(store, found.source)
    reopened = store.reopened(part.run) if part.run else store.unsettled()
    left = store.grid.blocks - len(store.numbers_with_status()) + len(reopened)
    if not left:
        return nothing_left(store)
    stop = Stop()
    with (
        stop.on_signals(reporter.say, in_job=True, with_ranks=options.on == "mpi"),
        sent(pipeline, found, options.on) as message,
        _started(options.engine(pipeline, left), message) as engine,
        writing(path),
    ):
        running = Running(store, pipeline, found, engine, message, None, part)
        return running.go(options, stop, reporter, begun)


@contextmanager
def _started(engine: Engine, message: Message) -> Iterator[Engine]:
    """Start an engine and have its workers import all that they need; close it in the end."""
    try:
        engine.start()
        for _ in range(engine.capacity):
            engine.submit("sweep.worker:prepare", {"study": dict(message)})
        yield engine
    finally:
        engine.close()


def _has_work(store: Store, options: Options) -> bool:
    if store.plan().blocks_left:
        return True
    return options.retry_failed and store.count_points()["failed"] > 0


def make_ready(
    store: Store, pipeline: Pipeline, study: Study | None, options: Options, reporter: Reporter
) -> None:
    """Look whether a run may go on in a store, and clear up before it."""
    if not options.accept_changes:
        refuse_changed_code(store, study.source if study else script_of(pipeline)[1])
    if options.join:
        return
    sweep_leftovers(store.path)
    if options.retry_failed:
        refuse_while_claimed(store)
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
        refuse_while_claimed(store)
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
    timing = timed(pipeline, study)
    if store is not None:
        left = (todo.blocks_left, todo.points_left)
        return forecast(pipeline, store.grid, left, failed, timing, commit, count)
    used = timing if needs_timing(pipeline) else None
    grid = choose_grid(pipeline, used, count, commit)
    return forecast(pipeline, grid, (grid.blocks, grid.points), 0, timing, commit, count)


def timed(pipeline: Pipeline, study: Study | None) -> Timing:
    """Time a few points on this machine.

    Raises
    ------
    WorkerError
        If the study cannot be imported.
    EngineError
        If this machine lacks what a worker needs, a GPU say.
    """
    engine = Options("processes", 1).engine(pipeline, 1)
    with sent(pipeline, study, "processes") as message:
        try:
            engine.start()
            return time_a_few(engine, message, pipeline, PLAN_SECONDS)
        finally:
            engine.close()


def grid_for(pipeline: Pipeline, path: Path, timing: Timing | None, workers: int) -> Grid:
    """Return the blocks of a store to be, for so many workers; `timing` is None if unknown."""
    if timing is None:
        timing = Timing((60.0 * pipeline.needs.minutes or BLOCK_SECONDS,))
    used = timing if needs_timing(pipeline) else None
    return choose_grid(pipeline, used, workers, _commit_seconds(pipeline, path))


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
