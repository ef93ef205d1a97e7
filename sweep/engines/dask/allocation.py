"""A cluster of our own in a SLURM job: the scheduler in this process, workers on all its nodes.

srun starts the workers, each under a supervisor, and carries what we and the supervisors tell
each other: that needs no port of ours, and ends the supervisors when this process ends.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

from distributed import Client, SchedulerPlugin

from sweep.engines.certificates import private_folder, write_certificates
from sweep.engines.dask.engine import DaskEngine
from sweep.engines.dask.local import scheduler_at
from sweep.engines.dask.settings import read_security, settings
from sweep.engines.death import TAIL_BYTES, last_words
from sweep.engines.srun.commands import ask
from sweep.engines.srun.job import address_for_nodes, seconds_left, tasks_of_job
from sweep.engines.srun.supervisor import Told
from sweep.engines.workers import import_path, worker_environment
from sweep.errors import EngineError

PATIENCE_SECONDS = 300.0  # without any worker
WORD_SECONDS = 10.0  # for a supervisor to say how its worker ended, until it is taken for dead, too
END_SECONDS = 10.0  # for srun to end by itself
KEYS = Path(".cache/sweep-keys")  # in the home folder, which all nodes see

_log = logging.getLogger(__name__)


class AllocationEngine(DaskEngine):
    """A scheduler in this process and workers that srun starts in the SLURM job around it.

    Parameters
    ----------
    count
        Number of workers, each a task of the job.
    threads
        Kernel threads of a worker; it runs one call at a time.
    gpus
        GPUs of a worker.

    Raises
    ------
    EngineError
        If this process is in no job, or in one that has fewer tasks.
    """

    def __init__(self, count: int, threads: int, gpus: int = 0) -> None:
        if count > (tasks := tasks_of_job()):
            raise EngineError(f"workers={count}, and this job has {tasks} tasks (salloc -n).")
        super().__init__(count, PATIENCE_SECONDS)
        self.name = "srun"
        self._count, self._threads, self._gpus = count, threads, gpus
        self._srun: asyncio.subprocess.Process | None = None
        self._srun_says: IO[bytes]
        self._tasks_of: dict[str, int] = {}  # address of a worker -> number of its task
        self._without: set[int] = set()  # tasks that have no worker, and get none
        self._refusal = ""  # why the last of them has none

    @asynccontextmanager
    async def _cluster(self) -> AsyncIterator[None]:
        keys = self._resources.enter_context(private_folder(Path.home() / KEYS))
        write_certificates(keys, seconds_left())
        self._resources.enter_context(settings(with_http=False))
        security = read_security(keys)
        says = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the engine
        self._srun_says = self._resources.enter_context(says)
        scratch = self._resources.enter_context(private_folder())
        async with scheduler_at(address_for_nodes(), security, scratch) as scheduler:
            scheduler.add_plugin(_Losses(self))
            self._client = Client(
                scheduler.address, security=security, asynchronous=True, set_as_default=False
            )
            order = {
                "scheduler": scheduler.address,
                "keys": str(keys),
                "threads": self._threads,
                "gpus": self._gpus,
                "path": import_path(),
            }
            try:
                self._srun = await self._start_srun(json.dumps(order))
                self._spawn(self._listen(self._srun))
                async with self._client:
                    yield
            finally:
                await self._end_srun()

    async def _start_srun(self, order: str) -> asyncio.subprocess.Process:
        command = ["srun", "--overlap", f"--ntasks={self._count}", "--mpi=none", "--export=ALL"]
        command += ["--kill-on-bad-exit=0", "--no-kill", "--wait=0"]  # one's end is not another's
        command += ["--input=all", "--output=all", "--error=all"]
        cores = max(self._threads, int(os.environ.get("SLURM_CPUS_PER_TASK", "1")))
        if cores > 1:  # else what the job says
            command.append(f"--cpus-per-task={cores}")
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                *(sys.executable, "-P", "-m", "sweep.engines.srun.supervisor", order),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._srun_says,
                env=worker_environment(self._threads),
                start_new_session=True,  # a terminal's Ctrl-C is for the driver
            )
        except OSError as error:
            raise EngineError(f"srun cannot be started: {error}") from error

    async def _listen(self, srun: asyncio.subprocess.Process) -> None:
        """Hear what supervisors tell, until srun ends."""
        assert srun.stdout
        told = Told()
        async for line in srun.stdout:
            if news := told.take(line.decode(errors="replace")):
                self._hear(*news)
        self._fail(f"No worker is left, srun has ended. {self._refusal or self._last_words()}")

    def _hear(self, task: int, news: dict[str, Any]) -> None:
        match news:
            case {"address": address}:
                self._count_on(task, True)
                self._tasks_of[address] = task
                self._joined(address)
            case {"gone": address, "reason": reason, "cause": cause}:
                self._tasks_of.pop(address, None)
                self._left(address, reason, cause)
            case {"failed": reason}:
                self._refusal = f"Workers cannot be started on {reason}"
                _log.warning(self._refusal)
                self._count_on(task, False)

    def _count_on(self, task: int, does_work: bool) -> None:
        if does_work:
            self._without.discard(task)
        else:
            self._without.add(task)
        self.capacity = max(1, self._count - len(self._without))

    async def _can_end(self, address: str) -> bool:
        return True

    def _end(self, address: str) -> None:
        """Have a worker's supervisor kill it."""
        if self._srun and self._srun.stdin and not self._srun.stdin.is_closing():
            self._srun.stdin.write(f"{address}\n".encode())

    def _doubt(self, address: str, reason: str) -> None:
        if address in self._workers and not self._closing.is_set():
            if address in self._idle:
                self._idle.remove(address)
            self._end(address)  # if it is not gone; and we shall hear how it ended
            self._loop.call_later(WORD_SECONDS, self._miss, address, reason)

    def _miss(self, address: str, reason: str) -> None:
        """Give up a worker, and its supervisor, which has not said how it ended."""
        if address in self._workers:
            self._count_on(self._tasks_of.pop(address), False)
            self._left(address, f"{reason} Its supervisor does not answer: the node is lost.")

    async def _end_srun(self) -> None:
        if not self._srun:
            return
        assert self._srun.stdin
        self._srun.stdin.close()
        for last_word in (None, signal.SIGTERM, signal.SIGKILL):
            if last_word:
                self._srun.send_signal(last_word)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._srun.wait(), END_SECONDS)
                return

    def _last_words(self) -> str:
        """Return the last that srun, and what it started, said on stderr."""
        file = self._srun_says.fileno()
        start = max(0, os.fstat(file).st_size - TAIL_BYTES)
        return last_words(os.pread(file, TAIL_BYTES, start).decode(errors="replace"))

    def _absence(self) -> str:
        try:
            queue = ask("squeue", "--steps", f"--jobs={os.environ['SLURM_JOB_ID']}")
        except EngineError as error:
            queue = str(error)
        return (
            f"No worker was ready within {self._patience_seconds:.0f} s. squeue says:\n{queue}"
            f"srun says:\n{self._last_words()}"
        )


class _Losses(SchedulerPlugin):  # type: ignore[misc]
    """Tells the engine of workers that the scheduler has lost sight of, idle ones, too."""

    def __init__(self, engine: AllocationEngine) -> None:
        self._engine = engine

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        """Have the worker's supervisor asked."""
        self._engine._doubt(worker, f"The worker at {worker} left the cluster.")
