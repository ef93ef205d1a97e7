"""The ranks of MPI: under a real mpiexec, what the engine keeps and what the command line does."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import xarray as xr

from sweep.engines import make_engine
from sweep.engines.workers import worker_environment
from sweep.errors import EngineError
from sweep.options import Options
from sweep.status import status
from sweep.study import Study

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
PATIENCE = 60.0  # s; everything here takes a few seconds
CONTRACT_PATIENCE = (
    300.0  # s; a session of thirty tests: 12 s, or 40 s on a machine with other work
)
ALL_DONE, SOME_FAILED, MISTAKE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
RANKS = 3
SWEEP = ("-m", "sweep")


@pytest.fixture
def mpiexec() -> str:
    if MPIEXEC is None and os.environ.get("SWEEP_REQUIRE_CLUSTER") == "1":
        pytest.fail("no mpiexec: pip install mpich")
    if MPIEXEC is None:
        pytest.skip("no mpiexec: pip install mpich")
    return MPIEXEC


Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(mpiexec: str, tmp_path: Path) -> Iterator[Start]:
    """Start Python on some ranks, in an empty folder; what is left at the end is killed."""
    started = []

    def start(*words: object, ranks: int = RANKS, **variables: str) -> "subprocess.Popen[str]":
        command = [mpiexec, "-n", str(ranks), sys.executable, *map(str, words)]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def run(start: Start) -> Run:
    """Run Python on some ranks to the end, which nobody waits long for."""

    def run(
        *words: object, patience: float = PATIENCE, **how: object
    ) -> "subprocess.CompletedProcess[str]":
        process = start(*words, **how)
        output, errors = process.communicate(timeout=patience)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run


def environment(**variables: str) -> dict[str, str]:
    path = [*filter(None, [variables.pop("PYTHONPATH", "")]), str(ROOT), str(HERE)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)} | variables


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE} s"
        time.sleep(0.01)


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # init reaps it when it likes
    except psutil.NoSuchProcess:
        return True


def told(process: "subprocess.CompletedProcess[str]") -> list[str]:
    """Return the lines that the command says to a person who has made a mistake."""
    return [line for line in process.stderr.splitlines() if line.startswith("sweep: ")]


# --- the engine -----------------------------------------------------------------------------


@pytest.mark.mpi
def test_it_keeps_the_contract_of_all_engines(run: Run) -> None:
    contract = HERE / "test_engines.py"
    parts = [
        "test_an_engine_may_be_closed_twice_and_before_its_calls_have_ended",  # before there is one
        "TestEngineContract",
        "TestEngineWithProcesses",
        "TestEngineWithOwnProcesses",
    ]

    done = run(
        HERE / "on_ranks.py",
        *("-q", "-p", "no:cacheprovider", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml"),
        *(f"{contract}::{part}" for part in parts),
        patience=CONTRACT_PATIENCE,
        ON_RANKS="1",
    )

    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 30
    assert "skipped" not in done.stdout


NONSENSE = """
import os, time
from sweep.cli.ranks import on_ranks
from sweep.engines import make_engine

def command():
    make_engine("mpi")._post.send(1, "nonsense")
    time.sleep(1000)

if os.environ["PMI_RANK"] == os.environ.get("MUTE"):
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
on_ranks(command)
"""


@pytest.mark.mpi
def test_an_exception_in_a_supervisor_ends_all_ranks(run: Run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(NONSENSE)

    done = run("script.py")

    assert done.returncode != 0
    assert "ValueError: Rank 0 says ['nonsense']" in done.stderr
    assert done.stderr.count("Traceback") == 1


@pytest.mark.mpi
def test_it_does_so_where_nobody_hears_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(NONSENSE)

    done = run("script.py", MUTE="1")

    assert done.returncode != 0
    assert "Traceback" not in done.stderr


@pytest.mark.mpi
def test_what_no_rank_has_signed_is_not_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("""
import json, time
from sweep.engines.mpi.post import SIGNATURE_BYTES, Post

post = Post()
if post.rank == 0:
    text = json.dumps(["unsigned"]).encode()
    post._world.Send([b"0" * SIGNATURE_BYTES + text, post._mpi.BYTE], 1)
    post._world.Send([b"short", post._mpi.BYTE], 1)
    for count, word in [(0, "first"), (0, "again"), (2, "left out")]:
        text = json.dumps([word]).encode()
        raw = post._signature(0, 1, count, text) + text
        post._world.Send([raw, post._mpi.BYTE], 1)
    raw = post._signature(0, 2, 1, text) + text  # of another rank's post
    post._world.Send([raw, post._mpi.BYTE], 1)
    post._sent[1] = 1
    post.send(1, "last")
    post.flush()
found = []
while post.rank == 1 and ["last"] not in found:
    found += [message for _, message in post.receive()]
    time.sleep(0.001)
if post.rank == 1:  # the lines of two ranks could mix
    print(found)
""")

    done = run("script.py")

    assert done.returncode == 0, done.stderr
    assert "[['first'], ['last']]" in done.stdout.splitlines()
    assert told(done) == 5 * ["sweep: rank 1 got a message that no rank sent"]


@pytest.mark.mpi
@pytest.mark.parametrize(("devices", "missing"), [("7,8", False), ("7", True)])
def test_each_rank_on_a_machine_has_devices_of_its_own(
    devices: str, missing: bool, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "study.py").write_text("""
import os, time
from typing import Annotated
from sweep import Axis, Needs, Pipeline, Var

def device(a: float) -> Annotated[int, Var(())]:
    time.sleep(0.2)
    return int(os.environ["CUDA_VISIBLE_DEVICES"])

pipeline = Pipeline(device, axes=[Axis("a", range(12))], needs=Needs(gpus=1))
""")

    done = run(*SWEEP, "run", "study.py", "s.zarr", "--on", "mpi", CUDA_VISIBLE_DEVICES=devices)

    assert done.returncode == ALL_DONE, done.stderr
    found = set(xr.open_zarr(tmp_path / "s.zarr").device.values.tolist())
    assert found == {int(device) for device in devices.split(",")}
    assert ("none for worker number 2" in done.stderr) == missing


def test_it_goes_with_the_command_line_alone() -> None:
    with pytest.raises(EngineError, match=r"command line alone.*mpiexec -n 4 sweep run"):
        make_engine("mpi")


def test_the_number_of_workers_is_that_of_the_ranks(throw: Study) -> None:
    with pytest.raises(EngineError, match=r"workers=3 does not go with mpi.*-n 4.*Leave it out"):
        Options("mpi", 3).engine(throw.pipeline, 1)


def test_a_worker_does_not_take_itself_for_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = ("PMI_FD", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALRANKID")
    for name in (*ranks, "HYDI_CONTROL_FD", "SLURM_JOB_ID", "MPI_HOME"):
        monkeypatch.setenv(name, "7")

    kept = worker_environment(1)

    assert not set(kept) & {*ranks, "HYDI_CONTROL_FD"}
    assert {kept["SLURM_JOB_ID"], kept["MPI_HOME"]} == {"7"}


@pytest.mark.mpi
def test_processes_that_are_each_alone_refuse_with_one_voice(
    mpiexec: str, studies: Path, tmp_path: Path
) -> None:
    command = [sys.executable, *SWEEP, "run", str(studies / "throw.py"), "s.zarr", "--on", "mpi"]
    alone = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(SLURM_STEP_ID="0", SLURM_NTASKS="2", SLURM_PROCID=str(number)),
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]

    errors = [process.communicate(timeout=PATIENCE)[1] for process in alone]

    assert [process.returncode for process in alone] == [MISTAKE, MISTAKE]
    assert "srun started 2 processes, but each of them is alone" in errors[0]
    assert errors[1] == ""
    assert not (tmp_path / "s.zarr").exists()


# --- the command line -----------------------------------------------------------------------


@pytest.mark.mpi
def test_its_answers_are_those_of_the_reference(run: Run, studies: Path, tmp_path: Path) -> None:
    study = studies / "everything.py"
    words = [*SWEEP, "run", str(study)]
    serial = subprocess.run(
        [sys.executable, *words, "serial.zarr", "--on", "serial"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=False,
    )

    done = run(*words, "mpi.zarr", "--on", "mpi")

    assert done.returncode == serial.returncode == SOME_FAILED  # one point raises
    assert "on mpi, 2 workers" in done.stderr
    assert "too steep: 2.5" in done.stdout
    one, other = (xr.open_zarr(tmp_path / f"{name}.zarr").load() for name in ("serial", "mpi"))
    xr.testing.assert_equal(*(ds.drop_vars(["point_seconds", "run"]) for ds in (one, other)))
    assert other.status.values.tolist().count(0) == 0


@pytest.mark.mpi
def test_a_point_that_kills_its_worker_costs_itself(
    run: Run, studies: Path, tmp_path: Path
) -> None:
    deeds = "crash 4 1 and raise 2 3"

    done = run(*SWEEP, "run", studies / "perilous.py", "s.zarr", f"deeds={deeds}", "--on", "mpi")

    assert done.returncode == SOME_FAILED, done.stderr
    assert "58 of 60 points done, 2 failed." in done.stdout
    raised, crashed = sorted(one.text for one in status(tmp_path / "s.zarr").failures)
    assert raised.startswith("row=2, column=3: ValueError: bad luck")
    assert crashed.startswith("row=4, column=1: ")
    assert "SIGSEGV" in crashed


@pytest.mark.mpi
def test_a_model_may_use_mpi_itself(run: Run, tmp_path: Path) -> None:
    (tmp_path / "parallel.py").write_text('''"""How many ranks does a model see?"""

from typing import Annotated

from sweep import Axis, Pipeline, Var


def ranks(number: int) -> Annotated[int, Var(())]:
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.allreduce(1))


pipeline = Pipeline(ranks, axes=[Axis("number", range(4))])
''')

    done = run(*SWEEP, "run", "parallel.py", "s.zarr", "--on", "mpi")

    assert done.returncode == ALL_DONE, done.stdout + done.stderr
    assert xr.open_zarr(tmp_path / "s.zarr").ranks.values.tolist() == [1, 1, 1, 1]


@pytest.mark.mpi
def test_a_mistake_is_told_once_and_all_ranks_end(run: Run, studies: Path) -> None:
    done = run(*SWEEP, "run", studies / "thro.py", "s.zarr", "--on", "mpi")

    assert done.returncode == MISTAKE
    assert len(told(done)) == 1
    assert "Did you mean throw.py?" in told(done)[0]
    assert "Traceback" not in done.stderr
    assert "BAD TERMINATION" not in done.stdout + done.stderr


@pytest.mark.mpi
def test_one_rank_is_refused(run: Run, studies: Path) -> None:
    done = run(*SWEEP, "run", studies / "throw.py", "s.zarr", "--on", "mpi", ranks=1)

    assert done.returncode == MISTAKE
    assert [line for line in told(done) if "needs two ranks at least" in line] == told(done) != []


WAITING = '''"""Points that note that they began, and wait until they are let go."""

import time
from pathlib import Path
from typing import Annotated

from sweep import Axis, Pipeline, Var

HERE = Path(__file__).parent


def wait(number: int) -> Annotated[float, Var(())]:
    (HERE / f"begun {number}").touch()
    end = time.monotonic() + 60
    while not (HERE / "go").exists() and time.monotonic() < end:
        time.sleep(0.01)
    return 10.0 * number


pipeline = Pipeline(wait, axes=[Axis("number", range(60))])
'''


BAD_PLACE = """
import os
if "PMI_RANK" not in os.environ and os.environ.get("IS_BAD"):  # a worker's, no rank's
    os.write(2, b"no room today")
    os._exit(7)
"""


@pytest.mark.mpi
@pytest.mark.parametrize("where", ["everywhere", "on the last rank"])
def test_a_machine_where_no_worker_starts_is_left_out(
    where: str, start: Start, tmp_path: Path, mpiexec: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BAD_PLACE)
    (tmp_path / "waiting.py").write_text(WAITING)
    words = [*SWEEP, "run", "waiting.py", "s.zarr", "number=0..7", "--on", "mpi"]
    path = {"PYTHONPATH": str(tmp_path)}
    if where == "everywhere":
        process = start(*words, IS_BAD="1", **path)
    else:
        other = [":", "-n", "1", "-env", "IS_BAD", "1", sys.executable, *words]
        process = start(*words, *other, ranks=RANKS - 1, **path)

    assert process.stderr
    assert process.stdout
    watch = threading.Timer(PATIENCE, process.kill)
    watch.start()
    errors = ""
    for line in process.stderr:
        errors += line
        if "rank 2" in line and "takes no calls any more" in line:  # the other rank waits for this
            (tmp_path / "go").touch()
    output = process.stdout.read()
    process.wait(PATIENCE)
    watch.cancel()

    assert re.search(r"sweep: rank 2 on \S+ takes no calls any more", errors)
    assert "no room today" in errors
    if where == "everywhere":
        assert process.returncode == INCOMPLETE
        assert "No rank takes calls any more" in errors
    else:
        assert process.returncode == ALL_DONE, errors
        assert "8 of 8 points done" in output


@contextmanager
def leaving_nothing(process: "subprocess.Popen[str]") -> Iterator[None]:
    """See that none of the processes that there are now is there afterwards."""
    ranks = psutil.Process(process.pid).children(recursive=True)
    assert len(ranks) > 2 * (RANKS - 1)  # each of the others has a worker
    yield
    until(lambda: all(map(is_gone, ranks)))


@pytest.fixture
def waiting(start: Start, tmp_path: Path) -> "subprocess.Popen[str]":
    """A run whose two workers are each at a point that waits."""
    (tmp_path / "waiting.py").write_text(WAITING)
    process = start(*SWEEP, "run", "waiting.py", "s.zarr", "--on", "mpi")
    until(lambda: len(list(tmp_path.glob("begun *"))) >= RANKS - 1 or process.poll() is not None)
    return process


@pytest.mark.mpi
def test_ctrl_c_ends_all_ranks_after_the_blocks_in_flight(
    waiting: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    begun = tmp_path / "s.zarr"
    until(begun.exists)
    with leaving_nothing(waiting):
        waiting.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        _, errors = waiting.communicate(timeout=PATIENCE)

    assert waiting.returncode == INTERRUPTED, errors
    assert "Stopping when the blocks in flight are done" in errors
    assert "Go on with: sweep resume s.zarr" in errors
    assert "Traceback" not in errors


def is_first_rank(process: psutil.Process) -> bool:
    try:
        return process.environ().get("PMI_RANK") == "0" and "sweep" in process.cmdline()
    except psutil.Error:  # a git that rank 0 asked may end meanwhile
        return False


@pytest.mark.mpi
def test_the_death_of_a_rank_ends_the_job_with_its_workers(
    waiting: "subprocess.Popen[str]",
) -> None:
    with leaving_nothing(waiting):
        family = psutil.Process(waiting.pid).children(recursive=True)
        next(filter(is_first_rank, family)).kill()
        waiting.communicate(timeout=PATIENCE)

    assert waiting.returncode != ALL_DONE
