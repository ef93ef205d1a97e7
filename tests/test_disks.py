"""Disks that are full, cannot be written or change their clock: told, nothing wrong, and mended."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sweep
from sweep.options import Options
from sweep.plan import Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute
from sweep.status import status
from sweep.store import Store
from sweep.study import load_study
from sweep.verify import verify

STUDY = Path(__file__).parent / "studies" / "bulky.py"
SWEEP = [sys.executable, "-m", "sweep"]
PATIENCE = 60.0  # s
INCOMPLETE = 3

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts disks, drops capabilities")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> xr.DataArray:
    return sweep.run(STUDY, on="serial").noise


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Mount a small disk with these options, or mount it anew with others."""
    if os.geteuid() != 0:
        pytest.skip("mounts a small disk; run it as root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted: list[str] = []

    def mount(options: str) -> None:
        remount = ["-o", f"remount,{options}"] if mounted else ["-o", options, "-t", "tmpfs"]
        done = subprocess.run(["mount", *remount, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounts a small disk, and may not here: {done.stderr.strip()}")
        mounted.append(options)

    yield mount
    if mounted:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    disk: Callable[[str], None], expected: xr.DataArray, tmp_path: Path
) -> None:
    disk("size=2m")
    store = tmp_path / "disk" / "s.zarr"
    full = start("run", store)

    assert full.returncode == INCOMPLETE, full.stderr
    assert "It may fit when compressed" in full.stderr
    assert "No space left on device" in full.stderr
    assert "sweep resume" in full.stderr
    assert "Traceback" not in full.stderr
    assert_right_where_done(store, expected)
    assert not list(store.rglob("*.partial"))

    disk("size=20m")
    again = start("resume", store)

    assert again.returncode == 0, again.stderr
    xr.testing.assert_equal(xr.open_zarr(store).noise.load(), expected)
    assert verify(Store(store), mark=False).is_sound


@pytest.mark.parametrize(
    ("options", "told"),
    [("size=500k", "of data are to be written"), ("size=20m,nr_inodes=250", "files are to be")],
)
def test_what_can_never_fit_is_refused_before_it_starts(
    options: str, told: str, disk: Callable[[str], None], tmp_path: Path
) -> None:
    disk(options)
    done = start("run", tmp_path / "disk" / "s.zarr")
    assert done.returncode == INCOMPLETE
    assert told in done.stderr
    assert "STORE on another disk" in done.stderr
    assert not list((tmp_path / "disk").iterdir())


def test_a_permission_lost_in_a_run_is_told_and_the_run_goes_on_when_it_is_back(
    expected: xr.DataArray, tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    driver = subprocess.Popen(
        [*ordinary(), *SWEEP, "run", str(STUDY), str(store), *TWO],
        env={**os.environ, "PAUSE": "0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(list((store / "status").glob("c.*"))) >= 3)
    (store / "noise").chmod(0o500)
    _, error = driver.communicate(timeout=PATIENCE)
    (store / "noise").chmod(0o700)

    assert driver.returncode == INCOMPLETE, error
    assert "Permission denied" in error
    assert "sweep resume" in error
    assert "Traceback" not in error
    assert_right_where_done(store, expected)
    assert start("resume", store).returncode == 0
    xr.testing.assert_equal(xr.open_zarr(store).noise.load(), expected)


def test_a_store_that_one_may_only_read_can_be_read_and_no_more(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    make_store(store)
    folders = [store, *(path for path in store.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        done = start("resume", store, *ordinary())
        seen = subprocess.run(
            [*ordinary(), *SWEEP, "status", str(store)], capture_output=True, text=True
        )
    finally:
        for folder in folders:
            folder.chmod(0o700)

    assert done.returncode == INCOMPLETE
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert "60: 60 pending" in seen.stdout


@pytest.mark.parametrize("step", [-86400.0, 86400.0])
def test_a_clock_that_jumps_harms_nothing(
    step: float, expected: xr.DataArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr(time, "time", lambda: 1.8e9 + step * next(ticks))
    study = load_study(str(STUDY))
    store = create_with(study.pipeline, study, tmp_path / "s.zarr", Grid((10, 6), (1, 6)))
    for block in range(2):  # several runs, each later or earlier than the last
        execute(study.pipeline, study, store.path, Options("serial"), Quiet())
        name = store.grid.block(block).name
        (store.path / "status" / f"c.{name}").unlink()
    summary = execute(study.pipeline, study, store.path, Options("serial"), Quiet())

    assert (summary.tally.done, summary.tally.failed) == (60, 0)
    xr.testing.assert_equal(xr.open_zarr(store.path).noise.load(), expected)
    tasks = xr.open_zarr(store.path, group="tasks").load()
    assert tasks.sizes["task"] == 12
    assert (tasks.compute_seconds >= 0).all()
    assert (tasks.queue_seconds >= 0).all()
    assert status(store.path).complete
    assert verify(store, mark=False).is_sound


# --- what these say ------------------------------------------------------------------------

TWO = ["--on", "processes", "--workers", "2"]


def ordinary() -> list[str]:
    """Return what makes root obey the modes of files, as others do."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


def start(command: str, store: Path, *prefix: str) -> "subprocess.CompletedProcess[str]":
    what = [str(STUDY)] if command == "run" else []
    return subprocess.run(
        [*prefix, *SWEEP, command, *what, str(store), *TWO],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def make_store(path: Path) -> None:
    study = load_study(str(STUDY))
    create_with(study.pipeline, study, path, Grid((10, 6), (1, 1)))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def assert_right_where_done(store: Path, expected: xr.DataArray) -> None:
    found = xr.open_zarr(store, chunks=None)
    done = found.status.values == 1
    assert 0 < done.sum() < 60
    np.testing.assert_array_equal(found.noise.values[done], expected.values[done])
