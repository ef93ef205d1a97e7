"""What comes after the jobs of a submission: submit what is missing, or finish; and cancelling."""

import time
from contextlib import suppress
from pathlib import Path

from slurm.queue import ask
from slurm.submit import jobs_of, names_of, submit_run
from sweep.errors import StoreBusy, counted, short_path, writing
from sweep.running import settle
from sweep.store import Store
from sweep.store.lease import Lease
from sweep.store.tables import Tables

LEASE_SECONDS = 600.0  # that somebody else may hold the store


def finish(path: Path, number: int, rounds: int) -> tuple[str, int]:
    """Look what the jobs of a run left, and submit that again, `rounds` times at most.

    Returns
    -------
    What to say, and how many points are left.
    """
    store = Store(path)
    with writing(path), Lease.take(store, LEASE_SECONDS):
        settle(store, number)
        record = store.read_run(number)
        todo = store.plan()
        if not todo.blocks_left:
            return f"{short_path(path)} is complete.", 0
        left = f"{counted(todo.points_left, 'point')} of {short_path(path)} left"
        if record["state"] not in ("queued", "running"):  # another finalizer was here
            return f"{left}; run {number} is {record['state']}.", todo.points_left
        own = [job for job in jobs_of(store) if job.name == names_of(store)[0]]
        if own:
            return f"{left}; {counted(len(own), 'job')} of it in the queue.", 0
        if not rounds:
            store.update_run(number, record | {"state": "incomplete", "ended": time.time()})
            Tables(store).catch_up()
            said = "Submitted again as often as allowed: see its logs, then sweep submit."
            return f"{left}. {said}", todo.points_left
        elements = min(record["submission"]["elements"], todo.blocks_left)
        jobs = submit_run(store, number, elements, rounds - 1)
        return f"{left}; submitted again as {', '.join(jobs)}.", 0


def cancel(path: Path) -> list[str]:
    """End all jobs of a store, those that would submit more first; return their numbers.

    Raises
    ------
    EngineError
        If SLURM refuses.
    """
    store = Store(path)
    found = jobs_of(store)
    for name in reversed(names_of(store)):
        if any(job.name == name for job in found):
            ask("scancel", f"--name={name}")
    for number in store.run_files():
        record = store.read_run(number)
        if record["state"] in ("queued", "running") and "jobs" in record:
            store.update_run(number, record | {"state": "interrupted", "ended": time.time()})
    with suppress(StoreBusy), writing(path), Lease.take(store):  # else its owner does it
        Tables(store).catch_up()
    return list(dict.fromkeys(job.shown for job in found))
