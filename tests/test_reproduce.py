"""A block that is computed again: what was done must come out the same, or becomes stale."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import xarray as xr

from sweep import Axis, Pipeline, Var
from sweep.options import Options
from sweep.plan import Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute
from sweep.store import BlockWriter, Store
from sweep.summary import Summary
from sweep.task import Evaluator

WORLD: dict[str, Any] = {"broken": True, "offset": 0.0}


def measure(a: float) -> Annotated[float, Var((), "m")]:
    """Depend on the world; at 2 it may be broken."""
    if a == 2 and WORLD["broken"]:
        raise RuntimeError("no licence")
    return np.nan if a == 0 else a + WORLD["offset"]


pipeline = Pipeline(measure, axes=[Axis("a", [0.0, 1.0, 2.0, 3.0])])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of one block, in which the third point has failed."""
    for name, value in {"broken": True, "offset": 0.0}.items():
        monkeypatch.setitem(WORLD, name, value)
    store = create_with(pipeline, None, tmp_path / "s.zarr", Grid((4,), (4,)))
    run(store)
    assert xr.open_zarr(store.path).status.values.tolist() == [1, 1, 2, 1]
    return store


def run(store: Store, **how: Any) -> Summary:
    return execute(pipeline, None, store.path, Options("serial", **how), Quiet())


def test_a_failed_point_tried_again_is_done_and_the_others_stay(store: Store) -> None:
    WORLD["broken"] = False
    summary = run(store, retry_failed=True)
    dataset = xr.open_zarr(store.path)
    assert (summary.tally.done, summary.tally.failed, summary.tally.left) == (4, 0, 0)
    assert dataset.status.values.tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(dataset.measure, [np.nan, 1.0, 2.0, 3.0])


def test_points_that_come_out_another_way_keep_their_values_and_are_stale(store: Store) -> None:
    WORLD.update(broken=False, offset=0.5)
    summary = run(store, retry_failed=True)
    dataset = xr.open_zarr(store.path).load()
    assert (summary.tally.done, summary.tally.stale, summary.tally.left) == (2, 2, 2)
    assert dataset.status.values.tolist() == [1, 4, 1, 4]
    np.testing.assert_array_equal(dataset.measure, [np.nan, 1.0, 2.5, 3.0])
    assert dataset.run.values[[1, 3]].tolist() == [1, 1]
    events = xr.open_zarr(store.path, group="events").load()
    stale = events.isel(event=events.kind == "stale")
    assert stale.index_a.values.tolist() == [1, 3]
    assert set(stale.error_type.values) == {"NotReproduced"}


def test_a_resume_takes_the_new_values_of_stale_points(store: Store) -> None:
    WORLD.update(broken=False, offset=0.5)
    run(store, retry_failed=True)
    summary = run(store)
    assert summary.tally.left == 0
    np.testing.assert_array_equal(xr.open_zarr(store.path).measure, [np.nan, 1.5, 2.5, 3.5])


def test_a_point_that_fails_the_second_time_keeps_its_value_and_is_stale(store: Store) -> None:
    WORLD["broken"] = False
    run(store, retry_failed=True)
    status = np.array([1, 1, 1, 0], np.uint8)  # as if the last had been lost
    store.write_status(store.grid.block(0), status)
    WORLD["broken"] = True
    run(store)
    dataset = xr.open_zarr(store.path)
    assert dataset.status.values.tolist() == [1, 1, 4, 1]
    np.testing.assert_array_equal(dataset.measure, [np.nan, 1.0, 2.0, 3.0])


def test_a_worker_that_comes_late_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began when the point was broken, and ends when another has committed the block."""
    (store.path / "status" / "c.0").unlink()
    compute = Evaluator.compute
    block = store.grid.block(0)

    def late(evaluator: Evaluator, *arguments: Any) -> Any:
        slow = compute(evaluator, *arguments)
        WORLD["broken"] = False
        quick = compute(evaluator, *arguments)
        quick.arrays["run"] = np.full(block.shape, 7, np.int32)
        writer = BlockWriter(store, pipeline)
        writer.write_outputs(block, quick.arrays)
        writer.commit(block, quick.status)
        return slow

    monkeypatch.setattr(Evaluator, "compute", late)
    summary = run(store)
    dataset = xr.open_zarr(store.path)
    assert (summary.tally.done, summary.tally.failed) == (4, 0)
    assert dataset.status.values.tolist() == [1, 1, 1, 1]
    assert set(dataset.run.values) == {7}
