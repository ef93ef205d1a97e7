"""Worker processes: fresh interpreters that run one module and end with their driver.

Not multiprocessing, whose spawn imports the main script again: that needs a ``__main__`` guard
in every script and fails in a notebook. A worker finds modules where the driver finds them.
Driver and worker talk in lines over two pipes of their own. Stdout and stderr belong to the code
that is being run, and go to a file without a name: the worker takes from it what each point
printed, and the driver, when the worker has died, its last words.

A third pipe, the lifeline, carries nothing. When the driver ends, however it ends, that pipe
closes and the worker is killed, with whatever it had started.
"""

import fcntl
import io
import json
import os
import select
import signal
import site
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sweep.engines import Cause
from sweep.engines.death import TAIL_BYTES, WorkerDied, death_of
from sweep.engines.devices import VARIABLE, Share
from sweep.engines.memory import guard
from sweep.watch import Process, as_worker

THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)
# So begin the variables by which a launcher tells a rank of MPI who it is. A worker is none: a
# model that imports mpi4py would take its supervisor's place, on a connection that it lacks.
LAUNCHER = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "MPI_LOCAL", "HYDRA_", "HYDI_")
MOST_STARTS = 3  # deaths in a row, each before a first word, until workers are given up
GOODBYE_SECONDS = 1.0  # for what a worker does at its exit


class WorkerProcess:
    """The driver's end of one worker process.

    One thread at a time talks to the worker; any thread may `kill` it.

    Parameters
    ----------
    module
        What the worker runs with ``python -m``; it talks to us through a `Driver`.
    threads
        Kernel threads.
    memory_bytes
        What it may take; if it takes more, it is ended. None: all there is.
    devices
        Its GPUs, by name, which no other worker has meanwhile; none: as in this process.

    Raises
    ------
    WorkerDied
        If the system has no room for a process.
    """

    def __init__(
        self,
        module: str,
        threads: int,
        memory_bytes: int | None = None,
        devices: Share = (),
    ) -> None:
        self.memory_bytes = memory_bytes
        self.devices = devices
        self.ready = False  # it has said its first word
        self.killed = False  # by us
        self._killed_for: Cause | None = None
        self._death: WorkerDied | None = None
        self._lock = threading.Lock()  # a pid that was reaped is not ours to kill
        request_end, requests = os.pipe()
        replies, reply_end = os.pipe()
        lifeline_end, lifeline = os.pipe()
        self._requests = io.FileIO(requests, "w")
        self._replies = io.BufferedReader(io.FileIO(replies))
        self._lifeline = io.FileIO(lifeline, "w")
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the pipes
        fcntl.fcntl(self._printed, fcntl.F_SETFL, os.O_APPEND | os.O_RDWR)  # it is cut now and then
        theirs = (request_end, reply_end, lifeline_end)
        command = [sys.executable, "-P", "-X", "faulthandler", "-m", module]
        try:
            self._process = subprocess.Popen(
                [*command, *map(str, theirs), json.dumps(import_path())],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                env=worker_environment(threads, devices),
                pass_fds=theirs,
                start_new_session=True,  # a terminal's Ctrl-C is for the driver
            )
        except OSError as error:
            self._close()
            raise WorkerDied(f"No process could be started: {error}") from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        guard(self)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def replies(self) -> int:
        """The file descriptor that is readable when `receive` has something to tell."""
        return self._replies.fileno()

    def send(self, line: str) -> None:
        """Send a line of any length.

        Raises
        ------
        WorkerDied
            If the worker is gone.
        """
        left = memoryview(line.encode() + b"\n")
        try:
            while left:
                left = left[self._requests.write(left) :]
        except BrokenPipeError:
            raise self.death() from None

    def receive(self) -> str:
        """Wait for the worker's next line, and return it.

        Raises
        ------
        WorkerDied
            If the worker is gone.
        """
        line = self._replies.readline()
        if not line.endswith(b"\n"):
            raise self.death()
        self.ready = True
        return line.decode().rstrip("\n")

    def is_gone(self, seconds: float = 0.0) -> bool:
        """Return whether the worker has closed its end of the pipes, or does in some seconds."""
        if self._death:
            return True
        pipe = select.poll()
        pipe.register(self._replies, 0)  # a pipe's end is told without asking
        return bool(pipe.poll(seconds * 1000))

    def printed(self) -> str:
        """Return the end of what the worker printed at its start, or since its last point."""
        file = self._printed.fileno()  # read at an offset: the worker writes where it points
        start = max(0, os.fstat(file).st_size - TAIL_BYTES)
        return os.pread(file, TAIL_BYTES, start).decode(errors="replace").strip()

    def kill(self, cause: Cause | None = None) -> None:
        """Kill the worker and the processes that it started."""
        with self._lock:
            self.killed = True
            if self._death is None:
                self._killed_for = self._killed_for or cause
                self._kill_group()

    def end_for_memory(self) -> None:
        """Kill the worker, since it takes more than its share of the memory."""
        self.kill("memory")

    def say_goodbye(self) -> None:
        """Let the worker end by itself, for a second; then kill it."""
        if self._death is None:
            self._requests.close()
            self.is_gone(GOODBYE_SECONDS)
            self.death()

    def death(self) -> WorkerDied:
        """Make an end of the worker if it has not ended, and return how it did."""
        with self._lock:
            if self._death is None:
                self._kill_group()
                code, peak = self._reap()
                self._death = death_of(self.pid, code, peak, self.printed(), self._killed_for)
                self._close()
        return self._death

    def _reap(self) -> tuple[int, int]:
        """Wait for the end; return the exit code, or minus the signal, and the peak memory."""
        try:
            _, status, used = os.wait4(self.pid, 0)
        except ChildProcessError:  # whose program ignores SIGCHLD
            return self._process.wait(), 0
        self._process.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024
        return self._process.returncode, used.ru_maxrss * unit

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nothing but its exit code is left
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close(self) -> None:
        for file in (self._requests, self._replies, self._lifeline, self._printed):
            file.close()


def worker_environment(threads: int, devices: Share = ()) -> dict[str, str]:
    """Return the environment of a worker: this one's, its kernel threads, its GPUs, our package."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    environment = ours | dict.fromkeys(THREAD_VARIABLES, str(threads))
    if devices:
        environment[VARIABLE] = ",".join(devices)
    folder = str(Path(__file__).parents[2])
    if folder not in (*site.getsitepackages(), site.getusersitepackages()):
        elsewhere = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{folder}{os.pathsep}{elsewhere}" if elsewhere else folder
    return environment


def import_path() -> list[str]:
    """Return ``sys.path`` as another process can use it: in a notebook it begins with ''."""
    return [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 - '' is this folder


class Driver:
    """The worker's end.

    Parameters
    ----------
    descriptors
        What `WorkerProcess` put on the command line.
    """

    def __init__(self, descriptors: Sequence[str]) -> None:
        *numbers, import_path = descriptors
        requests, replies, lifeline = map(int, numbers)
        sys.path[:] = json.loads(import_path)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # srun sends the driver's to all processes
        _end_with(lifeline)
        _keep_from_children(requests, replies, lifeline)
        self.requests = os.fdopen(requests, encoding="ascii")
        self._replies = replies
        as_worker(Process(expendable=True, output=os.dup(1)))

    def reply(self, line: str) -> None:
        """Send a line."""
        left = memoryview(line.encode() + b"\n")
        try:
            while left:
                left = left[os.write(self._replies, left) :]
        except BrokenPipeError:  # the driver is gone, this process is about to be
            os._exit(1)


def _end_with(lifeline: int) -> None:
    """Have this process group killed when the other end of the lifeline closes.

    Linux can do that by itself, whoever holds the GIL here, and without a thread: a process
    that has threads had better not fork, and models do. Elsewhere a thread watches.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        with suppress(BlockingIOError):  # that it is open still
            _die_with(lifeline)
    else:
        threading.Thread(target=_die_with, args=(lifeline,), name="lifeline", daemon=True).start()


def _die_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def _keep_from_children(*descriptors: int) -> None:
    """Keep what a model forks or starts from holding our pipes open when we are gone."""

    def replace() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in descriptors:
            os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)

    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    os.register_at_fork(after_in_child=replace)
