"""Submission: plan, make the store, write the scripts, hand them to SLURM; and the same again.

State lives in the store alone. A submission is a run of the store, whose record says under
"submission" what is needed to submit what is left once more, and under "jobs" what SLURM was given.
"""

import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slurm import keys
from slurm.job import ARRAY, ByHand, Job, shape_job
from slurm.queue import Job as Queued
from slurm.queue import has_ended, jobs, require_slurm
from slurm.script import Submission, batch_script, finalizer_script, job_name
from slurm.site import Site
from sweep.definition import Pipeline
from sweep.durable import make_folders, replace_file
from sweep.engines.srun.commands import Refused, ask
from sweep.errors import EngineError, SubmitError, SweepError, counted, short_path, writing
from sweep.forecast import Timing
from sweep.options import Options
from sweep.plan import Grid
from sweep.progress import Reporter
from sweep.provenance import gather
from sweep.run import create_with, grid_for, make_ready, timed
from sweep.running import new_record, note_the_killed
from sweep.store import Store, exists, new_sweep_id
from sweep.store.lease import Lease
from sweep.study import Study

FINISH = "-finish"  # what the names of finalizers end with
ROUNDS = 3  # that what is missing is submitted again without any progress between
WAIT_MINUTES = 6  # until it is looked again what others are at: after that they count as dead


@dataclass(frozen=True)
class Wish:
    """What a person wants of a submission.

    Parameters
    ----------
    via
        "array", "dask" or "mpi".
    by_hand
        What is not to be chosen for them.
    add
        Submit although jobs of this store are queued or running.
    retry_failed, accept_changes
        See `sweep.run`.
    """

    via: str = ARRAY
    by_hand: ByHand = field(default_factory=ByHand)
    add: bool = False
    retry_failed: bool = False
    accept_changes: bool = False


@dataclass(frozen=True)
class Draft:
    """A submission that is thought through: the shape of its jobs and the texts of its scripts."""

    job: Job
    site: Site
    submission: Submission
    grid: Grid
    blocks_left: int

    def scripts(self) -> tuple[str, str]:
        """Return the batch script, and that of what looks after the jobs.

        Raises
        ------
        SubmitError
            If something cannot be written as a script.
        """
        named = replace(self.submission, name=self.submission.name + FINISH)
        job = batch_script(self.job, self.site, self.submission)
        return job, finalizer_script(self.site, named)


@dataclass(frozen=True)
class Submitted:
    """What was submitted: to which store, under which numbers (finalizers are the last two)."""

    store: Store
    jobs: list[str]
    draft: Draft


def set_by_hand(
    time: str | None, memory: str | None, elements: int | None, workers: int | None
) -> ByHand:
    """Return what a person set, in SLURM's words.

    Raises
    ------
    SubmitError
        If it is no time or no memory.
    """
    try:
        minutes = keys.minutes(time) if time else None
    except ValueError as error:
        raise SubmitError(f"--time {time!r} {error}") from None
    if time and minutes is None:
        raise SubmitError(f"--time {time!r} is no end: blocks are chosen so that they end in time.")
    try:
        megabytes = keys.megabytes(memory) if memory else None
    except ValueError as error:
        raise SubmitError(f"--memory {memory!r} {error}") from None
    return ByHand(minutes, megabytes, elements, workers)


def timed_if_possible(pipeline: Pipeline, study: Study, reporter: Reporter) -> Timing | None:
    """Time a few points and say why if none can be; None where this machine lacks their GPUs."""
    untimed = "No point was timed here, so the pipeline's own needs count"
    try:
        timing = timed(pipeline, study)
    except SweepError as error:
        if not pipeline.needs.gpus:
            raise
        reporter.say(f"{untimed}: {error}")
        return None
    if timing.at_least:
        reporter.say(f"{untimed}: {timing.why}")
    return timing


def draft(
    pipeline: Pipeline, study: Study, path: Path, site: Site, wish: Wish, timing: Timing | None
) -> Draft:
    """Return what would be submitted; nothing is written.

    `timing` is of a few points; None where none could be timed.

    Raises
    ------
    SubmitError
        If the sweep does not fit the site, or nothing is left.
    """
    known = timing if timing and not timing.at_least else None
    mean, slowest = (known.mean, known.slowest) if known else (None, None)

    def shaped(points: int, blocks: int) -> Job:
        return shape_job(
            points, blocks, mean, slowest, pipeline.needs, site, wish.via, wish.by_hand
        )

    if exists(path):
        store = Store(path)
        store.check_same(pipeline)
        todo = store.plan()
        grid, blocks, points = store.grid, todo.blocks_left, todo.points_left
        if wish.retry_failed and not blocks:
            points = blocks = store.count_points()["failed"]
        sweep_id = store.header.sweep_id
    else:
        points = Grid(tuple(pipeline.dims.values()), (1,) * len(pipeline.dims)).points
        rough = shaped(points, points)
        grid = grid_for(pipeline, path, known, rough.workers * rough.elements)
        blocks, sweep_id = grid.blocks, new_sweep_id()
    run = 1 + max(Store(path).run_files(), default=0) if exists(path) else 1
    submission = Submission(
        path.absolute(),
        sys.executable,
        run,
        job_name(path, sweep_id),
        folder_of(path) / "logs",
        Path.cwd(),
    )
    return Draft(shaped(points, blocks), site, submission, grid, blocks)


def folder_of(store: Path) -> Path:
    """Return the folder beside a store that its scripts and logs lie in."""
    path = store.absolute()
    return path.with_name(f"{path.name}.jobs")


def submit(
    pipeline: Pipeline, study: Study, path: Path, site: Site, wish: Wish, reporter: Reporter
) -> Submitted | None:
    """Have SLURM compute what is missing of a sweep, in the store at `path`, made if need be.

    Returns
    -------
    What was submitted; None if nothing is left.

    Raises
    ------
    SubmitError
        If jobs of this store are queued or running, the sweep does not fit the site, or SLURM
        refuses; nothing is left behind then.
    StoreMismatch, StoreBusy, DiskError
        As for `sweep.run`.
    """
    pipeline.check_complete()
    require_slurm()
    store = Store(path) if exists(path) else None
    if store:
        store.check_same(pipeline)
        if not wish.add:
            refuse_while_queued(store)
        if not store.plan().blocks_left and not (
            wish.retry_failed and store.count_points()["failed"]
        ):
            return None
    timing = timed_if_possible(pipeline, study, reporter)
    planned = draft(pipeline, study, path, site, wish, timing)
    planned.scripts()
    with writing(path):
        is_new = store is None
        store = store or create_with(pipeline, study, path, planned.grid)
        with (
            Lease.take(store) as lease,
            lease.kept_alive(),
            _removed_if_refused(store, is_new),
        ):
            if not wish.add:  # another submission may have come while points were timed
                refuse_while_queued(store)
            end_runs(store, "killed", jobs_of(store))
            note_the_killed(store, has_ended(store.path))
            options = Options(
                "processes", retry_failed=wish.retry_failed, accept_changes=wish.accept_changes
            )
            make_ready(store, pipeline, study, options, reporter)
            planned = draft(pipeline, study, path, site, wish, timing)
            return Submitted(store, _hand_in(store, study, planned), planned)


@contextmanager
def _removed_if_refused(store: Store, is_new: bool) -> Iterator[None]:
    """Remove a store that was made for a submission which SLURM refuses."""
    try:
        yield
    except SweepError:
        if is_new and not store.run_files() and not len(store.numbers_with_status()):
            shutil.rmtree(store.path)
        raise


def end_runs(store: Store, state: str, queued: Sequence[Queued] = (), but: int = 0) -> None:
    """Say what became of the open submissions none of whose jobs is in the queue, but of one."""
    living = {job.shown.partition("_")[0] for job in queued}
    records = {n: store.read_run(n) for n in store.run_files() if store.has_jobs(n)}
    if not living <= {job for record in records.values() for job in record["jobs"]}:
        return  # some finalizer is on no record, and may be that of any
    for number, record in records.items():
        if number != but and living.isdisjoint(record["jobs"]):
            ended = None if state == "killed" else time.time()  # nobody knows when
            store.update_run(number, record | {"state": state, "ended": ended})


def _hand_in(store: Store, study: Study, planned: Draft) -> list[str]:
    """Begin a run, write its scripts, and give them to SLURM."""
    job = planned.job
    shown = f"{counted(job.elements, 'element')} of " if job.via == ARRAY else ""
    engine = f"SLURM {job.via}, {shown}{counted(job.workers, 'worker')}"
    record = new_record(study.source, engine, "queued")
    found = store.survey()
    record |= gather(study.file, sys.argv)
    record |= {"jobs": [], "reopened": found.unsettled, "left": found.plan.points_left}
    folder = folder_of(store.path)
    _make_folder(folder)
    number = store.begin_run(record)
    submission = replace(planned.submission, run=number, name=names_of(store)[0])
    script = folder / f"run-{number:04d}-{job.via}.sh"
    finalizer = folder / f"run-{number:04d}-finish.sh"
    texts = replace(planned, submission=submission).scripts()
    for file, text in zip((script, finalizer), texts, strict=True):
        replace_file(file, text.encode(errors="surrogateescape"))
    record["submission"] = {
        "via": job.via,
        "script": script.name,
        "finalizer": finalizer.name,
        "elements": job.elements,
        "max_array_size": job.max_array_size,
        "max_running": job.max_running,
    }
    store.update_run(number, record)
    try:
        return submit_run(store, number, job.elements, ROUNDS)
    except EngineError as error:
        record = store.read_run(number)
        if record["jobs"] or not isinstance(error, Refused):  # some of it may be at work by now
            store.update_run(number, record | {"state": "interrupted", "ended": time.time()})
        else:
            store.run_files()[number].unlink()
            _remove_folder(folder, script, finalizer)
        raise SubmitError(f"{error}\n{_possible(planned.site)}") from None


def _make_folder(folder: Path) -> None:
    """Make the folder of scripts and logs."""
    try:
        make_folders(folder / "logs")
    except (FileExistsError, NotADirectoryError):
        raise SubmitError(
            f"{short_path(folder)} is to be the folder of the scripts and logs, and is a file. "
            "Move it away, and submit again."
        ) from None


def _remove_folder(folder: Path, *scripts: Path) -> None:
    """Remove scripts that were not submitted, and their folder if there is nothing else in it."""
    for script in scripts:
        script.unlink()
    with suppress(OSError):
        (folder / "logs").rmdir()
        folder.rmdir()


def submit_run(store: Store, number: int, elements: int, rounds: int) -> list[str]:
    """Give the scripts of a run to SLURM, for so many elements; return the jobs' numbers.

    Raises
    ------
    EngineError
        If SLURM refuses one of them; those that it took are cancelled.
    """
    found: list[str] = []
    try:
        for job in _submitted(folder_of(store.path), store.read_run(number), elements, rounds):
            found.append(job)
            record = store.read_run(number)
            store.update_run(number, record | {"jobs": [*record["jobs"], job]})
    except BaseException:  # Ctrl-C, too: nobody would look after them
        if found:
            with suppress(EngineError):
                ask("scancel", *found)
        raise
    return found


def _submitted(
    folder: Path, record: Mapping[str, Any], elements: int, rounds: int
) -> Iterator[str]:
    """Give the scripts in a folder to SLURM, and yield each job's number."""
    told, found = record["submission"], []
    script = str(folder / told["script"])
    if told["via"] == ARRAY:
        size = min(told["max_array_size"], elements)
        for first in range(0, elements, size):
            count = min(size, elements - first)
            running = told["max_running"] and max(1, told["max_running"] * count // elements)
            throttle = f"%{running}" if running else ""
            array = f"--array=0-{count - 1}{throttle}"
            found.append(sbatch(array, script, str(first), str(elements)))
            yield found[-1]
    else:
        found.append(sbatch(script))
        yield found[-1]
    yield from _finalizers(folder, record, rounds, f"afterany:{':'.join(found)}")


def submit_finalizers(store: Store, number: int, rounds: int, jobs: Sequence[str] = ()) -> None:
    """Have a run looked after when some jobs have ended, or in a while."""
    record = store.read_run(number)
    after = f"afterany:{':'.join(jobs)}" if jobs else ""
    for _ in _finalizers(folder_of(store.path), record, rounds, after):
        pass


def _finalizers(folder: Path, record: Mapping[str, Any], rounds: int, after: str) -> Iterator[str]:
    """Submit a finalizer, and another that takes its place if it is killed; yield their numbers."""
    script = [str(folder / record["submission"]["finalizer"]), str(rounds)]
    when = f"--dependency={after}" if after else f"--begin=now+{WAIT_MINUTES}minutes"
    first = sbatch(when, *script)
    yield first
    both = f"{after}," * bool(after) + f"afternotok:{first}"
    yield sbatch(f"--dependency={both}", "--kill-on-invalid-dep=yes", *script)


def sbatch(*arguments: str) -> str:
    """Submit a job and return its number."""
    said = ask("sbatch", "--parsable", *arguments)
    # Sites wrap it in words of theirs, or in sbatch's own without --parsable.
    numbers = re.findall(r"^(?:Submitted batch job )?(\d+)(?:[; ].*)?$", said, re.MULTILINE)
    if not numbers:
        raise EngineError(f"sbatch gave no job number, but: {said.strip()!r}")
    return str(numbers[-1])


def names_of(store: Store) -> tuple[str, str]:
    """Return the names of the jobs of a store, and of their finalizers; a copy has others."""
    name = job_name(store.path, store.header.sweep_id)
    return name, name + FINISH


def jobs_of(store: Store) -> list[Queued]:
    """Return the jobs of a store that are queued or run, finalizers first."""
    names = names_of(store)
    return sorted(jobs(f"--name={','.join(names)}"), key=lambda job: job.name != names[1])


def refuse_while_queued(store: Store) -> None:
    """Refuse to submit again what is submitted.

    Raises
    ------
    SubmitError
        With the jobs there are, and what to do.
    """
    found = jobs_of(store)
    if found:
        shown = ", ".join(f"{job.shown} {job.state.lower()}" for job in found[:3])
        raise SubmitError(
            f"{counted(len(found), 'job')} of {short_path(store.path)} are in the queue: {shown}"
            f"{', ...' if len(found) > 3 else ''}. To add to them: --add; to end them: "
            f"sweep cancel {shlex.quote(short_path(store.path))}"
        )


def _possible(site: Site) -> str:
    """Say what SLURM has, after it refused something."""
    try:
        partitions = ask("sinfo", "--noheader", "--format=%R").split()
    except EngineError:
        return f"See {site.file}."
    return f"The partitions here are {', '.join(sorted(set(partitions)))}; see {site.file}."
