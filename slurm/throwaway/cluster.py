"""The throw-away SLURM itself: started, stopped, a node of it lost and brought back."""

import os
import secrets
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from slurm.throwaway.configuration import (
    INPUTS,
    Shape,
    configuration,
    environment_script,
    shape_of,
)
from slurm.throwaway.errors import CannotStart, ThrowawayError
from slurm.throwaway.folder import check_ours, check_path, locked, remove, writing
from slurm.throwaway.machine import free_ports, need_programs, who_and_where
from slurm.throwaway.processes import daemons, end, kill_at_once, of_jobs, until

SYSTEM_PROGRAMS = "/usr/sbin:/sbin"  # are not on an ordinary user's PATH
PATIENCE = 30.0  # s, for the nodes to come up; they take half a second


class Throwaway:
    """The cluster whose files lie in a folder, running or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.conf = self.folder / "slurm.conf"
        self.logs = self.folder / "log"

    @classmethod
    def start(
        cls,
        folder: Path,
        nodes: int = 2,
        cpus: int = 4,
        memory: int = 8000,
        lines: Sequence[str] = (),
    ) -> Self:
        """Start a cluster and wait until its nodes are up; one that runs is left as it is.

        Of a cluster that runs in part the rest is ended first. What it knew of jobs is kept in the
        folder, so that their numbers go on.

        Parameters
        ----------
        folder
            Where all files of the cluster lie: not there yet, or of an earlier one.
        nodes, cpus, memory
            How many nodes, and the CPUs and MB that each says it has.
        lines
            Lines of slurm.conf; they replace settings of the same name.

        Raises
        ------
        ProgramsMissing
            SLURM or munge is not installed.
        CannotStart
            A daemon did not start, or the nodes did not come up.
        ThrowawayError
            The folder cannot serve, or a cluster of another shape runs in it.
        DiskError
            The folder cannot be written.
        """
        cluster, shape = cls(folder), Shape(nodes, cpus, memory, tuple(lines))
        need_programs(cluster.environment["PATH"])
        check_ours(cluster.folder)
        check_path(cluster.folder)
        with locked(cluster.folder, make=True), writing(cluster.folder):
            if not cluster._is_up():
                cluster._end()
                try:
                    cluster._begin(shape)
                except BaseException:
                    cluster._end()
                    raise
            elif cluster.shape != shape:
                raise ThrowawayError(
                    f"{cluster.folder} runs already, with {cluster.shape}; asked for: {shape}."
                    " Stop it first."
                )
        return cluster

    def stop(self, *, purge: bool = False) -> None:
        """Cancel all jobs and end all processes of the cluster, if it runs.

        Parameters
        ----------
        purge
            Remove its files too, and the folder if nothing else is in it.

        Raises
        ------
        ThrowawayError
            The folder was not made by us.
        """
        if not self.folder.exists():  # somebody removed it; what runs can be found all the same
            self._end()
            return
        check_ours(self.folder)
        with locked(self.folder, make=False):
            self._cancel_jobs()
            self._end()
            if purge:
                remove(self.folder)

    def crash(self, node: str) -> int:
        """Let a node lose its power: all its processes are killed; return how many they were."""
        self._check_node(node)
        return len(
            kill_at_once(
                lambda: (
                    {one.pid for one in daemons(self.logs) if one.log == f"slurmd-{node}"}
                    | of_jobs(self.conf, node)
                )
            )
        )

    def revive(self, node: str) -> None:
        """Start a node again that crashed, and wait until it is up.

        Raises
        ------
        CannotStart
            It did not come up.
        """
        self._check_node(node)
        if f"slurmd-{node}" not in self._running():
            self._start_node(node)
        self._wait_for([node])

    @property
    def shape(self) -> Shape | None:
        """What the cluster was last started as."""
        return shape_of(self.conf)

    @property
    def environment(self) -> dict[str, str]:
        """Our environment as a client of the cluster has it."""
        kept = {k: v for k, v in os.environ.items() if k.partition("_")[0] not in INPUTS}
        path = f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PROGRAMS}"
        return {**kept, "PATH": path, "SLURM_CONF": str(self.conf)}

    def run(self, *command: str, cwd: Path | None = None, seconds: float = 60.0) -> str:
        """Return what a command prints; it is a client of the cluster.

        Raises
        ------
        ThrowawayError
            It failed, or took longer than `seconds`.
        """
        try:
            done = subprocess.run(
                command,
                env=self.environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ThrowawayError(f"{command[0]} did not answer within {seconds:g} s.") from error
        if done.returncode:
            raise ThrowawayError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def states(self, *jobs: str) -> dict[str, str]:
        """Return the states of jobs and array elements, as "12" or "12_0"; those that ended too."""
        listed = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %T", "-j", ",".join(jobs))
        return dict(line.split() for line in listed.splitlines())

    def _check_node(self, node: str) -> None:
        if self.shape is None:
            raise ThrowawayError(f"There is no throw-away SLURM in {self.folder}.")
        if node not in self.shape.names():
            known = ", ".join(self.shape.names())
            raise ThrowawayError(f"There is no node {node!r} in {self.folder}. Known: {known}.")

    def _running(self) -> set[str]:
        """Return which daemons run, by the names of their logs."""
        return {one.log for one in daemons(self.logs) if one.program != "slurmstepd"}

    def _is_up(self) -> bool:
        if self.shape is None:
            return False
        nodes = self.shape.names()
        wanted = {"munged", "slurmctld", *(f"slurmd-{node}" for node in nodes)}
        return wanted <= self._running() and self._has_heard_of(nodes)

    def _has_heard_of(self, nodes: Sequence[str]) -> bool:
        """Whether the controller has heard of all these nodes; it marks with * if not."""
        try:
            listed = self.run("sinfo", "-h", "-N", "-o", "%N %T", seconds=5)
        except ThrowawayError:
            return False
        states = dict(line.split() for line in listed.splitlines())
        return all(
            node in states
            and not states[node].endswith("*")
            and not states[node].startswith(("down", "unknown"))
            for node in nodes
        )

    def _wait_for(self, nodes: Sequence[str]) -> None:
        until(
            lambda: self._has_heard_of(nodes) or "slurmctld" not in self._running(),
            PATIENCE,
        )
        if not self._has_heard_of(nodes):
            raise CannotStart(
                "\n".join(
                    [
                        f"{', '.join(nodes)} did not come up.",
                        *(f"{log.name}: {last_words(log)}" for log in self.logs.glob("*.log")),
                    ]
                )
            )

    def _begin(self, shape: Shape) -> None:
        user, host, address = who_and_where()
        run = self.folder / "run"
        with free_ports(1 + shape.nodes) as ports:
            self.conf.write_text(configuration(self.folder, shape, user, host, address, ports))
            (self.folder / "env.sh").write_text(environment_script(self.conf))
            for path in (run, self.logs, self.folder / "state"):
                path.mkdir(exist_ok=True)
                path.chmod(0o755)  # whatever the umask: munged refuses where others may write
            for name in shape.names():
                (self.folder / "spool" / name).mkdir(parents=True, exist_ok=True)
                (self.folder / "tmp" / name).mkdir(parents=True, exist_ok=True)
            key = self.folder / "munge.key"
            key.touch(0o600)
            if not key.stat().st_size:
                key.write_bytes(secrets.token_bytes(128))

            self._daemon(
                "munged",
                "munged",
                f"--key-file={key}",
                f"--socket={run}/munge.sock",
                f"--pid-file={run}/munged.pid",
                f"--seed-file={run}/munge.seed",
                f"--log-file={self.logs}/munged.log",
            )
            self._daemon("slurmctld", "slurmctld", "-i", "-f", str(self.conf))  # -i: no state yet
            for name in shape.names():
                self._start_node(name)
            self._wait_for(shape.names())

    def _start_node(self, node: str) -> None:
        self._daemon(f"slurmd-{node}", "slurmd", "-f", str(self.conf), "-N", node)

    def _daemon(self, name: str, *command: str) -> None:
        """Start a daemon, which leaves the command when it is ready."""
        words = self.logs / f"{name}.start"
        with words.open("w") as file:
            done = subprocess.run(
                command,
                env=self.environment,
                cwd=self.logs,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            hint = " All must be able to go to the folder: take /tmp/slurm, say."
            raise CannotStart(
                f"{name} did not start: {last_words(words)}{hint if name == 'munged' else ''}"
            )

    def _cancel_jobs(self) -> None:
        """Let SLURM end the jobs while it can, so that none is begun again."""
        with suppress(ThrowawayError):
            if "slurmctld" in self._running():
                jobs = set(self.run("squeue", "-h", "-o", "%F", seconds=5).split())
                if jobs:
                    self.run("scancel", *jobs, seconds=10)
                    until(lambda: not self.run("squeue", "-h", seconds=5), 4.0)

    def _end(self) -> None:
        """End all processes; the nodes are killed, as one that is busy would take seconds."""
        kill_at_once(
            lambda: (
                {one.pid for one in daemons(self.logs) if one.program in ("slurmd", "slurmstepd")}
                | of_jobs(self.conf)
            )
        )
        for program in ("slurmctld", "munged"):
            end([one.pid for one in daemons(self.logs) if one.program == program], 5.0)


def last_words(log: Path, lines: int = 3) -> str:
    """Return the end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
