"""What a stage is given is what was said, and no stage changes what another one is given."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import xarray as xr

import sweep
from sweep.status import status
from sweep.store import Store

PATIENCE = 60.0  # s; everything here takes a few seconds
ENGINES = pytest.mark.parametrize("on", ["serial", "processes"])
MISTAKE = 2

# --- constants that are no numbers -------------------------------------------------------

CONSTANTS = '''"""What does a stage see of its constants?"""

from enum import Enum
from typing import Annotated

import numpy as np

from sweep import Axis, Pipeline, Var


class Metal(Enum):
    COPPER = 1
    IRON = 2


def see(
    number: float,
    pair: tuple[float, str] = (1.0, "one"),
    metal: Metal = Metal.COPPER,
    weights: np.ndarray | None = None,
) -> Annotated[float, Var(())]:
    assert type(pair) is tuple, pair
    assert isinstance(metal, Metal), metal
    assert weights is None or isinstance(weights, np.ndarray), weights
    return number + 10 * pair[0] + 100 * metal.value + (0 if weights is None else weights.sum())


pipeline = Pipeline(see, axes=[Axis("number", np.arange(70.0))])
'''


@ENGINES
def test_defaults_that_are_tuples_or_enums_reach_the_function_as_they_are(on: str) -> None:
    write("defaults.py", CONSTANTS)

    found = sweep.run("defaults.py", on=on)

    assert found.see.values.tolist() == [110 + number for number in range(70)]


@ENGINES
def test_a_tuple_that_was_set_reaches_the_function_and_a_resumed_run(on: str) -> None:
    file = write("tuples.py", CONSTANTS)

    found = sweep.run("tuples.py", "tuples.zarr", on=on, pair=(2.0, "two"))
    take_back("tuples.zarr")
    resumed = command("-m", "sweep", "resume", "tuples.zarr", "--on=serial")

    assert found.see.values.tolist() == [120 + number for number in range(70)]
    assert resumed.returncode == 0, resumed.stderr
    assert xr.open_zarr("tuples.zarr").see.values.tolist() == [120 + n for n in range(70)]
    assert recorded("tuples.zarr", run=2) == {"tuples.py": file.read_text()}


@ENGINES
def test_an_enum_that_was_set_reaches_the_function_as_it_is(on: str) -> None:
    write("enums.py", CONSTANTS)
    iron = import_module("enums").Metal.IRON

    found = sweep.run("enums.py", on=on, metal=iron)

    assert found.see.values.tolist() == [210 + number for number in range(70)]


def test_an_array_that_was_set_reaches_workers_and_resume_says_where_to_go_on() -> None:
    write("arrays.py", CONSTANTS)
    weights = np.array([1000.0, 2000.0])

    found = sweep.run("arrays.py", "arrays.zarr", on="processes", weights=weights)
    take_back("arrays.zarr")
    resumed = command("-m", "sweep", "resume", "arrays.zarr", "--on=serial")
    sweep.run("arrays.py", "arrays.zarr", on="serial", weights=weights)

    assert found.see.values.tolist() == [3110 + number for number in range(70)]
    assert resumed.returncode == MISTAKE, resumed.stderr
    assert "constant 'weights' has a value that only Python can hold" in resumed.stderr
    assert "sweep.run(pipeline, store, weights=...)" in resumed.stderr
    assert "Traceback" not in resumed.stderr
    assert status("arrays.zarr").points["done"] == 70


def test_an_array_reaches_workers_of_a_study_whose_file_is_no_modules_name() -> None:
    write("my-arrays.py", CONSTANTS)

    found = sweep.run("my-arrays.py", on="processes", weights=np.ones(2))

    assert found.see.values.tolist() == [112 + number for number in range(70)]


# --- stages that change what they were given ---------------------------------------------

CHANGING = '''"""Stages that change what is not theirs."""

from typing import Annotated, NamedTuple

import numpy as np

from sweep import Axis, Coord, Pipeline, Stage, Var


class Made(NamedTuple):
    line: Annotated[np.ndarray, Var(("x",))]


def make(number: float) -> Made:
    return Made(np.full(3, number))


def make_all(number: np.ndarray) -> Made:
    return Made(np.repeat(number[:, None], 3, axis=1))


def spoil(line: np.ndarray) -> Annotated[float, Var(())]:
    line *= -1
    return line.sum()


def spoil_axis(number: np.ndarray) -> Annotated[np.ndarray, Var(())]:
    number += 1
    return number


def collect(number: float, seen: list[float] = []) -> Annotated[int, Var(())]:
    seen.append(number)
    return len(seen)


def collect_all(number: np.ndarray, seen: list[float] = []) -> Annotated[np.ndarray, Var(())]:
    seen += number.tolist()
    return np.full(len(number), len(seen))


NUMBERS = [Axis("number", np.arange(1.0, 101.0))]
X = [Coord("x", [0.0, 1.0, 2.0])]
plain = Pipeline([make, spoil], axes=NUMBERS, coords=X)
from_vectorized = Pipeline([Stage(make_all, vectorized=True), spoil], axes=NUMBERS, coords=X)
vectorized = Pipeline(
    [Stage(make_all, vectorized=True), Stage(spoil, vectorized=True)], axes=NUMBERS, coords=X
)
swept = Pipeline(
    [Stage(spoil_axis, vectorized=True), Stage(make_all, vectorized=True)], axes=NUMBERS, coords=X
)
lists = Pipeline(collect, axes=NUMBERS)
vectorized_lists = Pipeline(Stage(collect_all, vectorized=True), axes=NUMBERS)
'''


@pytest.mark.parametrize("name", ["plain", "from_vectorized", "vectorized", "swept"])
def test_a_stage_that_changes_an_array_it_was_given_fails_and_is_told_why(name: str) -> None:
    write("changing.py", CHANGING)

    with pytest.warns(UserWarning, match="100 of 100 points failed.* read-only"):
        found = sweep.run(f"changing.py:{name}", f"{name}.zarr", on="serial", number=range(1, 101))

    assert (found.status == 2).all()
    assert {failure.error_type for failure in status(f"{name}.zarr").failures} == {"ValueError"}
    assert np.isnan(found.line).all()  # a point that failed leaves nothing behind


def test_what_was_stored_is_not_changed_by_a_stage_that_works_on_a_copy() -> None:
    write("copying.py", CHANGING.replace("line *= -1", "line = line.copy()\n    line *= -1"))

    for name in ("plain", "from_vectorized"):
        found = sweep.run(f"copying.py:{name}", on="serial")
        assert found.line.values[:, 0].tolist() == found.number.values.tolist()
        assert found.spoil.values.tolist() == (-3 * found.number).values.tolist()


@ENGINES
def test_a_default_list_is_as_it_was_written_at_each_point(on: str) -> None:
    write("lists.py", CHANGING)

    found = sweep.run("lists.py:lists", on=on)

    assert (found.collect == 1).all()


def test_a_default_list_is_as_it_was_written_at_each_block_of_a_vectorized_stage() -> None:
    write("block_lists.py", CHANGING)

    found = sweep.run("block_lists.py:vectorized_lists", "s.zarr", on="serial")

    assert found.collect_all.values.max() <= np.prod(Store(Path("s.zarr")).grid.block_shape)


# --- what these say ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _imports_are_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and is_in(tmp_path, sys.modules[name]):
            del sys.modules[name]


def is_in(folder: Path, module: ModuleType) -> bool:
    return Path(str(module.__file__)).is_relative_to(folder)


def write(file: str, text: str) -> Path:
    path = Path(file).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def import_module(name: str) -> ModuleType:
    """Import a module of the working folder, as a notebook does."""
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    return importlib.import_module(name)


def recorded(store: str, run: int = 1) -> dict[str, str]:
    """Return the source that a run has on record."""
    source: dict[str, str] = Store(Path(store)).read_run(run)["source"]
    return source


def take_back(store: str) -> None:
    """Make the last block of a store one that was never computed."""
    last = max((Path(store) / "status").glob("c.*"), key=lambda path: int(path.name[2:]))
    last.unlink()


def command(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
