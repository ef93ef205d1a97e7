"""What a power cut may take: what is synced before what, down to the names in folders."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sweep.durable import append_to_file, create_file, replace_file
from sweep.grow import compacted, extended
from sweep.journal import Journal
from sweep.options import Options
from sweep.plan import Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute
from sweep.store import Store
from sweep.study import Study
from sweep.worker import run_batch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file is synced")

WRITERS = pytest.mark.parametrize("write", [replace_file, create_file])


class Step(NamedTuple):
    """A file that is about to be written to, or to get a name, and what was not safe then."""

    what: str  # "write" or "name"
    path: Path
    is_safe: bool  # its bytes, as they are
    at_risk: set[str]


class Disk:
    """Knows what a power cut would take: all that was not synced as it is now.

    It looks on at what is asked of the operating system, which does it all the same. What one
    thread asks waits while it looks for another one: a run has a thread that describes it.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.steps: list[Step] = []
        self._synced: dict[int, object] = {}  # i-number -> what was in the file or folder
        self._one_at_a_time = threading.RLock()
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._noting_syncs(getattr(os, name)))
        for name in ("replace", "rename", "link"):
            monkeypatch.setattr(os, name, self._noting_names(getattr(os, name)))
        monkeypatch.setattr(os, "write", self._noting_writes(os.write))

    def at_risk(self) -> set[str]:
        """Return what could be gone or other than it is, but for files that nothing reads."""
        found = set()
        for folder, folders, files in os.walk(self.root):
            names = _inside(Path(folder))
            kept = self._synced.get(Path(folder).stat().st_ino)
            for name in (*folders, *files):
                path = Path(folder, name)
                has_name = isinstance(kept, dict) and kept.get(name) == names[name]
                if not path.name.endswith(".partial") and not (has_name and self._is_safe(path)):
                    found.add(str(path.relative_to(self.root)))
        for_kills = ("/.sweep/marks/", "/.sweep/claims/", "/.sweep/claimants/")  # and not for that
        return {path for path in found if not any(name in path for name in for_kills)}

    def _is_safe(self, path: Path) -> bool:
        """Tell whether a file's bytes are safe, or whether a folder was synced at all."""
        number = path.stat().st_ino
        if path.is_dir():
            return number in self._synced
        return self._synced.get(number) == _content(path)

    def _noting_syncs(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def noting(handle: int) -> None:
            with self._one_at_a_time:
                sync(handle)
                path = Path(f"/proc/self/fd/{handle}").readlink()
                content = _inside(path) if path.is_dir() else _content(path)
                self._synced[path.stat().st_ino] = content

        return noting

    def _noting_names(self, give_name: Callable[..., None]) -> Callable[..., None]:
        def noting(source: Path, target: Path, **options: Any) -> None:
            with self._one_at_a_time:
                if Path(target).is_relative_to(self.root):
                    self._note("name", Path(target), self._is_safe(Path(source)))
                give_name(source, target, **options)

        return noting

    def _noting_writes(self, write: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def noting(handle: int, data: Any) -> int:
            path = Path(f"/proc/self/fd/{handle}").readlink()
            if not path.is_relative_to(self.root):
                return write(handle, data)
            with self._one_at_a_time:
                self._note("write", path, False)
                return write(handle, data)

        return noting

    def _note(self, what: str, path: Path, is_safe: bool) -> None:
        self.steps.append(Step(what, path, is_safe, self.at_risk()))


def _inside(folder: Path) -> dict[str, int]:
    return {entry.name: entry.inode() for entry in os.scandir(folder)}


def _content(file: Path) -> tuple[int, int]:
    facts = file.stat()
    return facts.st_size, facts.st_mtime_ns


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path.resolve(), monkeypatch)


class TestFiles:
    @WRITERS
    def test_get_their_name_when_all_their_bytes_are_safe(
        self, write: Callable[[Path, bytes], None], disk: Disk
    ) -> None:
        write(disk.root / "a", b"x" * 100_000)
        (named,) = (step for step in disk.steps if step.what == "name")
        assert (named.path, named.is_safe) == (disk.root / "a", True)

    def test_that_are_created_have_a_safe_name(self, disk: Disk) -> None:
        create_file(disk.root / "a", b"x")
        assert disk.at_risk() == set()

    def test_that_grow_are_safe_after_every_append_and_so_are_their_names(self, disk: Disk) -> None:
        append_to_file(disk.root / "a", b"one")
        after_first = disk.at_risk()
        append_to_file(disk.root / "a", b"and two")
        assert after_first == disk.at_risk() == set()
        assert (disk.root / "a").read_bytes() == b"oneand two"

    @pytest.mark.parametrize("write", [replace_file, create_file, append_to_file])
    def test_are_whole_if_the_system_writes_a_few_bytes_at_a_time(
        self,
        write: Callable[[Path, bytes], None],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        write_all = os.write
        monkeypatch.setattr(os, "write", lambda handle, data: write_all(handle, data[:3]))
        write(tmp_path / "a", b"ten bytes.")
        assert (tmp_path / "a").read_bytes() == b"ten bytes."

    @WRITERS
    def test_that_cannot_be_synced_leave_all_as_it_was(
        self,
        write: Callable[[Path, bytes], None],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(handle: int) -> None:
            raise OSError("the disk is on fire")

        (tmp_path / "b").write_text("old")
        monkeypatch.setattr(os, "fsync", fail)
        for name in "ab":
            with pytest.raises(OSError, match="on fire"):
                write(tmp_path / name, b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["b"]
        assert (tmp_path / "b").read_text() == "old"


class TestNewStore:
    def test_is_safe_to_its_last_name_before_it_gets_its_place(
        self, throw: Study, disk: Disk
    ) -> None:
        create_with(throw.pipeline, throw, disk.root / "s.zarr", Grid((5, 4), (5, 4)))
        *_, last = disk.steps
        assert (last.what, last.path) == ("name", disk.root / "s.zarr")
        (building,) = {path.partition("/")[0] for path in last.at_risk}
        assert last.at_risk == {building}  # the name alone that it is about to lose
        assert building.endswith(".creating")

    def test_is_safe_in_its_place_when_it_is_handed_out(self, throw: Study, disk: Disk) -> None:
        create_with(throw.pipeline, throw, disk.root / "s.zarr", Grid((5, 4), (5, 4)))
        assert disk.at_risk() == set()

    def test_is_safe_with_the_folders_that_were_made_for_it(self, throw: Study, disk: Disk) -> None:
        create_with(throw.pipeline, throw, disk.root / "a" / "b" / "s.zarr", Grid((5, 4), (5, 4)))
        assert disk.at_risk() == set()

    def test_is_safe_when_its_run_is_over(self, throw: Study, disk: Disk) -> None:
        create_with(throw.pipeline, throw, disk.root / "s.zarr", Grid((5, 4), (5, 4)))
        options = Options("serial")
        execute(throw.pipeline, throw, disk.root / "s.zarr", options, Quiet())
        assert disk.at_risk() == set()

    def test_is_made_of_files_that_were_whole_before_they_had_a_name(
        self, throw: Study, disk: Disk
    ) -> None:
        create_with(throw.pipeline, throw, disk.root / "s.zarr", Grid((5, 4), (5, 4)))
        named = [step for step in disk.steps if step.what == "name"]
        assert all(step.is_safe for step in named)
        assert {"header.json", "axes-1.npz", "zarr.json", "c", "c.0"} <= {
            s.path.name for s in named
        }


class TestGrowth:
    @pytest.fixture
    def store(self, throw: Study, disk: Disk) -> Store:
        create_with(throw.pipeline, throw, disk.root / "s.zarr", Grid((5, 4), (1, 4)))
        execute(throw.pipeline, throw, disk.root / "s.zarr", Options("serial"), Quiet())
        disk.steps.clear()
        return Store(disk.root / "s.zarr")

    def test_in_place_has_all_safe_before_the_engine_sees_it_and_again_before_readers_do(
        self, throw: Study, store: Store, disk: Disk
    ) -> None:
        extended(store, store.bind(throw.pipeline), {"speed": [40.0]})
        named = [step for step in disk.steps if step.what == "name"]
        (header,) = (step for step in named if step.path.name == "header.json")
        *_, root = named
        assert root.path == store.path / "zarr.json"
        assert (header.at_risk, root.at_risk, disk.at_risk()) == (set(), set(), set())
        assert all(step.is_safe for step in named)

    def test_into_a_new_store_has_it_safe_before_it_gets_its_place(
        self, throw: Study, store: Store, disk: Disk
    ) -> None:
        extended(store, store.bind(throw.pipeline), {"speed": [15.0]}, disk.root / "t.zarr")
        *_, last = disk.steps
        assert last.path == disk.root / "t.zarr"
        (building,) = last.at_risk  # the name alone that it is about to lose
        assert building.endswith(".creating")
        assert disk.at_risk() == set()

    def test_into_one_file_has_it_safe_before_it_gets_its_name(
        self, store: Store, disk: Disk
    ) -> None:
        compacted(store, disk.root / "t.zip")
        (named,) = (step for step in disk.steps if step.path == disk.root / "t.zip")
        assert named.is_safe
        assert disk.at_risk() == set()


class TestCommit:
    """Outputs, then a line in the journal, then the status: each safe before the next."""

    @pytest.fixture
    def store(self, everything: Study, disk: Disk) -> Store:
        grid = Grid((2, 3, 2), (1, 3, 2))
        store = create_with(everything.pipeline, everything, disk.root / "s.zarr", grid)
        disk.steps.clear()
        return store

    def test_has_all_outputs_safe_before_the_journal_tells_of_them(
        self, everything: Study, store: Store, disk: Disk
    ) -> None:
        compute(store, everything, 0, 1)

        first, second = lines = written_to(disk, store.journal_folder)
        journal = str(first.path.relative_to(disk.root))
        assert all(line.at_risk <= {journal} for line in lines)
        begun, more = disk.steps.index(first), disk.steps.index(second)
        assert named_in(disk.steps[:begun]) == OUTPUTS
        assert named_in(disk.steps[begun:more]) == {"status", *OUTPUTS}

    def test_has_outputs_and_journal_safe_before_the_status_says_done(
        self, everything: Study, store: Store, disk: Disk
    ) -> None:
        compute(store, everything, 0, 1)

        commits = [step for step in disk.steps if step.path.parent == store.path / "status"]
        named = [step for step in commits if step.what == "name"]
        assert [step.path.name for step in named] == ["c.0.0.0", "c.1.0.0"]
        assert [step.at_risk for step in named] == [set(), set()]
        lines = written_to(disk, store.journal_folder)
        assert all(
            disk.steps.index(line) < disk.steps.index(commit)
            for line, commit in zip(lines, named, strict=True)
        )

    def test_writes_files_that_were_whole_before_they_had_a_name(
        self, everything: Study, store: Store, disk: Disk
    ) -> None:
        compute(store, everything, 0)

        assert named_in(disk.steps) == {"status", *OUTPUTS}
        assert all(step.is_safe for step in disk.steps if step.what == "name")

    def test_is_over_when_the_status_is_safe(
        self, everything: Study, store: Store, disk: Disk
    ) -> None:
        compute(store, everything, 0)
        after_first = disk.at_risk()
        compute(store, everything, 1)

        assert after_first == disk.at_risk() == set()


OUTPUTS = {"profile", "total", "steps", "rising", "noise", "point_seconds", "run"}


def compute(store: Store, study: Study, *blocks: int) -> None:
    limits = {"seconds": None, "retries": 0, "hard_seconds": None}
    batch = [(number, 1) for number in blocks]
    marks = str(store.mark_folder)
    run_batch(str(store.path), study.reference, 1, marks, batch, 0.0, 1, limits)


def written_to(disk: Disk, folder: Path) -> list[Step]:
    return [step for step in disk.steps if step.what == "write" and step.path.parent == folder]


def named_in(steps: list[Step]) -> set[str]:
    """Return the variables of which a chunk got its name."""
    return {step.path.parent.name for step in steps if step.what == "name"}


def test_a_journal_is_safe_after_every_record(disk: Disk) -> None:
    journal = Journal(disk.root)
    for number in range(3):
        journal.append({"block": number})
        assert disk.at_risk() == set()
