"""The commands that grow, check and repair a store, as a person types them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

SWEEP = [sys.executable, "-m", "sweep"]
STUDY = Path(__file__).parent / "studies" / "throw.py"
ALL_DONE, SOME_FAILED, MISTAKE, INCOMPLETE = 0, 1, 2, 3


def sweep(*words: str | Path, code: int = ALL_DONE, on: str = "serial") -> str:
    """Run a command, which has to end with this code and no traceback; return what it says."""
    runs = words[0] in ("run", "resume", "extend")
    command = [*SWEEP, *map(str, words), *(["--on", on] if runs else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of its own and a finished store of four points beside it."""
    folder = tmp_path_factory.mktemp("keeping")
    shutil.copy(STUDY, folder / "throw.py")
    sweep("run", folder / "throw.py", folder / "s.zarr", "speed=1,2", "time=0.5,1")
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy" / "s.zarr"


class TestExtend:
    def test_in_place_computes_the_new_points_alone(self, store: Path) -> None:
        sweep("extend", store, "speed=3")
        dataset = xr.open_zarr(store)
        assert dataset.speed.values.tolist() == [1, 2, 3]
        assert dataset.run.values.tolist() == [[1, 1], [1, 1], [2, 2]]

    def test_elsewhere_says_what_to_type(self, store: Path) -> None:
        said = sweep("extend", store, "speed=1.5", code=MISTAKE)
        assert f"sweep extend {store} speed=1.5 --into NEW" in said
        sweep("extend", store, "speed=1.5", "--into", store.with_name("new.zarr"))
        new, old = xr.open_zarr(store.with_name("new.zarr")), xr.open_zarr(store)
        assert new.speed.values.tolist() == [1, 1.5, 2]
        np.testing.assert_array_equal(new.height.sel(speed=[1, 2]), old.height)
        assert (new.status == 1).all()

    def test_refuses_changed_code_and_leaves_the_store_as_it_was(self, store: Path) -> None:
        edit(store)
        said = sweep("extend", store, "speed=3", code=MISTAKE)
        assert "--accept-changes" in said
        assert xr.open_zarr(store).sizes["speed"] == 2


class TestVerify:
    def test_finds_damage_that_resume_mends(self, store: Path) -> None:
        expected = xr.open_zarr(store).height.load()
        chunk = store / "height" / "c.1.0"
        raw = bytearray(chunk.read_bytes())
        raw[len(raw) // 2] ^= 1
        chunk.write_bytes(raw)
        said = sweep("verify", store, code=INCOMPLETE)
        assert "block 1.0, height" in said
        assert f"sweep resume {store}" in said
        sweep("resume", store)
        assert "all as recorded" in sweep("verify", store, "--rerun", "4")
        xr.testing.assert_equal(xr.open_zarr(store).height.load(), expected)

    def test_refuses_to_compute_again_with_changed_code(self, store: Path) -> None:
        edit(store)
        assert "--accept-changes" in sweep("verify", store, "--rerun", "4", code=MISTAKE)
        assert (xr.open_zarr(store).status == 1).all()

    @pytest.mark.parametrize(
        "name", [".sweep/axes-1.npz", ".sweep/runs/0001.json", "status/zarr.json"]
    )
    def test_finds_damage_beside_the_chunks(self, name: str, store: Path) -> None:
        (store / name).write_bytes(b"{damaged")
        assert Path(name).name in sweep("verify", store, code=INCOMPLETE)


class TestCompactAndMerge:
    def test_make_one_file(self, store: Path) -> None:
        for name in ("s.nc", "s.zip"):
            sweep("compact", store, store.with_name(name))
        expected = xr.open_zarr(store).height.load()
        with xr.open_dataset(store.with_name("s.nc"), engine="h5netcdf") as found:
            np.testing.assert_array_equal(found.height, expected)
        zipped = zarr.storage.ZipStore(store.with_name("s.zip"), mode="r")
        np.testing.assert_array_equal(xr.open_zarr(zipped).height, expected)
        zipped.close()

    def test_put_two_stores_together(self, store: Path) -> None:
        other, both = store.with_name("other.zarr"), store.with_name("both.zarr")
        sweep("run", store.with_name("throw.py"), other, "speed=3,4", "time=0.5,1")
        sweep("merge", store, other, both)
        assert xr.open_zarr(both).speed.values.tolist() == [1, 2, 3, 4]
        assert (xr.open_zarr(both).status == 1).all()
        sweep("verify", both)
        assert "Nothing was left to do" in sweep("resume", both)

    def test_refuse_stores_of_different_code_unless_asked(self, store: Path) -> None:
        other, both = store.with_name("other.zarr"), store.with_name("both.zarr")
        edit(store)
        sweep("run", store.with_name("throw.py"), other, "speed=3,4", "time=0.5,1")
        said = sweep("merge", store, other, both, code=MISTAKE)
        assert "computed by different code" in said
        assert "+ 1" in said
        assert not both.exists()
        sweep("merge", store, other, both, "--accept-changes")

    def test_say_that_points_are_left(self, store: Path) -> None:
        other = store.with_name("other.zarr")
        sweep("run", store.with_name("throw.py"), other, "speed=3,4", "time=0.25,1")
        said = sweep("merge", store, other, store.with_name("both.zarr"), code=INCOMPLETE)
        assert "4 points pending" in said


def test_a_store_that_lost_its_empty_folders_in_a_copy_goes_on(store: Path) -> None:
    for folder in ("marks", "folds"):
        shutil.rmtree(store / ".sweep" / folder)
    (store / "status" / "c.0.0").unlink()
    sweep("resume", store, on="processes")
    assert (xr.open_zarr(store).status == 1).all()


def edit(store: Path) -> None:
    """Change the code of the study beside a store."""
    file = store.with_name("throw.py")
    file.write_text(file.read_text().replace("g * time**2 / 2", "g * time**2 / 2 + 1"))
