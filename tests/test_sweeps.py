"""Whole sweeps: one contract for every engine, with the serial answer as the reference."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import xarray as xr

import sweep
from sweep import Axis, Coord, Needs, Pipeline, Var
from sweep.engines import Arguments, Lost, Outcome
from sweep.engines.serial import SerialEngine
from sweep.errors import (
    DefinitionError,
    EngineError,
    StoreError,
    StoreMismatch,
    StudyError,
    WorkerError,
)
from sweep.options import Options
from sweep.plan import Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute, remembered_study
from sweep.store import Store
from sweep.study import Study, load_study
from sweep.summary import Summary, lost_text


def with_workers(engine: str | Executor, count: int) -> Options:
    """Return the options for an engine with so many workers; serial has one, always."""
    return Options(engine, None if engine == "serial" else count)


COMPUTED = ("profile", "total", "steps", "rising", "noise", "status")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    study = load_study(str(Path(__file__).parent / "studies" / "everything.py"))
    path = tmp_path_factory.mktemp("reference") / "s.zarr"
    execute(study.pipeline, study, path, Options("serial"), Quiet())
    return xr.open_zarr(path).load()


@pytest.mark.parametrize("on", ["serial", "executor", "processes", "dask"])
class TestEveryEngine:
    @pytest.fixture
    def engine(self, on: str) -> Iterator[str | Executor]:
        if on != "executor":
            yield on
            return
        with ThreadPoolExecutor(1) as executor:
            yield executor

    def test_gives_the_serial_answer_value_for_value(
        self, engine: str | Executor, everything: Study, tmp_path: Path, reference: xr.Dataset
    ) -> None:
        grid = Grid((2, 3, 2), (1, 2, 1))
        create_with(everything.pipeline, everything, tmp_path / "s.zarr", grid)
        options = with_workers(engine, 2)
        summary = execute(everything.pipeline, everything, tmp_path / "s.zarr", options, Quiet())
        assert (summary.tally.done, summary.tally.failed) == (11, 1)
        found = xr.open_zarr(tmp_path / "s.zarr").load()
        for name in COMPUTED:
            xr.testing.assert_identical(found[name], reference[name])

    def test_keeps_a_receipt_of_every_task_and_the_reason_of_every_failure(
        self, engine: str | Executor, throw: Study, tmp_path: Path
    ) -> None:
        grid = Grid((5, 4), (1, 4))
        create_with(throw.pipeline, throw, tmp_path / "s.zarr", grid)
        execute(throw.pipeline, throw, tmp_path / "s.zarr", with_workers(engine, 2), Quiet())
        tasks = xr.open_zarr(tmp_path / "s.zarr", group="tasks").load()
        assert sorted(tasks.block.values) == ["0.0", "1.0", "2.0", "3.0", "4.0"]
        assert set(tasks.status.values) == {"done", "failed"}
        assert (tasks.queue_seconds >= 0).all()
        events = xr.open_zarr(tmp_path / "s.zarr", group="events").load()
        assert events.index_speed.values.tolist() == [1] * 4
        assert all(text.startswith("unlucky") for text in events.error.values)
        runs = xr.open_zarr(tmp_path / "s.zarr", group="runs").load()
        assert runs.state.values.tolist() == ["complete"]

    def test_computes_what_is_missing_and_nothing_else(
        self, engine: str | Executor, throw: Study, tmp_path: Path
    ) -> None:
        grid = Grid((5, 4), (1, 2))
        store = create_with(throw.pipeline, throw, tmp_path / "s.zarr", grid)
        execute(throw.pipeline, throw, store.path, Options("serial"), Quiet())
        blocks = [store.grid.block(number).name for number in (2, 7)]
        for name in blocks:
            (store.path / "status" / f"c.{name}").unlink()
        execute(throw.pipeline, throw, store.path, with_workers(engine, 2), Quiet())
        tasks = xr.open_zarr(store.path, group="tasks").load()
        assert sorted(tasks.block.values[tasks.run.values == 2]) == blocks
        run = xr.open_zarr(store.path).run.values
        assert (run == 2).sum() == 4
        assert (run[1, :2] == 2).all()

    def test_is_stopped_by_a_study_that_workers_cannot_import(
        self, engine: str | Executor, throw: Study, tmp_path: Path
    ) -> None:
        if not isinstance(engine, str) or engine == "serial":
            pytest.skip("its workers are this process, which has imported it")
        file = tmp_path / "only_here.py"
        file.write_text(throw.file.read_text())
        study = load_study(str(file))
        file.write_text("raise RuntimeError('not on this node')")
        with pytest.raises(WorkerError, match="not on this node"):
            execute(study.pipeline, study, tmp_path / "s.zarr", with_workers(engine, 1), Quiet())

    def test_takes_a_pipeline_that_no_file_holds(
        self, engine: str | Executor, tmp_path: Path
    ) -> None:
        offset = 5.0

        def shifted(a: float) -> Annotated[float, Var((), "m")]:
            return a + offset

        pipeline = Pipeline(shifted, axes=[Axis("a", [1.0, 2.0])])
        workers = with_workers(engine, 1).workers
        found = sweep.run(pipeline, tmp_path / "s.zarr", on=engine, workers=workers)
        assert found.shifted.values.tolist() == [6.0, 7.0]
        assert Store(tmp_path / "s.zarr").header.study is None


class TestRunning:
    def test_returns_the_loaded_dataset_of_a_temporary_store(self, throw: Study) -> None:
        dataset = sweep.run(throw.pipeline, on="serial", speed=[10, 20], time=1)
        assert dataset.height.dims == ("speed",)
        np.testing.assert_allclose(dataset.height, [10 - 9.81 / 2, 20 - 9.81 / 2])

    def test_takes_a_reference_as_well_as_a_pipeline(self, throw: Study, tmp_path: Path) -> None:
        dataset = sweep.run(str(throw.file), tmp_path / "s.zarr", on="serial", speed=10.0)
        assert dict(dataset.sizes) == {"time": 4}

    def test_warns_of_points_that_failed(self, throw: Study, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match=r"4 of 20 points failed, the first at speed=13"):
            sweep.run(throw.pipeline, tmp_path / "s.zarr", on="serial")

    def test_continues_a_store_of_the_same_sweep(self, throw: Study, tmp_path: Path) -> None:
        first = sweep.run(throw.pipeline, tmp_path / "s.zarr", on="serial", speed=[1, 2])
        again = sweep.run(throw.pipeline, tmp_path / "s.zarr", on="serial", speed=[1, 2])
        xr.testing.assert_identical(first.load(), again.load())
        assert list(Store(tmp_path / "s.zarr").run_files()) == [1]

    def test_refuses_a_store_of_another_sweep_and_says_what_differs(
        self, throw: Study, tmp_path: Path
    ) -> None:
        sweep.run(throw.pipeline, tmp_path / "s.zarr", on="serial", speed=[1, 2])
        with pytest.raises(StoreMismatch, match="axis 'speed' had 2 values, now 3"):
            sweep.run(throw.pipeline, tmp_path / "s.zarr", on="serial", speed=[1, 2, 3])
        with pytest.raises(StoreMismatch, match=r"constant 'g' was 9\.81, now 1\.6"):
            sweep.run(throw.pipeline, tmp_path / "s.zarr", on="serial", speed=[1, 2], g=1.6)

    def test_refuses_wrong_values_before_anything_runs(self, throw: Study, tmp_path: Path) -> None:
        with pytest.raises(DefinitionError, match="Did you mean 'speed'"):
            sweep.run(throw.pipeline, tmp_path / "s.zarr", speeed=1)
        with pytest.raises(EngineError, match="Did you mean 'dask'"):
            sweep.run(throw.pipeline, tmp_path / "s.zarr", on="dusk")
        with pytest.raises(EngineError, match="not encrypted"):
            sweep.run(throw.pipeline, tmp_path / "s.zarr", on="tcp://127.0.0.1:8786")
        assert list(tmp_path.iterdir()) == []

    def test_keeps_points_of_many_bytes_apart(self, tmp_path: Path) -> None:
        def field(a: float) -> Annotated[np.ndarray, Var(("x",), "m")]:
            return np.full(40_000, a)

        pipeline = Pipeline(
            field, axes=[Axis("a", np.arange(70.0))], coords=[Coord("x", range(40_000))]
        )
        sweep.run(pipeline, tmp_path / "s.zarr", on="serial")
        assert Store(tmp_path / "s.zarr").grid.block_shape == (1,)

    def test_puts_many_quick_points_into_few_blocks(self, throw: Study, tmp_path: Path) -> None:
        speeds, times = np.linspace(20, 30, 60), np.linspace(0, 1, 50)
        dataset = sweep.run(
            throw.pipeline, tmp_path / "s.zarr", on="serial", speed=speeds, time=times
        )
        assert Store(tmp_path / "s.zarr").grid.blocks <= 60
        expected = speeds[:, None] * times - 9.81 * times**2 / 2
        np.testing.assert_array_equal(dataset.height, expected)

    def test_records_the_code_of_each_run(self, throw: Study, tmp_path: Path) -> None:
        file = tmp_path / "changing.py"
        file.write_text(throw.file.read_text())
        study = load_study(str(file))
        grid = Grid((5, 4), (1, 4))
        store = create_with(study.pipeline, study, tmp_path / "s.zarr", grid)
        assert execute(study.pipeline, study, store.path, Options("serial"), Quiet()).run == 1
        (store.path / "status" / "c.0.0").unlink()
        file.write_text(file.read_text().replace("g * time**2 / 2", "g * time**2 / 2 + 0"))
        study = load_study(str(file))
        with pytest.raises(
            StoreMismatch, match=r"code has changed since run 1(.|\n)*\+ 0(.|\n)*--acc"
        ):
            execute(study.pipeline, study, store.path, Options("serial"), Quiet())
        accepting = Options("serial", accept_changes=True)
        summary = execute(study.pipeline, study, store.path, accepting, Quiet())
        assert summary.code_changed_since == 1
        (store.path / "status" / "c.0.0").unlink()
        file.write_text(file.read_text().replace("/ 2 + 0", "/ 2 + 0 + 0"))
        with (
            pytest.warns(UserWarning, match="4 of 20 points failed"),
            pytest.warns(UserWarning, match=r"code has changed since run 2; .* have run=3"),
        ):
            sweep.run(file, store.path, on="serial", accept_changes=True)
        assert store.read_run(1)["code_hash"] != store.read_run(2)["code_hash"]

    @pytest.mark.parametrize("workers", [0, -1, 2.5, "2", True])
    def test_refuses_a_number_of_workers_that_makes_no_sense(
        self, workers: int, throw: Study, tmp_path: Path
    ) -> None:
        with pytest.raises(EngineError, match="give a whole number, at least 1"):
            sweep.run(throw.pipeline, tmp_path / "s.zarr", on="processes", workers=workers)

    @pytest.mark.parametrize("on", [None, 3])
    def test_refuses_what_is_no_engine(self, on: str, throw: Study, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="is no engine"):
            sweep.run(throw.pipeline, tmp_path / "s.zarr", on=on)

    def test_takes_a_path_and_refuses_a_function(self, throw: Study, tmp_path: Path) -> None:
        assert sweep.run(throw.file, on="serial", speed=10).sizes == {"time": 4}
        with pytest.raises(DefinitionError, match="is no Pipeline and no file with one"):
            sweep.run(throw.pipeline.stages[0].function)  # type: ignore[arg-type]

    def test_refuses_an_address(self, throw: Study) -> None:
        with pytest.raises(StoreError, match="is an address; a STORE is a folder on a disk"):
            sweep.run(throw.pipeline, "s3://bucket/s.zarr", on="serial")

    def test_refuses_a_sweep_within_a_point(self, throw: Study, tmp_path: Path) -> None:
        def nested(a: float) -> Annotated[float, Var((), "m")]:
            return float(sweep.run(throw.pipeline, on="serial", speed=a, time=1).height)

        with pytest.warns(UserWarning, match="A sweep was started within a point of another one"):
            sweep.run(Pipeline(nested, axes=[Axis("a", [1.0])]), tmp_path / "s.zarr", on="serial")

    def test_says_that_points_are_left_whatever_the_reason(
        self, throw: Study, tmp_path: Path
    ) -> None:
        class Idle(SerialEngine):
            capacity = 0

            def __init__(self) -> None:
                super().__init__()
                self.capacity = 0

        class Idling(Options):
            def engine(self, pipeline: Pipeline, tasks: int) -> Idle:
                return Idle()

        create_with(throw.pipeline, throw, tmp_path / "s.zarr", Grid((5, 4), (1, 4)))
        path = tmp_path / "s.zarr"
        summary = execute(throw.pipeline, throw, path, Idling(), Quiet())
        assert summary.tally.left == 20
        assert lost_text(summary) == "20 points are left: the engine took no more work."
        assert Store(path).read_run(1)["state"] == "incomplete"


class TestPlanning:
    def test_tells_points_blocks_files_bytes_and_time_and_writes_nothing(
        self, throw: Study, tmp_path: Path
    ) -> None:
        found = sweep.plan(throw.pipeline, tmp_path / "s.zarr", workers=2)
        assert (found.points, found.points_left) == (20, 20)
        assert found.blocks == found.blocks_left == 20
        assert found.bytes == 20 * (8 + 4 + 4 + 1)
        assert found.timing is not None
        assert 0 < found.timing.mean < 1
        assert found.seconds > 0
        assert list(tmp_path.iterdir()) == []

    def test_counts_what_is_done(self, throw: Study, tmp_path: Path) -> None:
        store = create_with(throw.pipeline, throw, tmp_path / "s.zarr", Grid((5, 4), (1, 4)))
        execute(throw.pipeline, throw, store.path, Options("serial"), Quiet())
        (store.path / "status" / "c.3.0").unlink()
        found = sweep.plan(throw.pipeline, store.path)
        assert (found.points_left, found.blocks_left) == (4, 1)

    def test_says_at_least_where_a_point_takes_too_long(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sweep.forecast.PATIENCE_SECONDS", 1.5)
        file = tmp_path / "slow.py"
        file.write_text(
            "import time\nfrom typing import Annotated\nfrom sweep import Axis, Pipeline, Var\n"
            "def f(a: float) -> Annotated[float, Var(())]:\n    time.sleep(100)\n    return a\n"
            "pipeline = Pipeline(f, axes=[Axis('a', [1.0, 2.0])])\n"
        )
        found = sweep.plan(str(file))
        assert found.timing is not None
        assert found.timing.at_least
        assert found.timing.why == "The first did not end in 2 s."


class TestStatus:
    def test_counts_points_by_their_state(self, throw: Study, tmp_path: Path) -> None:
        store = create_with(throw.pipeline, throw, tmp_path / "s.zarr", Grid((5, 4), (1, 4)))
        before = sweep.status(store.path)
        assert (before.points["pending"], before.last_commit, before.complete) == (20, None, False)
        execute(throw.pipeline, throw, store.path, Options("serial"), Quiet())
        after = sweep.status(store.path)
        assert (after.points["done"], after.points["failed"], after.complete) == (16, 4, True)
        assert {f.values["speed"] for f in after.failures} == {13.0}


class LosingEngine(SerialEngine):
    """Loses the worker of some calls: before the call was run, or when all was committed."""

    def __init__(self, before: Callable[[list[int]], bool], after: set[int]) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.lost: list[int] = []
        self.late: set[int] = set()
        self.batches: list[list[int]] = []

    def submit(self, function: str, arguments: Arguments) -> int:
        if "blocks" not in arguments:
            return super().submit(function, arguments)
        batch = [number for number, *_ in arguments["blocks"]]
        self.batches.append(batch)
        if not self.before(batch):
            ticket = super().submit(function, arguments)
            if len(self.batches) in self.after:
                self.late.add(ticket)
            return ticket
        self._tickets += 1
        self.lost.append(self._tickets)
        return self._tickets

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        ended = [(ticket, Lost("killed by SIGKILL")) for ticket in self.lost]
        self.lost = []
        for ticket, outcome in super().wait(timeout):
            ended.append((ticket, Lost("killed") if ticket in self.late else outcome))  # type: ignore[arg-type]
        return ended  # type: ignore[return-value]


class TestLostWorkers:
    def run(self, throw: Study, path: Path, engine: LosingEngine) -> Summary:
        class Losing(Options):
            def engine(self, pipeline: Pipeline, tasks: int) -> LosingEngine:
                return engine

        create_with(throw.pipeline, throw, path, Grid((5, 4), (1, 4)))
        return execute(throw.pipeline, throw, path, Losing(), Quiet())

    def test_cost_nothing_that_was_committed(self, throw: Study, tmp_path: Path) -> None:
        engine = LosingEngine(lambda batch: False, after={1, 3})
        summary = self.run(throw, tmp_path / "s.zarr", engine)
        assert (summary.tally.done, summary.tally.failed) == (16, 4)
        assert summary.tally.lost_workers == 2
        tasks = xr.open_zarr(tmp_path / "s.zarr", group="tasks").load()
        assert sorted(tasks.block.values) == ["0.0", "1.0", "2.0", "3.0", "4.0"]

    def test_have_their_blocks_handed_out_again_one_by_one(
        self, throw: Study, tmp_path: Path
    ) -> None:
        seen: set[int] = set()

        def first_time(batch: list[int]) -> bool:
            new = not seen & set(batch)
            seen.update(batch)
            return new

        engine = LosingEngine(first_time, after=set())
        summary = self.run(throw, tmp_path / "s.zarr", engine)
        assert (summary.tally.done, summary.tally.failed, summary.tally.left) == (16, 4, 0)
        tasks = xr.open_zarr(tmp_path / "s.zarr", group="tasks").load()
        assert set(tasks.attempt.values) == {1, 2}  # those behind a lost one had not begun

    def test_again_and_again_leave_their_block_pending_and_cost_no_other(
        self, throw: Study, tmp_path: Path
    ) -> None:
        engine = LosingEngine(lambda batch: 2 in batch, after=set())
        summary = self.run(throw, tmp_path / "s.zarr", engine)
        assert summary.tally.left == 4
        ((block, reason),) = summary.tally.lost_blocks
        assert (block.number, reason) == (2, "killed by SIGKILL")
        assert engine.batches.count([2]) >= 2
        assert [b.number for b in Store(tmp_path / "s.zarr").plan().remaining()] == [2]
        assert Store(tmp_path / "s.zarr").read_run(1)["state"] == "incomplete"


class TestScripts:
    def test_need_no_main_guard(self, tmp_path: Path) -> None:
        script = tmp_path / "study.py"
        script.write_text(
            "from typing import Annotated\n"
            "import sweep\n"
            "def double(a: float) -> Annotated[float, sweep.Var((), 'm')]:\n"
            "    return 2 * a\n"
            "pipeline = sweep.Pipeline(double, axes=[sweep.Axis('a', [1.0, 2.0, 3.0])])\n"
            "for engine in ('processes', 'dask'):\n"
            "    found = sweep.run(pipeline, on=engine, workers=2)\n"
            "    print(engine, found.double.values.tolist())\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=120
        )
        assert done.stdout.splitlines() == [
            "processes [2.0, 4.0, 6.0]",
            "dask [2.0, 4.0, 6.0]",
        ], done.stderr
        assert "Traceback" not in done.stderr

    def test_that_hold_the_store_can_be_resumed_from_python_only(self, tmp_path: Path) -> None:
        def f(a: float) -> Annotated[float, Var(())]:
            return a

        pipeline = Pipeline(f, axes=[Axis("a", [1.0])], needs=Needs())
        sweep.run(pipeline, tmp_path / "s.zarr", on="serial")
        with pytest.raises(StudyError, match=r"notebook or a script.*sweep\.run"):
            remembered_study(Store(tmp_path / "s.zarr"))
