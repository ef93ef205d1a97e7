"""The engine ``srun``, inside real jobs of two nodes."""

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import xarray as xr
from cryptography import x509

import sweep.engines.dask.allocation as allocation
from slurm.throwaway import Throwaway
from sweep.engines import Done, Engine, Lost, Outcome, make_engine
from sweep.engines.devices import VARIABLE as DEVICES
from sweep.errors import EngineError

ROOT = Path(__file__).parents[2]
CALLS = ROOT / "tests" / "engines"  # the folder of `calls`, which workers import
DEADLINE_SECONDS = 60.0  # a machine may be busy with other things
TIME_LIMIT_MINUTES = 20


@pytest.fixture
def job(
    cluster: Throwaway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Take this process into a new job, as `salloc` does a shell; what it returns is its number."""
    numbers = []

    def take(*shape: str) -> str:
        limit = f"--time={TIME_LIMIT_MINUTES}"
        command = ["salloc", "--no-shell", "--no-kill", limit, *shape]
        done = subprocess.run(
            command, env=cluster.environment, capture_output=True, text=True, timeout=60
        )
        granted = re.search(r"Granted job allocation (\d+)", done.stderr)
        assert granted, done.stderr
        numbers.append(granted[1])
        info = cluster.run("scontrol", "show", "job", "--oneliner", granted[1])
        for name, pattern in {
            "SLURM_JOB_ID": r"JobId=(\d+)",
            "SLURM_JOB_NODELIST": r" NodeList=(\S+)",
            "SLURM_NTASKS": r"NumTasks=(\d+)",
        }.items():
            monkeypatch.setenv(name, re.search(pattern, info)[1])
        return granted[1]

    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(CALLS)
    yield take
    for number in numbers:
        cluster.run("scancel", number)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_SECONDS} s"
        time.sleep(0.02)


def outcomes(engine: Engine, count: int) -> list[Outcome]:
    """Return the outcomes of so many calls, in the order of their tickets."""
    ended: dict[int, Outcome] = {}
    end = time.monotonic() + DEADLINE_SECONDS
    while len(ended) < count:
        assert time.monotonic() < end, f"only {ended}"
        ended.update(engine.wait(1))
    return [ended[ticket] for ticket in sorted(ended)]


def begin(engine: Engine, notes: Path, count: int) -> list[psutil.Process]:
    """Have so many workers compute for ever; return them."""
    found = [notes / f"{number}" for number in range(count)]
    for note in found:
        engine.submit("calls:stay", {"note": str(note)})
    until(lambda: all(note.exists() for note in found))
    return [psutil.Process(int(note.read_text())) for note in found]


# --- in a job ------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_keeps_the_contract_of_engines_and_other_users_out(cluster: Throwaway) -> None:
    tests = [str(CALLS / "test_engines.py"), str(CALLS / "test_strangers.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-k", "srun or stranger", *tests]

    done = subprocess.run(
        ["salloc", "--quiet", "-N2", "-n2", "--cpus-per-task=3", *command],
        env=cluster.environment | {"IN_A_JOB": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 35  # and were not left out


def test_workers_are_on_all_nodes_and_go_with_the_engine(
    job: Callable[..., str], tmp_path: Path
) -> None:
    job("-N2", "-n3")
    with closing(make_engine("srun", workers=3)) as engine:
        engine.start()
        workers = begin(engine, tmp_path, 3)

        nodes = {worker.environ()["SLURMD_NODENAME"] for worker in workers}

    assert nodes == {"n1", "n2"}
    until(lambda: not any(worker.is_running() for worker in workers))


def test_keys_are_private_good_for_the_job_and_go_with_the_engine(job: Callable[..., str]) -> None:
    job("-N2", "-n2")
    keys = Path(os.environ["HOME"]) / ".cache" / "sweep-keys"
    with closing(make_engine("srun", workers=1)) as engine:
        engine.start()
        (folder,) = keys.iterdir()

        assert {one.stat().st_mode & 0o777 for one in (keys, folder)} == {0o700}
        assert {file.stat().st_mode & 0o777 for file in folder.glob("*.pem")} == {0o600}
        certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
        left = certificate.not_valid_after_utc.timestamp() - time.time()
        assert TIME_LIMIT_MINUTES + 8 < left / 60 <= TIME_LIMIT_MINUTES + 10

    assert list(keys.iterdir()) == []


def test_the_loss_of_a_node_costs_what_it_was_at_and_the_rest_goes_on(
    job: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation, "WORD_SECONDS", 0.5)
    job("-N2", "-n2")
    with closing(make_engine("srun", workers=2)) as engine:
        engine.start()
        lost, kept = begin(engine, tmp_path, 2)

        for process in (lost.parent(), lost):  # the supervisor, too: it says nothing any more
            process.kill()

        (ticket, outcome), *_ = until_ended(engine)
        assert ticket == 1
        assert isinstance(outcome, Lost)
        assert outcome.reason.endswith("Its supervisor does not answer: the node is lost.")
        assert outcome.cause == "unknown"
        assert engine.capacity == 1
        assert kept.is_running()
        assert engine.kill(2)
        assert isinstance(outcomes(engine, 1)[0], Lost)
        engine.submit("calls:echo", {"value": "on"})
        assert outcomes(engine, 1) == [Done("on")]


def until_ended(engine: Engine) -> list[tuple[int, Outcome]]:
    ended: list[tuple[int, Outcome]] = []
    until(lambda: ended.extend(engine.wait(1)) or ended)
    return ended


def test_a_node_where_workers_cannot_start_is_named_and_the_rest_goes_on(
    job: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'sweep.engines.dask' in sys.orig_argv and os.environ['SLURMD_NODENAME'] == 'n2':\n"
        "    os.write(2, b'no room today')\n"
        "    os._exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job("-N2", "-n2")
    with closing(make_engine("srun", workers=2)) as engine, caplog.at_level(logging.WARNING):
        engine.start()
        until(lambda: engine.capacity == 1)
        engine.submit("calls:echo", {"value": "on"})

        assert outcomes(engine, 1) == [Done("on")]
        said = caplog.text

    assert re.search(
        r"Workers cannot be started on n2: Worker \d+ ended with exit code 7.*\nno room today", said
    )


@pytest.mark.parametrize(("devices", "workers"), [("GPU-a,GPU-b", 3), ("GPU-a", 2)])
def test_tasks_on_a_node_divide_its_devices(
    job: Callable[..., str],
    devices: str,
    workers: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    job("-N2", "-n3")  # two of them on one node
    with closing(make_engine("srun", workers=3, gpus=1)) as engine:
        engine.start()
        until(lambda: engine.capacity == workers)
        found = begin(engine, tmp_path, workers)

        has = [(one.environ()["SLURMD_NODENAME"], one.environ()[DEVICES]) for one in found]

    assert len(set(has)) == workers
    assert {device for _, device in has} == set(devices.split(","))


def test_it_is_told_why_srun_refuses(job: Callable[..., str]) -> None:
    job("-N2", "-n2")
    with closing(make_engine("srun", workers=2, threads=64)) as engine:
        engine.start()
        with pytest.raises(EngineError, match=r"(?s)No worker is left.*srun: error: .*requested"):
            until(lambda: engine.submit("calls:pid", {}) and engine.wait(1) is None)


def test_without_workers_it_gives_up_with_what_slurm_says(
    job: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation, "PATIENCE_SECONDS", 1.0)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\nif 'sweep.engines.dask' in sys.orig_argv:\n    time.sleep(1000)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    number = job("-N2", "-n2")
    with closing(make_engine("srun", workers=2)) as engine:
        engine.start()
        with pytest.raises(
            EngineError, match=rf"(?s)No worker was ready within 1 s\..* {number}\.0 "
        ):
            until(lambda: engine.submit("calls:pid", {}) and engine.wait(1) is None)


def test_more_workers_than_tasks_are_refused(job: Callable[..., str]) -> None:
    job("-N2", "-n2")

    with pytest.raises(EngineError, match="workers=3, and this job has 2 tasks"):
        make_engine("srun", workers=3)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_srun_ends_the_workers_and_is_told(
    job: Callable[..., str], end: signal.Signals, tmp_path: Path
) -> None:
    job("-N2", "-n2")
    with closing(make_engine("srun", workers=2)) as engine:
        engine.start()
        workers = begin(engine, tmp_path, 2)
        (srun,) = (one for one in psutil.Process().children() if one.name() == "srun")

        srun.send_signal(end)

        assert all(isinstance(outcome, Lost) for outcome in outcomes(engine, 2))
        with pytest.raises(EngineError, match="No worker is left, srun has ended"):
            until(lambda: engine.submit("calls:pid", {}) and engine.wait(1) is None)
        until(lambda: not any(worker.is_running() for worker in workers))


# --- sweeps --------------------------------------------------------------------------------


def batch(cluster: Throwaway, folder: Path, *words: str) -> int:
    """Run a command in a job of two nodes and four tasks, and return its exit code."""
    code = folder / "code"
    script = shlex.join([sys.executable, "-m", "sweep", *words])
    script += f"; echo $? > {code}.new; mv {code}.new {code}"
    command = ["sbatch", "-N2", "-n4", f"--output={folder / 'log'}", "--wrap", script]
    environment = cluster.environment | {"PYTHONPATH": str(ROOT), "HOME": str(folder)}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    until(code.exists)  # sbatch --wait would look every half a minute
    return int(code.read_text())


@pytest.mark.slow
def test_a_sweep_in_a_job_gives_the_serial_answer_value_for_value(
    cluster: Throwaway, studies: Path, tmp_path: Path
) -> None:
    study = str(studies / "everything.py")
    serial, ours = tmp_path / "serial.zarr", tmp_path / "srun.zarr"
    words = [sys.executable, "-m", "sweep", "run", study, str(serial), "--on", "serial"]
    assert subprocess.run(words, cwd=ROOT, capture_output=True).returncode == 1

    assert batch(cluster, tmp_path, "run", study, str(ours), "--on", "srun") == 1

    found, expected = (xr.open_zarr(path).load() for path in (ours, serial))
    for name in ("profile", "total", "steps", "rising", "noise", "status"):
        xr.testing.assert_identical(found[name], expected[name])
    assert set(xr.open_zarr(ours, group="tasks").slurm_job_id.values) != {""}


@pytest.mark.slow
def test_a_point_that_kills_its_worker_fails_with_its_reason_and_no_other(
    cluster: Throwaway, studies: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    words = ["run", str(studies / "perilous.py"), str(store), "deeds=leave 2 3"]

    code = batch(cluster, tmp_path, *words, "--on", "srun")

    assert code == 1, (tmp_path / "log").read_text()
    status = xr.open_zarr(store).status
    assert int(status.sel(row=2, column=3)) == 2
    assert int((status == 1).sum()) == status.size - 1
    events = xr.open_zarr(store, group="events").load()
    (error,) = events.error.values[events.kind.values == "failed"]
    assert re.search(r"ended with exit code 5, peak memory \d+ MB.\nthe mesh is inside out", error)
