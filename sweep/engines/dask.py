"""Dask: a cluster of our own on this machine, or one that runs already; TLS always.

Dask is the courier. Each call is pinned to one worker that has nothing else to do, so a worker
runs one call at a time, its death loses one call and no innocent one, and what waits, waits
here and not in a scheduler that may die.

Run as a module this is a worker of the local cluster. No nanny watches it: the driver does,
and the worker ends with the driver.
"""

import asyncio
import importlib.util
import json
import logging
import sys
import threading
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import dask.config
from distributed import Client, KilledWorker, Scheduler, Security, Worker

from sweep.engines import Arguments, Lost, Outcome
from sweep.engines.certificates import private_folder, write_certificates
from sweep.engines.messages import answer, call_message, read_answer
from sweep.engines.workers import MOST_STARTS, Driver, WorkerDied, WorkerProcess
from sweep.errors import EngineError, EngineLost

LOOPBACK = "127.0.0.1"
LOCAL_SECONDS = 30 * 24 * 3600.0  # that the certificates of a local cluster are good for
LOCAL_PATIENCE_SECONDS = 60.0  # without any worker
REMOTE_PATIENCE_SECONDS = 600.0
CONNECT_SECONDS = 15.0
LOOK_SECONDS = 1.0  # between two looks at who is in a remote cluster

# Over distributed's own defaults; a user's configuration files do not change a run.
SETTINGS = {
    "scheduler": {
        "allowed-failures": 0,  # who was lost is told at once; trying again is run.py's
        "worker-ttl": None,  # a kernel may hold the GIL, and heartbeats, for hours
    },
    "worker": {
        "memory": {"target": False, "spill": False, "pause": False, "terminate": False},
        "profile": {"enabled": False},
        "http": {"routes": []},
    },
    "comm": {"require-encryption": True},
    "admin": {"large-graph-warning-threshold": "1 GiB", "low-level-log-length": 10},
    "diagnostics": {"nvml": False},
}


class DaskEngine(ABC):
    """What both kinds of cluster have in common: who is idle, which call is where.

    Everything happens on one event loop in a thread of its own; `submit` and `kill` are passed
    to it, and outcomes come back through a queue.

    Parameters
    ----------
    capacity
        Number of workers.
    patience_seconds
        How long there may be no worker at all.
    """

    def __init__(self, capacity: int, patience_seconds: float) -> None:
        self.name = "dask"
        self.capacity = capacity
        self._patience_seconds = patience_seconds
        self._tickets = 0
        self._ended: SimpleQueue[tuple[int, Outcome] | None] = SimpleQueue()
        self._failure = ""
        self._thread: threading.Thread | None = None
        self._resources = ExitStack()
        self._loop: asyncio.AbstractEventLoop
        self._closing = asyncio.Event()
        # Of the loop's thread alone:
        self._client: Client
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: deque[tuple[int, str]] = deque()
        self._workers: set[str] = set()
        self._idle: deque[str] = deque()
        self._running: dict[str, tuple[int, asyncio.Task[Any]]] = {}
        self._patience: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Connect to the cluster; workers may still be on their way.

        Raises
        ------
        EngineError
            If that cannot be.
        """
        opened: Future[None] = Future()
        self._resources.enter_context(_quiet())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, args=(opened,), name="dask", daemon=True)
        self._thread.start()
        try:
            opened.result()
        except BaseException:  # Ctrl-C, too
            self.close()
            raise

    def submit(self, function: str, arguments: Arguments) -> int:
        """Queue a call."""
        if self._failure:
            raise EngineLost(self._failure)
        message = call_message(function, **arguments)
        self._tickets += 1
        self._loop.call_soon_threadsafe(self._add, self._tickets, message)
        return self._tickets

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Return what has ended, waiting up to `timeout` seconds for the first."""
        if self._failure and self._ended.empty():
            raise EngineLost(self._failure)
        try:
            ended = [self._ended.get(timeout=timeout)]
        except Empty:
            return []
        while not self._ended.empty():  # nobody else takes from it
            ended.append(self._ended.get())
        return [one for one in ended if one]

    def kill(self, ticket: int) -> bool:
        """End the worker that runs a call, or take back a call that no worker has yet."""
        return asyncio.run_coroutine_threadsafe(self._kill(ticket), self._loop).result()

    def close(self) -> None:
        """End our workers, dropping what they are at; leave a remote cluster."""
        if self._thread:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
            self._thread = None
        self._resources.close()

    # --- on the loop ---------------------------------------------------------------------

    def _live(self, opened: "Future[None]") -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve(opened))
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)

    async def _serve(self, opened: "Future[None]") -> None:
        async with self._cluster():
            self._mind_absence()
            opened.set_result(None)
            await self._closing.wait()
            for task in self._tasks:
                task.cancel()

    @abstractmethod
    def _cluster(self) -> AbstractAsyncContextManager[None]:
        """Return what connects our client on entry, and ends what is ours on exit."""

    @abstractmethod
    async def _can_end(self, address: str) -> bool:
        """Tell whether a worker can be killed."""

    @abstractmethod
    def _end(self, address: str) -> None:
        """Have a worker killed, whatever it is at."""

    @abstractmethod
    def _doubt(self, address: str, reason: str) -> None:
        """Take note that Dask gave up the call of a worker."""

    @abstractmethod
    def _absence(self) -> str:
        """Return what to say when there has been no worker for too long."""

    def _add(self, ticket: int, message: str) -> None:
        if self._failure:
            self._ended.put((ticket, Lost(self._failure)))
        else:
            self._waiting.append((ticket, message))
            self._dispatch()

    def _dispatch(self) -> None:
        while self._waiting and self._idle:
            address = self._idle.popleft()
            ticket, message = self._waiting.popleft()
            self._running[address] = ticket, self._spawn(self._carry(address, ticket, message))

    async def _carry(self, address: str, ticket: int, message: str) -> None:
        """Have one call run by one worker."""
        future = self._client.submit(
            answer_here,
            message,
            key=f"call-{uuid.uuid4().hex}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
        )
        try:
            line = await future
        except (KilledWorker, CancelledError) as error:
            self._doubt(address, str(error))
            return
        finally:
            future.release()
        del self._running[address]
        self._ended.put((ticket, read_answer(line)))
        self._idle.append(address)
        self._dispatch()

    async def _kill(self, ticket: int) -> bool:
        for waiting in self._waiting:
            if waiting[0] == ticket:
                self._waiting.remove(waiting)
                self._ended.put((ticket, Lost("It was taken back before a worker had it.")))
                return True
        address = self._address_of(ticket)
        if not address or not await self._can_end(address) or not self._address_of(ticket):
            return False
        self._end(address)
        self._left(address, f"The worker at {address} was killed on demand.")
        return True

    def _address_of(self, ticket: int) -> str:
        running = (address for address, (its, _) in self._running.items() if its == ticket)
        return next(running, "")

    def _joined(self, address: str) -> None:
        self._workers.add(address)
        self._idle.append(address)
        self._mind_absence()
        self._dispatch()

    def _left(self, address: str, reason: str) -> None:
        self._workers.discard(address)
        self._mind_absence()
        if address in self._idle:
            self._idle.remove(address)
        if address in self._running:
            ticket, task = self._running.pop(address)
            task.cancel()
            self._ended.put((ticket, Lost(reason)))

    def _mind_absence(self) -> None:
        if self._workers and self._patience:
            self._patience.cancel()
            self._patience = None
        elif not self._workers and not self._patience:
            self._patience = self._loop.call_later(
                self._patience_seconds, lambda: self._fail(self._absence())
            )

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    def _finish(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or not (error := task.exception()):
            return
        if isinstance(error, EngineError):
            self._fail(str(error))
        else:
            self._fail(
                f"Dask carries no calls: {error!r}, from {error.__cause__!r}. Do the scheduler and "
                "its workers have the packages that this process has?"
            )

    def _fail(self, reason: str) -> None:
        """Lose everything that is under way, and take no more."""
        self._failure = self._failure or reason
        for ticket, task in self._running.values():
            task.cancel()
            self._ended.put((ticket, Lost(reason)))
        for ticket, _ in self._waiting:
            self._ended.put((ticket, Lost(reason)))
        self._running.clear()
        self._waiting.clear()
        self._ended.put(None)  # whoever waits is to hear of it


class LocalDaskEngine(DaskEngine):
    """A scheduler in this process and workers in others, on the loopback interface.

    Parameters
    ----------
    count
        Number of workers.
    threads
        Kernel threads of a worker; it runs one call at a time.
    dashboard
        Whether to serve Dask's dashboard, on the loopback interface: who is logged in on this
        machine can read it. `dashboard_link` says where.
    """

    def __init__(self, count: int, threads: int, *, dashboard: bool = False) -> None:
        if dashboard and importlib.util.find_spec("bokeh") is None:
            raise EngineError("Dask's dashboard needs bokeh: pip install bokeh")
        super().__init__(count, LOCAL_PATIENCE_SECONDS)
        self._threads = threads
        self._has_dashboard = dashboard
        self.dashboard_link = ""
        self._greeting = ""  # what a worker has to know
        self._processes: dict[WorkerProcess, str] = {}  # to the address; none before it is ready
        self._failed_starts = 0

    @asynccontextmanager
    async def _cluster(self) -> AsyncIterator[None]:
        folder = self._resources.enter_context(private_folder())
        write_certificates(folder, LOCAL_SECONDS)
        self._resources.enter_context(_settings(with_http=self._has_dashboard))
        security = read_security(folder)
        async with Scheduler(
            host=LOOPBACK,
            protocol="tls",
            security=security,
            extensions={},  # no stealing, and no spans, which remember every call for ever
            dashboard=self._has_dashboard,
            dashboard_address=f"{LOOPBACK}:0",
        ) as scheduler:
            if self._has_dashboard:
                self.dashboard_link = f"http://{LOOPBACK}:{scheduler.http_server.port}/status"
            else:
                scheduler.http_server.stop()
            self._greeting = json.dumps({"scheduler": scheduler.address, "folder": str(folder)})
            self._client = Client(
                scheduler.address, security=security, asynchronous=True, set_as_default=False
            )
            try:
                for _ in range(self.capacity):
                    self._start_worker()
                async with self._client:
                    yield
            finally:
                await self._end_workers()

    def _start_worker(self) -> None:
        try:
            process = WorkerProcess("sweep.engines.dask", self._threads)
            process.send(self._greeting)
        except WorkerDied as death:
            self._retry(death)
        else:
            self._processes[process] = ""
            self._loop.add_reader(process.replies, self._hear, process)

    def _hear(self, process: WorkerProcess) -> None:
        """Learn that a worker is ready, or is gone: it says nothing else."""
        self._loop.remove_reader(process.replies)
        try:
            address = process.receive()
        except WorkerDied as death:
            address = self._processes.pop(process)
            if address:
                self._left(address, str(death))
                self._start_worker()
            else:
                self._retry(death)
        else:
            self._failed_starts = 0
            self._processes[process] = address
            self._loop.add_reader(process.replies, self._hear, process)
            self._joined(address)

    def _retry(self, death: WorkerDied) -> None:
        self._failed_starts += 1
        if self._failed_starts < MOST_STARTS:
            self._start_worker()
        else:
            self._fail(f"Workers cannot be started: {death}")

    async def _can_end(self, address: str) -> bool:
        return True

    def _end(self, address: str) -> None:
        next(one for one, its in self._processes.items() if its == address).kill()

    def _doubt(self, address: str, reason: str) -> None:
        self._end(address)  # if it is not gone; and we shall hear how it ended

    async def _end_workers(self) -> None:
        for process, address in self._processes.items():
            self._loop.remove_reader(process.replies)
            if address not in self._idle:
                process.kill()
        await asyncio.gather(*(asyncio.to_thread(one.say_goodbye) for one in self._processes))

    def _absence(self) -> str:
        words = "\n".join(process.printed() for process in self._processes)
        return f"No worker was ready within {self._patience_seconds:.0f} s. {words}"


class RemoteDaskEngine(DaskEngine):
    """The workers of a scheduler that runs already; it is left running.

    Its workers have one thread each, import this package, and are watched by nannies.

    Parameters
    ----------
    address
        ``tls://host:port``.
    tls_dir
        Folder with the ca.pem, cert.pem and key.pem that the scheduler was started with.
    """

    def __init__(self, address: str, tls_dir: Path) -> None:
        super().__init__(1, REMOTE_PATIENCE_SECONDS)
        self._address = address
        self._tls_dir = tls_dir
        self._doomed: set[str] = set()  # killed, but still in the cluster's list

    @asynccontextmanager
    async def _cluster(self) -> AsyncIterator[None]:
        self._resources.enter_context(_settings(with_http=False))
        security = read_security(self._tls_dir)
        try:
            self._client = await Client(
                self._address,
                security=security,
                asynchronous=True,
                set_as_default=False,
                timeout=CONNECT_SECONDS,
            )
        except OSError as error:
            raise EngineError(
                f"No Dask scheduler at {self._address} accepts us: {error} Is it running, with "
                f"--protocol tls and the certificates in {self._tls_dir}?"
            ) from error
        async with self._client:
            await self._look()
            self._spawn(self._keep_looking())
            yield

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except OSError:
                self._lose_scheduler()
                return

    def _lose_scheduler(self) -> None:
        self._fail(
            f"The Dask scheduler at {self._address} is gone. What is finished is kept; resume when "
            "there is a scheduler again."
        )

    async def _look(self) -> None:
        """Compare the workers that we know with those of the cluster."""
        threads = await self._client.nthreads()
        for address, count in threads.items():
            if count != 1:
                raise EngineError(
                    f"The worker at {address} has {count} threads, and a process runs one call "
                    "at a time. Start the workers with --nthreads 1."
                )
        for address in self._workers - threads.keys():
            self._left(address, f"The worker at {address} left the cluster.")
        self._doomed &= threads.keys()
        for address in threads.keys() - self._workers - self._doomed:
            self._joined(address)
        self.capacity = max(1, len(self._workers))

    def _doubt(self, address: str, reason: str) -> None:
        if self._client.status == "running":
            self._left(address, reason)
        else:
            self._lose_scheduler()

    async def _can_end(self, address: str) -> bool:
        try:
            cluster = await self._client.scheduler.identity(n_workers=-1)
        except OSError:  # no scheduler: `_keep_looking` will find out
            return False
        return cluster["workers"].get(address, {}).get("nanny") is not None

    def _end(self, address: str) -> None:
        self._doomed.add(address)
        self._spawn(self._restart(address))

    async def _restart(self, address: str) -> None:
        with suppress(KeyError, OSError):  # gone by itself; or the scheduler is
            await self._client.restart_workers([address], raise_for_error=False)

    def _absence(self) -> str:
        return (
            f"The scheduler at {self._address} has had no worker for "
            f"{self._patience_seconds:.0f} s. Start some: dask worker {self._address} --nthreads 1"
        )


def answer_here(message: str) -> str:
    """Answer a call in a Dask worker; what uses Dask inside computes by itself.

    It would otherwise hand its tasks to this cluster, whose workers are waiting for it.
    """
    with dask.config.set(scheduler="synchronous"):
        return answer(message)


def read_security(folder: Path) -> Security:
    """Return what makes a connection ours: the names of the certificates' files.

    Raises
    ------
    EngineError
        If one is not there.
    """
    ca, certificate, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    for file in (ca, certificate, key):
        if not file.is_file():
            raise EngineError(
                f"There is no {file}. The folder has to hold ca.pem, cert.pem and key.pem: those "
                "that the scheduler was started with."
            )
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=str(ca),
        **{f"tls_{role}_cert": str(certificate) for role in roles},
        **{f"tls_{role}_key": str(key) for role in roles},
    )


def _settings(*, with_http: bool) -> AbstractContextManager[Any]:
    """Put distributed's own defaults and ours in the place of the user's settings."""
    defaults = dask.config.merge(*dask.config.defaults)["distributed"]
    merged = dask.config.merge(defaults, SETTINGS)
    if not with_http:
        merged["scheduler"]["http"]["routes"] = []
    return dask.config.set({"distributed": merged})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep distributed from telling of comings and goings; its errors are shown."""
    names = ("distributed", "distributed.client", "distributed.scheduler")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
        logger.addFilter(_is_news)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeFilter(_is_news)
            logger.setLevel(level)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether a record is of more than a lost worker, or of more than us closing."""
    cancelled = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "marked as failed because" not in str(record.msg)


async def be_worker(driver: Driver) -> None:
    """Be a worker of the local cluster, until the driver lets go of us or the scheduler is gone."""
    loop = asyncio.get_running_loop()
    greeting = json.loads(driver.requests.readline())
    folder = Path(greeting["folder"])
    async with Worker(
        greeting["scheduler"],
        security=read_security(folder),
        extensions={},
        host=LOOPBACK,
        nthreads=1,
        memory_limit=0,
        local_directory=str(folder),
        dashboard=False,
        dashboard_address=f"{LOOPBACK}:0",
    ) as worker:
        worker.http_server.stop()
        end = driver.requests.fileno()  # readable when the driver closes its end

        def leave() -> None:
            logging.getLogger("distributed").setLevel(logging.CRITICAL)  # connections close
            loop.remove_reader(end)
            farewell.append(loop.create_task(worker.close()))

        farewell: list[asyncio.Task[Any]] = []
        loop.add_reader(end, leave)
        driver.say_ready(worker.address)
        await worker.finished()


if __name__ == "__main__":
    with _quiet(), _settings(with_http=False):
        asyncio.run(be_worker(Driver(sys.argv[1:])))
