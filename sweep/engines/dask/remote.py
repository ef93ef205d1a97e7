"""A cluster that somebody else started, and that is left running."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from distributed import Client

from sweep.engines.dask.engine import DaskEngine
from sweep.engines.dask.settings import read_security, settings
from sweep.errors import EngineError

PATIENCE_SECONDS = 600.0  # without any worker
CONNECT_SECONDS = 15.0
LOOK_SECONDS = 1.0  # between two looks at who is in the cluster


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
        super().__init__(1, PATIENCE_SECONDS)
        self._address = address
        self._tls_dir = tls_dir
        self._doomed: set[str] = set()  # killed, but still in the cluster's list

    @asynccontextmanager
    async def _cluster(self) -> AsyncIterator[None]:
        self._resources.enter_context(settings(with_http=False))
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
