"""The commands for clusters: work, and those that speak with SLURM."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweep.cli.arguments import accept_changes, read_arguments, rest, workers
from sweep.cli.command import (
    ALL_DONE,
    INCOMPLETE,
    SOME_FAILED,
    Command,
    command,
    pipeline_argument,
    store_argument,
)
from sweep.cli.device import device
from sweep.cli.running import fail_fast, on, retries, timeout, where
from sweep.cli.words import axes_text, finish_part, print_rows
from sweep.errors import EngineError, SweepError, counted, short_path
from sweep.options import Options
from sweep.progress import clock_text, make_reporter
from sweep.run import work as work_on
from sweep.running import Part
from sweep.status import status as read_status
from sweep.store import Store, exists, store_path
from sweep.store.claims import claimants
from sweep.study import load_study

if TYPE_CHECKING:
    from slurm.job import Job


class Share(click.ParamType[tuple[int, int]]):
    """Which share of how many: 3/10 is the fourth."""

    name = "I/N"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the share that a text means."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", str(value))
        if not found or int(found[1]) >= int(found[2]):
            self.fail(f"'{value}': give I/N, with I from 0 to N - 1: 0/4 is the first of four.")
        return int(found[1]), int(found[2])


@command
@store_argument
@click.option("--run", type=click.IntRange(min=1), help="Run that this is a part of.")
@click.option("--share", type=Share(), default="0/1", help="Share to begin with  [default: all].")
@click.option(
    "--until",
    type=float,
    metavar="EPOCH",
    help="When this has to be over [s since 1970]; nothing is begun that would not end before.",
)
@where
@on("processes")
@workers
@timeout
@retries
@fail_fast
@accept_changes
def work(
    store: Path,
    run: int | None,
    share: tuple[int, int],
    until: float | None,
    pipeline: str | None,
    on: str,
    workers: int | None,
    timeout: float | None,
    retries: int,
    fail_fast: bool,
    accept_changes: bool,
) -> int:
    """Compute what is missing in STORE beside others: one elastic worker.

    To be started on any machine that sees the store, as often as one likes, at any time. Blocks are
    claimed one by one; what a worker that was killed had begun is taken over by the others.
    """
    from slurm.queue import has_ended

    path = store_path(store)
    if run is not None and not (path / ".sweep" / "runs" / f"{run:04d}.json").exists():
        raise SweepError(f"{path} has no run {run}. Leave out --run, or see: sweep status {path}")
    options = Options(
        on,
        workers,
        timeout=timeout,
        retries=retries,
        fail_fast=fail_fast,
        accept_changes=accept_changes,
        has_ended=has_ended(path),
    )
    part = Part(run, share, until)
    study = load_study(pipeline) if pipeline else None
    return finish_part(work_on(path, part, options, make_reporter(), study))


_site = click.option(
    "--site",
    "site_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="What there is to know of the cluster: slurm/sites/NAME.toml.",
)
_via = click.option(
    "--via",
    type=click.Choice(["array", "dask", "mpi"]),
    default="array",
    show_default=True,
    help="Independent elements; Dask in one allocation; or MPI ranks.",
)


def by_hand(command: Command) -> Command:
    """Add the options for what is otherwise chosen by what is known of the points."""
    for option in (
        click.option("--elements", type=click.IntRange(min=1), help="Elements of the array."),
        click.option("--memory", metavar="SIZE", help="Memory of a task: 4G."),
        click.option("--time", metavar="TIME", help="Walltime, as SLURM writes it: 1-12:00:00."),
        workers,
        _via,
    ):
        command = option(command)
    return command


@command
@pipeline_argument
@rest
@device
@_site
@by_hand
@click.option("--add", is_flag=True, help="Submit although jobs of this store are in the queue.")
@click.option("--retry-failed", is_flag=True, help="Compute failed points again, too.")
@accept_changes
@click.option("--print", "is_shown", is_flag=True, help="Show the script and submit nothing.")
def submit(
    pipeline: str,
    store_and_values: tuple[str, ...],
    device: str | None,
    site_file: Path,
    via: str,
    workers: int | None,
    time: str | None,
    memory: str | None,
    elements: int | None,
    add: bool,
    retry_failed: bool,
    accept_changes: bool,
    is_shown: bool,
) -> int:
    """Have SLURM compute what is missing of a sweep.

    STORE is made if need be  [default: runs/PIPELINE.zarr]. The scripts and the logs of the jobs
    lie beside it, in STORE.jobs. To submit again is safe: only what is missing is computed.
    """
    from slurm.site import load_site
    from slurm.submit import Wish, draft, folder_of, set_by_hand, timed_if_possible
    from slurm.submit import submit as hand_in

    site = load_site(site_file)
    study, bound, store = read_arguments(pipeline, store_and_values, device, site)
    chosen = set_by_hand(time, memory, elements, workers)
    wish = Wish(via, chosen, add, retry_failed, accept_changes)
    reporter = make_reporter()
    if is_shown:
        timing = timed_if_possible(bound, study, reporter)
        planned = draft(bound, study, store, site, wish, timing)
        click.echo(planned.scripts()[0])
        return ALL_DONE
    done = hand_in(bound, study, store, site, wish, reporter)
    if done is None:
        return _nothing_left(store)
    path, jobs = shlex.quote(short_path(store)), done.jobs
    print_rows(
        {
            "store": short_path(store),
            "jobs": f"{', '.join(jobs[:-2])}; {' and '.join(jobs[-2:])} look after them",
            **job_rows(done.draft.job),
            "scripts": short_path(folder_of(store)),
            "next": f"sweep status {path}; to end it: sweep cancel {path}",
        }
    )
    return ALL_DONE


def _nothing_left(store: Path) -> int:
    """Say so, and what failed."""
    click.echo(f"{short_path(store)}: nothing is left to compute.")
    if failed := read_status(store).points["failed"]:
        click.echo(f"{counted(failed, 'point')} failed; to try them again: --retry-failed")
        return SOME_FAILED
    return ALL_DONE


def plan_for(
    site_file: Path, words: tuple[str, tuple[str, ...], str | None], wishes: dict[str, Any]
) -> int:
    """Print what a sweep would be as jobs of a cluster, and whether the cluster is fit for it.

    `words` are those of the command line that say which sweep: the pipeline, the store and values,
    the device.
    """
    from slurm.environment import checks, checks_text
    from slurm.site import load_site
    from slurm.submit import Wish, draft, set_by_hand, timed_if_possible

    site = load_site(site_file)
    study, pipeline, store = read_arguments(*words, site)
    via = wishes.pop("via")
    if exists(store):
        Store(store).check_same(pipeline)
        if not Store(store).plan().blocks_left:
            return _nothing_left(store)
    timing = timed_if_possible(pipeline, study, make_reporter())
    planned = draft(pipeline, study, store, site, Wish(via, set_by_hand(**wishes)), timing)
    block = "x".join(map(str, planned.grid.block_shape)) or "1"
    rows = {
        "store": str(store),
        "points": f"{planned.grid.points} ({axes_text(pipeline)})",
        "blocks": f"{planned.grid.blocks} of {block} points, {planned.blocks_left} left",
    }
    if timing and not timing.at_least:
        rows["a point"] = f"{clock_text(timing.mean)} on average"
        rows["a point"] += f", {clock_text(timing.slowest)} at most ({len(timing.seconds)} timed)"
    print_rows(rows | job_rows(planned.job))
    click.echo()
    print_rows(checks_text(checks(site, store, pipeline.needs.gpus > 0, via)))
    return ALL_DONE


def at_work_rows(store: Store) -> dict[str, str]:
    """Return who is at work on a store, what SLURM has of it in its queue, and where logs lie."""
    from slurm.queue import has_ended, has_slurm, queue_text
    from slurm.submit import folder_of, jobs_of

    rows = {}
    if found := claimants(store, has_ended(store.path)):
        shown = [holder.text for holder in found.values() if holder][:3]
        more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        rows["at work"] = f"{'; '.join(shown)}{more}"
    if has_slurm():
        try:
            rows["queue"] = queue_text(jobs_of(store))
        except EngineError as error:
            rows["queue"] = str(error)
    logs = folder_of(store.path) / "logs"
    if logs.is_dir():
        rows["logs"] = short_path(logs)
    return {name: text for name, text in rows.items() if text}


def job_rows(job: "Job") -> dict[str, str]:
    """Return the shape of jobs in rows of names and texts."""
    each = f"{counted(job.cores, 'core')}, {job.memory_mb} MB"
    each += f", {counted(job.gpus, 'GPU')}" if job.gpus else ""
    if job.via == "array":
        arrays = f" in {len(job.arrays)} arrays" if len(job.arrays) > 1 else ""
        running = f", {job.max_running} at once" if job.max_running else ""
        shape = f"array of {counted(job.elements, 'element')}{arrays}{running}, each {each}, "
        shape += counted(job.workers, "worker")
    else:
        shape = f"one job of {counted(job.tasks, 'task')} ({job.via}), each {each}"
    hours, minutes = divmod(job.minutes, 60)
    rows = {
        "shape": shape,
        "walltime": f"{hours} h {minutes} min",
        "core-hours": f"{job.core_hours:.3g} expected, {job.most_core_hours:.3g} at most",
    }
    return rows | ({"price": job.price} if job.price else {})


@command
@store_argument
@click.option("--run", type=click.IntRange(min=1), required=True, help="Run to look after.")
@click.option("--rounds", type=click.IntRange(min=0), required=True, help="Submissions left.")
def finish(store: Path, run: int, rounds: int) -> int:
    """Submit again what the jobs of a run have left, or finish it; for the job after them."""
    from slurm.finish import finish as look_after

    path = store_path(store)
    said, left = look_after(path, run, rounds)
    click.echo(said)
    if left:
        return INCOMPLETE
    return ALL_DONE


@command
@store_argument
def cancel(store: Path) -> int:
    """End the SLURM jobs of STORE; what is committed is kept."""
    from slurm.finish import cancel as end

    found = end(store_path(store))
    click.echo(f"Ended: {', '.join(found)}." if found else "There were no jobs in the queue.")
    return ALL_DONE


@command
@click.argument("file", type=click.Path(path_type=Path))
def site(file: Path) -> int:
    """Write the site file FILE from what this SLURM says of itself."""
    from slurm.discover import write_site_file

    write_site_file(file)
    click.echo(f"Written: {file}. Read it, and fill in what only you know: the account, say.")
    return ALL_DONE
