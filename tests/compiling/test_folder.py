"""Where compiled code is kept: nowhere that others can write to."""

import os
import tempfile
from pathlib import Path

import pytest

from sweep.compiling import folder
from sweep.compiling.folder import cache_folder, is_ours_alone

NAME = f"sweep-{os.getuid()}-compiled"


@pytest.fixture
def lasting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the folder of this machine, and for the one that comes next."""
    for name in ("lasting", "next"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder, "LASTING", tmp_path / "lasting")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "next"))
    return tmp_path / "lasting"


def test_it_is_made_for_this_user_alone(lasting: Path) -> None:
    found = cache_folder("")

    assert found == lasting / NAME
    assert found.stat().st_mode & 0o777 == 0o700
    assert cache_folder("") == found


def test_it_is_where_numbas_own_variable_says(lasting: Path, tmp_path: Path) -> None:
    assert cache_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b" / NAME


def test_one_that_others_may_write_to_is_passed_over(lasting: Path, tmp_path: Path) -> None:
    (lasting / NAME).mkdir()
    (lasting / NAME).chmod(0o777)

    assert cache_folder("") == tmp_path / "next" / NAME


def test_one_of_another_user_is_passed_over(
    lasting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lasting / NAME).mkdir(mode=0o700)
    stranger = os.stat_result((0o40700, 1, 1, 1, os.getuid() + 1, 0, 0, 0, 0, 0))
    monkeypatch.setattr(
        Path,
        "lstat",
        lambda path: stranger if path == lasting / NAME else os.lstat(path),
    )

    assert cache_folder("") == tmp_path / "next" / NAME


def test_a_link_to_elsewhere_is_passed_over(lasting: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (lasting / NAME).symlink_to(tmp_path / "elsewhere")

    assert cache_folder("") == tmp_path / "next" / NAME


@pytest.mark.parametrize("is_wanted", [True, False])
def test_one_that_can_only_be_read_will_do_if_it_is_asked_for(
    is_wanted: bool, lasting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lasting / NAME).mkdir(mode=0o700)
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != lasting / NAME or not mode & os.W_OK
    )

    found = cache_folder(str(lasting) if is_wanted else "")

    assert found == (lasting if is_wanted else tmp_path / "next") / NAME


def test_where_none_is_to_be_trusted_there_is_none(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("a file")

    assert cache_folder(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("mode", "owner", "is_ours"),
    [
        (0o40700, 0, True),
        (0o100600, 0, True),
        (0o100644, 0, True),
        (0o100664, 0, False),
        (0o40777, 0, False),
        (0o40700, 1, False),
        (0o120700, 0, False),
    ],
)
def test_a_folder_or_file_is_ours_alone_by_owner_and_mode(
    mode: int, owner: int, is_ours: bool
) -> None:
    facts = os.stat_result((mode, 1, 1, 1, os.getuid() + owner, 0, 0, 0, 0, 0))

    assert is_ours_alone(facts) is is_ours
