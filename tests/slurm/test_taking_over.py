"""One store, many ways: what one begins another finishes, and workers come and go meanwhile."""

import json
import re
import signal

import pytest
import xarray as xr
from desk import ERRANDS, Desk, check_complete

from slurm.queue import POLL_SECONDS
from sweep.durable import encode_json
from sweep.store import Store
from sweep.store.claims import Claims

HELD = 'directives = ["--hold"]\n'


def test_a_sweep_begun_here_is_continued_by_an_array_and_finished_by_mpi(desk: Desk) -> None:
    points, here = ("street=0..4", "house=0..3"), ("--on", "processes", "--workers", 1)
    desk.hold(1)
    driver = desk.start("here", "run", ERRANDS, "s.zarr", *points, *here)
    desk.wait_at(1, 1)
    driver.kill()
    driver.wait()

    desk.hold(3)
    desk.submit("s.zarr", *points, "--elements", 2)
    desk.wait_at(3, 2)
    desk.crash("n1")  # both elements are there
    desk.wait(lambda: "RUNNING" not in desk.queue().values())
    desk.sweep("cancel", "s.zarr")
    desk.wait(desk.is_quiet)
    assert desk.points("s.zarr") == {"done": 12, "pending": 8}
    assert desk.runs("s.zarr") == {1: "killed", 2: "interrupted"}

    desk.release()
    desk.submit("s.zarr", *points, "--via", "mpi", "--workers", 2)  # on the other node
    desk.wait(desk.is_quiet)

    found = check_complete(desk, "s.zarr", 5, 4)
    assert desk.repeated() == 1 + 2
    desk.sweep("verify", "s.zarr")
    assert [sorted(set(street.values)) for street in found.run] == [[1], [2], [2], [3], [3]]
    runs = xr.open_zarr(desk.folder / "s.zarr", group="runs").load()
    assert runs.state.values.tolist() == ["killed", "interrupted", "complete"]
    engines = [engine.partition(",")[0] for engine in runs.engine.values]
    assert engines == ["processes", "SLURM array", "SLURM mpi"]
    tasks = xr.open_zarr(desk.folder / "s.zarr", group="tasks").load()
    assert tasks.sizes["task"] == 20
    for block, run in zip(tasks.block.values, tasks.run.values, strict=True):
        assert found.run[tuple(map(int, block.split(".")))] == run


@pytest.mark.slow
def test_workers_come_and_go_while_an_array_computes(desk: Desk) -> None:
    desk.hold(1)
    desk.submit("s.zarr", "street=0..3", "house=0..3", "--elements", 1)
    desk.wait_at(1, 1)
    one = desk.start("one", "work", "s.zarr", "--workers", 1)
    desk.wait_at(1, 2)
    other = desk.start("other", "work", "s.zarr", "--workers", 1)
    assert desk.wait_at(1, 3)[1:] == ["one", "other"]
    assert "at work" in desk.status("s.zarr")

    one.kill()
    other.send_signal(signal.SIGTERM)
    one.wait()
    other.wait()
    last = desk.start("last", "work", "s.zarr", "--workers", 1)
    assert desk.wait_at(1, 4)[3] == "last"
    desk.release()

    last.wait()
    desk.wait(desk.is_quiet)
    check_complete(desk, "s.zarr", 4, 4)
    assert desk.repeated() == 2
    states = desk.runs("s.zarr")
    assert states.pop(4) in ("complete", "incomplete")  # if it left others to their last points
    assert states == {1: "complete", 2: "killed", 3: "interrupted"}


@pytest.mark.slow
def test_two_arrays_share_one_store(desk: Desk) -> None:
    desk.write_site(HELD)
    desk.hold(1)
    points = ("street=0..3", "house=0..3")
    jobs = desk.submit("s.zarr", *points, "--elements", 1)
    jobs += desk.submit("s.zarr", *points, "--elements", 1, "--add")
    for job in jobs:
        desk.cluster.run("scontrol", "release", job)
    assert set(desk.wait_at(1, 2)) == {f"{jobs[0]}_0", f"{jobs[3]}_0"}
    desk.release()

    desk.wait(desk.is_quiet)

    found = check_complete(desk, "s.zarr", 4, 4)
    assert desk.repeated() == 0
    assert set(found.run.values.flat) == {1, 2}
    assert desk.runs("s.zarr") == {1: "complete", 2: "complete"}
    assert xr.open_zarr(desk.folder / "s.zarr", group="tasks").sizes["task"] == 16


def test_what_waits_in_the_queue_finds_nothing_left_when_a_driver_here_was_quicker(
    desk: Desk,
) -> None:
    desk.write_site(HELD)
    array, *others = desk.submit("s.zarr", "street=0..1", "house=0..2", "--elements", 1)

    desk.sweep("resume", "s.zarr", "--on", "processes", "--workers", 1)

    check_complete(desk, "s.zarr", 2, 3)
    assert desk.runs("s.zarr") == {1: "complete", 2: "complete"}
    assert re.search(r"^queue +3 pending", desk.sweep("status", "s.zarr"), re.MULTILINE)
    for job in (array, *others):
        desk.cluster.run("scontrol", "release", job)
    desk.wait(desk.is_quiet)
    assert desk.cluster.states(array) == {f"{array}_0": "COMPLETED"}
    assert desk.begun() == []


def test_a_submission_whose_jobs_are_gone_is_noted_when_the_next_one_is_made(desk: Desk) -> None:
    desk.write_site(HELD)
    points = ("street=0..1", "house=0..2", "--elements", 1)
    desk.cluster.run("scancel", *desk.submit("s.zarr", *points))
    desk.wait(desk.is_quiet)

    desk.write_site()
    desk.submit("s.zarr", *points)

    desk.wait(desk.is_quiet)
    check_complete(desk, "s.zarr", 2, 3)
    assert desk.runs("s.zarr") == {1: "killed", 2: "complete"}


def test_what_a_job_had_is_free_when_slurm_knows_that_it_has_ended(desk: Desk) -> None:
    desk.write_site(HELD)
    jobs = desk.submit("s.zarr", "street=0..1", "house=0..2", "--elements", 1)
    gone = desk.cluster.run("sbatch", "--parsable", "--hold", "--wrap", "true").strip()
    desk.cluster.run("scancel", gone)
    claim_from_elsewhere(desk.store("s.zarr"), 3, gone)

    for job in jobs:
        desk.cluster.run("scontrol", "release", job)

    desk.wait(desk.is_quiet)
    check_complete(desk, "s.zarr", 2, 3)
    assert desk.store("s.zarr").read_run(1)["jobs"] == jobs, "nothing had to be submitted again"


def claim_from_elsewhere(store: Store, block: int, job: str) -> None:
    """Leave the claim of a process in a batch job, about which only SLURM can be asked."""
    with Claims(store, 1).open() as claims:
        assert claims.take(store.grid.block(block))
        claim = next(path for path in (store.private / "claims").rglob("*") if path.is_file())
        claimant = store.private / "claimants" / claims.name
        files = {claim: claim.read_bytes(), claimant: claimant.read_bytes()}
    told = json.loads(files[claimant])
    told |= {"host": "elsewhere", "machine": "another", "job": job, "cluster": "throwaway"}
    told["taken"] -= 2 * POLL_SECONDS  # before SLURM is asked
    for path, data in (files | {claimant: encode_json(told)}).items():
        path.write_bytes(data)
