"""What killed processes leave behind: what is old goes, what is young or anybody else's stays."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.durable import file_system_time
from sweep.plan import Grid
from sweep.run import create_with
from sweep.store.leftovers import sweep_leftovers
from sweep.study import Study

OLD = 3700.0  # s
YOUNG = 3500.0


@pytest.fixture
def store(throw: Study, tmp_path: Path) -> Path:
    return create_with(throw.pipeline, throw, tmp_path / "s.zarr", Grid((5, 4), (5, 4))).path


def age(path: Path, seconds: float) -> Path:
    """Let a file, or a folder with all that is in it, be so old; return it."""
    then = file_system_time(path.parent) - seconds
    for one in (path, *path.rglob("*")):
        os.utime(one, (then, then), follow_symlinks=False)
    return path


def leave(path: Path, seconds: float = OLD) -> Path:
    """Leave a file behind that is so old; return it."""
    path.write_bytes(b"half")
    return age(path, seconds)


def leave_folder(path: Path, seconds: float = OLD) -> Path:
    """Leave a half-made store behind that is so old; return it."""
    (path / "height").mkdir(parents=True)
    (path / "height" / "c.0.0").write_bytes(b"half")
    return age(path, seconds)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class TestTemporaryFiles:
    @pytest.mark.parametrize("place", ["", "height", ".sweep", ".sweep/journal", ".sweep/runs"])
    def test_that_are_old_are_removed_wherever_in_the_store_they_are(
        self, place: str, store: Path
    ) -> None:
        before = names(store)
        leave(store / place / ".c.0.0.12ab34cd.partial")
        assert sweep_leftovers(store) == 1
        assert names(store) == before

    def test_of_the_tables_are_removed(self, store: Path) -> None:
        (store / "tasks" / "run").mkdir(parents=True)
        left = leave(store / "tasks" / "run" / ".c.0.12ab34cd.partial")
        assert sweep_leftovers(store) == 1
        assert not left.exists()

    def test_that_are_young_stay(self, store: Path) -> None:
        left = leave(store / "height" / ".c.0.0.12ab34cd.partial", YOUNG)
        assert sweep_leftovers(store) == 0
        assert left.exists()

    def test_are_told_from_what_somebody_else_put_there(self, store: Path, tmp_path: Path) -> None:
        kept = {
            leave(store / "height" / "c.9.9"),
            leave(store / "height" / "mine.partial"),
            leave(store / ".notes"),
            leave(store / ".partial.txt"),
            leave(tmp_path / ".beside.partial"),
            leave_folder(store / ".folder.partial"),
        }
        assert sweep_leftovers(store) == 0
        assert all(path.exists() for path in kept)

    def test_are_removed_among_very_many_chunks_in_no_time(self, store: Path) -> None:
        for number in range(20_000):
            (store / "height" / f"c.{number}.0").touch()
        leave(store / "height" / ".c.0.0.12ab34cd.partial")
        began = time.process_time()
        assert sweep_leftovers(store) == 1
        assert time.process_time() - began < 1.0


class TestHalfMadeStores:
    @pytest.mark.parametrize("make", [leave, leave_folder])
    def test_that_are_old_are_removed_with_all_that_is_in_them(
        self, make: Callable[[Path], Path], store: Path
    ) -> None:
        left = make(store.with_name(".s.zarr.12ab34cd.creating"))
        assert sweep_leftovers(store) == 1
        assert not left.exists()

    @pytest.mark.parametrize("make", [leave, leave_folder])
    def test_that_are_young_stay(self, make: Callable[[Path, float], Path], store: Path) -> None:
        left = make(store.with_name(".s.zarr.12ab34cd.creating"), YOUNG)
        assert sweep_leftovers(store) == 0
        assert left.exists()

    def test_that_are_being_filled_stay_however_long_ago_they_were_begun(self, store: Path) -> None:
        left = leave_folder(store.with_name(".s.zarr.12ab34cd.creating"))
        (left / "height" / "c.1.0").touch()
        assert sweep_leftovers(store) == 0
        assert (left / "height" / "c.0.0").exists()

    def test_of_other_stores_stay(self, store: Path) -> None:
        kept = [
            leave_folder(store.with_name(name))
            for name in (
                ".t.zarr.12ab34cd.creating",
                ".s.zarr.zarr.12ab34cd.creating",
                ".sxzarr.12ab34cd.creating",
                "s.zarr.12ab34cd.creating",
                ".s.zarr.creating",
            )
        ]
        assert sweep_leftovers(store) == 0
        assert all(path.exists() for path in kept)


class TestLinks:
    def test_are_neither_followed_nor_removed(self, store: Path, tmp_path: Path) -> None:
        far = tmp_path / "far"
        far.mkdir()
        target = leave(far / ".c.0.0.12ab34cd.partial")
        half = leave_folder(far / "half")
        links = {
            store / "linked": far,
            store / ".c.0.0.12ab34cd.partial": target,
            store.with_name(".s.zarr.12ab34cd.creating"): half,
        }
        for link, to in links.items():
            link.symlink_to(to)
            age(link, OLD)

        assert sweep_leftovers(store) == 0

        assert target.exists()
        assert (half / "height" / "c.0.0").exists()
        assert all(link.is_symlink() for link in links)

    def test_inside_a_half_made_store_are_not_followed(self, store: Path, tmp_path: Path) -> None:
        target = leave(tmp_path / "precious")
        left = leave_folder(store.with_name(".s.zarr.12ab34cd.creating"))
        (left / "link").symlink_to(tmp_path)
        for one in (left, left / "link"):
            os.utime(one, (0, 0), follow_symlinks=False)
        assert sweep_leftovers(store) == 1
        assert target.exists()


def test_what_vanishes_meanwhile_is_no_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        leave(store / "height" / f".c.{number}.0.12ab34cd.partial")
    lstat = Path.lstat

    def and_it_is_gone(path: Path) -> os.stat_result:
        facts = lstat(path)
        if path.name.endswith(".partial"):
            path.unlink()
        return facts

    monkeypatch.setattr(Path, "lstat", and_it_is_gone)
    assert sweep_leftovers(store) == 0


def test_a_store_that_vanishes_meanwhile_is_no_error(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def and_all_is_gone(path: Path) -> object:
        shutil.rmtree(path)
        return walk(path)

    monkeypatch.setattr(os, "walk", and_all_is_gone)
    assert sweep_leftovers(store) == 0


def test_there_is_nothing_to_sweep_where_there_is_no_store(tmp_path: Path) -> None:
    assert sweep_leftovers(tmp_path / "none.zarr") == 0


def test_the_time_of_this_machine_does_not_count(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave(store / ".zarr.json.12ab34cd.partial", YOUNG)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert sweep_leftovers(store) == 0
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert sweep_leftovers(store) == 0
    age(left, OLD)
    assert sweep_leftovers(store) == 1


def test_the_time_of_the_file_system_is_that_of_what_is_written_there_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").touch()
    now = file_system_time(tmp_path)
    (tmp_path / "b").touch()

    assert (tmp_path / "a").stat().st_mtime <= now <= (tmp_path / "b").stat().st_mtime
    assert names(tmp_path) == {"a", "b"}
