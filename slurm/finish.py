"""What comes after the jobs of a submission: submit what is missing, or finish; and cancelling."""

import os
import time
from contextlib import suppress
from pathlib import Path

from slurm.queue import Job, has_ended
from slurm.submit import (
    ROUNDS,
    WAIT_MINUTES,
    end_runs,
    jobs_of,
    names_of,
    submit_finalizers,
    submit_run,
)
from sweep.engines.srun.commands import ask
from sweep.errors import StoreBusy, SubmitError, counted, short_path, writing
from sweep.running import settle
from sweep.store import OPEN_STATES, Store
from sweep.store.claims import claimants, claimed_names
from sweep.store.lease import Lease
from sweep.store.tables import Tables
from sweep.summary import stale_text

LEASE_SECONDS = 60.0  # that somebody else may hold the store: who submits, say
CANCEL_SECONDS = 20.0  # that jobs may take to leave the queue


def finish(path: Path, number: int, rounds: int) -> tuple[str, int]:
    """Look what the jobs of a run left, and submit that again, `rounds` times without progress.

    Returns
    -------
    What to say, and how many points are left that nobody looks after any more.

    Raises
    ------
    SubmitError
        If the run was not submitted.
    """
    store = Store(path)
    if number not in store.run_files() or "submission" not in store.read_run(number):
        raise SubmitError(
            f"{short_path(path)} has no run {number} that was submitted. To compute what is left: "
            "sweep resume, or sweep submit."
        )
    try:
        with writing(path), Lease.take(store, LEASE_SECONDS) as lease, lease.kept_alive():
            return _finish(store, number, rounds)
    except StoreBusy as error:  # somebody computes here and now, which may take days
        submit_finalizers(store, number, rounds)
        return f"{error} To be looked at in {WAIT_MINUTES} minutes.", 0


def _finish(store: Store, number: int, rounds: int) -> tuple[str, int]:
    """Do it, holding the lease."""
    path = store.path
    settle(store, number)
    found = jobs_of(store)
    todo, _, _, unsettled = store.survey()
    end_runs(store, "incomplete" if todo.blocks_left else "complete", found, but=number)
    if not todo.blocks_left:
        return f"{short_path(path)} is complete.", 0
    record = store.read_run(number)
    left = f"{counted(todo.points_left, 'point')} of {short_path(path)} left"
    if record["state"] not in OPEN_STATES:  # another finalizer was here
        return f"{left}; run {number} is {record['state']}.", todo.points_left
    if elements := [job for job in found if job.name == names_of(store)[0]]:
        if not _others_look_after(store, found):
            numbers = {job.shown.partition("_")[0] for job in elements}
            submit_finalizers(store, number, rounds, sorted(numbers))
        return f"{left}; {counted(len(elements), 'job')} of it in the queue.", 0
    before = store.reopened(number)
    refused = {n for n in unsettled if store.stale_since(store.grid.block_named(n), before)}
    not_free = refused | claimed_names(store)
    if all(block.name in refused for block in todo.remaining()):
        _give_up(store, number)
        return f"{left}. {stale_text(store.count_points()['stale'], path)}", todo.points_left
    if all(block.name in not_free for block in todo.remaining()) and claimants(
        store, has_ended(store.path)
    ):
        submit_finalizers(store, number, rounds)
        return f"{left}, others are at them; to be looked at in {WAIT_MINUTES} minutes.", 0
    if todo.points_left < record["left"]:
        rounds = ROUNDS
    elif not rounds:
        _give_up(store, number)
        said = "Submitted again as often as allowed: see its logs, then sweep submit."
        return f"{left}. {said}", todo.points_left
    reopened = {name: told for name, told in unsettled.items() if name not in refused}
    store.update_run(number, record | {"reopened": reopened})
    count = min(record["submission"]["elements"], todo.blocks_left)
    jobs = submit_run(store, number, count, max(rounds - 1, 0))
    store.update_run(number, store.read_run(number) | {"left": todo.points_left})
    return f"{left}; submitted again as {', '.join(jobs)}.", 0


def _give_up(store: Store, number: int) -> None:
    """Leave what is left of a run to a person."""
    record = store.read_run(number)
    store.update_run(number, record | {"state": "incomplete", "ended": time.time()})
    Tables(store).catch_up()


def _others_look_after(store: Store, found: list[Job]) -> bool:
    """Tell whether another finalizer than this one, and than its stand-in, waits."""
    own = os.environ.get("SLURM_JOB_ID", "")
    names = names_of(store)
    waiting = [job for job in found if job.name == names[1] and job.number != own]
    return any(job.reason != "DependencyNeverSatisfied" for job in waiting) and len(waiting) > 1


def cancel(path: Path) -> list[str]:
    """End all jobs of a store, those that would submit more first; return how they are shown.

    Raises
    ------
    EngineError
        If SLURM refuses.
    """
    store = Store(path)
    shown: dict[str, None] = {}
    end = time.monotonic() + CANCEL_SECONDS
    while found := [job for job in jobs_of(store) if job.state != "COMPLETING"]:
        shown |= dict.fromkeys(job.shown for job in found)
        for name in reversed(names_of(store)):
            ask("scancel", f"--name={name}")
        if time.monotonic() > end:  # SLURM is slow; it knows by now
            break
        time.sleep(0.5)  # one that was just submitting may have come to that
    end_runs(store, "interrupted")
    with suppress(StoreBusy), writing(path), Lease.take(store):  # else its owner does it
        Tables(store).catch_up()
    return list(shown)
