"""How to run a sweep: the engine, the workers, and what to do with points that fail."""

import math
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from sweep.definition import Pipeline
from sweep.engines import ON_THIS_MACHINE, Engine, make_engine, usable_cores
from sweep.engines.devices import Share, shares_here
from sweep.engines.memory import usable_memory
from sweep.engines.srun.job import tasks_of_job
from sweep.errors import (
    EngineError,
)
from sweep.store.holder import JobEnded, nobody_knows


@dataclass(frozen=True)
class Options:
    """How to run: which engine, with how many workers, and what to do with points that fail.

    Parameters
    ----------
    on, workers, tls_dir, dashboard
        See `sweep.run`.
    timeout
        How long a point may take [s]; None: as the others show.
    retries
        How often a point that raised is tried again.
    fail_fast
        Stop when a point has failed.
    retry_failed
        Compute the points again that failed in earlier runs.
    accept_changes
        Go on although the code is another than that of the last run.
    join
        Work beside the driver that the store has.
    has_ended
        Tells what is known of batch jobs: what one that ended was at is free.
    """

    on: str | Executor = "dask"
    workers: int | None = None
    tls_dir: Path | None = None
    dashboard: bool = False
    timeout: float | None = None
    retries: int = 0
    fail_fast: bool = False
    retry_failed: bool = False
    accept_changes: bool = False
    join: bool = False
    has_ended: JobEnded = nobody_knows

    def __post_init__(self) -> None:
        is_number = isinstance(self.timeout, (int, float)) and not isinstance(self.timeout, bool)
        if self.timeout is not None and not (is_number and 0 < self.timeout < math.inf):
            raise EngineError(f"timeout={self.timeout!r}: give seconds, more than 0.")
        if type(self.retries) is not int or self.retries < 0:
            raise EngineError(f"retries={self.retries!r}: give a whole number, 0 or more.")
        if self.join and self.retry_failed:
            raise EngineError(
                "join goes without retry_failed: who joins does what the driver of the store has "
                "to do. Let that finish first."
            )

    def engine(self, pipeline: Pipeline, tasks: int) -> Engine:
        """Return the engine for at most so many tasks of a pipeline, not yet started.

        Raises
        ------
        EngineError
            If there is no such engine, an option does not go with it, or there are too few GPUs.
        """
        if self.workers is not None and (type(self.workers) is not int or self.workers < 1):
            raise EngineError(f"workers={self.workers!r}: give a whole number, at least 1.")
        is_remote = isinstance(self.on, str) and self.on.startswith("tls://")
        if self.workers and (is_remote or self.on in ("serial", "mpi")):
            why = {
                "serial": "which is this very process",
                "mpi": "which has one on every rank but the first (mpiexec -n 4 starts 4 ranks)",
            }.get(str(self.on), "whose workers run already")
            raise EngineError(
                f"workers={self.workers} does not go with {self.on}, {why}. Leave it out."
            )
        if self.dashboard and self.on != "dask":
            raise EngineError(f"dashboard goes with dask, not with {self.on}.")
        if self.tls_dir and not is_remote:
            raise EngineError(f"tls_dir goes with tls://host:port, not with {self.on}.")
        memory, needs = usable_memory(), pipeline.needs
        fit = max(1, min(usable_cores() // needs.cores, memory // needs.memory_bytes))
        if self.on == "srun":
            fit = tasks_of_job()
        workers = self.workers or min(fit, tasks)
        if needs.gpus and self.on in ON_THIS_MACHINE:
            workers = min(workers, len(_shares(pipeline)))
        return make_engine(
            self.on,
            workers=workers,
            threads=needs.cores,
            memory_bytes=memory // workers,
            gpus=needs.gpus,
            dashboard=self.dashboard,
            tls_dir=self.tls_dir,
        )


def _shares(pipeline: Pipeline) -> list[Share]:
    """Return the GPUs of each worker on this machine."""
    try:
        return shares_here(pipeline.needs.gpus)
    except EngineError as error:
        if not pipeline.is_on_gpus:
            raise
        raise EngineError(
            f"{error} It needs them because of device='cuda'; with device='cpu', in a store of its "
            "own, it needs none."
        ) from None
