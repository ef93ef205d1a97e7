"""The store: what is on disk, and what plain xarray and zarr make of it."""

import json
import os
import stat
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import BloscCodec, Crc32cCodec

from sweep import Coord, Pipeline, Var, open_dataset
from sweep.errors import StoreError, StoreMismatch
from sweep.journal import Journal, decode_line, encode_line, read_from
from sweep.options import Options
from sweep.plan import Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute
from sweep.status import status
from sweep.store import BlockWriter, Store
from sweep.store.chunks import DamagedChunkError, decode_chunk, encode_chunk
from sweep.store.metadata import array_metadata
from sweep.store.tables import Tables
from sweep.study import Study
from sweep.template import DONE, PENDING, STALE, Array, template

SERIAL = Options("serial")


def make(study: Study, path: Path, *block_shape: int) -> Store:
    return create_with(
        study.pipeline, study, path, Grid(tuple(study.pipeline.dims.values()), block_shape)
    )


def fill_block(store: Store, study: Study, number: int, status: int = DONE) -> None:
    block = store.grid.block(number)
    writer = BlockWriter(store, study.pipeline)
    data = {
        "height": np.full(block.shape, 7.0),
        "point_seconds": np.full(block.shape, 0.1),
        "run": np.full(block.shape, 1),
    }
    writer.write_outputs(block, data)
    writer.commit(block, np.full(block.shape, status, np.uint8))


class TestNewStore:
    def test_opens_with_plain_xarray_before_anything_is_computed(
        self, everything: Study, tmp_path: Path
    ) -> None:
        make(everything, tmp_path / "s.zarr", 1, 3, 2)
        dataset = xr.open_zarr(tmp_path / "s.zarr")
        assert dict(dataset.sizes) == {"shape": 2, "pair": 3, "n": 2, "x": 5}
        assert (dataset.status == PENDING).all()
        assert dataset.profile.isnull().all()

    def test_carries_parameters_as_labels(self, everything: Study, tmp_path: Path) -> None:
        make(everything, tmp_path / "s.zarr", 1, 3, 2)
        dataset = xr.open_zarr(tmp_path / "s.zarr")
        assert list(dataset["shape"].values) == ["line", "square"]
        assert dataset.slope.dims == ("pair",)
        assert dataset.seed.values.tolist() == [1, 2, 1]
        assert set(dataset.coords) == {"shape", "slope", "seed", "n", "x_at"}
        assert dataset.sel(shape="line", n=5).profile.dims == ("pair", "x")

    def test_holds_coordinates_that_change_with_a_parameter_beside_their_dim(
        self, everything: Study, tmp_path: Path
    ) -> None:
        make(everything, tmp_path / "s.zarr", 1, 3, 2)
        along = xr.open_zarr(tmp_path / "s.zarr").x_at
        assert along.dims == ("n", "x")
        np.testing.assert_array_equal(along.sel(n=3), [0, 0.5, 1, np.nan, np.nan])

    def test_has_units_on_every_number_that_is_no_flag(
        self, everything: Study, tmp_path: Path
    ) -> None:
        make(everything, tmp_path / "s.zarr", 1, 3, 2)
        for name, variable in xr.open_zarr(tmp_path / "s.zarr").variables.items():
            if variable.dtype.kind in "fiu" and "flag_values" not in variable.attrs:
                assert variable.attrs.get("units"), name

    def test_constants_are_scalar_coordinates(self, throw: Study, tmp_path: Path) -> None:
        make(throw, tmp_path / "s.zarr", 5, 4)
        g = xr.open_zarr(tmp_path / "s.zarr").g
        assert (g.item(), g.attrs["units"]) == (9.81, "m s-2")

    def test_can_hold_a_single_point(self, throw: Study, tmp_path: Path) -> None:
        one = throw.pipeline.with_values(speed=10, time=1)
        execute(one, throw, tmp_path / "s.zarr", SERIAL, Quiet())
        dataset = xr.open_zarr(tmp_path / "s.zarr")
        assert dataset.height.dims == ()
        assert float(dataset.height) == pytest.approx(10 - 9.81 / 2)
        assert int(dataset.status) == DONE

    def test_leaves_nothing_behind_where_it_cannot_be_made(
        self, throw: Study, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(StoreError, match=r"cannot be made: File exists .*Give another STORE"):
            make(throw, tmp_path / "file" / "s.zarr", 5, 4)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_is_not_made_over_something_else(self, throw: Study, tmp_path: Path) -> None:
        (tmp_path / "s.zarr").mkdir()
        (tmp_path / "s.zarr" / "precious").write_text("mine")
        with pytest.raises(StoreError, match=r"is no sweep's store\. Move it away"):
            make(throw, tmp_path / "s.zarr", 5, 4)
        assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]
        assert (tmp_path / "s.zarr" / "precious").read_text() == "mine"

    def test_made_by_two_at_once_is_shared_or_refused(self, throw: Study, tmp_path: Path) -> None:
        first = make(throw, tmp_path / "s.zarr", 5, 4)
        second = make(throw, tmp_path / "s.zarr", 1, 1)
        assert second.header == first.header
        pipeline = throw.pipeline.with_values(g=1.6)
        with pytest.raises(StoreMismatch, match=r"constant 'g' was 9\.81, now 1\.6"):
            create_with(pipeline, throw, tmp_path / "s.zarr", Grid((5, 4), (5, 4)))

    @pytest.mark.parametrize(
        ("number", "remedy"),
        [
            (99, "reads up to 2.*pip install -U"),
            (1, "older version.*run the sweep into a new store"),
        ],
    )
    def test_refuses_another_format(
        self, number: int, remedy: str, throw: Study, tmp_path: Path
    ) -> None:
        header = make(throw, tmp_path / "s.zarr", 5, 4).private / "header.json"
        header.write_text(header.read_text().replace('"format": 2', f'"format": {number}'))
        with pytest.raises(StoreError, match=f"has the format {number}.*{remedy}"):
            Store(tmp_path / "s.zarr")

    def test_says_where_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"does not exist\. Make one: sweep run"):
            Store(tmp_path / "none.zarr")

    def test_refuses_points_that_no_chunk_holds(self, tmp_path: Path) -> None:
        def huge(a: float = 1) -> Annotated[np.ndarray, Var(("y", "x"), "1")]:
            raise AssertionError("it is not run")

        coords = [Coord("x", range(20_000)), Coord("y", range(20_000))]
        with pytest.raises(StoreError, match=r"takes 3\.2 GB a point.*float32"):
            create_with(Pipeline(huge, coords=coords), None, tmp_path / "s.zarr", Grid((), ()))
        assert list(tmp_path.iterdir()) == []


class TestBlocks:
    def test_are_written_as_zarr_itself_would(self, throw: Study, tmp_path: Path) -> None:
        store = make(throw, tmp_path / "s.zarr", 2, 3)
        values = np.arange(6.0).reshape(2, 3)
        zarr.open_array(store.path / "height")[:2, :3] = values
        theirs = (store.path / "height" / "c.0.0").read_bytes()
        assert encode_chunk(values, (2, 3), np.nan) == theirs

    @pytest.mark.parametrize(
        ("dtype", "fill", "values"),
        [
            ("float64", np.nan, [1.5, np.nan, -0.0]),
            ("float32", np.nan, [1.5, np.inf, 2.0]),
            ("int64", 0, [1, -2, 3]),
            ("int32", -1, [1, -2, 3]),
            ("uint8", 0, [1, 2, 3]),
            ("bool", False, [True, False, True]),
            ("U1", "", ["plummer", "", "größer"]),
        ],
    )
    def test_of_every_type_are_zarrs_own_to_the_byte(
        self, dtype: str, fill: object, values: list[object], tmp_path: Path
    ) -> None:
        array = Array("a", "output", ("x",), (3,), np.dtype(dtype), fill, {"units": "1"})
        theirs = zarr.create_array(
            tmp_path / "a",
            shape=(3,),
            chunks=(2,),
            dtype="string" if dtype == "U1" else dtype,
            fill_value=fill,
            dimension_names=("x",),
            attributes={"units": "1"},
            chunk_key_encoding={"name": "default", "separator": "."},
            compressors=(BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()),
        )
        data = np.array(values, dtype=object if dtype == "U1" else dtype)
        theirs[:] = data
        assert array_metadata(array, (2,)) == json.loads((tmp_path / "a/zarr.json").read_bytes())
        assert encode_chunk(data[2:], (2,), fill) == (tmp_path / "a" / "c.1").read_bytes()

    def test_at_the_edge_are_padded(self, throw: Study, tmp_path: Path) -> None:
        store = make(throw, tmp_path / "s.zarr", 2, 3)
        fill_block(store, throw, store.grid.blocks - 1)
        dataset = open_dataset(store.path)
        assert dataset.height[4, 3] == 7.0
        assert int(dataset.height.notnull().sum()) == 1
        assert (store.path / "height" / "c.2.1").exists()

    def test_are_done_when_their_status_says_so_and_not_before(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = make(throw, tmp_path / "s.zarr", 2, 2)
        block = store.grid.block(0)
        data = dict.fromkeys(("height", "point_seconds", "run"), np.ones(block.shape))
        writer = BlockWriter(store, throw.pipeline)
        writer.write_outputs(block, data)
        assert not store.is_committed(block)
        assert store.plan().blocks_left == store.grid.blocks
        writer.commit(block, np.full(block.shape, DONE, np.uint8))
        assert store.is_committed(block)
        assert [b.number for b in store.plan().remaining()] == [1, 2, 3, 4, 5]

    def test_with_a_stale_point_are_to_be_computed_again(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = make(throw, tmp_path / "s.zarr", 5, 4)
        fill_block(store, throw, 0, STALE)
        assert store.plan().blocks_left == 1
        assert store.count_points()["stale"] == 20

    def test_with_a_damaged_status_are_to_be_computed_again(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = make(throw, tmp_path / "s.zarr", 5, 4)
        fill_block(store, throw, 0)
        chunk = store.path / "status" / "c.0.0"
        raw = bytearray(chunk.read_bytes())
        raw[3] ^= 1
        chunk.write_bytes(raw)
        assert store.plan().blocks_left == 1

    def test_that_are_damaged_are_an_error_for_xarray_and_no_wrong_value(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = make(throw, tmp_path / "s.zarr", 5, 4)
        fill_block(store, throw, 0)
        chunk = store.path / "height" / "c.0.0"
        raw = bytearray(chunk.read_bytes())
        raw[len(raw) // 2] ^= 16
        chunk.write_bytes(raw)
        with pytest.raises(ValueError, match="checksum"):
            open_dataset(store.path).height.load()

    def test_use_dots_in_file_names_so_that_no_folder_is_made_for_them(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = make(throw, tmp_path / "s.zarr", 1, 1)
        for number in range(store.grid.blocks):
            fill_block(store, throw, number)
        folders = [path for path in (store.path / "height").iterdir() if path.is_dir()]
        assert folders == []

    @given(
        hnp.arrays(
            st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=5),
        )
    )
    def test_survive_encoding(self, data: np.ndarray) -> None:
        raw = encode_chunk(data, data.shape, 0)
        np.testing.assert_array_equal(decode_chunk(raw, data.shape, data.dtype), data)

    @given(st.integers(0, 10_000), st.integers(0, 7))
    def test_show_every_flipped_bit(self, place: int, bit: int) -> None:
        data = np.arange(20.0)
        raw = bytearray(encode_chunk(data, data.shape, 0))
        raw[place % len(raw)] ^= 1 << bit
        with pytest.raises(DamagedChunkError):
            decode_chunk(bytes(raw), data.shape, data.dtype)


class TestHeader:
    def test_gives_back_the_axes_that_it_was_made_with(
        self, everything: Study, tmp_path: Path
    ) -> None:
        changed = everything.pipeline.with_values(n=[4, 8], shape=["line"])
        create_with(changed, everything, tmp_path / "s.zarr", Grid((1, 3, 2), (1, 1, 1)))
        bound = Store(tmp_path / "s.zarr").bind(everything.pipeline)
        assert bound.axes == changed.axes
        assert bound.fixed == changed.fixed

    def test_refuses_a_pipeline_that_has_changed(
        self, everything: Study, throw: Study, tmp_path: Path
    ) -> None:
        store = make(everything, tmp_path / "s.zarr", 1, 3, 2)
        with pytest.raises(StoreMismatch, match="stage 'walk' is gone"):
            store.bind(throw.pipeline)

    def test_holds_nothing_that_would_be_unpickled(self, everything: Study, tmp_path: Path) -> None:
        store = make(everything, tmp_path / "s.zarr", 1, 3, 2)
        with np.load(store.private / "axes-1.npz", allow_pickle=False) as columns:
            assert all(columns[name].dtype.kind in "fiUb" for name in columns.files)

    def test_numbers_runs_without_gaps_or_doubles(self, throw: Study, tmp_path: Path) -> None:
        store = make(throw, tmp_path / "s.zarr", 5, 4)
        assert [store.begin_run({"state": "running"}) for _ in range(3)] == [1, 2, 3]
        assert list(store.run_files()) == [1, 2, 3]


class TestTables:
    def run(self, study: Study, path: Path) -> xr.Dataset:
        execute(study.pipeline, study, path, SERIAL, Quiet())
        return xr.open_zarr(path)

    def test_have_a_row_a_task(self, throw: Study, tmp_path: Path) -> None:
        self.run(throw, tmp_path / "s.zarr")
        tasks = xr.open_zarr(tmp_path / "s.zarr", group="tasks").load()
        grid = Store(tmp_path / "s.zarr").grid
        assert set(tasks.block.values) == {grid.block(n).name for n in range(grid.blocks)}
        assert len(tasks.block) == grid.blocks
        assert (tasks.ended >= tasks.started).all()
        assert (tasks.pid == os.getpid()).all()
        assert tasks.failed.sum() == 4
        assert (tasks.compute_seconds > 0).all()
        assert (tasks.peak_rss_mb > 1).all()

    def test_have_a_row_for_every_failed_point(self, throw: Study, tmp_path: Path) -> None:
        dataset = self.run(throw, tmp_path / "s.zarr")
        events = xr.open_zarr(tmp_path / "s.zarr", group="events").load()
        assert set(events.error_type.values) == {"ValueError"}
        assert all("unlucky" in text for text in events.error.values)
        failed = dataset.status.isel(speed=events.index_speed, time=events.index_time)
        assert failed.values.tolist() == [2] * 4

    def test_have_a_row_a_run(self, throw: Study, tmp_path: Path) -> None:
        self.run(throw, tmp_path / "s.zarr")
        runs = xr.open_zarr(tmp_path / "s.zarr", group="runs").load()
        assert runs.run.values.tolist() == [1]
        assert runs.state.values.tolist() == ["complete"]
        assert "numpy" in json.loads(runs.packages.item())
        assert "def height" in json.loads(runs.source.item())["throw.py"]

    def test_grow_by_appending_only(self, throw: Study, tmp_path: Path) -> None:
        store = make(throw, tmp_path / "s.zarr", 5, 1)
        store.begin_run({"state": "running", "started": 1.0, "argv": ["x"]})
        journal = Journal(store.journal_folder)
        record = {"run": 1, "attempt": 1, "started": 1.0, "ended": 2.0, "events": []}
        before = None
        for number in range(4):
            journal.append({**record, "block": store.grid.block(number).name})
            fill_block(store, throw, number)
            Tables(store).fold()
            if before is not None:  # a reader with an older handle
                assert len(before.block) == number
            before = xr.open_zarr(store.path, group="tasks", chunks=None)
        assert before is not None
        assert before.block.values.tolist() == [store.grid.block(n).name for n in range(4)]

    def test_are_folded_anew_where_it_is_lost_how_far_they_were(
        self, throw: Study, tmp_path: Path
    ) -> None:
        self.run(throw, tmp_path / "s.zarr")
        before = xr.open_zarr(tmp_path / "s.zarr", group="tasks").load()
        for file in (tmp_path / "s.zarr/.sweep/folds").iterdir():
            file.unlink()
        self.run(throw, tmp_path / "s.zarr")
        xr.testing.assert_equal(xr.open_zarr(tmp_path / "s.zarr", group="tasks").load(), before)

    def test_wait_with_a_record_until_its_block_is_committed(
        self, throw: Study, tmp_path: Path
    ) -> None:
        store = make(throw, tmp_path / "s.zarr", 5, 1)
        store.begin_run({"state": "running", "started": 1.0, "argv": ["x"], "engine": ""})
        event = {"place": {"speed": 0, "time": 0}, "kind": "failed", "error_type": "E", "error": ""}
        record = {"run": 1, "block": "0.0", "status": "done", "started": 1.0, "points": 4}
        record["compute_seconds"] = 0.5
        Journal(store.journal_folder).append(
            {**record, "attempt": 1, "ended": 3.0, "events": [event]}
        )
        Tables(store).fold()
        assert xr.open_zarr(store.path, group="tasks").sizes == {"task": 0}
        assert status(store.path).failures == ()
        Journal(store.journal_folder).append({**record, "attempt": 2, "ended": 2.0, "events": []})
        fill_block(store, throw, 0)
        Tables(store).fold()
        tasks = xr.open_zarr(store.path, group="tasks").load()
        assert dict(zip(tasks.attempt.values, tasks.status.values, strict=True)) == {
            1: "lost",  # though its clock says that it came later
            2: "done",
        }
        assert xr.open_zarr(store.path, group="events").sizes == {"event": 0}
        assert status(store.path).failures == ()

    def test_say_when_the_dataset_was_modified(self, throw: Study, tmp_path: Path) -> None:
        make(throw, tmp_path / "s.zarr", 5, 1)
        before = xr.open_zarr(tmp_path / "s.zarr").attrs["date_modified"]
        root = json.loads((tmp_path / "s.zarr/zarr.json").read_text())
        root["attributes"]["date_modified"] = "2020-01-01T00:00:00+00:00"
        (tmp_path / "s.zarr/zarr.json").write_text(json.dumps(root))
        after = self.run(throw, tmp_path / "s.zarr").attrs["date_modified"]
        assert after >= before

    def test_keep_the_tree_open_for_xarray(self, throw: Study, tmp_path: Path) -> None:
        self.run(throw, tmp_path / "s.zarr")
        with xr.open_datatree(tmp_path / "s.zarr", engine="zarr") as tree:
            assert set(tree.groups) == {"/", "/tasks", "/events", "/runs"}

    def test_write_the_history_of_the_runs(self, throw: Study, tmp_path: Path) -> None:
        attrs = self.run(throw, tmp_path / "s.zarr").attrs
        assert attrs["Conventions"] == "CF-1.11, ACDD-1.3"
        assert attrs["title"] == "How high is a ball after a while, thrown straight up?"
        assert len(attrs["history"].splitlines()) == 1
        assert attrs["seed_entropy"] == "0"


class TestJournal:
    @given(st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False)))
    def test_gives_back_what_was_written(self, record: dict[str, object]) -> None:
        assert decode_line(encode_line(record)) == record

    @given(st.integers(0, 60))
    def test_ignores_a_torn_line(self, cut: int) -> None:
        line = encode_line({"block": 3, "events": ["a" * 40]})
        assert decode_line(line[: min(cut, len(line) - 2)]) is None

    def test_is_read_on_from_where_one_stopped(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path)
        journal.append({"block": 1})
        ((first, offset),) = read_from(journal.path, 0)
        journal.append({"block": 2})
        with journal.path.open("ab") as file:
            file.write(b"torn")
        ((second, end),) = read_from(journal.path, offset)
        assert (first, second) == ({"block": 1}, {"block": 2})
        assert list(read_from(journal.path, end)) == []

    def test_begins_another_file_after_a_failure(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "gone")
        before = journal.path
        with pytest.raises(FileNotFoundError):
            journal.append({"block": 1})
        assert journal.path != before


def test_masked_dataset_shows_only_what_is_done(throw: Study, tmp_path: Path) -> None:
    execute(throw.pipeline, throw, tmp_path / "s.zarr", SERIAL, Quiet())
    dataset = open_dataset(tmp_path / "s.zarr", mask=True)
    assert dataset.height.sel(speed=13).isnull().all()
    assert dataset.height.drop_sel(speed=13).notnull().all()
    assert dataset.status.dtype == np.uint8


def test_files_of_a_store_can_be_read_by_others_of_the_group(throw: Study, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        store = make(throw, tmp_path / "s.zarr", 5, 4)
        fill_block(store, throw, 0)
    finally:
        os.umask(old)
    mode = stat.S_IMODE((store.path / "status" / "c.0.0").stat().st_mode)
    assert mode == 0o640


def test_every_array_of_the_template_is_there(everything: Study, tmp_path: Path) -> None:
    store = make(everything, tmp_path / "s.zarr", 1, 3, 2)
    group = zarr.open_group(store.path, mode="r")
    assert sorted(group.array_keys()) == sorted(a.name for a in template(everything.pipeline))
