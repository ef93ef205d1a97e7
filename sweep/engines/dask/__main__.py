"""A worker of a cluster of our own: ``python -m sweep.engines.dask``.

No nanny watches it: who started it does (the driver; in an allocation, a supervisor), and the
worker ends with that.
"""

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from distributed import Worker

from sweep.engines.dask.settings import LOOPBACK, quiet, read_security, settings
from sweep.engines.workers import Driver


async def be_worker(driver: Driver) -> None:
    """Be a worker, until the driver lets go of us or the scheduler is gone."""
    loop = asyncio.get_running_loop()
    greeting = json.loads(driver.requests.readline())
    async with Worker(
        greeting["scheduler"],
        security=read_security(Path(greeting["keys"])),
        extensions={},
        host=greeting["host"],
        nthreads=1,
        memory_limit=0,
        local_directory=greeting["scratch"],
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
        driver.reply(worker.address)
        await worker.finished()


if __name__ == "__main__":
    with quiet(), settings(with_http=False):
        asyncio.run(be_worker(Driver(sys.argv[1:])))
