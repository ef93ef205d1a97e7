"""Submission to a real SLURM: what it makes, what it refuses, what comes after it, and its end."""

import re
import subprocess
from pathlib import Path

import pytest
import xarray as xr
from desk import ERRANDS, MISTAKE, Desk, check_complete

from slurm.submit import names_of

SMALL = ("street=0..1", "house=0..2")  # six points
HELD = 'directives = ["--hold"]\n'
ELEMENTS_FAIL = """setup = ['[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || exit 3']\n"""
ROUNDS = 4  # the first one, and three more


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def settings(desk: Desk, job: str) -> dict[str, str]:
    """Return what SLURM says of a job."""
    words = desk.cluster.run("scontrol", "show", "job", "--oneliner", job).splitlines()[0].split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_a_submission_makes_store_scripts_and_logs_and_says_what_to_type(desk: Desk) -> None:
    said = desk.sweep("submit", ERRANDS, "s.zarr", *SMALL, "--site", "site.toml", "--elements", 2)

    assert re.search(r"^jobs +(\d+); \d+ and \d+ look after them$", said, re.MULTILINE)
    assert re.search(r"^shape +array of 2 elements, each 1 core, ", said, re.MULTILINE)
    assert "next        sweep status s.zarr; to end it: sweep cancel s.zarr\n" in said
    assert xr.open_zarr(desk.folder / "s.zarr").sizes == {"street": 2, "house": 3}
    scripts = {file.name for file in (desk.folder / "s.zarr.jobs").glob("*.sh")}
    assert scripts == {"run-0001-array.sh", "run-0001-finish.sh"}
    desk.wait(desk.is_quiet)
    check_complete(desk, "s.zarr", 2, 3)
    first, finalizer, _ = desk.store("s.zarr").read_run(1)["jobs"]
    logs = {file.name.partition("-")[2] for file in (desk.folder / "s.zarr.jobs/logs").iterdir()}
    place = names_of(desk.store("s.zarr"))[0].rpartition("-")[2]
    assert {log.partition("-")[0] for log in logs} == {place}, logs
    assert {f"{first}_0.log", f"{first}_1.log", f"{finalizer}.log"} == {
        log.rpartition("-")[2] for log in logs
    }
    runs = xr.open_zarr(desk.folder / "s.zarr", group="runs").load()
    assert runs.state.values.tolist() == ["complete"]
    assert runs.engine.values.tolist() == ["SLURM array, 2 elements of 1 worker"]
    assert set(xr.open_zarr(desk.folder / "s.zarr", group="tasks").slurm_job_id.values) != {""}

    again = desk.sweep("submit", ERRANDS, "s.zarr", *SMALL, "--site", "site.toml")

    assert again == "s.zarr: nothing is left to compute.\n"
    assert desk.sweep("plan", ERRANDS, "s.zarr", *SMALL, "--site", "site.toml") == again
    assert desk.runs("s.zarr") == {1: "complete"}
    assert desk.is_quiet()


def test_print_shows_the_script_and_writes_nothing_at_all(desk: Desk) -> None:
    before = everything_in(desk.folder)

    script = desk.sweep("submit", ERRANDS, *SMALL, "--site", "site.toml", "--print")

    assert everything_in(desk.folder) == before
    assert desk.is_quiet()
    assert "#SBATCH --partition=main\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_points_that_take_their_worker_along_are_told_where_they_would_be_timed(desk: Desk) -> None:
    study = desk.folder / "fatal.py"
    study.write_text(
        "import os\nfrom typing import Annotated\nfrom sweep import Axis, Pipeline, Var\n"
        "def f(a: int) -> Annotated[int, Var(())]:\n    os._exit(7)\n"
        "pipeline = Pipeline(f, axes=[Axis('a', [1, 2])])\n"
    )

    said = desk.sweep("submit", study, "s.zarr", "--site", "site.toml", code=MISTAKE)

    assert re.search(r"^No point was timed here.*ended with exit code 7", said, re.MULTILINE)
    assert "Nothing says how long a point takes: none was timed. Give --time" in said
    assert not (desk.folder / "s.zarr").exists()


def test_what_is_queued_is_not_submitted_again_unless_it_is_to_be_added(desk: Desk) -> None:
    desk.write_site(HELD)
    array, *finalizers = desk.submit("s.zarr", *SMALL, "--elements", 2)

    said = desk.sweep("submit", ERRANDS, "s.zarr", *SMALL, "--site", "site.toml", code=MISTAKE)

    assert "4 jobs of s.zarr are in the queue: " in said
    assert "To add to them: --add; to end them: sweep cancel s.zarr\n" in said
    assert desk.runs("s.zarr") == {1: "queued"}
    status = desk.status("s.zarr")
    assert re.search(r"^queue +4 pending \(waiting for: .*JobHeldUser", status, re.MULTILINE)
    assert re.search(r"^run 1 +queued, SLURM array", status, re.MULTILINE)

    added, *_ = desk.submit("s.zarr", *SMALL, "--elements", 1, "--add")

    jobs = {f"{array}_0", f"{array}_1", f"{added}_0"}
    assert jobs < desk.queue().keys()
    assert len(desk.queue()) == len(jobs) + 4
    assert desk.runs("s.zarr") == {1: "queued", 2: "queued"}

    said = desk.sweep("cancel", "s.zarr")

    assert all(job in said for job in (*jobs, *finalizers))
    desk.wait(desk.is_quiet)
    assert desk.runs("s.zarr") == {1: "interrupted", 2: "interrupted"}
    assert desk.sweep("cancel", "s.zarr") == "There were no jobs in the queue.\n"


def test_what_slurm_refuses_is_told_with_what_there_is_and_leaves_nothing_behind(
    desk: Desk,
) -> None:
    site = (desk.folder / "site.toml").read_text().replace("main", "gpu")
    (desk.folder / "other.toml").write_text(site)
    before = everything_in(desk.folder)

    said = desk.sweep("submit", ERRANDS, "s.zarr", *SMALL, "--site", "other.toml", code=MISTAKE)

    assert "nvalid partition" in said
    assert "The partitions here are main; see other.toml." in said
    assert everything_in(desk.folder) == before


def test_what_nodes_that_are_drained_cannot_run_now_is_not_refused(desk: Desk) -> None:
    desk.cluster.run("scontrol", "update", "node=n1,n2", "state=drain", "reason=maintenance")
    try:
        desk.submit("s.zarr", *SMALL, "--elements", 1)
        assert set(desk.queue().values()) == {"PENDING"}
    finally:
        desk.cluster.run("scontrol", "update", "node=n1,n2", "state=resume")

    desk.wait_for_end("s.zarr")
    check_complete(desk, "s.zarr", 2, 3)


def test_a_submission_that_slurm_takes_in_part_is_taken_back(desk: Desk) -> None:
    refuse_all_but_arrays = 'case "$*" in *--dependency*) echo "no more jobs" >&2; exit 1;; esac\n'
    (desk.folder / "bin").mkdir()
    real = desk.cluster.run("sh", "-c", "command -v sbatch").strip()
    sbatch = desk.folder / "bin" / "sbatch"
    sbatch.write_text(f'#!/bin/sh\n{refuse_all_but_arrays}exec {real} "$@"\n')
    sbatch.chmod(0o755)
    desk.variables["PATH"] = f"{desk.folder / 'bin'}:{desk.environment['PATH']}"
    desk.write_site(HELD)

    said = desk.sweep("submit", ERRANDS, "s.zarr", *SMALL, "--site", "site.toml", code=MISTAKE)

    assert "no more jobs" in said
    desk.wait(desk.is_quiet)
    assert desk.runs("s.zarr") == {1: "interrupted"}


def test_awkward_names_come_through_sbatch_and_bash_as_they_are(desk: Desk) -> None:
    folder = desk.folder / "it's $(touch pwned) `touch pwned` & co; é"
    folder.mkdir()
    study = folder / 'a study\'s "risk".py'
    study.write_text(ERRANDS.read_text())
    store = "-x %x %j$HOME 'ü' \"*\" #.zarr"
    (folder / "site.toml").write_text((desk.folder / "site.toml").read_text())
    options = ("--site", "site.toml", "--elements", 2)

    said = desk.sweep("submit", *options, "--", study.name, store, *SMALL, folder=folder)

    inside = f"{folder.name}/{store}"
    desk.wait(lambda: desk.is_complete(inside) and desk.is_quiet())
    check_complete(desk, inside, 2, 3)
    assert len(list((folder / f"{store}.jobs" / "logs").iterdir())) == 3
    assert not list(desk.folder.rglob("pwned"))
    next_command = re.search(r"next +sweep (status .*); to end it", said)[1]
    shown = subprocess.run(
        ["bash", "-c", f"{' '.join(desk.command())} {next_command}"],
        cwd=folder,
        env=desk.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "points       6: 6 done\n" in shown.stdout


@pytest.mark.parametrize("name", ["a\nb.zarr", "a\\b.zarr"])
def test_names_that_slurm_cannot_take_are_refused_before_anything_is_written(
    desk: Desk, name: str
) -> None:
    before = everything_in(desk.folder)

    said = desk.sweep("submit", ERRANDS, name, *SMALL, "--site", "site.toml", code=MISTAKE)

    assert "SLURM cannot" in said
    assert everything_in(desk.folder) == before


def test_an_array_is_split_and_throttled_as_the_site_says(desk: Desk) -> None:
    desk.write_site("max_array_size = 2\nmax_running = 2\n" + HELD)

    first, second, finalizer, substitute = desk.submit("s.zarr", *SMALL, "--elements", 3)

    elements = {f"{first}_0", f"{first}_1", f"{second}_0"}
    assert desk.queue().keys() == elements | {finalizer, substitute}
    assert settings(desk, first)["ArrayTaskThrottle"] == "1"
    assert settings(desk, second)["ArrayTaskThrottle"] == "1"
    awaited = settings(desk, finalizer)["Dependency"]
    assert f"afterany:{first}_*" in awaited
    assert f"afterany:{second}_*" in awaited

    for job in (first, second, finalizer, substitute):
        desk.cluster.run("scontrol", "release", job)

    desk.wait(desk.is_quiet)
    check_complete(desk, "s.zarr", 2, 3)
    assert desk.repeated() == 0


@pytest.mark.slow
def test_what_is_missing_is_submitted_again_as_often_as_allowed(desk: Desk) -> None:
    desk.write_site(ELEMENTS_FAIL)
    desk.submit("s.zarr", *SMALL, "--elements", 1)

    desk.wait(lambda: desk.runs("s.zarr")[1] == "incomplete" and desk.is_quiet())

    assert len(desk.store("s.zarr").read_run(1)["jobs"]) == 3 * ROUNDS
    assert len(list((desk.folder / "s.zarr.jobs/logs").glob("*_0.log"))) == ROUNDS
    logs = (desk.folder / "s.zarr.jobs/logs").glob("*-finish-*.log")
    said = "6 points of s.zarr left. Submitted again as often as allowed"
    assert any(said in log.read_text() for log in logs)
    status = desk.status("s.zarr")
    assert re.search(r"^run 1 +incomplete, ", status, re.MULTILINE)
    assert re.search(r"^logs +s\.zarr\.jobs/logs$", status, re.MULTILINE)
    assert "queue" not in status

    desk.write_site()
    desk.submit("s.zarr", *SMALL, "--elements", 1)

    desk.wait(lambda: desk.runs("s.zarr") == {1: "incomplete", 2: "complete"})
    check_complete(desk, "s.zarr", 2, 3)


def test_cancel_ends_all_jobs_and_nothing_is_submitted_again(desk: Desk) -> None:
    desk.hold(0)
    array, *finalizers = desk.submit("s.zarr", *SMALL, "--elements", 2)
    desk.wait_at(0, 2)
    assert re.search(r"^queue +2 pending, 2 running", desk.status("s.zarr"), re.MULTILINE)

    said = desk.sweep("cancel", "s.zarr")

    assert said.startswith("Ended: ")
    assert {f"{array}_0", f"{array}_1", *finalizers} == set(re.findall(r"\d[\d_]*", said))
    desk.wait(desk.is_quiet)
    desk.wait(lambda: not desk.processes())
    assert list((desk.folder / "s.zarr.jobs/logs").glob("*-finish-*")) == []
    assert re.search(r"^run 1 +interrupted, ", desk.status("s.zarr"), re.MULTILINE)
