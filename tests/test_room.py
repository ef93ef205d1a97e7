"""Disk space and inodes: what is refused before a run starts, and what is only warned of."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweep.errors import DiskError
from sweep.store.room import check_room, size_text

GB = 10**9


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the facts of a disk with 10 GB and 1000 files to spare."""
    facts = SimpleNamespace(
        f_frsize=4000, f_blocks=10**7, f_bavail=2_500_000, f_files=10**6, f_favail=1000
    )
    monkeypatch.setattr(os, "statvfs", lambda path: facts)
    return facts


class TestData:
    def test_that_fits_as_it_is_needs_no_word(self, disk: SimpleNamespace, tmp_path: Path) -> None:
        assert check_room(tmp_path, 10 * GB, 1000) is None

    def test_that_may_fit_compressed_gives_one_line_of_warning(
        self, disk: SimpleNamespace, tmp_path: Path
    ) -> None:
        for size in (10 * GB + 1, 40 * GB):
            warning = check_room(tmp_path, size, 1)
            assert warning is not None
            assert "10 GB left" in warning
            assert "may fit when compressed" in warning
            assert "\n" not in warning

    def test_that_can_hardly_fit_is_refused_with_both_sizes_the_folder_and_the_remedy(
        self, disk: SimpleNamespace, tmp_path: Path
    ) -> None:
        with pytest.raises(DiskError) as refused:
            check_room(tmp_path, 52 * GB, 1)
        for words in ("52 GB", "10 GB left", str(tmp_path), "give a STORE on another disk"):
            assert words in str(refused.value)

    def test_is_not_judged_on_a_disk_that_does_not_tell_its_size(
        self, disk: SimpleNamespace, tmp_path: Path
    ) -> None:
        disk.f_blocks = disk.f_bavail = 0
        assert check_room(tmp_path, 52 * GB, 1) is None


class TestFiles:
    def test_that_are_more_than_the_disk_can_hold_are_refused(
        self, disk: SimpleNamespace, tmp_path: Path
    ) -> None:
        with pytest.raises(DiskError) as refused:
            check_room(tmp_path, 1, 1001)
        for words in ("1,001 files", "1,000 more", str(tmp_path), "Free some space"):
            assert words in str(refused.value)

    def test_are_not_counted_where_the_disk_makes_inodes_as_it_goes(
        self, disk: SimpleNamespace, tmp_path: Path
    ) -> None:
        disk.f_files = disk.f_favail = 0
        assert check_room(tmp_path, 1, 10**9) is None


def test_a_store_that_does_not_exist_yet_is_judged_by_the_nearest_folder_that_does(
    disk: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(os, "statvfs", lambda path: asked.append(path) or disk)
    monkeypatch.chdir(tmp_path)

    check_room(tmp_path / "a" / "b" / "s.zarr", 1, 1)
    check_room(Path("s.zarr"), 1, 1)

    assert asked == [tmp_path, tmp_path]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (2_000_000, "2 MB"),
        (52 * GB, "52 GB"),
        (3500 * GB, "3.5 TB"),
    ],
)
def test_sizes_are_told_as_people_say_them(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 1 MiB with 20 inodes."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounts a small disk; run it as root on Linux")
    options = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=20", "tmpfs"]
    done = subprocess.run(["mount", *options, tmp_path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounts a small disk, and may not here: {done.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_real_disk_that_is_too_small_is_told_from_one_that_is_not(small_disk: Path) -> None:
    store = small_disk / "s.zarr"

    assert check_room(store, 1_000_000, 19) is None
    assert "when compressed" in (check_room(store, 2_000_000, 19) or "")
    with pytest.raises(DiskError, match=r"5 MB .* 1\.05 MB left"):
        check_room(store, 5_000_000, 19)
    with pytest.raises(DiskError, match=r"20 files .* 19 more"):
        check_room(store, 1, 20)
