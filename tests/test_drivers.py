"""Several drivers and one store: one at a time, or side by side when asked."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sweep.journal import Record, journals, read_from
from sweep.store import Store, exists

STUDY = Path(__file__).parent / "studies" / "perilous.py"
SWEEP = [sys.executable, "-m", "sweep"]
EXPECTED = np.add.outer(np.arange(10), np.arange(6) / 10)
PATIENCE = 60.0  # s
SLOW = ["pause=0.15", "--on", "processes", "--workers", "1"]  # 9 s in all


@pytest.fixture
def first(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A driver that is at work on ``s.zarr``."""
    driver = start("run", str(STUDY), str(tmp_path / "s.zarr"), *SLOW)
    wait_until(lambda: len(records(tmp_path / "s.zarr")) >= 2)
    yield driver
    driver.kill()
    driver.communicate()


def test_a_second_driver_is_refused_and_told_who_the_first_is(
    first: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    second = sweep("resume", str(tmp_path / "s.zarr"), "--on", "serial")

    assert second.returncode == 2
    assert f"pid {first.pid} on " in second.stderr
    assert re.search(r"since \d+ s ago|since just now", second.stderr)
    assert "--join" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.poll() is None
    assert "driver" in sweep("status", str(tmp_path / "s.zarr")).stdout


def test_a_driver_that_joins_does_what_the_first_has_not_begun(
    first: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    second = sweep("resume", str(store), "--join", "--on", "processes", "--workers", "1")
    _, error = first.communicate(timeout=PATIENCE)

    assert second.returncode == 0, second.stderr
    assert first.returncode == 0, error
    np.testing.assert_array_equal(xr.open_zarr(store).risk, EXPECTED)
    runs = [record["run"] for record in records(store)]
    assert set(runs) == {1, 2}
    assert len(runs) <= 60 + 2  # but for what both are at in the end
    assert xr.open_zarr(store, group="tasks").sizes["task"] == len(runs)
    assert set(xr.open_zarr(store, group="runs").state.values) == {"complete"}


def test_a_driver_that_was_killed_is_no_obstacle(
    first: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    first.kill()
    first.communicate()

    second = sweep("resume", str(tmp_path / "s.zarr"), "--on", "processes", "--timeout", "30")

    assert second.returncode == 0, second.stderr
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "s.zarr").risk, EXPECTED)
    runs = xr.open_zarr(tmp_path / "s.zarr", group="runs").load()
    assert runs.state.values.tolist() == ["killed", "complete"]


def test_there_is_nothing_to_join_where_there_is_no_store(tmp_path: Path) -> None:
    done = sweep("run", str(STUDY), str(tmp_path / "s.zarr"), "--join")
    assert done.returncode == 2
    assert "nothing to join" in done.stderr
    assert not (tmp_path / "s.zarr").exists()


# --- what these say ------------------------------------------------------------------------


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*SWEEP, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def sweep(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*SWEEP, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def records(store: Path) -> list[Record]:
    if not exists(store):
        return []
    return [r for path in journals(Store(store).journal_folder) for r, _ in read_from(path, 0)]
