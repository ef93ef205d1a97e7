"""Faults on a real SLURM: each ends in a complete dataset, repeats no more than what was in flight,
and blames nobody innocent."""

import os
import signal

import pytest
import xarray as xr
from desk import SOME_FAILED, Desk, check_complete

from sweep.store.claims import claimants

SIXTEEN, TWELVE = ("street=0..3", "house=0..3"), ("street=0..2", "house=0..3")  # points
ON_A_NODE_EACH = 'directives = ["--exclusive"]\n'
FIRST_FINALIZER_HANGS = """\
setup = ['case "$SLURM_JOB_NAME" in *-finish) [ -e hung ] || { touch hung; sleep 600; } ;; esac']
"""
WAYS = {"array": ("--elements", 1), "dask": ("--workers", 2), "mpi": ("--workers", 2)}
POISON = (1, 2)


def check_poison(desk: Desk, name: str, times: int) -> None:
    """See that the poison has failed when it had begun so often, with its reason, and no other."""
    found = xr.open_zarr(desk.folder / name).load()
    expected = xr.ones_like(found.status)
    expected[POISON] = 2
    xr.testing.assert_equal(found.status, expected)
    assert desk.times_begun()[POISON] == times
    events = xr.open_zarr(desk.folder / name, group="events").load()
    assert events.kind.values.tolist() == ["failed"]
    assert events.error_type.values.tolist() == ["WorkerDied"]
    said = desk.sweep("status", name, code=SOME_FAILED)
    assert f"failed: street={POISON[0]}, house={POISON[1]}: WorkerDied: " in said


def test_what_cancelled_elements_had_is_computed_by_the_others(desk: Desk) -> None:
    desk.hold(1)
    desk.submit("s.zarr", *SIXTEEN, "--elements", 3)
    cancelled = desk.wait_at(1, 3)[:2]

    desk.cluster.run("scancel", *cancelled)

    desk.wait(lambda: not set(cancelled) & desk.queue().keys())
    desk.release()
    desk.wait_for_end("s.zarr")
    check_complete(desk, "s.zarr", 4, 4)
    assert desk.repeated() == 2
    assert set(desk.cluster.states(*cancelled).values()) == {"CANCELLED"}
    assert len({who for _, who in desk.begun()}) == 3, "nothing had to be submitted again"


def test_what_an_element_had_that_was_killed_is_computed_by_the_others(desk: Desk) -> None:
    desk.hold(1)
    desk.submit("s.zarr", *SIXTEEN, "--elements", 2)
    desk.wait_at(1, 2)
    element, _ = filter(None, claimants(desk.store("s.zarr")).values())

    os.kill(element.pid, signal.SIGKILL)

    desk.release()
    desk.wait_for_end("s.zarr")
    check_complete(desk, "s.zarr", 4, 4)
    assert desk.repeated() <= 1  # in vain it was, if its worker was quick


def test_what_an_element_had_whose_node_crashed_is_computed_by_the_others(desk: Desk) -> None:
    desk.write_site(ON_A_NODE_EACH)
    desk.hold(1)
    desk.submit("s.zarr", *SIXTEEN, "--elements", 2)
    elements = desk.wait_at(1, 2)

    desk.crash("n1")

    desk.wait(lambda: "PENDING" in {desk.queue().get(element) for element in elements})
    desk.release()
    desk.wait(lambda: desk.is_complete("s.zarr"))
    assert {who for _, who in desk.begun()} == set(elements), "the other one did all"
    desk.hurry()  # what was requeued finds nothing left
    desk.wait_for_end("s.zarr")
    check_complete(desk, "s.zarr", 4, 4)
    assert desk.repeated() == 1


@pytest.mark.slow
@pytest.mark.parametrize("via", ["dask", "mpi"])
def test_a_job_of_many_workers_whose_node_crashed_goes_on_when_it_is_requeued(
    desk: Desk, via: str
) -> None:
    desk.hold(1)
    job, *_ = desk.submit("s.zarr", *SIXTEEN, "--via", via, "--workers", 2)
    desk.wait_at(1, 2)

    desk.crash("n1")

    desk.wait(lambda: desk.queue().get(job) == "PENDING")
    assert desk.points("s.zarr") == {"done": 4, "pending": 12}
    desk.release()
    desk.hurry()
    desk.wait_for_end("s.zarr")
    check_complete(desk, "s.zarr", 4, 4)
    assert desk.repeated() == 2


@pytest.mark.slow
@pytest.mark.parametrize(("via", "size"), WAYS.items())
def test_near_the_end_of_its_time_a_job_begins_no_more_and_the_rest_is_submitted_again(
    desk: Desk, via: str, size: tuple[str, int]
) -> None:
    job, *_ = desk.submit("s.zarr", *SIXTEEN, "pause=0.4", "--via", via, *size)
    desk.wait_at(0, 2)

    desk.cluster.run("scancel", "--signal=USR1", "--batch", job)

    desk.wait_for_end("s.zarr")
    check_complete(desk, "s.zarr", 4, 4)
    assert desk.repeated() == 0
    assert len({who for _, who in desk.begun()}) == 2
    log = next((desk.folder / "s.zarr.jobs/logs").glob(f"s-*-{job}*.log")).read_text()
    assert "No time is left for another block; " in log


@pytest.mark.slow
@pytest.mark.parametrize("via", ["dask", "mpi"])
def test_a_job_of_many_workers_that_was_cancelled_is_submitted_again(desk: Desk, via: str) -> None:
    desk.hold(1)
    job, *_ = desk.submit("s.zarr", *SIXTEEN, "--via", via, "--workers", 2)
    desk.wait_at(1, 2)

    desk.cluster.run("scancel", job)

    desk.wait(lambda: job not in desk.queue())
    desk.wait(lambda: claimants(desk.store("s.zarr")) == {})
    assert not list(desk.store("s.zarr").mark_folder.iterdir()), "nobody is suspected"
    desk.release()
    desk.wait_for_end("s.zarr")
    check_complete(desk, "s.zarr", 4, 4)
    assert desk.repeated() == 2


@pytest.mark.slow
def test_a_task_that_the_time_limit_hit_is_repeated_and_not_blamed(desk: Desk) -> None:
    desk.hold(1)
    array, *_ = desk.submit("s.zarr", *TWELVE, "--elements", 1)
    desk.wait_at(1, 1)

    desk.cluster.run("scontrol", "update", f"job={array}", "EndTime=now+1")  # seen in half a minute

    desk.wait(lambda: desk.cluster.states(array) == {f"{array}_0": "TIMEOUT"})
    desk.release()
    desk.wait_for_end("s.zarr")
    check_complete(desk, "s.zarr", 3, 4)
    assert desk.repeated() == 1


def test_a_point_that_kills_its_worker_fails_and_nothing_else(desk: Desk) -> None:
    desk.submit("s.zarr", *TWELVE, "deeds=leave 1 2", "--elements", 2)

    desk.wait_for_end("s.zarr")

    check_poison(desk, "s.zarr", times=2)
    assert desk.repeated() == 1


@pytest.mark.parametrize(
    ("via", "size", "most"),
    [
        ("array", ("--elements", 3), 0),
        pytest.param("mpi", ("--workers", 2), 2, marks=pytest.mark.slow),  # others are at work
    ],
)
def test_a_point_that_kills_its_whole_job_fails_and_nothing_else(
    desk: Desk, via: str, size: tuple[str, int], most: int
) -> None:
    deeds = "deeds=topple 1 2"

    desk.submit("s.zarr", *TWELVE, deeds, "pause=0.2", "--via", via, *size)

    desk.wait_for_end("s.zarr")
    check_poison(desk, "s.zarr", times=3)
    assert 2 <= desk.repeated() <= 2 + most


@pytest.mark.parametrize("when", [pytest.param("it waits", marks=pytest.mark.slow), "it runs"])
def test_a_finalizer_that_was_killed_is_replaced_when_the_array_is_through(
    desk: Desk, when: str
) -> None:
    if when == "it runs":
        desk.write_site(FIRST_FINALIZER_HANGS)
    desk.hold(1)
    array, finalizer, substitute = desk.submit("s.zarr", *SIXTEEN, "--elements", 1)
    desk.wait_at(1, 1)

    if when == "it waits":
        desk.cluster.run("scancel", finalizer)
        desk.wait(lambda: finalizer not in desk.queue())
        assert desk.queue()[substitute] == "PENDING"
    desk.cluster.run("scancel", array)
    if when == "it runs":
        desk.wait((desk.folder / "hung").exists)
        desk.cluster.run("scancel", finalizer)

    desk.release()
    desk.wait_for_end("s.zarr")
    check_complete(desk, "s.zarr", 4, 4)
    assert desk.repeated() == 1
    assert len(desk.store("s.zarr").read_run(1)["jobs"]) == 6
