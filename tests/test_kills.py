"""What is left when processes come to harm: a sample of benchmarks/faults.py, and plain cases."""

import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr

from sweep.journal import Record, journals, read_from
from sweep.store import Store, exists
from sweep.study import load_module

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STUDY = BENCHMARKS / "fault_study.py"  # 240 points, two of which fail
SWEEP = [sys.executable, "-m", "sweep"]
SOME_FAILED, INTERRUPTED = 1, 130
FAULTS = 15  # benchmarks/faults.py has hundreds
PATIENCE = 60.0  # s; everything here takes a few seconds


@pytest.mark.thorough
def test_faults_of_many_kinds_lose_nothing_and_show_no_reader_a_wrong_value() -> None:
    faults = load_module(BENCHMARKS / "faults.py")
    seed = secrets.randbelow(2**31)  # another campaign each time

    report = faults.campaign(FAULTS, seed=seed, on="processes")

    again = f"python benchmarks/faults.py --faults {FAULTS} --on processes --seed {seed}"
    assert report.violations == [], f"{again}\n{report.text()}"
    assert len(report.faults) >= FAULTS, f"{again}\n{report.text()}"
    assert all(each.points_checked for each in report.rounds), again


def test_a_run_whose_worker_is_killed_completes_by_itself(
    undisturbed: xr.Dataset, tmp_path: Path
) -> None:
    store = tmp_path / "walks.zarr"
    driver = start_run(store)
    wait_until(lambda: len(records(store)) >= 2)
    victim = records(store)[-1]["pid"]

    psutil.Process(victim).kill()
    _, error = driver.communicate(timeout=PATIENCE)

    assert driver.returncode == SOME_FAILED, error
    assert_same_sweep(store, undisturbed)
    pids = {record["pid"] for record in records(store)}
    assert victim in pids
    assert len(pids) == 3  # two workers, and who came for the victim


def test_a_run_whose_driver_is_killed_is_resumed_without_computing_anything_twice(
    undisturbed: xr.Dataset, tmp_path: Path
) -> None:
    store = tmp_path / "walks.zarr"
    driver = start_run(store)
    wait_until(lambda: len(committed(store)) >= 3)
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(workers, PATIENCE)
    before = committed(store)

    resumed = sweep("resume", str(store), "--on", "processes", "--workers", "2")

    assert not alive
    assert resumed.returncode == SOME_FAILED, resumed.stderr
    assert_same_sweep(store, undisturbed)
    assert 3 <= len(before) < Store(store).grid.blocks
    second = {record["block"] for record in records(store) if record["run"] == 2}
    assert second == names(store) - before


def test_ctrl_c_ends_a_run_after_the_blocks_in_flight_and_says_how_to_go_on(
    undisturbed: xr.Dataset, tmp_path: Path
) -> None:
    store = tmp_path / "walks.zarr"
    driver = start_run(store)
    wait_until(lambda: len(committed(store)) >= 2)

    driver.send_signal(signal.SIGINT)
    _, error = driver.communicate(timeout=PATIENCE)
    before = committed(store)
    words = re.search(r"sweep (resume \S+)", error)

    assert driver.returncode == INTERRUPTED, error
    assert "blocks in flight" in error
    assert 2 <= len(before) < Store(store).grid.blocks
    assert {record["block"] for record in records(store)} == before  # nothing was dropped
    assert words is not None
    assert sweep(*words[1].split(), "--on", "serial").returncode == SOME_FAILED
    assert_same_sweep(store, undisturbed)
    second = {record["block"] for record in records(store) if record["run"] == 2}
    assert not second & before


# --- what these say ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    store = tmp_path_factory.mktemp("undisturbed") / "walks.zarr"
    made = sweep("run", str(STUDY), str(store), "pause=0.02", "--on", "serial")
    assert made.returncode == SOME_FAILED, made.stderr
    return xr.open_zarr(store, chunks=None).load()


def sweep(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*SWEEP, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def start_run(store: Path) -> "subprocess.Popen[str]":
    """Start a run of two workers that takes some seconds."""
    options = ["pause=0.02", "--on", "processes", "--workers", "2"]
    return subprocess.Popen(
        [*SWEEP, "run", str(STUDY), str(store), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def records(store: Path) -> list[Record]:
    """Return all tasks on record, the oldest first."""
    if not exists(store):
        return []
    found = [r for path in journals(Store(store).journal_folder) for r, _ in read_from(path, 0)]
    return sorted(found, key=lambda record: float(record["ended"]))


def committed(store: Path) -> set[str]:
    if not exists(store):
        return set()
    grid, done = Store(store).grid, np.flatnonzero(Store(store).plan().done).tolist()
    return {grid.block(number).name for number in done}


def names(store: Path) -> set[str]:
    grid = Store(store).grid
    return {grid.block(number).name for number in range(grid.blocks)}


def assert_same_sweep(store: Path, undisturbed: xr.Dataset) -> None:
    found = xr.open_zarr(store, chunks=None).load()
    made_anew = ["run", "point_seconds"]
    xr.testing.assert_equal(found.drop_vars(made_anew), undisturbed.drop_vars(made_anew))
    assert not (found.status == 0).any()
