"""Growing: what was there stays to the bit, what is new is pending, and no reader is misled."""

import errno
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import sweep.export
from sweep import Axis, Coord, Pipeline, Var, open_dataset
from sweep.definition.specification import specification, specification_hash
from sweep.definition.union import direction, places_on, united
from sweep.errors import DefinitionError, StoreError, StoreMismatch
from sweep.grow import Growth, compacted, extended, merged
from sweep.options import Options
from sweep.plan import MOST_FILES, Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute
from sweep.status import status
from sweep.store import BlockWriter, Store
from sweep.store.create import create_store
from sweep.store.origin import Source
from sweep.store.rebuild import rebuild
from sweep.store.tables import Tables
from sweep.study import Study
from sweep.template import DONE, FAILED, PENDING, SKIPPED, STALE, template
from sweep.verify import verify

SERIAL = Options("serial")
AXIS_VALUES = [10.0, 13.0, 20.0, 25.0, 30.0]


_made: dict[tuple[Any, ...], Path] = {}


def complete(study: Study, path: Path, pipeline: Pipeline | None = None, *blocks: int) -> Store:
    """Make a store with blocks of this shape, all of it computed: once, then it is a copy."""
    pipeline = pipeline or study.pipeline
    shape = tuple(pipeline.dims.values())
    grid = Grid(shape, blocks or (1,) * len(shape))
    key = study.name, specification_hash(specification(pipeline)), grid
    if key not in _made:
        create_with(pipeline, study, path, grid)
        execute(pipeline, study, path, SERIAL, Quiet())
        _made[key] = shutil.copytree(path, path.parents[1] / f"made-{len(_made)}.zarr")
    else:
        shutil.copytree(_made[key], path)
    return Store(path)


def grow(study: Study, store: Store, into: Path | None = None, **values: Any) -> Growth:
    return extended(store, store.bind(study.pipeline), values, into)


def go_on(study: Study, path: Path) -> xr.Dataset:
    """Compute what is pending, and return the dataset."""
    execute(Store(path).bind(study.pipeline), study, path, SERIAL, Quiet())
    return values_of(path)


def values_of(path: Path, *, but: tuple[str, ...] = ()) -> xr.Dataset:
    return xr.open_zarr(path, chunks=None).load().drop_vars(but)  # without dask: quicker


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask neither git nor the installer what runs, nor the disk to make sure of every file."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)

    def gather(file: Path | None, argv: list[str]) -> dict[str, Any]:
        return {"argv": list(argv), "hostname": socket.gethostname(), "packages": {}}

    for module in ("sweep.running", "sweep.grow.growth"):
        monkeypatch.setattr(sys.modules[module], "gather", gather)


ABOUT = ("run", "point_seconds")  # which no two runs have in common


def tasks_of(path: Path) -> xr.Dataset:
    return xr.open_zarr(path, group="tasks", chunks=None).load()


def chunks_of(path: Path) -> dict[str, int]:
    """Return the i-number of each chunk of the variables, by their names."""
    names = [name for name in xr.open_zarr(path, chunks=None).data_vars]
    files = [file for name in names for file in (path / str(name)).glob("c*")]
    return {str(file.relative_to(path)): file.stat().st_ino for file in files}


class TestInPlace:
    def test_values_at_the_end_are_appended_and_only_they_are_computed(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        before, files = values_of(store.path), chunks_of(store.path)
        growth = grow(throw, store, speed=[35.0])
        assert growth == Growth(store.path, True, 4)
        assert Store(store.path).count_points()["pending"] == 4

        dataset = go_on(throw, store.path)
        assert dataset.speed.values.tolist() == [*AXIS_VALUES, 35.0]
        xr.testing.assert_identical(dataset.isel(speed=slice(5)).drop_attrs(), before.drop_attrs())
        assert (dataset.run.sel(speed=35) == 2).all()
        assert chunks_of(store.path).items() >= files.items()  # the very files

    def test_the_outcome_is_that_of_a_sweep_over_all_values(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        grow(throw, store, speed=[35.0], time=[3.0, 2.5])
        grown = go_on(throw, store.path)
        whole = throw.pipeline.with_values(
            speed=[*AXIS_VALUES, 35.0], time=[0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
        )
        fresh = complete(throw, tmp_path / "fresh.zarr", whole)
        xr.testing.assert_equal(grown.drop_vars(ABOUT), values_of(fresh.path, but=ABOUT))
        attrs = "sweep_spec", "sweep_spec_hash"
        theirs = values_of(fresh.path).attrs
        assert {k: grown.attrs[k] for k in attrs} == {k: theirs[k] for k in attrs}

    def test_random_streams_of_all_points_are_those_of_a_sweep_over_all_values(
        self, everything: Study, tmp_path: Path
    ) -> None:
        store = complete(everything, tmp_path / "s.zarr")
        grow(everything, store, shape=["line", "square", "line"][:1], slope=[0.5], seed=[9])
        grown = go_on(everything, store.path)
        rows = [(1.5, 1), (-2.0, 2), (2.5, 1), (0.5, 9)]
        axes = [
            everything.pipeline.axes[0],
            Axis(("slope", "seed"), rows, ("1", ""), dim="pair"),
            everything.pipeline.axes[2],
        ]
        fresh = complete(everything, tmp_path / "f.zarr", everything.pipeline.having(axes, {}))
        xr.testing.assert_equal(grown.drop_vars(ABOUT), values_of(fresh.path, but=ABOUT))

    def test_a_reader_with_an_older_handle_sees_what_it_saw_through_every_growth(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr", None, 1, 4)
        handles = []
        for speed in (40.0, 41.0, 42.0):
            lazy, raw = xr.open_zarr(store.path, chunks=None), zarr.open_group(store.path, mode="r")
            handles.append((lazy, raw, values_of(store.path)))
            grow(throw, Store(store.path), speed=[speed])
            self.check(handles)
            go_on(throw, store.path)
            self.check(handles)

    def check(self, handles: list[tuple[xr.Dataset, zarr.Group, xr.Dataset]]) -> None:
        for lazy, raw, known in handles:
            xr.testing.assert_identical(lazy.compute(), known)  # reads anew: nothing is kept
            for name in ("speed", "height", "status"):
                np.testing.assert_array_equal(raw[name][:], known[name])

    def test_values_that_are_there_already_change_nothing(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        before = {f: f.stat().st_mtime_ns for f in store.path.rglob("*") if f.is_file()}
        assert grow(throw, store, speed=[13, 10.0]) == Growth(store.path, True, 0)
        assert {f: f.stat().st_mtime_ns for f in store.path.rglob("*") if f.is_file()} == before

    def test_a_descending_axis_goes_on_descending(self, throw: Study, tmp_path: Path) -> None:
        store = complete(throw, tmp_path / "s.zarr", throw.pipeline.with_values(speed=[9.0, 3.0]))
        grow(throw, store, speed=[1.0, 2.0])
        assert go_on(throw, store.path).speed.values.tolist() == [9, 3, 2, 1]

    def test_an_axis_in_no_order_takes_new_values_as_they_are_given(
        self, throw: Study, tmp_path: Path
    ) -> None:
        pipeline = throw.pipeline.with_values(speed=[9.0, 3.0, 4.0])
        store = complete(throw, tmp_path / "s.zarr", pipeline)
        grow(throw, store, speed=[8.0, 1.0, 3.0])
        assert go_on(throw, store.path).speed.values.tolist() == [9, 3, 4, 8, 1]

    def test_texts_come_at_the_end(self, everything: Study, tmp_path: Path) -> None:
        pipeline = everything.pipeline.with_values(shape=["square"])
        store = complete(everything, tmp_path / "s.zarr", pipeline)
        grow(everything, store, shape=["line"])
        grow(everything, Store(store.path), shape=["größer", "αβγ"])
        dataset = go_on(everything, store.path)
        assert dataset["shape"].values.tolist() == ["square", "line", "größer", "αβγ"]

    def test_a_store_with_points_left_grows_as_well(self, throw: Study, tmp_path: Path) -> None:
        create_with(throw.pipeline, throw, tmp_path / "s.zarr", Grid((5, 4), (1, 4)))
        grow(throw, Store(tmp_path / "s.zarr"), speed=[50.0])
        dataset = go_on(throw, tmp_path / "s.zarr")
        assert dict(dataset.sizes) == {"speed": 6, "time": 4}
        assert (dataset.status != PENDING).all()

    def test_it_still_says_why_points_failed(self, throw: Study, tmp_path: Path) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        before = status(store.path).failures
        grow(throw, store, time=[9.0])
        assert status(store.path).failures == before
        go_on(throw, store.path)
        assert [f.values["time"] for f in status(store.path).failures] == [0.5, 1, 1.5, 2, 9]
        assert verify(Store(store.path)).is_sound


class TestRefusals:
    @pytest.mark.parametrize(
        ("blocks", "values", "reason"),
        [
            ((1, 1), {"speed": [15.0]}, "not all new values of 'speed' come after 30.0"),
            ((2, 4), {"speed": [35.0]}, r"last block along 'speed' is not full \(5 values"),
            ((1, 3), {"speed": [35.0], "time": [3.0]}, "last block along 'time' is not full"),
        ],
    )
    def test_say_why_not_in_place_and_what_to_type(
        self,
        blocks: tuple[int, int],
        values: dict[str, list[float]],
        reason: str,
        throw: Study,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        store = complete(throw, tmp_path / "s.zarr", None, *blocks)
        typed = " ".join(f"{k}={v[0]}" for k, v in values.items())
        before = values_of(store.path)
        with pytest.raises(StoreError, match=rf"{reason}.*sweep extend s\.zarr {typed} --into NEW"):
            grow(throw, store, **values)
        xr.testing.assert_identical(values_of(store.path), before)

    def test_a_coordinate_that_follows_the_axis_needs_a_new_store(
        self, everything: Study, tmp_path: Path
    ) -> None:
        store = complete(everything, tmp_path / "s.zarr")
        with pytest.raises(StoreError, match="size or the values of 'x' depend on n"):
            grow(everything, store, n=[9])

    def test_whole_numbers_do_not_become_others_in_place(self, tmp_path: Path) -> None:
        pipeline = Pipeline(twice, axes=[Axis("a", [1, 2])])
        store = create_with(pipeline, None, tmp_path / "s.zarr", Grid((2,), (1,)))
        with pytest.raises(StoreError, match="holds whole numbers"):
            extended(store, pipeline, {"a": 2.5})
        growth = extended(store, pipeline, {"a": 2.5}, tmp_path / "t.zarr")
        assert values_of(growth.path).a.values.tolist() == [1, 2, 2.5]

    def test_a_constant_becomes_no_axis(self, throw: Study, tmp_path: Path) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        with pytest.raises(StoreMismatch, match=r"the rank is fixed; a constant becomes an axis"):
            grow(throw, store, g=1.6)

    def test_a_name_that_is_unknown_meets_the_nearest(self, throw: Study, tmp_path: Path) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        with pytest.raises(DefinitionError, match="Did you mean 'speed'"):
            grow(throw, store, sped=1.6)

    def test_parameters_that_vary_together_are_given_together(
        self, everything: Study, tmp_path: Path
    ) -> None:
        store = complete(everything, tmp_path / "s.zarr")
        for values in ({"slope": [0.5]}, {"slope": [0.5, 1.0], "seed": [1]}):
            with pytest.raises(DefinitionError, match="slope and seed vary together along 'pair'"):
                grow(everything, store, **values)

    def test_a_text_does_not_come_among_numbers(self, tmp_path: Path) -> None:
        pipeline = Pipeline(twice, axes=[Axis("a", [1, 2])])
        store = create_with(pipeline, None, tmp_path / "s.zarr", Grid((2,), (1,)))
        with pytest.raises(DefinitionError, match="'b' is of another kind"):
            extended(store, pipeline, {"a": "b"})

    def test_nothing_is_made_over_what_is_there(self, throw: Study, tmp_path: Path) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        for name in ("t.zarr", "t.nc", "t.zip"):
            (tmp_path / name).write_text("mine")
            with pytest.raises(StoreError, match=rf"{name} exists\. Move it away"):
                compacted(store, tmp_path / name)
            assert (tmp_path / name).read_text() == "mine"
        with pytest.raises(StoreError, match="exists"):
            grow(throw, store, store.path, speed=[1.0])
        assert len(list(tmp_path.iterdir())) == 4


def twice(a) -> Annotated[float, Var(())]:  # type: ignore[no-untyped-def]
    return 2.0 * a  # type: ignore[no-any-return]


class Crash(Exception):
    """What the disk does, all of a sudden."""


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what makes the n-th rename or link from now on fail, and all that come after."""

    def arm(number: int) -> None:
        left = [number]

        def failing(name: str) -> Callable[..., None]:
            real = ORIGINALS[name]

            def call(*args: Any, **options: Any) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise Crash
                real(*args, **options)

            return call

        for name in ORIGINALS:
            monkeypatch.setattr(os, name, failing(name))

    return arm


ORIGINALS: dict[str, Callable[..., None]] = {
    name: getattr(os, name) for name in ("replace", "rename", "link")
}


class TestCrash:
    """Whatever step a growth is cut short at, the store is right, and the next try ends well."""

    def test_in_place_leaves_a_store_that_can_be_grown_again_or_gone_on_with(
        self, throw: Study, tmp_path: Path, crash_at: Callable[[int], None]
    ) -> None:
        whole = throw.pipeline.with_values(speed=[*AXIS_VALUES, 35.0])
        fresh = values_of(complete(throw, tmp_path / "f.zarr", whole).path, but=ABOUT)
        complete(throw, tmp_path / "s.zarr", None, 1, 4)
        old = values_of(tmp_path / "s.zarr")
        for step in [*range(9), 40, 74, 77, 78]:  # of 79; the root's metadata come last
            path = tmp_path / f"{step}.zarr"
            shutil.copytree(tmp_path / "s.zarr", path)
            crash_at(step)
            with pytest.raises(Crash):
                grow(throw, Store(path), speed=[35.0])
            crash_at(10**9)
            self.check(throw, path, old, fresh, again=step % 2 == 0)

    def check(
        self, study: Study, path: Path, old: xr.Dataset, fresh: xr.Dataset, *, again: bool
    ) -> None:
        seen = values_of(path)
        xr.testing.assert_equal(seen.isel(speed=slice(5)), old)
        has_grown = Store(path).grid.shape == (6, 4)
        if again:
            grow(study, Store(path), speed=[35.0])
            has_grown = True
            assert values_of(path).sizes["speed"] == 6
        after = go_on(study, path)
        if has_grown:
            xr.testing.assert_equal(after.drop_vars(ABOUT), fresh)
        else:
            xr.testing.assert_equal(after, old)
            Tables(Store(path)).fold()
            xr.testing.assert_equal(values_of(path), old)

    def test_with_a_new_store_leaves_nothing(
        self, throw: Study, tmp_path: Path, crash_at: Callable[[int], None]
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        for step in range(0, 200, 23):
            crash_at(step)
            with pytest.raises(Crash):
                grow(throw, store, tmp_path / "t.zarr", speed=[35.0])
            crash_at(10**9)
            assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]

    def test_another_extension_takes_the_place_of_one_that_was_cut_short(
        self, throw: Study, tmp_path: Path, crash_at: Callable[[int], None]
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        crash_at(6)
        with pytest.raises(Crash):
            grow(throw, store, speed=[35.0, 36.0, 37.0], time=[5.0])
        crash_at(10**9)
        grow(throw, store, speed=[40.0])
        dataset = go_on(throw, store.path)
        assert dict(dataset.sizes) == {"speed": 6, "time": 4}
        assert dataset.speed.values.tolist() == [*AXIS_VALUES, 40.0]


class TestIntoANewStore:
    def test_a_value_in_the_middle_leaves_old_ones_to_the_bit_and_links_them(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        growth = grow(throw, store, tmp_path / "t.zarr", speed=[15.0])
        assert growth == Growth(tmp_path / "t.zarr", False, 4, linked=80, written=0)
        old, new = chunks_of(store.path), chunks_of(growth.path)
        assert set(old.values()) <= set(new.values())
        assert new["height/c.3.0"] == old["height/c.2.0"]

        dataset = go_on(throw, growth.path)
        whole = throw.pipeline.with_values(speed=sorted([*AXIS_VALUES, 15.0]))
        fresh = complete(throw, tmp_path / "f.zarr", whole)
        xr.testing.assert_equal(dataset.drop_vars(ABOUT), values_of(fresh.path, but=ABOUT))
        kept = dataset.sel(speed=AXIS_VALUES)
        xr.testing.assert_identical(kept.drop_attrs(), values_of(store.path).drop_attrs())
        assert dataset.run.sel(speed=15).values.tolist() == [3] * 4
        assert verify(Store(growth.path)).is_sound

    def test_a_coordinate_that_follows_the_axis_gets_its_new_size(
        self, everything: Study, tmp_path: Path
    ) -> None:
        store = complete(everything, tmp_path / "s.zarr", None, 2, 1, 1)
        growth = grow(everything, store, tmp_path / "t.zarr", n=[4, 7], slope=[0.5], seed=[3])
        dataset = go_on(everything, growth.path)
        rows = [(1.5, 1), (-2.0, 2), (2.5, 1), (0.5, 3)]
        axes = [
            everything.pipeline.axes[0],
            Axis(("slope", "seed"), rows, ("1", ""), dim="pair"),
            Axis("n", [3, 4, 5, 7]),
        ]
        fresh = complete(everything, tmp_path / "f.zarr", everything.pipeline.having(axes, {}))
        xr.testing.assert_equal(dataset.drop_vars(ABOUT), values_of(fresh.path, but=ABOUT))
        assert (dataset.run.isel(pair=slice(3)).sel(n=[3, 5]) == 1).all()
        assert status(growth.path).failures == status(fresh.path).failures

    def test_blocks_keep_their_length_where_none_would_mix_old_and_new(
        self, throw: Study, tmp_path: Path
    ) -> None:
        pipeline = throw.pipeline.with_values(speed=[1.0, 2.0, 3.0, 4.0])
        store = complete(throw, tmp_path / "s.zarr", pipeline, 2, 4)
        apart = grow(throw, store, tmp_path / "t.zarr", speed=[2.3, 2.6])
        assert Store(apart.path).grid.block_shape == (2, 4)
        assert (apart.linked, apart.written) == (8, 0)
        mixed = grow(throw, store, tmp_path / "u.zarr", speed=[1.5])
        assert Store(mixed.path).grid.block_shape == (1, 4)
        assert (mixed.linked, mixed.written) == (0, 16)

    def test_blocks_that_would_be_too_many_files_stay_large_and_mix(
        self, throw: Study, tmp_path: Path
    ) -> None:
        pipeline = throw.pipeline.with_values(speed=[1.0, 2.0], time=np.arange(1.0, MOST_FILES))
        shape = tuple(pipeline.dims.values())
        store = create_with(pipeline, throw, tmp_path / "s.zarr", Grid(shape, (2, 400)))
        growth = grow(throw, store, tmp_path / "t.zarr", time=[0.5])
        assert Store(growth.path).grid.block_shape == (2, 400)

    def test_blocks_that_mix_are_computed_again_and_their_old_points_stay(
        self, throw: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sweep.grow.growth.MOST_FILES", 1)
        store = complete(throw, tmp_path / "s.zarr", None, 5, 4)
        growth = grow(throw, store, tmp_path / "t.zarr", speed=[15.0])
        assert Store(growth.path).grid.blocks == 2
        assert Store(growth.path).count_points()["done"] == 16
        before = values_of(growth.path)
        assert before.height.sel(speed=15).isnull().all()
        dataset = go_on(throw, growth.path)
        old = dataset.height.sel(speed=AXIS_VALUES)
        xr.testing.assert_identical(old, values_of(store.path).height)
        assert len(status(growth.path).failures) == 4
        events = xr.open_zarr(growth.path, group="events").load()
        assert events.index_speed.values.tolist() == [1] * 4  # each told once

    def test_tells_why_points_failed_at_their_new_places(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        path = grow(throw, store, tmp_path / "t.zarr", speed=[1.0], time=[0.1]).path
        told = [(f.values, f.error) for f in status(path).failures]
        assert told == [(f.values, f.error) for f in status(store.path).failures]
        events = xr.open_zarr(path, group="events").load()
        assert events.index_speed.values.tolist() == [2] * 4
        assert events.index_time.values.tolist() == [1, 2, 3, 4]
        assert events.run.values.tolist() == [1] * 4
        go_on(throw, path)
        assert xr.open_zarr(path, group="events").sizes["event"] == 5

    def test_keeps_the_records_of_runs_and_tasks_and_adds_its_own(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr", None, 5, 1)
        path = grow(throw, store, tmp_path / "t.zarr", time=[9.0]).path
        old, new = tasks_of(store.path), tasks_of(path)
        carried = new.isel(task=new.run == 1)
        for name in ("worker", "compute_seconds", "started", "status", "host"):
            np.testing.assert_array_equal(np.sort(carried[name]), np.sort(old[name]))
        assert set(carried.block.values) == {""}
        copied = new.isel(task=new.run == 2)
        assert set(copied.block.values) == {"0.0", "0.1", "0.2", "0.3"}
        assert set(copied.status.values) == {"copied"}
        runs = xr.open_zarr(path, group="runs").load()
        assert runs.run.values.tolist() == [1, 2]
        assert runs.state.values.tolist() == ["complete", "complete"]
        assert runs.engine.values[1] == "extend"
        assert len(xr.open_zarr(path).attrs["history"].splitlines()) == 2

    def test_tables_are_the_same_where_it_is_lost_how_far_they_were(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        path = grow(throw, store, tmp_path / "t.zarr", time=[9.0]).path
        before = tasks_of(path)
        for file in (path / ".sweep" / "folds").iterdir():
            file.unlink()
        Tables(Store(path)).fold()
        xr.testing.assert_equal(tasks_of(path), before)

    def test_damaged_chunks_make_their_points_pending_and_are_counted(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr", None, 1, 4)
        old = values_of(store.path)
        flip(store.path / "height" / "c.0.0")
        (store.path / "run" / "c.2.0").unlink()
        flip(store.path / "status" / "c.3.0")
        for name, values in (("t.zarr", {"speed": [35.0]}), ("u.zarr", {"time": [0.7]})):
            growth = grow(throw, store, tmp_path / name, **values)
            assert growth.damaged == 12
            dataset = values_of(growth.path)
            kept = dataset.sel(speed=old.speed, time=old.time)
            assert (kept.status.sel(speed=[10, 20, 25]) == PENDING).all()
            good = {"speed": [13.0, 30.0]}
            xr.testing.assert_equal(kept.sel(good), old.sel(good))
            assert not (growth.path / "height" / "c.0.0").exists()
            assert not (growth.path / "run" / "c.0.0").exists()
            after = go_on(throw, growth.path)
            assert (after.status != PENDING).all()

    def test_copies_where_the_disk_has_no_hard_links(
        self, throw: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def link(source: Path, target: Path, **options: Any) -> None:
            if Path(source).name.startswith("c."):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            ORIGINALS["link"](source, target, **options)

        store = complete(throw, tmp_path / "s.zarr")
        monkeypatch.setattr(os, "link", link)
        growth = grow(throw, store, tmp_path / "t.zarr", speed=[15.0])
        assert (growth.linked, growth.written) == (0, 80)
        old = chunks_of(store.path)
        assert not set(chunks_of(growth.path).values()) & set(old.values())
        kept = values_of(growth.path).sel(speed=AXIS_VALUES).drop_attrs()
        xr.testing.assert_identical(kept, values_of(store.path).drop_attrs())

    def test_finds_its_study_from_where_it_lies(self, throw: Study, tmp_path: Path) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        growth = grow(throw, store, tmp_path / "a" / "b" / "t.zarr", speed=[15.0])
        study = Store(growth.path).header.study
        assert study is not None
        assert (growth.path / study["file"]).resolve() == throw.file.resolve()

    def test_grows_again_and_again(self, throw: Study, tmp_path: Path) -> None:
        first = complete(throw, tmp_path / "1.zarr")
        second = grow(throw, first, tmp_path / "2.zarr", speed=[15.0]).path
        go_on(throw, second)
        grow(throw, Store(second), time=[2.5])
        go_on(throw, second)
        third = grow(throw, Store(second), tmp_path / "3.zarr", time=[1.2]).path
        grown = go_on(throw, third)
        whole = throw.pipeline.with_values(
            speed=sorted([*AXIS_VALUES, 15.0]), time=[0.5, 1.0, 1.2, 1.5, 2.0, 2.5]
        )
        fresh = complete(throw, tmp_path / "f.zarr", whole)
        xr.testing.assert_equal(grown.drop_vars(ABOUT), values_of(fresh.path, but=ABOUT))
        assert [(f.values) for f in status(third).failures] == [
            (f.values) for f in status(fresh.path).failures
        ]
        assert verify(Store(third)).is_sound


def flip(file: Path) -> None:
    """Change one bit, in a file of its own."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 4
    file.unlink()
    file.write_bytes(raw)


class TestCompact:
    def test_makes_chunks_for_reading_of_the_same_values(
        self, everything: Study, tmp_path: Path
    ) -> None:
        store = complete(everything, tmp_path / "s.zarr")
        growth = compacted(store, tmp_path / "t.zarr")
        assert Store(growth.path).grid.blocks == 1
        assert growth == Growth(tmp_path / "t.zarr", False, 0, linked=0, written=8)
        xr.testing.assert_equal(values_of(growth.path), values_of(store.path))
        assert status(growth.path).failures == status(store.path).failures
        assert Store(growth.path).bind(everything.pipeline).dims == everything.pipeline.dims
        assert verify(Store(growth.path)).is_sound

    def test_large_points_stay_chunks_of_their_own(self, tmp_path: Path) -> None:
        def image(a: float) -> Annotated[np.ndarray, Var(("y", "x"))]:
            return np.full((1000, 1000), a)

        coords = [Coord("x", range(1000)), Coord("y", range(1000))]
        pipeline = Pipeline(image, axes=[Axis("a", np.arange(7.0))], coords=coords)
        store = create_with(pipeline, None, tmp_path / "s.zarr", Grid((7,), (1,)))
        growth = compacted(store, tmp_path / "t.zarr")
        assert Store(growth.path).grid.block_shape == (2,)  # 16 MB

    def test_needs_no_study(self, throw: Study, tmp_path: Path) -> None:
        study = tmp_path / "gone.py"
        shutil.copy(throw.file, study)
        store = complete(throw, tmp_path / "s.zarr")
        study.unlink()
        assert compacted(store, tmp_path / "t.zarr").written == 4

    def test_of_a_single_point(self, throw: Study, tmp_path: Path) -> None:
        one = throw.pipeline.with_values(speed=13, time=1)
        store = complete(throw, tmp_path / "s.zarr", one)
        growth = compacted(store, tmp_path / "t.zarr")
        xr.testing.assert_equal(values_of(growth.path), values_of(store.path))
        tasks = tasks_of(growth.path)
        assert tasks.status.values.tolist() == ["failed", "copied"]
        assert [f.error for f in status(growth.path).failures] == [
            f.error for f in status(store.path).failures
        ]

    def test_of_a_sweep_that_grew_in_place(self, everything: Study, tmp_path: Path) -> None:
        pipeline = everything.pipeline.with_values(shape=["square"])
        store = complete(everything, tmp_path / "s.zarr", pipeline)
        grow(everything, store, shape=["line", "third"])
        before = go_on(everything, store.path)
        path = compacted(Store(store.path), tmp_path / "t.zarr").path
        xr.testing.assert_equal(values_of(path), before)

    def test_to_a_zip_that_zarr_opens(self, everything: Study, tmp_path: Path) -> None:
        store = complete(everything, tmp_path / "s.zarr")
        growth = compacted(store, tmp_path / "t.zip")
        assert growth.path == tmp_path / "t.zip"
        zipped = zarr.storage.ZipStore(tmp_path / "t.zip", mode="r")
        xr.testing.assert_equal(xr.open_zarr(zipped, consolidated=True), values_of(store.path))
        assert xr.open_zarr(zipped, group="tasks").sizes["task"] == 13
        zipped.close()
        assert {path.name for path in tmp_path.iterdir()} == {"s.zarr", "t.zip"}

    def test_to_one_netcdf_file(self, everything: Study, tmp_path: Path) -> None:
        pytest.importorskip("h5netcdf", reason="pip install h5netcdf h5py")
        store = complete(everything, tmp_path / "s.zarr")
        assert compacted(store, tmp_path / "t.nc").path == tmp_path / "t.nc"
        with xr.open_dataset(tmp_path / "t.nc", engine="h5netcdf") as dataset:
            xr.testing.assert_equal(dataset, values_of(store.path))
            assert dataset.profile.attrs == values_of(store.path).profile.attrs
        path = compacted(store, tmp_path / "t.zarr").path
        for group, size in (("tasks", 13), ("events", 1), ("runs", 2)):
            with xr.open_dataset(tmp_path / "t.nc", group=group, engine="h5netcdf") as table:
                assert list(table.sizes.values()) == [size]
                assert set(table) == set(xr.open_zarr(path, group=group))
        assert {path.name for path in tmp_path.iterdir()} == {"s.zarr", "t.nc", "t.zarr"}

    def test_to_netcdf_without_failures_and_tasks(self, throw: Study, tmp_path: Path) -> None:
        pytest.importorskip("h5netcdf", reason="pip install h5netcdf h5py")
        store = create_with(throw.pipeline, throw, tmp_path / "s.zarr", Grid((5, 4), (5, 4)))
        compacted(store, tmp_path / "t.nc")
        with xr.open_dataset(tmp_path / "t.nc", engine="h5netcdf") as dataset:
            xr.testing.assert_equal(dataset, values_of(store.path))

    def test_to_netcdf_says_what_to_install(
        self, throw: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = complete(throw, tmp_path / "s.zarr")
        monkeypatch.setattr(sweep.export, "find_spec", lambda name: None)
        with pytest.raises(StoreError, match="pip install h5netcdf h5py"):
            compacted(store, tmp_path / "t.nc")
        assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


class TestMerge:
    def test_holds_what_either_has_and_the_rest_is_pending(
        self, throw: Study, tmp_path: Path
    ) -> None:
        early = throw.pipeline.with_values(speed=[10.0, 13.0], time=[0.5, 1.5])
        late = throw.pipeline.with_values(speed=[20.0, 13.0][::-1], time=[1.0, 2.0])
        first = complete(throw, tmp_path / "a.zarr", early)
        second = complete(throw, tmp_path / "b.zarr", late)
        growth = merged([first, second], tmp_path / "t.zarr")
        assert (growth.new_points, growth.damaged) == (4, 0)
        assert growth.linked == 4 * 4 + 3 * 4  # `run` of the second has other numbers

        dataset = values_of(growth.path)
        assert dataset.speed.values.tolist() == [10, 13, 20]
        assert dataset.time.values.tolist() == [0.5, 1, 1.5, 2]
        assert dataset.run.values.tolist() == [[1, 0, 1, 0], [1, 2, 1, 2], [0, 2, 0, 2]]
        assert dataset.status.values.tolist() == [[1, 0, 1, 0], [2, 2, 2, 2], [0, 1, 0, 1]]
        assert len(status(growth.path).failures) == 4
        runs = xr.open_zarr(growth.path, group="runs").load()
        assert runs.engine.values.tolist()[2] == "merge"

        after = go_on(throw, growth.path).drop_vars(ABOUT)
        whole = throw.pipeline.with_values(speed=[10.0, 13.0, 20.0])
        fresh = complete(throw, tmp_path / "f.zarr", whole)
        xr.testing.assert_equal(after, values_of(fresh.path, but=ABOUT))
        assert verify(Store(growth.path)).is_sound

    def test_takes_coordinates_from_whichever_has_them(
        self, everything: Study, tmp_path: Path
    ) -> None:
        low = everything.pipeline.with_values(n=[3, 6])
        high = everything.pipeline.with_values(n=[5])
        first = complete(everything, tmp_path / "a.zarr", low)
        second = complete(everything, tmp_path / "b.zarr", high)
        whole = everything.pipeline.with_values(n=[3, 5, 6])
        fresh = complete(everything, tmp_path / "f.zarr", whole)
        for name, stores in (("t.zarr", [first, second]), ("u.zarr", [second, first])):
            path = merged(stores, tmp_path / name).path
            found = values_of(path, but=ABOUT)
            xr.testing.assert_equal(found, values_of(fresh.path, but=ABOUT))
            assert Store(path).bind(everything.pipeline).dims == whole.dims

    def test_a_done_point_counts_more_than_one_that_failed(
        self, throw: Study, tmp_path: Path
    ) -> None:
        stores = [complete(throw, tmp_path / f"{name}.zarr") for name in "ab"]
        set_status(stores[0], throw, (0, 0), FAILED)
        set_status(stores[0], throw, (2, 0), PENDING)
        set_status(stores[1], throw, (3, 0), STALE)
        set_status(stores[1], throw, (4, 0), SKIPPED)
        path = merged(stores, tmp_path / "t.zarr").path
        dataset = values_of(path)
        assert dataset.status.values[:, 0].tolist() == [1, 2, 1, 1, 1]
        assert dataset.run.values[:, 0].tolist() == [2, 1, 2, 1, 1]
        assert dataset.height.isel(speed=[0, 2, 3, 4]).notnull().all()

    def test_refuses_points_that_differ_and_names_the_first(
        self, throw: Study, tmp_path: Path
    ) -> None:
        first = complete(throw, tmp_path / "a.zarr")
        create_with(throw.pipeline, throw, tmp_path / "b.zarr", Grid((5, 4), (5, 4)))
        second = Store(tmp_path / "b.zarr")
        data = {name: np.zeros((5, 4)) for name in ("height", "point_seconds", "run")}
        data["height"] = values_of(first.path).height.values.copy()
        data["height"][3, 1] += 1e-9
        BlockWriter(second, throw.pipeline).write_outputs(second.grid.block(0), data)
        states = np.full((5, 4), DONE, np.uint8)
        BlockWriter(second, throw.pipeline).commit(second.grid.block(0), states)
        with pytest.raises(StoreMismatch, match=r"differ in 'height' at speed=25.0, time=1.0"):
            merged([first, second], tmp_path / "t.zarr")
        assert not (tmp_path / "t.zarr").exists()

    def test_takes_a_damaged_point_from_the_other(self, throw: Study, tmp_path: Path) -> None:
        stores = [complete(throw, tmp_path / f"{name}.zarr") for name in "ab"]
        old = values_of(stores[0].path)
        flip(stores[0].path / "height" / "c.2.1")
        growth = merged(stores, tmp_path / "t.zarr")
        dataset = values_of(growth.path)
        xr.testing.assert_equal(dataset.height, old.height)
        assert dataset.run.values[2].tolist() == [1, 2, 1, 1]
        assert growth.damaged == 1

    def test_refuses_another_study_in_words(self, throw: Study, tmp_path: Path) -> None:
        first = complete(throw, tmp_path / "a.zarr")
        other = throw.pipeline.with_values(g=1.6)
        second = complete(throw, tmp_path / "b.zarr", other)
        with pytest.raises(StoreMismatch, match=r"constant 'g' was 9\.81, now 1\.6"):
            merged([first, second], tmp_path / "t.zarr")

    def test_refuses_coordinates_that_no_store_knows(self, tmp_path: Path) -> None:
        def line(a: int, b: int) -> Annotated[np.ndarray, Var(("x",))]:
            return np.zeros(a + b)

        coords = [Coord("x", lambda a, b: np.arange(a + b))]
        stores = [
            create_with(
                Pipeline(line, axes=[Axis("a", [n]), Axis("b", [n])], coords=coords),
                None,
                tmp_path / f"{n}.zarr",
                Grid((1, 1), (1, 1)),
            )
            for n in (1, 2)
        ]
        with pytest.raises(StoreMismatch, match="'x_at' changes with a and b, and no store knows"):
            merged(stores, tmp_path / "t.zarr")

    def test_of_many_stores_for_clusters_without_a_common_disk(
        self, throw: Study, tmp_path: Path
    ) -> None:
        stores = []
        for number in range(70):
            part = throw.pipeline.with_values(speed=[float(number)], time=[0.5])
            stores.append(
                create_with(part, throw, tmp_path / f"{number}.zarr", Grid((1, 1), (1, 1)))
            )
        growth = merged(stores[::-1], tmp_path / "t.zarr")
        assert Store(growth.path).count_points()["pending"] == 70
        assert values_of(growth.path).speed.values.tolist() == list(range(70))

    def test_is_no_file(self, throw: Study, tmp_path: Path) -> None:
        store = complete(throw, tmp_path / "a.zarr")
        with pytest.raises(StoreError, match=r"such as t\.zarr; sweep compact makes a \.nc of it"):
            merged([store, store], tmp_path / "t.nc")

    def test_keeps_the_records_of_both(self, throw: Study, tmp_path: Path) -> None:
        stores = [
            complete(throw, tmp_path / f"{v}.zarr", throw.pipeline.with_values(speed=[v]))
            for v in (13.0, 20.0)
        ]
        path = merged(stores, tmp_path / "t.zarr").path
        tasks = tasks_of(path)
        assert np.bincount(tasks.run).tolist() == [0, 4, 4, 8]
        assert set(tasks.status.values) == {"failed", "done", "copied"}
        runs = xr.open_zarr(path, group="runs").load()
        assert runs.run.values.tolist() == [1, 2, 3]


def set_status(store: Store, study: Study, place: tuple[int, ...], state: int) -> None:
    """Change what is said of a point that is a block of its own."""
    block = store.grid.block(store.grid.block_of(place))
    writer = BlockWriter(store, study.pipeline)
    writer.commit(block, np.full(block.shape, state, np.uint8))


# --- properties ----------------------------------------------------------------------------

ORDERS = st.sampled_from(["ascending", "descending", "none"])


class TestAxes:
    @given(st.sets(st.integers(-20, 20), min_size=1), st.lists(st.integers(-20, 20)), ORDERS)
    def test_hold_all_values_once_in_the_order_of_the_old_ones(
        self, old: set[int], new: list[int], order: str
    ) -> None:
        values = sorted(old, reverse=order == "descending")
        if order == "none":
            values = values[1:] + values[:1]
        axis = Axis("a", values)
        more = Axis("a", list(dict.fromkeys(new)) or values)
        whole = united(axis, more, direction(axis))
        found = whole.columns[0].tolist()
        assert sorted(found) == sorted(old | set(new))
        if direction(axis):
            assert found == sorted(found, reverse=direction(axis) < 0)
        else:
            assert found[: len(values)] == values
        np.testing.assert_array_equal(whole.columns[0][places_on(whole, axis)], values)

    def test_of_one_value_ascend(self) -> None:
        assert direction(Axis("a", [3.0])) == 1

    def test_of_texts_flags_and_rows_have_no_order(self) -> None:
        assert direction(Axis("a", ["a", "b"])) == 0
        assert direction(Axis("a", [False, True])) == 0
        assert direction(Axis(("a", "b"), [(1, 2), (2, 3)], dim="sample")) == 0


def box(a: float, b: float) -> Annotated[np.ndarray, Var(("x",), "m")]:
    raise AssertionError("it is not run")


def box_of(a: list[float], b: list[float]) -> Pipeline:
    return Pipeline(box, axes=[Axis("a", a), Axis("b", b)], coords=[Coord("x", [1, 2, 3])])


def filled(path: Path, pipeline: Pipeline, block_shape: tuple[int, ...], states: Any) -> Store:
    """Make a store whose values tell their points; blocks without any state have no chunks."""
    grid = Grid(tuple(pipeline.dims.values()), block_shape)
    store = create_store(path, pipeline, grid, study=None, attributes={})
    a, b = (axis.columns[0] for axis in pipeline.axes)
    values = (a[:, None, None] * 100 + b[None, :, None] * 10) + np.arange(3)
    writer = BlockWriter(store, pipeline)
    for number in range(grid.blocks):
        block = grid.block(number)
        where = tuple(slice(low, low + n) for low, n in zip(block.start, block.shape, strict=True))
        if states[where].any():
            about = {"run": np.full(block.shape, 7), "point_seconds": np.full(block.shape, 0.5)}
            writer.write_outputs(block, {"box": values[where], **about})
            writer.commit(block, states[where])
    return store


@st.composite
def growths(draw: st.DrawFn) -> tuple[list[Any], ...]:
    """Draw old and new values of two axes, block shapes, states of the old points."""
    axes, places = [], []
    for _ in range(2):
        n = draw(st.integers(1, 6))
        new = draw(st.integers(n, 8))
        axes.append(sorted(draw(st.permutations(range(new)))[:n]))
        places.append(new)
    old_blocks = tuple(draw(st.integers(1, len(axis))) for axis in axes)
    keep = draw(st.booleans())
    new_blocks = tuple(
        min(old, n) if keep else draw(st.integers(1, n))
        for old, n in zip(old_blocks, places, strict=True)
    )
    shape = tuple(map(len, axes))
    size = int(np.prod(shape))
    states = draw(st.lists(st.sampled_from([0, 1, 1, 1, 2, 3, 4]), min_size=size, max_size=size))
    return axes, places, [old_blocks], [new_blocks], [np.array(states, np.uint8).reshape(shape)]


RECORD = {"started": 1.0, "argv": ["x"], "hostname": "h", "pid": 1, "engine": "extend"}


@settings(max_examples=15)
@given(growths())
def test_whatever_the_blocks_old_points_keep_values_and_states_and_new_ones_are_pending(
    growth: tuple[list[Any], ...],
) -> None:
    axes, lengths, (old_blocks,), (new_blocks,), (states,) = growth
    with tempfile.TemporaryDirectory() as folder:
        small = box_of(*(list(map(float, axis)) for axis in axes))
        large = box_of(*(list(map(float, range(n))) for n in lengths))
        source = filled(Path(folder, "s.zarr"), small, old_blocks, states)
        whole = filled(Path(folder, "w.zarr"), large, new_blocks, np.zeros(lengths, np.uint8))
        made = rebuild(
            Path(folder, "t.zarr"),
            [Source(source, tuple(map(np.array, axes)))],
            whole.header,
            large.axes,
            template(large),
            {},
            RECORD,
        )
        old, new = values_of(source.path), values_of(made.store.path)
        expected = np.zeros(lengths, np.uint8)
        expected[np.ix_(*axes)] = states
        np.testing.assert_array_equal(new.status, expected)
        kept = new.isel(a=axes[0], b=axes[1])
        here = states != PENDING
        for name in ("box", "run", "point_seconds"):
            assert kept[name].values[here].tobytes() == old[name].values[here].tobytes()
            fill = template(large)[[x.name for x in template(large)].index(name)].fill
            rest = new[name].values[expected == PENDING]
            linked = set(chunks_of(made.store.path).values()) & set(chunks_of(source.path).values())
            if not linked:
                np.testing.assert_array_equal(rest, np.full_like(rest, fill))
        begun = {block.name for block in made.store.begun()}
        assert begun == {file.name[2:-2] for file in (made.store.path / "box").glob("c.*")}
        assert made.linked + made.written == 4 * len(begun)


@settings(max_examples=10)
@given(growths(), st.data())
def test_two_parts_of_a_sweep_merge_into_what_it_was(
    growth: tuple[list[Any], ...], data: st.DataObject
) -> None:
    axes, lengths, (old_blocks,), (new_blocks,), (states,) = growth
    with tempfile.TemporaryDirectory() as folder:
        part = box_of(*(list(map(float, axis)) for axis in axes))
        large = box_of(*(list(map(float, range(n))) for n in lengths))
        size = int(np.prod(lengths))
        drawn = data.draw(st.lists(st.sampled_from([0, 1, 2]), min_size=size, max_size=size))
        others = np.array(drawn, np.uint8).reshape(lengths)
        first = filled(Path(folder, "a.zarr"), part, old_blocks, states)
        second = filled(Path(folder, "b.zarr"), large, new_blocks, others)
        path = merged([first, second], Path(folder, "t.zarr")).path
        found = values_of(path)
        small = np.zeros(lengths, np.uint8)
        small[np.ix_(*axes)] = states
        rank = np.array([0, 4, 3, 2, 1])
        best = np.where(rank[others] > rank[small], others, small)
        np.testing.assert_array_equal(found.status, best)
        told = 100.0 * found.a + 10 * found.b + xr.DataArray(np.arange(3), dims="x")
        done = found.status == DONE
        assert (found.box.where(done) == told.where(done)).where(done, True).all()


def test_everything_is_json_and_the_header_says_where_its_values_are(
    throw: Study, tmp_path: Path
) -> None:
    store = complete(throw, tmp_path / "s.zarr")
    grow(throw, store, speed=[35.0])
    header = json.loads((store.private / "header.json").read_text())
    assert header["axes_file"] == "axes-2.npz"
    assert header["shape"] == [6, 4]
    assert open_dataset(store.path).attrs["sweep_id"] == store.header.sweep_id
