"""What a worker does with a batch: whose time counts as what, and with how many threads."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import xarray as xr

from sweep import Axis, Needs, Pipeline, Stage, Var
from sweep.delivery import sent
from sweep.options import Options
from sweep.progress import Quiet
from sweep.run import execute
from sweep.study import load_study
from sweep.worker import time_points

COMPILING = '''"""A study whose first point waits for numba's compiler."""

from typing import Annotated

import numba

from sweep import Axis, Pipeline, Var


@numba.njit  # no cache: what is measured is the compiler
def total(n):
    found = 0.0
    for i in range(n):
        found += (i + 0.5) ** 0.5
    return found


def add(n: int) -> Annotated[float, Var((), "1")]:
    return total(n)


pipeline = Pipeline(add, axes=[Axis("n", [10, 20, 30])])
'''


COMPILING_LATE = '''"""A study that imports numba where it uses it."""

from typing import Annotated

from sweep import Axis, Pipeline, Var

compiled = []


def late(n: int) -> Annotated[float, Var(())]:
    import numba

    if not compiled:
        compiled.append(numba.njit(lambda n: n + 0.5))
    return compiled[0](n)


pipeline = Pipeline(late, axes=[Axis("n", [1, 2, 3])])
'''


class Watch:
    """A clock that stands still but for what a model says that it takes."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def take(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch()
    monkeypatch.setattr(time, "perf_counter", made)
    return made


def times_of(
    pipeline: Pipeline,
    points: Sequence[Mapping[str, Any]],
    *,
    copies: int = 1,
    seconds: float = 1000.0,
    constants: Mapping[str, Any] | None = None,
) -> list[float]:
    with sent(pipeline, None, "serial") as message:
        return time_points(message, constants or {}, points, copies, seconds)


class TestCompiling:
    """Numba's compiler works once; what it takes says nothing of the points to come."""

    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(sys, "path", sys.path.copy())
        file = tmp_path / "compiling.py"
        file.write_text(COMPILING)
        return file

    def test_is_told_apart_from_computing(self, file: Path, tmp_path: Path) -> None:
        study = load_study(str(file))
        summary = execute(study.pipeline, study, tmp_path / "s.zarr", Options("serial"), Quiet())
        tasks = xr.open_zarr(tmp_path / "s.zarr", group="tasks").load().sortby("block")
        compiling, computing = tasks.compile_seconds.values, tasks.compute_seconds.values
        assert compiling[0] > 0.01
        assert compiling[1:].tolist() == [0, 0]
        assert 0 < computing.max() < compiling[0] / 2
        assert summary.tally.compile_seconds == compiling[0]
        assert summary.tally.compute_seconds == pytest.approx(computing.sum())

    def test_is_no_part_of_a_points_time(self, file: Path, tmp_path: Path) -> None:
        study = load_study(str(file))
        execute(study.pipeline, study, tmp_path / "s.zarr", Options("serial"), Quiet())
        compiling = xr.open_zarr(tmp_path / "s.zarr", group="tasks").compile_seconds.max()
        each = xr.open_zarr(tmp_path / "s.zarr").point_seconds
        assert 0 < each.max() < compiling / 2

    def test_is_told_apart_also_where_the_function_imports_numba_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "path", sys.path.copy())
        file = tmp_path / "compiling_late.py"
        file.write_text(COMPILING_LATE)
        code = (
            "import sweep, sys, xarray as xr\n"
            f"sweep.run({str(file)!r}, 's.zarr', on='serial')\n"
            "seconds = xr.open_zarr('s.zarr', group='tasks').sortby('block').compile_seconds\n"
            "print(seconds.values[0] > 0.01, seconds.values[1:].tolist())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.stdout == "True [0.0, 0.0]\n", done.stderr

    def test_is_no_part_of_a_timed_point(self, file: Path) -> None:
        study = load_study(str(file))
        start = time.perf_counter()
        (found,) = time_points(study.reference, {}, [{"n": 10}], 1, 0.0)  # once: no time is left
        assert 0 < found < (time.perf_counter() - start) / 2


class TestTimedPoints:
    def test_count_the_second_time_of_the_first_because_caches_are_cold(self, watch: Watch) -> None:
        calls = []

        def f(a: float) -> Annotated[float, Var(())]:
            watch.take(1.0 if calls else 50.0)
            calls.append(a)
            return a

        found = times_of(Pipeline(f, axes=[Axis("a", [1.0, 2.0])]), [{"a": 2.0}, {"a": 1.0}])
        assert calls == [2.0, 2.0, 1.0]
        assert found == pytest.approx([1.0, 1.0])

    def test_are_not_repeated_where_the_first_took_half_the_time(self, watch: Watch) -> None:
        calls = []

        def f(a: float) -> Annotated[float, Var(())]:
            watch.take(6.0)
            calls.append(a)
            return a

        pipeline = Pipeline(f, axes=[Axis("a", [1.0, 2.0, 3.0])])
        found = times_of(pipeline, [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}], seconds=10.0)
        assert calls == [1.0, 2.0]
        assert found == pytest.approx([6.0, 6.0])

    def test_give_a_vectorized_stage_copies_in_columns_and_constants_as_they_are(
        self, watch: Watch
    ) -> None:
        seen = []

        def f(a: np.ndarray, word: str, b: np.ndarray, k: float = 2.0) -> Annotated[float, Var(())]:
            seen.append((a.tolist(), word.tolist(), b.tolist(), k))  # type: ignore[attr-defined]
            watch.take(0.5 * len(a))
            return a * b  # type: ignore[return-value]

        axes = [Axis("a", [1.0, 4.0]), Axis("word", ["x", "y"]), Axis("b", [7, 8])]
        pipeline = Pipeline(Stage(f, vectorized=True), axes=axes)
        found = times_of(pipeline, [{"a": 4.0, "word": "y", "b": 7}], copies=3)
        assert seen == [([4.0] * 3, ["y"] * 3, [7] * 3, 2.0)] * 2
        assert found == pytest.approx([0.5])  # of one point

    def test_give_other_stages_one_point_whatever_the_copies(self, watch: Watch) -> None:
        seen = []

        def f(a: float) -> Annotated[float, Var(())]:
            seen.append(a)
            watch.take(3.0)
            return a

        found = times_of(Pipeline(f, axes=[Axis("a", [1.0])]), [{"a": 1.0}], copies=100)
        assert seen == [1.0, 1.0]
        assert found == pytest.approx([3.0])

    def test_take_the_constants_that_a_caller_set(self, watch: Watch) -> None:
        def f(a: float, k: float = 1.0) -> Annotated[float, Var(())]:
            watch.take(k)
            return a

        pipeline = Pipeline(f, axes=[Axis("a", [1.0])])
        assert times_of(pipeline, [{"a": 1.0}]) == pytest.approx([1.0])
        assert times_of(pipeline, [{"a": 1.0}], constants={"k": 9.0}) == pytest.approx([9.0])

    def test_that_fail_have_a_time_all_the_same(self, watch: Watch) -> None:
        def f(a: float) -> Annotated[float, Var(())]:
            watch.take(2.0)
            raise ValueError("no")

        found = times_of(Pipeline(f, axes=[Axis("a", [1.0])]), [{"a": 1.0}])
        assert found == pytest.approx([2.0])


def print_threads() -> None:
    """Print how many threads a point has when it is timed and when it is run, for some needs."""
    import numba

    import sweep

    most = numba.config.NUMBA_NUM_THREADS
    seen = []

    def threads(a: float) -> Annotated[int, Var(())]:
        seen.append(numba.get_num_threads())
        return seen[-1]

    for cores in (1, 2, most + 1):
        pipeline = Pipeline(threads, axes=[Axis("a", [1.0])], needs=Needs(cores=cores))
        left_by_others = most if cores == 1 else 1
        numba.set_num_threads(left_by_others)
        times_of(pipeline, [{"a": 1.0}])
        numba.set_num_threads(left_by_others)
        dataset = sweep.run(pipeline, on="serial")
        print(f"cores={cores} timed={seen[0]} run={int(dataset.threads[0])}")
        seen.clear()


def test_a_point_has_as_many_kernel_threads_as_it_needs_cores() -> None:
    # A process of its own, because numba allows no more threads than it was started with.
    environment = os.environ | {
        "NUMBA_NUM_THREADS": "3",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    finished = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=60
    )

    assert finished.stdout.splitlines() == [
        "cores=1 timed=1 run=1",
        "cores=2 timed=2 run=2",
        "cores=4 timed=3 run=3",
    ], finished.stderr


if __name__ == "__main__":
    print_threads()
