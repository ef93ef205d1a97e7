"""What a person gets who ends a run, or whose disk or study does: exit codes, words, no loss.

The points of the study here wait for a file, so that a signal finds a run where it is meant to.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import xarray as xr

from sweep.status import status
from sweep.store import exists

PATIENCE = 60.0  # s; everything here takes a few seconds
PROMPT = 15.0  # s; a point waits for longer, and so does the engine for a timed one
ALL_DONE, MISTAKE, INCOMPLETE, INTERRUPTED = 0, 2, 3, 130
SERIAL = ("--on", "serial")
PROCESSES = ("--on", "processes", "--workers", "2")
DASK = ("--on", "dask", "--workers", "2")
ENGINES = pytest.mark.parametrize("on", [SERIAL, PROCESSES], ids=lambda on: on[1])
ALL_ENGINES = pytest.mark.parametrize("on", [SERIAL, PROCESSES, DASK], ids=lambda on: on[1])

STUDY = '''"""Points that note that they began, and wait until they are let go."""

import time
from pathlib import Path
from typing import Annotated

from sweep import Axis, Pipeline, Var

HERE = Path(__file__).parent


def wait(number: int) -> Annotated[float, Var(())]:
    with (HERE / "begun").open("a") as file:
        file.write(f"{number}\\n")
    end = time.monotonic() + 60
    while not (HERE / "go").exists() and time.monotonic() < end:
        time.sleep(0.01)
    return 10.0 * number


pipeline = Pipeline(wait, axes=[Axis("number", range(6))])
'''

DESTROYER = '''"""A study that takes something away from the store that it is run into."""

from pathlib import Path
from typing import Annotated

from sweep import Axis, Pipeline, Var


def destroy(number: int, victim: str = "") -> Annotated[float, Var(())]:
    if number == 3:
        Path(victim).rename(Path(__file__).with_name("taken"))
    return 10.0 * number


pipeline = Pipeline(destroy, axes=[Axis("number", range(6))])
'''

HALF_EDITED = '''"""A study that is edited as soon as the driver has imported it."""

from pathlib import Path
from typing import Annotated

from sweep import Axis, Pipeline, Var


def double(number: float) -> Annotated[float, Var(())]:
    return 2 * number


pipeline = Pipeline(double, axes=[Axis("number", [1.0, 2.0])])
Path(__file__).write_text("raise RuntimeError('half an edit')")
'''


# --- before there are blocks -------------------------------------------------------------


@ENGINES
def test_ctrl_c_while_a_few_points_are_timed_ends_at_once_and_leaves_nothing(
    on: tuple[str, ...], study: Path, store: Path
) -> None:
    driver = Driver("run", study, store, "number=0..99", *on)
    driver.wait_until(lambda: begun(study))
    family = driver.family()

    driver.interrupt()
    seconds = driver.end()

    assert driver.code == INTERRUPTED, driver.printed()
    assert seconds < PROMPT
    assert "sweep: stopped." in driver.printed()
    assert "Traceback" not in driver.printed()
    assert not store.parent.exists() or not list(store.parent.iterdir())
    assert not alive(family)


# --- once --------------------------------------------------------------------------------


@ALL_ENGINES
def test_ctrl_c_finishes_the_blocks_in_flight_and_resume_computes_only_the_others(
    on: tuple[str, ...], study: Path, store: Path
) -> None:
    driver = Driver("run", study, store, *on)
    driver.wait_until(lambda: begun(study))

    driver.interrupt()
    driver.wait_until(lambda: "blocks in flight" in driver.printed())
    let_go(study)
    driver.end()
    first, counts = Counter(begun(study)), status(store).points
    again = re.search(r"Go on with: sweep (resume .+)", driver.printed())

    assert driver.code == INTERRUPTED, driver.printed()
    assert "Traceback" not in driver.printed()
    assert 0 < counts["done"] == len(first) < 6
    assert counts["failed"] == 0
    assert status(store).runs[1]["state"] == "interrupted"

    assert again is not None, driver.printed()
    resumed = Driver(*shlex.split(again[1]), *SERIAL)
    resumed.end()

    assert resumed.code == ALL_DONE, resumed.printed()
    assert Counter(begun(study)) == Counter(map(str, range(6)))
    assert xr.open_zarr(store).wait.values.tolist() == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]


def test_sigterm_counts_as_ctrl_c(study: Path, store: Path) -> None:
    driver = Driver("run", study, store, *SERIAL)
    driver.wait_until(lambda: begun(study))

    driver.interrupt(signal.SIGTERM)
    driver.wait_until(lambda: "blocks in flight" in driver.printed())
    let_go(study)
    driver.end()

    assert driver.code == INTERRUPTED, driver.printed()
    assert "Go on with: sweep resume" in driver.printed()
    assert status(store).points["done"] == len(begun(study))


def test_ctrl_c_in_the_last_blocks_leaves_nothing_to_resume(study: Path, store: Path) -> None:
    driver = Driver("run", study, store, "number=[7]", *SERIAL)
    driver.wait_until(lambda: begun(study))

    driver.interrupt()
    driver.wait_until(lambda: "blocks in flight" in driver.printed())
    let_go(study)
    driver.end()

    assert driver.code == ALL_DONE, driver.printed()
    assert "resume" not in driver.printed()
    assert status(store).runs[1]["state"] == "complete"


def test_the_command_that_resumes_can_be_typed_as_it_stands(study: Path, store: Path) -> None:
    store = store.with_name("two words.zarr")
    driver = Driver("run", study, store, *SERIAL)
    driver.wait_until(lambda: begun(study))

    driver.interrupt()
    driver.wait_until(lambda: "blocks in flight" in driver.printed())
    let_go(study)
    driver.end()
    again = re.search(r"Go on with: sweep (resume .+)", driver.printed())

    assert again is not None, driver.printed()
    assert [Path(word).name for word in shlex.split(again[1])] == ["resume", "two words.zarr"]


# --- twice -------------------------------------------------------------------------------


@ENGINES
def test_ctrl_c_twice_drops_the_blocks_in_flight_at_once(
    on: tuple[str, ...], study: Path, store: Path
) -> None:
    driver = Driver("run", study, store, *on)
    driver.wait_until(lambda: begun(study))
    family = driver.family()

    driver.interrupt()
    driver.wait_until(lambda: "Ctrl-C again drops them" in driver.printed())
    driver.interrupt()
    seconds = driver.end()

    assert driver.code == INTERRUPTED, driver.printed()
    assert seconds < PROMPT
    assert "Traceback" not in driver.printed()
    assert "Go on with: sweep resume" in driver.printed()
    assert status(store).points == {"pending": 6, "done": 0, "failed": 0, "skipped": 0, "stale": 0}
    assert status(store).runs[1]["state"] == "interrupted"
    assert not alive(family)


def test_ctrl_c_again_and_again_changes_nothing(study: Path, store: Path) -> None:
    driver = Driver("run", study, store, *PROCESSES)
    driver.wait_until(lambda: begun(study))

    while driver.runs():
        driver.interrupt()
    driver.end()

    assert driver.code in (INTERRUPTED, -signal.SIGINT), driver.printed()  # a shell says 130
    assert "Traceback" not in driver.printed()
    assert status(store).runs[1]["state"] == "interrupted"


# --- killed ------------------------------------------------------------------------------


def test_a_killed_run_is_on_record_as_running_until_the_next_run(study: Path, store: Path) -> None:
    driver = Driver("run", study, store, *SERIAL)
    driver.wait_until(lambda: begun(study))

    driver.interrupt(signal.SIGKILL)
    driver.end()
    before = [record["state"] for record in status(store).runs.values()]
    let_go(study)
    resumed = Driver("resume", store, *SERIAL)
    resumed.end()

    assert before == ["running"]
    assert resumed.code == ALL_DONE, resumed.printed()
    assert [record["state"] for record in status(store).runs.values()] == ["killed", "complete"]
    table = xr.open_zarr(store, group="runs")
    assert table.state.values.tolist() == ["killed", "complete"]


def test_a_run_killed_after_its_last_block_does_not_stay_on_record_as_running(
    study: Path, store: Path
) -> None:
    let_go(study)
    first = Driver("run", study, store, *SERIAL)
    first.end()
    record = store / ".sweep" / "runs" / "0001.json"
    killed = json.loads(record.read_text()) | {"state": "running", "ended": None}
    record.write_text(json.dumps(killed))  # as if it had been killed just before its last words

    second = Driver("run", study, store, *SERIAL)
    second.end()

    assert second.code == ALL_DONE, second.printed()
    assert "Nothing was left to do" in second.printed()
    assert status(store).runs[1]["state"] == "killed"


# --- what is refused in the middle of a run ----------------------------------------------


@pytest.mark.parametrize(
    ("folder", "on"),
    [("destroy", SERIAL), ("status", SERIAL), ("destroy", PROCESSES)],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
def test_a_store_that_cannot_be_written_is_named_with_what_to_do(
    folder: str, on: tuple[str, ...], tmp_path: Path, store: Path
) -> None:
    file = written(tmp_path / "destroyer.py", DESTROYER)

    driver = Driver("run", file, store, f"victim={store / folder}", *on)
    driver.end()

    assert driver.code == INCOMPLETE, driver.printed()
    assert f"{store.name} cannot be written: No such file or directory" in driver.printed()
    assert "What is committed is kept. Mend that, then: sweep resume " in driver.printed()
    assert ".partial" not in driver.printed()
    assert "Traceback" not in driver.printed()
    assert "points failed" not in driver.printed()
    assert status(store).points["failed"] == 0
    assert status(store).runs[1]["state"] == "incomplete"


def test_a_study_that_workers_cannot_import_is_an_incomplete_run(
    tmp_path: Path, store: Path
) -> None:
    file = written(tmp_path / "half_edited.py", HALF_EDITED)

    driver = Driver("run", file, store, *PROCESSES)
    driver.end()

    assert driver.code == INCOMPLETE, driver.printed()
    assert f"{file}, line 1, raised RuntimeError while it was imported" in driver.printed()
    assert "half an edit" in driver.printed()
    assert "Traceback" not in driver.printed()
    assert "points failed" not in driver.printed()
    assert not exists(store) or status(store).points["failed"] == 0


# --- what these say ----------------------------------------------------------------------


class Driver:
    """A ``sweep`` command in a process of its own; what it prints goes to a file."""

    def __init__(self, *words: object) -> None:
        self._output = Path(f"printed-{time.monotonic_ns()}").absolute()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sweep", *map(str, words)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started.append(self._process)

    @property
    def code(self) -> int | None:
        return self._process.returncode

    def runs(self) -> bool:
        """Tell whether it runs still, a moment later."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.01)
        return self._process.returncode is None

    def printed(self) -> str:
        return self._output.read_text()

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children(recursive=True)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send what a terminal sends: to everyone in the driver's group."""
        os.killpg(self._process.pid, number)

    def wait_until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None, self.printed()
            assert time.monotonic() < end, f"it did not come to pass: {self.printed()}"
            time.sleep(0.01)

    def end(self) -> float:
        """Wait for the end, and return how many seconds it took."""
        start = time.monotonic()
        self._process.wait(PATIENCE)
        return time.monotonic() - start


started: list["subprocess.Popen[bytes]"] = []


@pytest.fixture(autouse=True)
def _nothing_runs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    for process in started:
        if process.poll() is None:  # else its number may be another's by now
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    started.clear()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return written(tmp_path / "study" / "waiting.py", STUDY)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "waiting.zarr"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def begun(study: Path) -> list[str]:
    """Return the numbers of the points that have begun, each as often as it did."""
    file = study.with_name("begun")
    return file.read_text().split() if file.exists() else []


def let_go(study: Path) -> None:
    study.with_name("go").touch()


def alive(family: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended, a moment after their driver."""
    return psutil.wait_procs(family, PROMPT)[1]
