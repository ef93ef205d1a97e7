"""A cluster of our own: the scheduler in this process, its workers in others."""

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import dask.config
from distributed import Client, Scheduler, Security

from sweep.engines.certificates import private_folder, write_certificates
from sweep.engines.dask.engine import DaskEngine
from sweep.engines.dask.settings import LOOPBACK, read_security, settings
from sweep.engines.death import WorkerDied
from sweep.engines.devices import Share
from sweep.engines.workers import MOST_STARTS, WorkerProcess
from sweep.errors import EngineError

LOCAL_SECONDS = 30 * 24 * 3600.0  # that the certificates are good for
PATIENCE_SECONDS = 60.0  # without any worker


@asynccontextmanager
async def scheduler_at(
    host: str, security: Security, scratch: Path, *, with_http: bool = False
) -> AsyncIterator[Scheduler]:
    """Run a scheduler in this process, on the interface that has the address `host` alone.

    It makes itself a folder and has Python import from there: in `scratch`, which is private, and
    not in a folder of the temporary directory that may be anybody's.
    """
    with dask.config.set({"temporary-directory": str(scratch)}):
        scheduler = Scheduler(
            host=host,
            protocol="tls",
            security=security,
            extensions={},  # no stealing, and no spans, which remember every call for ever
            dashboard=with_http,
            dashboard_address=f"{LOOPBACK}:0",
        )
    async with scheduler:
        if not with_http:
            scheduler.http_server.stop()
        yield scheduler


class LocalDaskEngine(DaskEngine):
    """A scheduler in this process and workers in others, on the loopback interface.

    Parameters
    ----------
    count
        Number of workers.
    threads
        Kernel threads of a worker; it runs one call at a time.
    memory_bytes
        What a worker may take; None: all there is.
    shares
        The GPUs of each worker, and of those that take its place; none: as in this process.
    dashboard
        Whether to serve Dask's dashboard, on the loopback interface: who is logged in on this
        machine can read it. `dashboard_link` says where.
    """

    def __init__(
        self,
        count: int,
        threads: int,
        memory_bytes: int | None = None,
        shares: Sequence[Share] = (),
        *,
        dashboard: bool = False,
    ) -> None:
        if dashboard and importlib.util.find_spec("bokeh") is None:
            raise EngineError("Dask's dashboard needs bokeh: pip install bokeh")
        super().__init__(count, PATIENCE_SECONDS)
        self._threads, self._memory_bytes = threads, memory_bytes
        self._shares = shares or [()] * count
        self._has_dashboard = dashboard
        self.dashboard_link = ""
        self._greeting = ""  # what a worker has to know
        self._processes: dict[WorkerProcess, str] = {}  # to the address; none before it is ready
        self._failed_starts = 0

    @asynccontextmanager
    async def _cluster(self) -> AsyncIterator[None]:
        folder = self._resources.enter_context(private_folder())
        write_certificates(folder, LOCAL_SECONDS)
        self._resources.enter_context(settings(with_http=self._has_dashboard))
        security = read_security(folder)
        async with scheduler_at(
            LOOPBACK, security, folder, with_http=self._has_dashboard
        ) as scheduler:
            if self._has_dashboard:
                self.dashboard_link = f"http://{LOOPBACK}:{scheduler.http_server.port}/status"
            self._greeting = json.dumps(
                {
                    "scheduler": scheduler.address,
                    "keys": str(folder),
                    "host": LOOPBACK,
                    "scratch": str(folder),
                }
            )
            self._client = Client(
                scheduler.address, security=security, asynchronous=True, set_as_default=False
            )
            try:
                for share in self._shares:
                    self._start_worker(share)
                async with self._client:
                    yield
            finally:
                await self._end_workers()

    def _start_worker(self, share: Share) -> None:
        try:
            process = WorkerProcess("sweep.engines.dask", self._threads, self._memory_bytes, share)
            process.send(self._greeting)
        except WorkerDied as death:
            self._retry(death, share)
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
                self._left(address, str(death), death.cause)
                self._start_worker(process.devices)
            else:
                self._retry(death, process.devices)
        else:
            self._failed_starts = 0
            self._processes[process] = address
            self._loop.add_reader(process.replies, self._hear, process)
            self._joined(address)

    def _retry(self, death: WorkerDied, share: Share) -> None:
        self._failed_starts += 1
        if self._failed_starts < MOST_STARTS:
            self._start_worker(share)
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
