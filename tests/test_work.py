"""Real workers on one store: each block is one's, whoever dies is replaced, and time is kept."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

from sweep.cli import main
from sweep.drive import END_SECONDS
from sweep.journal import Record, journals, read_from
from sweep.plan import Grid
from sweep.run import create_with
from sweep.running import new_record
from sweep.store import Store
from sweep.study import load_study

STUDIES = Path(__file__).parent / "studies"
EXPECTED = np.add.outer(np.arange(10), np.arange(6) / 10)
PATIENCE = 60.0  # s; everything here takes a few seconds
ALL_DONE, SOME_FAILED, MISTAKE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
SERIAL = ("--on", "serial")
RUN = ("--run", 1)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Store]:
    """Return what makes a store of sixty points, with a run that was submitted."""

    def made(
        block: tuple[int, int] = (1, 1), study: str = "perilous", **constants: float | str
    ) -> Store:
        found = load_study(str(STUDIES / f"{study}.py"))
        pipeline = found.pipeline.having(found.pipeline.axes, constants)
        store = create_with(pipeline, found, tmp_path / "s.zarr", Grid((10, 6), block))
        submit(store)
        return store

    return made


@pytest.fixture
def gate(tmp_path: Path) -> "Gate":
    return Gate(tmp_path / "gate")


class Gate:
    """What points wait for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has_waiting(self, count: int) -> bool:
        return len(list(self.path.parent.glob("gate.*"))) == count

    def open(self) -> None:
        self.path.touch()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Return what starts ``sweep`` with some words; what still runs is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "sweep", *map(str, words)]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


class TestSeveralWorkers:
    def test_compute_each_block_once_and_the_tables_say_so(
        self, make: Callable[..., Store], gate: Gate, start: Callable[..., "subprocess.Popen[str]"]
    ) -> None:
        store = make(study="gated", gate=str(gate.path))
        workers = [
            start("work", store.path, *RUN, *SERIAL, "--share", f"{number}/2") for number in (0, 1)
        ]
        wait_until(lambda: gate.has_waiting(2))
        gate.open()
        assert [ended(worker) for worker in workers] == [ALL_DONE, ALL_DONE]

        assert_complete(store)
        tasks = xr.open_zarr(store.path, group="tasks").load()
        assert sorted(tasks.block.values) == sorted(names(store))
        assert set(tasks.run.values) == set(tasks.attempt.values) == {1}
        assert set(tasks.pid.values) == {worker.pid for worker in workers}
        runs = xr.open_zarr(store.path, group="runs").load()
        assert (runs.state.item(), runs.engine.item()) == ("complete", "SLURM array")

    def test_go_on_with_what_one_was_at_that_is_killed(
        self, make: Callable[..., Store], gate: Gate, start: Callable[..., "subprocess.Popen[str]"]
    ) -> None:
        store = make(study="gated", gate=str(gate.path))
        victim, *others = (
            start("work", store.path, *RUN, *SERIAL, "--share", f"{number}/3")
            for number in (0, 1, 2)
        )
        wait_until(lambda: gate.has_waiting(3))
        victim.kill()
        victim.wait()
        gate.open()
        assert [ended(other) for other in others] == [ALL_DONE, ALL_DONE]

        assert_complete(store)
        found = records(store)
        assert sorted(record["block"] for record in found) == sorted(names(store))
        assert {record["pid"] for record in found} == {other.pid for other in others}
        attempts = {record["block"]: record["attempt"] for record in found}
        assert attempts.pop("0.0") == 2  # at which it was killed
        assert Counter(attempts.values()).most_common(1)[0] == (1, 59)  # it had one block alone

    def test_may_be_a_worker_and_a_driver(
        self, make: Callable[..., Store], gate: Gate, start: Callable[..., "subprocess.Popen[str]"]
    ) -> None:
        store = make(study="gated", gate=str(gate.path))
        both = [
            start("resume", store.path, *SERIAL),
            start("work", store.path, *SERIAL, "--share", "1/2"),
        ]
        wait_until(lambda: gate.has_waiting(2))
        gate.open()
        assert [ended(one) for one in both] == [ALL_DONE, ALL_DONE]

        assert_complete(store)
        tasks = xr.open_zarr(store.path, group="tasks").load()
        assert sorted(tasks.block.values) == sorted(names(store))
        assert set(tasks.run.values) == {2, 3}
        assert set(tasks.pid.values) == {one.pid for one in both}
        submitted, *states = xr.open_zarr(store.path, group="runs").state.values.tolist()
        assert submitted == "complete"  # there is nothing left for its jobs
        assert "complete" in states
        assert set(states) <= {"complete", "incomplete"}  # which it was when that one left


class TestWorker:
    def test_with_any_share_computes_all_where_it_is_alone(
        self, make: Callable[..., Store]
    ) -> None:
        store = make((2, 6))
        done = work(store, *RUN, "--share", "3/4")
        assert done.exit_code == ALL_DONE, done.output
        assert "60 points computed, 0 failed" in done.output
        assert "nothing is left" in done.output
        assert_complete(store)

    def test_without_a_number_has_a_run_of_its_own(self, make: Callable[..., Store]) -> None:
        store = make((2, 6))
        assert work(store).exit_code == ALL_DONE
        assert {record["run"] for record in records(store)} == {2}
        assert store.read_run(2)["state"] == "complete"
        assert_complete(store)

    def test_ends_at_once_where_nothing_is_left(self, make: Callable[..., Store]) -> None:
        store = make((5, 6))
        work(store, *RUN)
        before = len(records(store))
        for options in (RUN, ()):
            again = work(store, *options)
            assert again.exit_code == ALL_DONE, again.output
            assert "nothing is left" in again.output
        assert len(records(store)) == before
        assert list(store.run_files()) == [1]

    def test_exits_with_1_where_points_failed_and_again_where_it_finds_them_so(
        self, make: Callable[..., Store]
    ) -> None:
        store = make((2, 6), deeds="raise 2 3 and raise 4 4")
        done = work(store, *RUN)
        assert done.exit_code == SOME_FAILED, done.output
        assert "60 points computed, 2 failed" in done.output
        assert work(store, *RUN).exit_code == SOME_FAILED
        assert_complete(store, failed={(2, 3), (4, 4)})

    def test_computes_what_was_left_of_blocks_when_its_run_began(
        self, make: Callable[..., Store]
    ) -> None:
        store = make((5, 6), deeds="raise 2 3")
        work(store, *RUN)
        assert store.forget_failures() == 1
        assert submit(store) == 2
        done = work(store, "--run", 2)
        assert done.exit_code == SOME_FAILED, done.output
        assert [(r["run"], r["block"]) for r in records(store)][2:] == [(2, "0.0")]
        assert_complete(store, failed={(2, 3)})


class TestTime:
    def test_that_is_nearly_over_leaves_the_rest_to_others_and_blames_nobody(
        self, make: Callable[..., Store], start: Callable[..., "subprocess.Popen[str]"]
    ) -> None:
        store = make(pause=0.2)
        worker = start("work", store.path, *RUN, *SERIAL, "--until", time.time() + END_SECONDS + 10)
        output, error = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == ALL_DONE, error  # it did what it was told to
        assert "No time is left for another block" in error
        assert "points are left" in output
        assert store.count_points()["failed"] == 0
        assert store.read_run(1)["state"] == "running"
        assert traces(store) == []

    @pytest.mark.parametrize("until", [0, 1e9, "nan"])
    def test_that_is_over_before_it_began_is_no_time(
        self, until: float | str, make: Callable[..., Store]
    ) -> None:
        store = make((5, 6))
        done = work(store, *RUN, "--until", until)
        assert done.exit_code == ALL_DONE, done.output
        assert "60 of 60 points are left" in done.output
        assert records(store) == traces(store) == []

    def test_that_a_batch_system_says_is_short_is_enough_for_what_is_in_flight(
        self, make: Callable[..., Store], gate: Gate, start: Callable[..., "subprocess.Popen[str]"]
    ) -> None:
        store = make(study="gated", gate=str(gate.path))
        worker = start("work", store.path, *RUN, "--workers", 1)
        wait_until(lambda: gate.has_waiting(1))
        worker.send_signal(signal.SIGUSR1)
        time.sleep(0.5)  # a look at signals and engines takes 0.2 s; later is no mistake
        gate.open()
        _, error = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == INCOMPLETE, error
        assert "No time is left for another block" in error
        assert store.count_points()["done"] == len(records(store)) < 60
        assert traces(store) == []
        assert work(store, *RUN, "--share", "0/9").exit_code == ALL_DONE
        assert_complete(store)
        assert {record["attempt"] for record in records(store)} == {1}

    def test_that_a_batch_system_ends_is_enough_for_nothing(
        self, make: Callable[..., Store], gate: Gate, start: Callable[..., "subprocess.Popen[str]"]
    ) -> None:
        store = make(study="gated", gate=str(gate.path))
        worker = start("work", store.path, *RUN, "--workers", 1)
        wait_until(lambda: gate.has_waiting(1))
        worker.send_signal(signal.SIGTERM)
        output, error = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == INTERRUPTED, error
        assert "60 of 60 points are left" in output
        assert "Traceback" not in error
        assert store.count_points()["failed"] == 0
        assert traces(store) == []


@pytest.mark.slow
def test_a_point_that_takes_its_process_along_each_time_fails_and_all_else_is_done(
    make: Callable[..., Store], start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    store = make((1, 6), deeds="end all 2 3")
    codes = []
    for _ in range(4):
        worker = start("work", store.path, *RUN, "--workers", 2)
        codes.append(ended(worker))
    assert codes == [-signal.SIGKILL] * 3 + [SOME_FAILED]

    assert_complete(store, failed={(2, 3)})
    events = xr.open_zarr(store.path, group="events").load()
    assert [(e.item(), t.item()) for e, t in zip(events.error_type, events.error, strict=True)] == [
        ("WorkerDied", "3 times all that ran it was killed, its driver, too.")
    ]
    (last,) = (r for r in records(store) if r["block"] == "2.0")
    assert last["attempt"] == 4


class TestMistake:
    @pytest.mark.parametrize("share", ["4/4", "5/4", "0/0", "-1/4", "1", "a/b", "1/4/2", "", "٣/٤"])
    def test_in_a_share_is_told_with_what_to_give(
        self, share: str, make: Callable[..., Store]
    ) -> None:
        done = work(make((5, 6)), f"--share={share}")
        assert done.exit_code == MISTAKE
        assert f"'{share}': give I/N, with I from 0 to N - 1: 0/4 is the first of four." in (
            done.output.replace("\n", " ")
        )

    def test_in_the_number_of_a_run_is_told_with_what_to_do(
        self, make: Callable[..., Store]
    ) -> None:
        store = make((5, 6))
        done = work(store, "--run", 7)
        assert done.exit_code == MISTAKE
        assert f"{store.path} has no run 7. Leave out --run, or see: sweep status " in done.output
        assert records(store) == traces(store) == []

    def test_in_the_store_is_told(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(main, ["work", str(tmp_path / "none.zarr"), *SERIAL])
        assert done.exit_code == MISTAKE
        assert "does not exist" in done.output


# --- what these say ------------------------------------------------------------------------


def submit(store: Store) -> int:
    """Begin a run whose workers are to come; return its number."""
    source = load_study(str(store.path / store.header.study["file"])).source
    record = new_record(source, "SLURM array", "queued")
    return store.begin_run(record | {"jobs": ["1"], "reopened": store.unsettled()})


def work(store: Store, *options: object) -> Result:
    """Work in this process."""
    words = ["work", store.path, *SERIAL, *options]
    return CliRunner().invoke(main, list(map(str, words)))


def ended(process: "subprocess.Popen[str]") -> int:
    """Wait for the end of a process; return its exit code."""
    process.communicate(timeout=PATIENCE)
    return process.returncode


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def records(store: Store) -> list[Record]:
    """Return all tasks on record, the oldest first."""
    found = [r for path in journals(store.journal_folder) for r, _ in read_from(path, 0)]
    return sorted(found, key=lambda record: float(record["ended"]))


def names(store: Store) -> list[str]:
    return [store.grid.block(number).name for number in range(store.grid.blocks)]


def traces(store: Store) -> list[str]:
    """Return what there is of claimants, claims and marks, but for empty folders of claims."""
    found = []
    for name in ("claimants", "claims", "marks"):
        for folder, folders, files in os.walk(store.private / name):
            found += [f"{folder}/{file}" for file in files if not file.endswith(".partial")]
            found += [f"{folder}/{inner}" for inner in folders if name == "marks"]
    return found


def assert_complete(store: Store, failed: Collection[tuple[int, int]] = ()) -> None:
    """Every point is done, but for those that failed, and nobody has left anything."""
    found = xr.open_zarr(store.path).load()
    expected_status = np.ones((10, 6))
    for place in failed:
        expected_status[place] = 2
    np.testing.assert_array_equal(found.status, expected_status)
    values = found.total if "total" in found else found.risk
    np.testing.assert_array_equal(values, np.where(expected_status == 1, EXPECTED, np.nan))
    assert traces(store) == []
