"""What `verify` finds on a damaged disk, and what comes of computing points again."""

import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pytest
import xarray as xr

from sweep import Axis, Pipeline, Var
from sweep.errors import DiskError, StoreError
from sweep.journal import Journal, Record, encode_line, journals, read_from
from sweep.options import Options
from sweep.plan import Block, Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute
from sweep.store import BlockWriter, Store
from sweep.study import Study, load_study
from sweep.task import Evaluator
from sweep.template import DONE, STALE
from sweep.verify import Damage, rerun, verify

ARRAYS = ("profile", "total", "steps", "rising", "noise", "point_seconds", "run", "status")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 12 points in 6 blocks of 2, one of which failed; not to be touched."""
    study = everything_of(Path(__file__).parent / "studies")
    path = tmp_path_factory.mktemp("pristine") / "s.zarr"
    create_with(study.pipeline, study, path, Grid((2, 3, 2), (1, 1, 2)))
    resume(study, path)
    return path


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Store:
    """Return a copy of it that a test may damage."""
    return Store(shutil.copytree(pristine, tmp_path / "s.zarr"))


class TestVerify:
    def test_finds_and_names_each_of_200_random_damages(self, store: Store) -> None:
        draw = random.Random(7)
        for number in range(200):
            block = store.grid.block(draw.randrange(store.grid.blocks))
            name = draw.choice(ARRAYS)
            path = chunk(store, name, block)
            before = path.read_bytes()
            what = [flip_a_bit, truncate, zero_the_tail][number % 3](path, draw)

            report = verify(store, mark=False)
            path.write_bytes(before)

            (found,) = report.damaged
            assert (found.block, found.array) == (block.name, name)
            assert found.what.startswith(what if name != "status" else "wrong checksum")
            assert not report.is_sound
        assert verify(store).is_sound

    def test_makes_damaged_blocks_stale_and_the_next_run_computes_them_again(
        self, store: Store, everything: Study, pristine: Path
    ) -> None:
        draw = random.Random(8)
        damaged = {}
        for number, name in [(0, "profile"), (0, "run"), (2, "status"), (5, "steps")]:
            block = store.grid.block(number)
            draw.choice([flip_a_bit, truncate, zero_the_tail])(chunk(store, name, block), draw)
            damaged[block.name] = block

        report = verify(store)

        assert report.damaged_blocks == tuple(damaged)
        assert len(report.damaged) == 4
        assert store.count_points()["stale"] == 6
        assert [block.name for block in store.plan().remaining()] == list(damaged)
        assert "Marked stale: 3 blocks" in report.text()
        assert "sweep resume" in report.text()
        assert verify(store).is_sound  # what is stale is no longer vouched for
        resume(everything, store.path)
        assert_same_sweep(store.path, pristine)
        assert verify(store).is_sound
        assert {r["block"] for r in records(store) if r["run"] == 2} == set(damaged)

    def test_leaves_outputs_of_damaged_blocks_as_they_are(self, store: Store) -> None:
        path = chunk(store, "total", store.grid.block(1))
        flip_a_bit(path, random.Random(1))
        before = files(store.path)
        verify(store)
        changed = {path for path, told in files(store.path).items() if before.get(path) != told}
        assert changed == {chunk(store, "status", store.grid.block(1))}

    def test_finds_nothing_and_writes_nothing_where_nothing_is_damaged(self, store: Store) -> None:
        before = files(store.path)
        told: list[tuple[int, int]] = []

        report = verify(store, progress=lambda *counts: told.append(counts))

        assert report.is_sound
        assert (report.blocks, report.chunks) == (6, 6 * 7)
        assert report.bytes > 1000
        assert (report.damaged, report.lost, report.damaged_lines) == ((), (), ())
        assert report.text().startswith("6 committed blocks, 42 chunks, 0.00")
        assert report.text().endswith("MB: all as recorded.")
        assert told == [(n, 6) for n in range(1, 7)]
        assert files(store.path) == before

    def test_only_reads_where_it_is_not_to_mark(self, store: Store) -> None:
        chunk(store, "total", store.grid.block(1)).unlink()
        before = files(store.path)
        report = verify(store, mark=False)
        assert report.damaged == (Damage("0.1.0", "total", "missing"),)
        assert "Not marked" in report.text()
        assert files(store.path) == before

    def test_finds_a_sound_chunk_of_another_block(self, store: Store) -> None:
        first, second = (chunk(store, "profile", store.grid.block(n)) for n in (0, 1))
        shutil.copy(second, first)
        (found,) = verify(store).damaged
        assert (found.block, found.array) == ("0.0.0", "profile")

    def test_takes_the_chunks_of_any_attempt_on_record(
        self, store: Store, everything: Study
    ) -> None:
        block = store.grid.block(3)
        before = {name: chunk(store, name, block).read_bytes() for name in ARRAYS}
        write_again(store, everything.pipeline, block)
        assert verify(store).is_sound
        chunk(store, "run", block).write_bytes(before["run"])
        assert verify(store).is_sound
        chunk(store, "run", block).write_bytes(before["total"])
        assert verify(store).damaged_blocks == (block.name,)

    def test_passes_over_what_is_not_committed(self, throw: Study, tmp_path: Path) -> None:
        store = create_with(throw.pipeline, throw, tmp_path / "t.zarr", Grid((5, 4), (5, 2)))
        assert verify(store).text() == "0 committed blocks, 0 chunks, 0 MB: all as recorded."
        block = store.grid.block(0)
        data = dict.fromkeys(("height", "point_seconds", "run"), np.ones(block.shape))
        BlockWriter(store, throw.pipeline).write_outputs(block, data)
        assert verify(store).is_sound
        assert store.plan().blocks_left == 2

    def test_vouches_for_no_block_without_a_record(self, store: Store, everything: Study) -> None:
        (journal,) = journals(store.journal_folder)
        mine = "0.2.0"
        told = {record["block"]: record for record, _ in read_from(journal, 0)}
        carried = {**told[mine], "block": "", "carried": mine}  # from another store
        torn = {**told.pop(mine), "checksums": {"total": [1, 2]}}
        kept = [*told.values(), torn, carried]
        journal.write_bytes(b"".join(map(encode_line, kept)))
        (found,) = verify(store).damaged
        assert (found.block, found.array) == (mine, "journal")
        assert "no record of this block" in found.what
        resume(everything, store.path)
        assert verify(store).is_sound

    def test_marks_nothing_where_all_journals_are_gone(self, store: Store) -> None:
        for journal in journals(store.journal_folder):
            journal.unlink()
        before = store.count_points()
        report = verify(store)
        assert not report.is_sound
        assert "no record is left of any block" in report.text()
        assert store.count_points() == before

    def test_finds_a_damaged_line_of_a_journal_and_the_block_it_was_of(
        self, store: Store, everything: Study, pristine: Path
    ) -> None:
        (journal,) = journals(store.journal_folder)
        lines = journal.read_bytes().splitlines(keepends=True)
        lost = records(store)[2]["block"]
        lines[2] = lines[2].replace(b'"', b"'", 1)
        journal.write_bytes(b"".join([*lines, b"0000 torn by a kill"]))

        report = verify(store)

        assert report.damaged_lines == (f".sweep/journal/{journal.name}:3",)
        assert report.damaged_blocks == (lost,)
        assert f"{journal.name}:3: damaged" in report.text()
        resume(everything, store.path)
        assert_same_sweep(store.path, pristine)
        again = verify(store)
        assert again.is_sound  # the line stays as it is, but no block needs it
        assert again.damaged_lines == report.damaged_lines

    @pytest.mark.parametrize("file", ["slope/c.0", "x_at/c.0.0", "shape/c.0"])
    def test_says_that_no_run_mends_a_coordinate(self, store: Store, file: str) -> None:
        flip_a_bit(store.path / file, random.Random(2))
        report = verify(store)
        (found,) = report.lost
        assert (found.array, found.block) == (file.partition("/")[0], "")
        assert found.what.endswith("bytes with a wrong checksum")
        assert not report.is_sound
        assert report.damaged == ()
        assert f"{found.array}: {found.what}" in report.text()
        assert "from a copy" in report.text()

    def test_finds_a_coordinate_without_values_and_damaged_metadata(self, store: Store) -> None:
        (store.path / "slope" / "c.0").unlink()
        assert verify(store).lost == (Damage("", "slope", "missing"),)
        (store.path / "zarr.json").write_text("{")
        (found,) = verify(store).lost
        assert found.array == "zarr.json"
        assert found.what.startswith("of the root or an array: JSONDecodeError")

    def test_holds_a_chunk_on_a_bad_sector_for_damaged_but_not_one_it_may_not_read(
        self, store: Store, everything: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad, read = chunk(store, "total", store.grid.block(4)), Path.read_bytes
        code = errno.EIO

        def failing(path: Path) -> bytes:
            if path == bad:
                raise OSError(code, "as told by the disk", str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", failing)
        assert verify(store).damaged == (Damage("1.1.0", "total", "the disk cannot read it"),)
        BlockWriter(store, everything.pipeline).commit(
            store.grid.block(4), np.full((1, 1, 2), DONE, np.uint8)
        )
        code = errno.EACCES
        with pytest.raises(DiskError, match=r"cannot be read: as told by the disk .*total/c\.1"):
            verify(store)

    def test_knows_the_only_block_of_a_single_point(self, throw: Study, tmp_path: Path) -> None:
        one = throw.pipeline.with_values(speed=10, time=1)
        execute(one, throw, tmp_path / "t.zarr", Options("serial"), Quiet())
        store = Store(tmp_path / "t.zarr")
        assert verify(store).blocks == 1
        assert verify(store).is_sound
        truncate(store.path / "height" / "c", random.Random(3))
        assert "block (the only one), height: truncated" in verify(store).text()
        assert store.count_points()["stale"] == 1

    def test_shows_the_first_of_many_damages(self, throw: Study, tmp_path: Path) -> None:
        store = create_with(throw.pipeline, throw, tmp_path / "t.zarr", Grid((5, 4), (1, 1)))
        resume(throw, store.path)
        for path in [*(store.path / "height").glob("c*"), *(store.path / "run").glob("c*")]:
            path.unlink()
        report = verify(store)
        assert len(report.damaged) == 40
        assert report.text().count("missing") == 20
        assert "and 20 more\nMarked stale: 20 blocks" in report.text()


class TestRerun:
    def test_gives_every_stored_value_again(self, store: Store, everything: Study) -> None:
        before = files(store.path)
        told: list[tuple[int, int]] = []
        report = rerun(
            store, everything.pipeline, 100, seed=1, progress=lambda *counts: told.append(counts)
        )
        assert report.is_sound
        assert report.points == 11  # one of the 12 failed
        assert report.text() == "11 points computed again: every value as stored."
        assert told[-1] == (11, 11)
        assert files(store.path) == before

    def test_draws_the_same_points_for_the_same_seed(self, tmp_path: Path) -> None:
        seen: list[int] = []

        def f(a: int) -> Annotated[float, Var(())]:
            seen.append(a)
            print("what a point says is no failure")
            return np.nan if a % 2 else 1.0

        pipeline = Pipeline(f, axes=[Axis("a", range(40))])
        store = made(pipeline, tmp_path, 3)
        draws = []
        for seed in (1, 1, 2):
            seen.clear()
            assert rerun(store, pipeline, 7, seed).is_sound
            draws.append(list(seen))
        assert draws[0] == draws[1] != draws[2]
        assert [len(set(draw)) for draw in draws] == [7, 7, 7]

    def test_has_nothing_to_do_where_nothing_is_done(self, throw: Study, tmp_path: Path) -> None:
        store = create_with(throw.pipeline, throw, tmp_path / "t.zarr", Grid((5, 4), (5, 2)))
        assert rerun(store, throw.pipeline, 5, 1).points == 0

    def test_finds_a_value_that_was_changed_together_with_its_checksum(
        self, store: Store, everything: Study, pristine: Path
    ) -> None:
        block = store.grid.block(1)

        def change(arrays: dict[str, np.ndarray]) -> None:
            arrays["profile"][0, 0, 1, 2:4] *= 1.5
            arrays["steps"][0, 0, 1] += 1

        write_again(store, everything.pipeline, block, change)
        assert verify(store).is_sound

        unmarked = rerun(store, everything.pipeline, 100, seed=1, mark=False)
        assert store.is_committed(block)
        assert "Not marked" in unmarked.text()
        report = rerun(store, everything.pipeline, 100, seed=1)

        first, second = report.mismatches
        assert first.place == second.place == (0, 1, 1)
        assert first.values == {"shape": "line", "slope": -2.0, "seed": 2, "n": 5}
        assert first.output == "profile"
        assert first.what.startswith("2 of 5 values differ, by 0.")
        assert first.what.endswith("relative to the stored ones by 0.333")
        assert second.text.endswith("slope=-2.0, seed=2, n=5: steps: 1 of 1 values differ")
        assert "11 points computed again, 1 not as stored:" in report.text()
        assert "Marked stale: 1 point." in report.text()
        assert statuses(store, block) == [DONE, STALE]
        resume(everything, store.path)
        assert_same_sweep(store.path, pristine)

    def test_goes_through_vectorized_stages(self, studies: Path, tmp_path: Path) -> None:
        pipeline = load_study(f"{studies / 'throw.py'}:vectorized").pipeline
        store = made(pipeline, tmp_path, 2, 4)
        assert rerun(store, pipeline, 100, 1).points == 16  # at one of 5 speeds it raises
        assert rerun(store, pipeline, 100, 1).is_sound

        def change(arrays: dict[str, np.ndarray]) -> None:
            arrays["heights"][0, 2] = np.nan

        write_again(store, pipeline, store.grid.block(1), change)
        (found,) = rerun(store, pipeline, 100, 1).mismatches
        assert found.values == {"speed": 20.0, "time": 1.5}
        assert "by inf at most" in found.what

    def test_finds_points_that_fail_now(self, tmp_path: Path) -> None:
        error: BaseException | None = None

        def f(a: int) -> Annotated[float, Var(())]:
            if error and a == 4:
                raise error
            return float(a)

        pipeline = Pipeline(f, axes=[Axis("a", range(6))])
        store = made(pipeline, tmp_path, 3)
        error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):  # a person's, and nothing is marked
            rerun(store, pipeline, 6, 1)
        error = ValueError("not any more")
        report = rerun(store, pipeline, 6, 1)
        assert report.mismatches[0].text.startswith("a=4: fails now: ValueError: not any more [")
        assert [statuses(store, store.grid.block(n)) for n in (0, 1)] == [
            [DONE, DONE, DONE],
            [DONE, STALE, DONE],
        ]

    def test_tells_values_apart_that_compare_equal(self, tmp_path: Path) -> None:
        zero = 0.0

        class Answer(NamedTuple):
            number: Annotated[float, Var(())]
            nothing: Annotated[float, Var(())]
            truth: Annotated[bool, Var(())]

        def f() -> Answer:
            return Answer(zero, np.nan, True)

        pipeline = Pipeline(f)
        store = made(pipeline, tmp_path)
        assert rerun(store, pipeline, 1, 1).is_sound
        zero = -0.0
        (found,) = rerun(store, pipeline, 1, 1).mismatches
        assert found.text.startswith("the only point: number: 1 of 1 values differ, by 0 at most")

    def test_asks_for_a_verify_where_a_chunk_is_damaged(
        self, store: Store, everything: Study
    ) -> None:
        truncate(chunk(store, "total", store.grid.block(0)), random.Random(5))
        with pytest.raises(StoreError, match=r"Block 0\.0\.0 .*is damaged.*sweep verify "):
            rerun(store, everything.pipeline, 100, 1)


# --- stores and what is done to them -------------------------------------------------------


def everything_of(studies: Path) -> Study:
    return load_study(str(studies / "everything.py"))


def resume(study: Study, path: Path) -> None:
    execute(study.pipeline, study, path, Options("serial"), Quiet())


def made(pipeline: Pipeline, folder: Path, *block_shape: int) -> Store:
    """Return a store of a pipeline that has no file, computed."""
    grid = Grid(tuple(pipeline.dims.values()), block_shape)
    store = create_with(pipeline, None, folder / "m.zarr", grid)
    for number in range(grid.blocks):
        write_again(store, pipeline, grid.block(number))
    return store


def write_again(
    store: Store,
    pipeline: Pipeline,
    block: Block,
    change: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None,
) -> None:
    """Commit a second attempt at a block, with a record; `change` its outputs before."""
    computed = Evaluator(pipeline).compute(block)
    arrays = {**computed.arrays, "run": np.full(block.shape, 1)}
    change(arrays)
    writer = BlockWriter(store, pipeline)
    record = {"block": block.name, "run": 1, "attempt": 2, "status": "done", "points": block.points}
    record |= {"started": 1.0, "ended": 2.0, "compute_seconds": 0.5, "events": computed.events}
    record["checksums"] = writer.write_outputs(block, arrays)
    Journal(store.journal_folder).append(record)
    writer.commit(block, computed.status)


def chunk(store: Store, name: str, block: Block) -> Path:
    (path,) = (store.path / name).glob(f"c.{block.name}{'.0' * (name == 'profile')}")
    return path


def flip_a_bit(path: Path, draw: random.Random) -> str:
    raw = bytearray(path.read_bytes())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)
    return ""  # checksum ... instead of ..., or: ... bytes with a wrong checksum


def truncate(path: Path, draw: random.Random) -> str:
    raw = path.read_bytes()
    left = draw.randrange(len(raw))
    path.write_bytes(raw[:left])
    return f"truncated: {left} of {len(raw)} bytes"


def zero_the_tail(path: Path, draw: random.Random) -> str:
    raw = path.read_bytes()
    kept = draw.randrange(len(raw) - 3)  # the checksum at least, which is not 0
    path.write_bytes(raw[:kept].ljust(len(raw), b"\0"))
    return "checksum 00000000 instead of"


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return all that would tell that a file was touched."""
    found = {path: path.stat() for path in folder.rglob("*")}
    return {path: (told.st_mtime_ns, told.st_ino) for path, told in found.items() if path.is_file()}


def records(store: Store) -> list[Record]:
    return [r for path in journals(store.journal_folder) for r, _ in read_from(path, 0)]


def statuses(store: Store, block: Block) -> list[int]:
    status = store.read_status(block)
    assert status is not None
    return [int(one) for one in status.ravel()]


def assert_same_sweep(path: Path, undisturbed: Path) -> None:
    made_anew = ["run", "point_seconds"]
    with xr.open_zarr(path, chunks=None) as found, xr.open_zarr(undisturbed, chunks=None) as other:
        xr.testing.assert_equal(found.drop_vars(made_anew), other.drop_vars(made_anew))
