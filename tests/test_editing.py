"""What runs is what stands in the files: edited between runs, or of one name in two folders."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import xarray as xr

import sweep
from sweep.errors import StudyError
from sweep.store import Store

PATIENCE = 60.0  # s; everything here takes a few seconds
ENGINES = pytest.mark.parametrize("on", ["serial", "processes"])

STUDY = '''"""How much is it?"""

from pathlib import Path
from typing import Annotated

from sweep import Axis, Pipeline, Var

with Path("imports").open("a") as file:
    file.write(f"{__name__}\\n")


def scale(number: float) -> Annotated[float, Var(())]:
    return 2 * number


pipeline = Pipeline(scale, axes=[Axis("number", [1.0, 2.0])])
'''
EDITED = STUDY.replace("return 2 * number", "return 300 * number")
TWICE, MUCH = [2.0, 4.0], [300.0, 600.0]

WITH_HELPER = STUDY.replace("2 * number", "factor() * number").replace(
    "\nfrom sweep", "\nfrom factors import factor\nfrom sweep"
)
HELPER = "def factor() -> float:\n    return 2\n"


# --- an edited file ----------------------------------------------------------------------


@ENGINES
def test_a_file_that_was_edited_is_run_as_it_stands_and_so_recorded(on: str) -> None:
    file = write("amounts.py", STUDY)
    first = sweep.run("amounts.py", "first.zarr", on=on)

    file.write_text(EDITED)
    second = sweep.run("amounts.py", "second.zarr", on=on)

    assert first.scale.values.tolist() == TWICE
    assert second.scale.values.tolist() == MUCH
    assert recorded("first.zarr") == {"amounts.py": STUDY}
    assert recorded("second.zarr") == {"amounts.py": EDITED}


@ENGINES
def test_a_helper_that_was_edited_is_run_as_it_stands_and_so_recorded(on: str) -> None:
    write("measures.py", WITH_HELPER)
    helper = write("factors.py", HELPER)
    first = sweep.run("measures.py", "first.zarr", on=on)

    helper.write_text(HELPER.replace("2", "300"))
    second = sweep.run("measures.py", "second.zarr", on=on)

    assert first.scale.values.tolist() == TWICE
    assert second.scale.values.tolist() == MUCH
    assert recorded("first.zarr") == {"factors.py": HELPER, "measures.py": WITH_HELPER}
    assert recorded("second.zarr")["factors.py"] == HELPER.replace("2", "300")


@ENGINES
def test_an_edit_within_the_second_that_keeps_the_size_is_run_all_the_same(
    on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    file = write("quick.py", STUDY)
    first = sweep.run("quick.py", on=on)
    when = file.stat().st_mtime_ns

    file.write_text(STUDY.replace("2 * number", "3 * number"))
    os.utime(file, ns=(when, when))
    second = sweep.run("quick.py", on=on)

    assert first.scale.values.tolist() == TWICE
    assert second.scale.values.tolist() == [3.0, 6.0]


def test_a_file_that_no_longer_is_python_is_told_and_runs_again_when_it_is_mended() -> None:
    file = write("mended.py", STUDY)
    sweep.run("mended.py", on="serial")

    file.write_text("def scale(")
    with pytest.raises(StudyError, match=r"mended\.py, line 1 is not Python"):
        sweep.run("mended.py", on="serial")
    file.write_text(EDITED)

    assert sweep.run("mended.py", on="serial").scale.values.tolist() == MUCH


# --- a pipeline that was imported before -------------------------------------------------


def test_a_pipeline_imported_before_its_file_was_edited_is_refused_with_what_to_do() -> None:
    file = write("imported.py", STUDY)
    pipeline = import_module("imported").pipeline
    sweep.run(pipeline, on="serial")

    file.write_text(EDITED)
    with pytest.raises(StudyError, match=r"imported\.py .*has changed") as refusal:
        sweep.run(pipeline, on="serial")
    remedy = re.search(r'Start Python again, or give the file: sweep\.run\("(.+?)"', text(refusal))

    assert remedy is not None, text(refusal)
    assert sweep.run(remedy[1], on="serial").scale.values.tolist() == MUCH


def test_a_pipeline_imported_before_its_helper_was_edited_is_refused_with_what_to_do() -> None:
    write("with_helper.py", WITH_HELPER)
    helper = write("factors.py", HELPER)
    pipeline = import_module("with_helper").pipeline
    sweep.run(pipeline, on="serial")

    helper.write_text(HELPER.replace("2", "300"))

    with pytest.raises(StudyError, match=r"or what it imports\) has changed.*Start Python again"):
        sweep.run(pipeline, on="serial")
    assert sweep.run("with_helper.py", on="serial").scale.values.tolist() == MUCH


@ENGINES
def test_a_pipeline_whose_file_was_edited_before_the_first_run_is_refused(on: str) -> None:
    file = write("unmet.py", STUDY)
    pipeline = import_module("unmet").pipeline

    file.write_text(EDITED)

    with pytest.raises(StudyError, match="has changed"):
        sweep.run(pipeline, on=on)


def test_an_old_pipeline_is_refused_when_its_file_was_run_anew() -> None:
    file = write("renewed.py", STUDY)
    pipeline = import_module("renewed").pipeline
    sweep.run(pipeline, on="serial")

    file.write_text(EDITED)
    sweep.run("renewed.py", on="serial")

    with pytest.raises(StudyError, match="has changed"):
        sweep.run(pipeline, on="serial")


def test_an_edited_comment_is_no_edit() -> None:
    file = write("remarked.py", STUDY)
    module = import_module("remarked")
    sweep.run(module.pipeline, "first.zarr", on="serial")

    file.write_text(STUDY.replace("2 * number", "2 * number  # as agreed"))
    by_pipeline = sweep.run(module.pipeline, "second.zarr", on="serial")
    by_file = sweep.run("remarked.py", "third.zarr", on="serial")

    assert by_pipeline.scale.values.tolist() == by_file.scale.values.tolist() == TWICE
    assert sys.modules["remarked"] is module
    assert Path("imports").read_text().split() == ["remarked"]


# --- modules of one name -----------------------------------------------------------------


def test_two_studies_that_each_import_their_own_common_are_refused_in_one_process() -> None:
    write("one/first.py", WITH_HELPER.replace("factors", "common"))
    write("one/common.py", HELPER)
    second = write("two/second.py", WITH_HELPER.replace("factors", "common"))
    write("two/common.py", HELPER.replace("2", "300"))
    first = sweep.run("one/first.py", on="serial")

    with pytest.raises(StudyError, match=r"imports common.*Rename one, or.*of their own") as told:
        sweep.run("two/second.py", on="serial")

    assert first.scale.values.tolist() == TWICE
    assert str(second) in text(told)
    assert str(Path("one/common.py").absolute()) in text(told)
    assert sweep.run("one/first.py", on="serial").scale.values.tolist() == TWICE


def test_two_studies_that_each_import_their_own_common_run_in_processes_of_their_own() -> None:
    for folder, factor in (("one", "2"), ("two", "300")):
        write(f"{folder}/study.py", WITH_HELPER.replace("factors", "common"))
        write(f"{folder}/common.py", HELPER.replace("2", factor))

    for folder in ("one", "two"):
        done = command("-m", "sweep", "run", f"{folder}/study.py", f"{folder}.zarr", "--on=serial")
        assert done.returncode == 0, done.stderr

    assert xr.open_zarr("one.zarr").scale.values.tolist() == TWICE
    assert xr.open_zarr("two.zarr").scale.values.tolist() == MUCH


def test_a_plain_script_may_use_a_helper_beside_it_from_any_folder() -> None:
    run = (
        "import sweep\n"
        "for on in ('serial', 'processes', 'dask'):\n"
        "    found = sweep.run(pipeline, on=on)\n"
        "    print(on, found.scale.values.tolist())\n"
    )
    script = write("elsewhere/script.py", WITH_HELPER + run)
    write("elsewhere/factors.py", HELPER)

    done = command("-W", "error", script)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{on} {TWICE}" for on in ("serial", "processes", "dask")]
    assert "Traceback" not in done.stderr


def test_a_script_whose_helper_is_edited_while_it_runs_is_told() -> None:
    write("helper.py", "def factor() -> int:\n    return 2\n")
    write(
        "script.py",
        """
from pathlib import Path
from typing import Annotated

import helper
import sweep


def scale(number: float) -> Annotated[float, sweep.Var(())]:
    return helper.factor() * number


pipeline = sweep.Pipeline(scale, axes=[sweep.Axis("number", [1.0, 2.0])])
print(sweep.run(pipeline, "s.zarr", on="serial").scale.values.tolist())
Path("helper.py").write_text("def factor() -> int:\\n    return 300\\n")
try:
    sweep.run(pipeline, on="processes")
except sweep.SweepError as error:
    print(error)
""",
    )

    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)

    first, second = done.stdout.splitlines()
    assert first == "[2.0, 4.0]"
    assert "script.py imports has changed since it was imported here" in second
    record = Store(Path("s.zarr")).read_run(1)
    assert set(record["source"]) == {"script.py", "helper.py"}
    assert "helper.factor() * number" in record["source"]["script.py"]
    assert record["code_hash"]


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


def text(refusal: "pytest.ExceptionInfo[StudyError]") -> str:
    return str(refusal.value)


def command(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
