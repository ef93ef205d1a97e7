"""Points that end badly, in real processes: each is named with its reason, and no other suffers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from sweep.options import Options
from sweep.plan import Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute, resume
from sweep.status import status
from sweep.study import load_study
from sweep.summary import Summary

STUDY = Path(__file__).parent / "studies" / "perilous.py"
PATIENT = STUDY.with_name("patient.py")  # names numba, which its workers import for it
SWEEP = [sys.executable, "-m", "sweep"]
EXPECTED = np.add.outer(np.arange(10), np.arange(6) / 10)
PATIENCE = 120.0  # s

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def run(
    store: Path,
    deeds: str,
    block: tuple[int, int] = (1, 6),
    name: str = "pipeline",
    file: Path = STUDY,
    **how: Any,
) -> Summary:
    """Run the sixty points in blocks of this shape, two workers."""
    study = load_study(f"{file}:{name}")
    pipeline = study.pipeline.with_values(deeds=deeds)
    create_with(pipeline, study, store, Grid((10, 6), block))
    options = {"on": "processes", "workers": None if how.get("on") == "serial" else 2, **how}
    return execute(pipeline, study, store, Options(**options), Quiet())


def failures(store: Path) -> dict[tuple[int, ...], tuple[str, str]]:
    """Return type and text of each failure by its place."""
    return {tuple(f.place.values()): (f.error_type, f.error) for f in status(store).failures}


def assert_all_others_done(store: Path, *failed: tuple[int, int]) -> None:
    dataset = xr.open_zarr(store).load()
    expected = np.ones((10, 6), np.uint8)
    values = EXPECTED.copy()
    for place in failed:
        expected[place], values[place] = 2, np.nan
    np.testing.assert_array_equal(dataset.status, expected)
    (output,) = (name for name in ("risk", "risk_all") if name in dataset)
    np.testing.assert_array_equal(dataset[output], values)


@pytest.mark.parametrize("on", ["processes", pytest.param("dask", marks=pytest.mark.slow)])
def test_of_sixty_points_four_end_badly_and_fifty_six_are_done(on: str, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    deeds = "raise 2 3 and die 4 1 and hang 7 0 and eat 9 5"
    options = ["--on", on, "--workers", "2", "--timeout", "2"]
    # `ulimit -m` (kB) is what the workers share: one that eats is ended before the machine is.
    script = 'ulimit -m 2000000; exec "$@"'
    words = [*SWEEP, "run", str(STUDY), str(store), f"deeds={deeds}", *options]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *words], capture_output=True, text=True, timeout=64, check=False
    )

    assert done.returncode == 1, done.stderr
    assert "56 of 60 points done, 4 failed." in done.stdout
    assert "Traceback" not in done.stderr
    found = failures(store)
    assert {place: kind for place, (kind, _) in found.items()} == {
        (2, 3): "ValueError",
        (4, 1): "WorkerDied",
        (7, 0): "Timeout",
        (9, 5): "OutOfMemory",
    }
    assert "was killed by SIGKILL, peak memory" in found[4, 1][1]
    assert "ended at the deadline" in found[7, 0][1]
    assert "took more memory than its share and was ended, peak memory" in found[9, 5][1]
    assert_all_others_done(store, (2, 3), (4, 1), (7, 0), (9, 5))


class TestDeath:
    @pytest.mark.parametrize("on", ["processes", "dask"])
    def test_costs_one_point_of_a_block_and_says_where_it_crashed(
        self, on: str, tmp_path: Path
    ) -> None:
        summary = run(tmp_path / "s.zarr", "crash 4 2", (5, 6), on=on)
        assert (summary.tally.done, summary.tally.failed) == (59, 1)
        ((place, (kind, text)),) = failures(tmp_path / "s.zarr").items()
        assert (place, kind) == ((4, 2), "WorkerDied")
        assert "was killed by SIGSEGV" in text
        assert "perilous.py" in text
        assert "in crash" in text
        assert_all_others_done(tmp_path / "s.zarr", (4, 2))

    def test_tells_what_the_worker_said_last(self, tmp_path: Path) -> None:
        run(tmp_path / "s.zarr", "leave 0 0")
        ((_, (kind, text)),) = failures(tmp_path / "s.zarr").items()
        assert kind == "WorkerDied"
        assert "ended with exit code 5" in text
        assert text.endswith("the mesh is inside out")

    def test_of_several_in_one_block_names_each(self, tmp_path: Path) -> None:
        summary = run(tmp_path / "s.zarr", "die 0 0 and leave 0 1 and crash 3 3", (10, 6))
        assert summary.tally.lost_workers <= 3 + 2 + 2
        assert set(failures(tmp_path / "s.zarr")) == {(0, 0), (0, 1), (3, 3)}
        assert_all_others_done(tmp_path / "s.zarr", (0, 0), (0, 1), (3, 3))

    def test_within_a_vectorized_stage_costs_one_point(self, tmp_path: Path) -> None:
        run(tmp_path / "s.zarr", "crash 4 2", (10, 6), name="vectorized")
        assert set(failures(tmp_path / "s.zarr")) == {(4, 2)}
        assert_all_others_done(tmp_path / "s.zarr", (4, 2))


def test_memory_of_what_a_point_has_started_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.options.usable_memory", lambda: 600_000_000)
    run(tmp_path / "s.zarr", "spawn 2 2")
    ((place, (kind, text)),) = failures(tmp_path / "s.zarr").items()
    assert (place, kind) == ((2, 2), "OutOfMemory")
    assert "took more memory than its share" in text
    assert_all_others_done(tmp_path / "s.zarr", (2, 2))


class TestDeadline:
    def test_of_a_point_that_came_to_its_end_too_late_is_told_on_every_engine(
        self, tmp_path: Path
    ) -> None:
        for on in ("serial", "processes"):
            store = tmp_path / f"{on}.zarr"
            run(store, "doze 1 1", on=on, timeout=0.5)
            ((place, (kind, text)),) = failures(store).items()
            assert (place, kind) == ((1, 1), "Timeout")
            assert "a point may take 0.5 s" in text
            assert_all_others_done(store, (1, 1))

    @pytest.mark.parametrize("on", ["processes", "dask"])
    def test_is_not_needed_by_a_point_that_holds_the_gil(self, on: str, tmp_path: Path) -> None:
        summary = run(tmp_path / "s.zarr", "hold 1 1", on=on)
        assert (summary.tally.done, summary.tally.lost_workers) == (60, 0)

    @pytest.mark.parametrize("deed", ["freeze", pytest.param("ignore", marks=pytest.mark.slow)])
    def test_is_minded_by_the_driver_where_the_worker_cannot(
        self, deed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sweep.drive.COMPILE_SECONDS", 0.0)
        run(tmp_path / "s.zarr", f"{deed} 3 3", (10, 6), timeout=0.2)
        assert {k: kind for k, (kind, _) in failures(tmp_path / "s.zarr").items()} == {
            (3, 3): "Timeout"
        }
        assert_all_others_done(tmp_path / "s.zarr", (3, 3))

    @pytest.mark.slow
    @pytest.mark.parametrize("on", ["processes", "dask"])
    def test_is_not_needed_by_kernels_of_minutes_with_the_gil_and_without(
        self, on: str, tmp_path: Path
    ) -> None:
        summary = run(
            tmp_path / "s.zarr", "hold long 1 1 and release long 2 2", file=PATIENT, on=on
        )
        assert (summary.tally.done, summary.tally.lost_workers) == (60, 0)
        seconds = xr.open_zarr(tmp_path / "s.zarr").point_seconds
        assert float(seconds[1, 1]) > 100
        assert float(seconds[2, 2]) > 100

    def test_ends_a_point_that_holds_the_gil(self, tmp_path: Path) -> None:
        run(tmp_path / "s.zarr", "hang 3 3", (10, 6), timeout=0.2)
        assert set(failures(tmp_path / "s.zarr")) == {(3, 3)}
        assert_all_others_done(tmp_path / "s.zarr", (3, 3))


class TestRetries:
    def test_try_a_point_again_that_raises(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TRIES", str(tmp_path / "tries"))
        summary = run(tmp_path / "s.zarr", "flake 2 2", retries=2)
        assert (summary.tally.done, summary.tally.failed) == (60, 0)
        assert_all_others_done(tmp_path / "s.zarr")

    def test_are_not_made_unless_asked_for_but_on_resume(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TRIES", str(tmp_path / "tries"))
        store = tmp_path / "s.zarr"
        assert run(store, "flake 2 2").tally.failed == 1
        for failed in (1, 0):
            again = resume(store, Options("serial", retry_failed=True), Quiet(), None)
            assert (again.tally.failed, again.tally.left) == (failed, 0)
        assert_all_others_done(store)
        tasks = xr.open_zarr(store, group="tasks").load()
        assert tasks.block.values[tasks.run.values > 1].tolist() == ["2.0", "2.0"]

    def test_fail_fast_stops_at_the_first_failure(self, tmp_path: Path) -> None:
        summary = run(tmp_path / "s.zarr", "raise 0 0", on="serial", fail_fast=True)
        assert summary.failed_fast
        assert summary.tally.failed == 1
        assert summary.tally.left >= 48  # two batches were in flight
