"""A desk on the login node of the throw-away SLURM: commands are typed, stores are watched."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import xarray as xr

from slurm.throwaway import Throwaway
from slurm.throwaway.processes import of_jobs
from sweep.store import Store, exists

STUDIES = Path(__file__).parents[1] / "studies"
ERRANDS = STUDIES / "errands.py"
ALL_DONE, SOME_FAILED, MISTAKE, INCOMPLETE = 0, 1, 2, 3
PATIENCE = 180.0  # s; what is waited for takes some seconds
SITE = 'partition = "main"\nlauncher = "srun --mpi=pmi2"\n'

Answer = TypeVar("Answer")


class Desk:
    """Types commands in a folder, as a client of a cluster.

    Points of `ERRANDS` leave a line in the file `notes` when they begin, and may be held.
    """

    def __init__(self, cluster: Throwaway, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.notes, self.held = folder / "notes", folder / "held"
        self.variables: dict[str, str] = {}
        self.crashed: set[str] = set()
        self.started: list[subprocess.Popen[str]] = []
        self.write_site()

    def write_site(self, more: str = "") -> None:
        """Write the site file anew."""
        (self.folder / "site.toml").write_text(SITE + more)

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-P", "-m", "sweep", *map(str, words)]

    @property
    def environment(self) -> dict[str, str]:
        return {**self.cluster.environment, "NOTES": str(self.notes), **self.variables}

    def sweep(self, *words: object, code: int = ALL_DONE, folder: Path | None = None) -> str:
        """Type a command, see that it ends with this code, and return all that it said."""
        done = subprocess.run(
            self.command(*words),
            cwd=folder or self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout

    def start(self, who: str, *words: object) -> "subprocess.Popen[str]":
        """Type a command that is not waited for; its points are noted as those of `who`."""
        log = self.folder / f"{who}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                self.command(*words),
                cwd=self.folder,
                env=self.environment | {"WHO": who},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.append(process)
        return process

    def submit(self, store: str, *words: object, study: Path = ERRANDS) -> list[str]:
        """Submit a sweep and return the numbers of its jobs: arrays, then two finalizers."""
        self.sweep("submit", study, store, *words, "--site", "site.toml")
        newest = self.store(store)
        jobs: list[str] = newest.read_run(max(newest.run_files()))["jobs"]
        return jobs

    def status(self, store: str) -> str:
        """Return what is said of a sweep that is not complete."""
        return self.sweep("status", store, code=INCOMPLETE)

    def store(self, name: str) -> Store:
        return Store(self.folder / name)

    def points(self, name: str) -> dict[str, int]:
        """Return how many points are in each state; none if there is no store yet."""
        if not exists(self.folder / name):
            return {}
        return {state: n for state, n in self.store(name).count_points().items() if n}

    def is_complete(self, name: str) -> bool:
        return self.points(name).keys() <= {"done", "failed"}

    def queue(self) -> dict[str, str]:
        """Return the states of jobs and elements that are queued or run."""
        lines = self.cluster.run("squeue", "-h", "-r", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def is_quiet(self) -> bool:
        return not self.queue()

    def wait(self, condition: Callable[[], Answer], seconds: float = PATIENCE) -> Answer:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not (answer := condition()):
            assert time.monotonic() < end, (
                f"not within {seconds:.0f} s; in the queue: {self.queue()}"
            )
            time.sleep(0.2)
        return answer

    def wait_for_end(self, name: str) -> None:
        """Wait until the first run of a sweep is complete, and no job is left."""
        self.wait(self.is_quiet)
        assert self.runs(name) == {1: "complete"}

    def crash(self, node: str) -> None:
        """Let a node lose its power, and have SLURM notice at once."""
        self.crashed.add(node)
        self.cluster.crash(node)
        self.cluster.run("scontrol", "update", f"node={node}", "state=down", "reason=crash")

    def revive(self) -> None:
        """Bring crashed nodes back."""
        for node in self.crashed:
            self.cluster.revive(node)
        self.crashed.clear()

    def hurry(self) -> None:
        """Have jobs that wait begin now: those that were requeued would do so in two minutes."""
        for job, state in self.queue().items():
            if state == "PENDING":
                self.cluster.run("scontrol", "update", f"job={job}", "starttime=now")

    def begun(self) -> list[tuple[tuple[int, int], str]]:
        """Return each point that has begun, and the job, or whoever, that it began in."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        words = (line.split() for line in lines)
        return [((int(street), int(house)), who) for street, house, who in words]

    def times_begun(self) -> Counter[tuple[int, int]]:
        """Return how often each point has begun."""
        return Counter(point for point, _ in self.begun())

    def repeated(self) -> int:
        """Return how often points have begun beyond once each."""
        return len(self.begun()) - len(self.times_begun())

    def hold(self, street: int) -> None:
        """Have points of this street and later ones wait when they have begun."""
        self.held.write_text(str(street))

    def release(self) -> None:
        """Let all points go on."""
        self.held.unlink()

    def wait_at(self, street: int, count: int) -> list[str]:
        """Wait until so many points of this street or later have begun; return who is at them."""
        self.wait(lambda: sum(point[0] >= street for point, _ in self.begun()) >= count)
        return [who for point, who in self.begun() if point[0] >= street]

    def runs(self, name: str) -> dict[int, str]:
        """Return the states of a sweep's runs."""
        store = self.store(name)
        return {number: store.read_run(number)["state"] for number in store.run_files()}

    def processes(self) -> set[int]:
        """Return the processes of jobs."""
        return of_jobs(self.cluster.conf)

    def tidy(self) -> None:
        """End all jobs, bring all nodes back, and see that nothing is left running."""
        for process in self.started:
            process.kill()
            process.wait()
        self.revive()
        if jobs := {job.partition("_")[0] for job in self.queue()}:
            self.cluster.run("scancel", *jobs)
        self.wait(self.is_quiet)
        self.wait(lambda: not self.processes())


def expected(streets: int, houses: int) -> np.ndarray:
    """Return what `ERRANDS` gives, where no point fails."""
    return np.add.outer(np.arange(streets), np.arange(houses) / 10)


def check_complete(desk: Desk, name: str, streets: int, houses: int) -> xr.Dataset:
    """See that a sweep of `ERRANDS` is done and its values right; return it."""
    found = xr.open_zarr(desk.folder / name).load()
    assert (found.status == 1).all(), desk.points(name)
    np.testing.assert_array_equal(found.errand, expected(streets, houses))
    return found
