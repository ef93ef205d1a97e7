"""What is done to a store, or to its study, while its jobs wait or run on a real SLURM."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import xarray as xr
from desk import ERRANDS, MISTAKE, Desk, check_complete

import slurm.finish
from slurm.finish import finish

SMALL = ("street=0..1", "house=0..2")  # six points
HELD = 'directives = ["--hold"]\n'


@contextmanager
def drained(desk: Desk) -> Iterator[None]:
    """Let jobs wait that are submitted inside."""
    desk.cluster.run("scontrol", "update", "node=n1,n2", "state=drain", "reason=test")
    try:
        yield
    finally:
        desk.cluster.run("scontrol", "update", "node=n1,n2", "state=resume")


def test_what_is_damaged_while_jobs_wait_is_computed_by_those_after_them(desk: Desk) -> None:
    desk.sweep("run", ERRANDS, "s.zarr", *SMALL, "--on", "serial")
    (desk.folder / "s.zarr/status/c.1.2").unlink()

    with drained(desk):
        desk.submit("s.zarr", *SMALL, "--elements", 1)
        (desk.folder / "s.zarr/status/c.0.0").write_bytes(b"")

    desk.wait(desk.is_quiet)
    assert desk.runs("s.zarr") == {1: "complete", 2: "complete"}
    check_complete(desk, "s.zarr", 2, 3)


def test_a_study_that_is_edited_while_jobs_wait_is_refused_by_them(desk: Desk) -> None:
    study = desk.folder / "study.py"
    study.write_text(ERRANDS.read_text())
    with drained(desk):
        array, *_ = desk.submit("s.zarr", *SMALL, "--elements", 1, study=study)
        study.write_text(ERRANDS.read_text().replace("house / 10", "house / 20"))
        refused = desk.sweep("work", "s.zarr", code=MISTAKE)

    assert "The code has changed since run 1 of s.zarr" in refused
    (log,) = desk.wait(lambda: list((desk.folder / "s.zarr.jobs/logs").glob(f"*-{array}_0.log")))
    desk.wait(lambda: "--accept-changes" in log.read_text())
    desk.sweep("cancel", "s.zarr")  # else it would be submitted again, three times in vain
    desk.wait(desk.is_quiet)
    assert "The code has changed since run 1 of" in log.read_text()
    assert "house / 20" in log.read_text()
    assert "s.zarr --site FILE --accept-changes" in log.read_text()
    assert desk.points("s.zarr") == {"pending": 6}

    desk.submit("s.zarr", *SMALL, "--elements", 1, "--accept-changes", study=study)

    desk.wait(desk.is_quiet)
    assert desk.runs("s.zarr") == {1: "interrupted", 2: "complete"}
    assert xr.open_zarr(desk.folder / "s.zarr").errand[0, 1] == 1 / 20


def test_a_copy_has_no_part_in_the_jobs_of_the_original(desk: Desk) -> None:
    desk.write_site(HELD)
    desk.submit("s.zarr", *SMALL, "--elements", 1)
    shutil.copytree(desk.folder / "s.zarr", desk.folder / "copy.zarr")

    assert desk.sweep("cancel", "copy.zarr") == "There were no jobs in the queue.\n"

    assert len(desk.queue()) == 3
    assert "queue " not in desk.status("copy.zarr")
    assert "3 pending" in desk.status("s.zarr")


def test_a_finalizer_that_finds_somebody_computing_here_and_now_looks_again_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.write_site(HELD)
    desk.submit("s.zarr", *SMALL, "--elements", 1)
    desk.hold(0)
    local = desk.start("local", "run", ERRANDS, "s.zarr", *SMALL, "--on", "processes")
    desk.wait_at(0, 1)
    monkeypatch.setattr(slurm.finish, "LEASE_SECONDS", 0.1)
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    before = desk.queue()

    said, left = finish(desk.folder / "s.zarr", 1, 2)

    assert "has a driver" in said
    assert "To be looked at in 6 minutes." in said
    assert left == 0, "somebody looks after them"
    assert len(desk.queue()) == len(before) + 2
    local.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("run", [1, 7])
def test_a_run_that_was_not_submitted_cannot_be_finished(desk: Desk, run: int) -> None:
    desk.sweep("run", ERRANDS, "s.zarr", *SMALL, "--on", "serial")

    said = desk.sweep("finish", "s.zarr", "--run", run, "--rounds", 1, code=MISTAKE)

    assert f"s.zarr has no run {run} that was submitted. To compute what is left: sweep" in said


def test_without_slurm_nothing_is_submitted_and_nothing_left_behind(
    desk: Desk, tmp_path: Path
) -> None:
    desk.variables["PATH"] = str(tmp_path)
    before = sorted(desk.folder.iterdir())

    said = desk.sweep("submit", ERRANDS, "s.zarr", *SMALL, "--site", "site.toml", code=MISTAKE)

    assert "There is no sbatch and no squeue and no scancel on this machine: no SLURM" in said
    assert sorted(desk.folder.iterdir()) == before


def test_a_file_in_the_place_of_the_folder_for_scripts_is_told(desk: Desk) -> None:
    (desk.folder / "s.zarr.jobs").write_text("mine")

    said = desk.sweep("submit", ERRANDS, "s.zarr", *SMALL, "--site", "site.toml", code=MISTAKE)

    assert "s.zarr.jobs is to be the folder of the scripts and logs, and is a file." in said
    assert not (desk.folder / "s.zarr").exists()
    assert (desk.folder / "s.zarr.jobs").read_text() == "mine"
