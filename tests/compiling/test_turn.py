"""Of several that need the same, one is at it."""

import time
from pathlib import Path

from sweep.compiling.turn import turn


def test_the_second_waits_for_as_long_as_it_has_patience(tmp_path: Path) -> None:
    with turn(tmp_path / "a", 0.0, lambda: False):
        start = time.monotonic()
        with turn(tmp_path / "a", 0.2, lambda: False):
            waited = time.monotonic() - start

    assert 0.2 <= waited < 5


def test_nobody_waits_for_what_is_done(tmp_path: Path) -> None:
    with turn(tmp_path / "a", 0.0, lambda: False):
        start = time.monotonic()
        with turn(tmp_path / "a", 60.0, lambda: True):
            pass

    assert time.monotonic() - start < 30


def test_it_leaves_no_file_and_can_be_had_again(tmp_path: Path) -> None:
    for _ in range(2):
        with turn(tmp_path / "a", 0.0, lambda: False):
            assert (tmp_path / "a").exists()

    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_place_for_a_lock_there_is_no_waiting(tmp_path: Path) -> None:
    with turn(tmp_path / "gone" / "a", 60.0, lambda: False):
        pass
