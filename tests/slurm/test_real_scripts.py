"""The scripts under a real sbatch: what it makes of their directives, and what reaches Python."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slurm.job import ARRAY, DASK, MPI, Job
from slurm.script import Submission, batch_script, finalizer_script
from slurm.site import Site

pytestmark = pytest.mark.slurm

JOB = Job(
    via=ARRAY,
    workers=2,
    elements=10,
    tasks=1,
    cores=2,
    memory_mb=200,
    gpus=0,
    minutes=5,
    max_running=None,
    max_array_size=1001,
    core_hours=1.0,
    most_core_hours=2.0,
    price="",
)

# In the place of Python: notes what it was called with, and waits for a signal where it is asked.
PYTHON = """\
import json, os, signal, sys
keys = ("SLURM_JOB_CPUS_PER_NODE", "SLURM_PROCID", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK")
noted = {"argv": sys.argv[1:], "cwd": os.getcwd(), "pid": os.getpid()}
noted |= {key: os.environ.get(key) for key in keys}
here = os.path.dirname(os.path.abspath(__file__))
def note(**more):
    with open(os.path.join(here, f"noted-{os.getpid()}.tmp"), "w") as file:
        json.dump(noted | more, file)
    os.rename(file.name, file.name.replace(".tmp", ".json"))
if "status" in sys.argv:
    sys.exit(3)
if "WAIT" not in os.environ:
    note()
    sys.exit()
def heard(number, frame):
    note(signal=signal.Signals(number).name)
    os._exit(137)
signal.signal(signal.SIGUSR1, heard)
note()
while True:
    signal.pause()
"""


class Bench:
    """Folders with an awkward name, and a Python that notes what it is called with."""

    def __init__(self, folder: Path, environment: dict[str, str], name: str) -> None:
        self.folder = folder
        self.environment = {**environment}
        self.where = folder / name
        self.store = self.where / f"{name}.zarr"
        logs = Path(f"logs of {name}")
        (self.where / logs).mkdir(parents=True)
        python = folder / "python"
        python.write_text(f"#!{sys.executable}\n{PYTHON}")
        python.chmod(0o755)
        self.submission = Submission(
            Path(self.store.name), str(python), 3, "a-0123abcd", logs, self.where
        )
        self.jobs: list[str] = []

    def submit(self, script: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        file = self.folder / "script.sh"
        file.write_bytes(os.fsencode(script))
        job = self.ask("sbatch", "--parsable", *options, str(file), *arguments).strip()
        self.jobs.append(job)
        return job

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout

    def noted(self) -> list[dict]:
        found = sorted(self.folder.glob("noted-*.json"))
        return [json.loads(file.read_text()) for file in found]

    def log(self, name: str) -> str:
        """Return what a job left in its log, which a node may write a little later."""
        file = self.where / self.submission.logs / name
        wait_for(file.exists)
        return file.read_text()


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def bench(cluster, tmp_path) -> Iterator[Callable[[str], Bench]]:
    made = []

    def bench(name: str = "plain") -> Bench:
        made.append(Bench(tmp_path, cluster.environment, name))
        return made[-1]

    yield bench
    for one in made:
        for job in one.jobs:
            subprocess.run(["scancel", "--full", "--signal=KILL", job], env=one.environment)
            subprocess.run(["scancel", job], env=one.environment)


@pytest.mark.parametrize(
    "name",
    [
        "with  space",
        'quo\'te "double"',
        "$(touch canary) `touch canary` $HOME",
        "; touch canary #",
        "per%cent %j %A %%",
        "-dash",
        "häß 日本 *? [a] {b,c} ~ ! & | < > ( )",
    ],
)
def test_sbatch_takes_folders_as_they_are_called(bench, name):
    bench = bench(name)
    comment = f"a  b 'c' \"d\" \\ # {name}"
    site = Site(directives=[f"--comment={comment}"])

    script = batch_script(JOB, site, bench.submission)
    job = bench.submit(script, "10", "20", options=("--wait", "--array=3-3%1"))

    assert bench.log(f"a-0123abcd-{job}_3.log") == ""
    (noted,) = bench.noted()
    assert noted["cwd"] == str(bench.where)
    share = ["--share", "13/20", "--workers", "2"]
    work = ["-P", "-m", "sweep", "work", str(bench.store), "--run", "3", *share, "--until"]
    assert noted["argv"][:-1] == work
    assert abs(int(noted["argv"][-1]) - time.time() - 300) < 120
    shown = bench.ask("scontrol", "show", "job", f"{job}_3")
    assert f"Comment={comment}" in shown
    assert "TimeLimit=00:05:00" in shown
    assert "Requeue=1" in shown
    assert not (bench.where / "canary").exists()


def test_a_store_whose_name_has_ends_of_lines_runs_too(bench):
    bench = bench()
    store = Path("a\r\n#SBATCH --exclusive\nb.zarr")

    script = batch_script(JOB, Site(), replace(bench.submission, store=store))
    bench.submit(script, "0", "1", options=("--wait", "--array=0"))

    (noted,) = bench.noted()
    assert noted["argv"][4] == str(bench.where / store)


def test_the_largest_index_of_an_array_is_below_its_limit(bench):
    bench = bench()
    limit = Site().max_array_size  # the default of SLURM
    (first, count), *_ = replace(JOB, elements=2000).arrays
    script = batch_script(JOB, Site(), bench.submission)

    assert (first, count) == (0, limit)
    bench.submit(script, "0", "2000", options=("--hold", f"--array=0-{count - 1}%1"))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        bench.submit(script, "0", "2000", options=("--hold", f"--array=0-{count}"))
    assert "Invalid job array specification" in refused.value.stderr


def test_a_dask_job_has_its_tasks_and_their_cores(bench):
    bench = bench()
    job = replace(JOB, via=DASK, tasks=3)

    number = bench.submit(batch_script(job, Site(), bench.submission), options=("--wait",))

    (noted,) = bench.noted()
    assert noted["argv"][5:9] == ["--run", "3", "--on", "srun"]
    assert noted["SRUN_CPUS_PER_TASK"] == "2"
    shown = bench.ask("scontrol", "show", "job", number)
    assert "NumTasks=3" in shown
    assert "MinMemoryCPU=100M" in shown


def test_a_finalizer_waits_for_the_array_and_runs(bench):
    bench = bench()
    array = bench.submit(
        batch_script(JOB, Site(), bench.submission), "0", "2", options=("--array=0-1",)
    )

    bench.submit(
        finalizer_script(Site(memory_per_node=500), bench.submission),
        "7",
        options=("--wait", f"--dependency=afterany:{array}"),
    )

    commands = [noted["argv"][2:4] for noted in bench.noted()]
    assert sorted(commands) == [["sweep", "finish"], ["sweep", "work"], ["sweep", "work"]]
    (finish,) = (n["argv"] for n in bench.noted() if n["argv"][3] == "finish")
    assert finish[4:] == [str(bench.store), "--run", "3", "--rounds", "7"]


def test_the_signal_before_the_end_reaches_the_python_of_an_element(bench):
    bench = bench()
    bench.environment["WAIT"] = "1"
    script = batch_script(JOB, Site(), bench.submission)
    job = bench.submit(script, "0", "1", options=("--array=0",))
    wait_for(bench.noted)

    # What --signal=B:USR1@90 of the script sends, and before its time is near.
    assert "#SBATCH --signal=B:USR1@90\n" in script
    bench.ask("scancel", "--batch", "--signal=USR1", f"{job}_0")

    wait_for(lambda: "signal" in bench.noted()[0])
    assert bench.noted()[0]["signal"] == "SIGUSR1"


def test_the_signal_before_the_end_reaches_every_rank_and_they_are_not_started_again(bench):
    bench = bench()
    bench.environment["WAIT"] = "1"
    script = batch_script(replace(JOB, via=MPI, tasks=3), Site(), bench.submission)
    job = bench.submit(script)
    wait_for(lambda: len(bench.noted()) == 3)

    bench.ask("scancel", "--batch", "--signal=USR1", job)

    wait_for(lambda: "JobState=RUNNING" not in bench.ask("scontrol", "show", "job", job))
    assert "ExitCode=3:0" in bench.ask("scontrol", "show", "job", job)
    noted = bench.noted()
    assert sorted(rank["SLURM_PROCID"] for rank in noted) == ["0", "1", "2"]
    assert {rank["SLURM_CPUS_PER_TASK"] for rank in noted} == {"2"}
    assert noted[0]["argv"][:3] == ["-P", "-m", "sweep"]
    assert "before the sweep was complete" not in bench.log(f"a-0123abcd-{job}.log")
