"""Engines run calls somewhere and hand back outcomes; they know neither points nor stores.

A call is the name of a function, ``"module:function"``, and JSON-able arguments: what
travels is names and indices, so that Dask, MPI and pool workers look alike and nothing has
to be pickled. What a call returns is JSON-able too. Retries, deadlines, batches and progress
live above this protocol, in ``drive.py``.
"""

import importlib
import os
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sweep.engines.devices import Share, shares_here
from sweep.errors import EngineError, did_you_mean

Arguments = Mapping[str, Any]

ON_THIS_MACHINE = ("serial", "processes", "dask")
KINDS = (*ON_THIS_MACHINE, "srun", "mpi")


@dataclass(frozen=True)
class Done:
    """The call returned this JSON-able value."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The call raised; `kind` is the exception's class name, `trace` its formatted traceback."""

    kind: str
    text: str
    trace: str


Cause = Literal["died", "timeout", "memory", "unknown"]


@dataclass(frozen=True)
class Lost:
    """The worker that ran the call is gone; nobody knows how far it came.

    `cause` is "timeout" if it ran over the deadline of what it was at, "memory" if it was ended
    because it took more than its share, "unknown" if it may be somebody else's doing.
    """

    reason: str
    cause: Cause = "unknown"


Outcome = Done | Raised | Lost


class Engine(Protocol):
    """What ``drive.py`` asks of an engine.

    A worker runs one call at a time. Tickets are the engine's own numbers for calls.
    """

    name: str
    capacity: int  # calls that run at the same time

    def start(self) -> None:
        """Start the workers; return when calls can be submitted (they may still be starting)."""

    def submit(self, function: str, arguments: Arguments) -> int:
        """Queue ``module:function(**arguments)`` and return its ticket at once."""

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Return what has ended, waiting up to `timeout` seconds for the first."""

    def kill(self, ticket: int) -> bool:
        """End the worker that runs this call (its outcome is Lost); False if that cannot be."""

    def close(self) -> None:
        """End all workers, dropping what they are at. Safe to call twice."""


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve(function: str) -> Any:
    """Return the object named ``"module:name"``."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def make_engine(
    on: "str | Executor",
    *,
    workers: int = 1,
    threads: int = 1,
    memory_bytes: int | None = None,
    gpus: int = 0,
    dashboard: bool = False,
    tls_dir: Path | None = None,
) -> Engine:
    """Return the engine called `on`, not yet started.

    Parameters
    ----------
    on
        ``"serial"``, ``"processes"``, ``"dask"`` (a local cluster), ``"srun"`` (a cluster in the
        SLURM job that this process is in), ``"mpi"`` (the ranks beside this one), the
        ``tls://host:port`` of a Dask scheduler that runs, or any `concurrent.futures.Executor`
        whose workers run one call at a time.
    workers
        Worker processes to start, or that the executor has. Each rank of MPI has one.
    threads
        Kernel threads of a worker (NUMBA_NUM_THREADS).
    memory_bytes
        What a worker of ours may take; one that takes more is ended. None: all there is. The
        tasks of srun and the ranks of MPI share the memory of their own machine.
    gpus
        GPUs of a worker of ours, which no other has; there are no more workers than that allows.
    dashboard
        Serve Dask's dashboard on the loopback interface.
    tls_dir
        Folder with ca.pem, cert.pem and key.pem for a Dask scheduler that runs.

    Raises
    ------
    EngineError
        If there is no such engine, an option does not go with it, or there are too few GPUs.
    """
    if isinstance(on, Executor):
        from sweep.engines.executor import ExecutorEngine

        return ExecutorEngine(on, workers)
    if not isinstance(on, str):
        raise EngineError(
            f"on={on!r} is no engine: give {', '.join(map(repr, KINDS))} or an executor."
        )
    shares: list[Share] = []
    if gpus and on in ON_THIS_MACHINE:
        shares = shares_here(gpus)[:workers]
        workers = len(shares)
    if on == "serial":
        from sweep.engines.serial import SerialEngine

        return SerialEngine()
    if on == "processes":
        from sweep.engines.processes import ProcessesEngine

        return ProcessesEngine(workers, threads, memory_bytes, shares)
    if on == "dask":
        from sweep.engines.dask import LocalDaskEngine

        return LocalDaskEngine(workers, threads, memory_bytes, shares, dashboard=dashboard)
    if on == "srun":
        from sweep.engines.dask.allocation import AllocationEngine

        return AllocationEngine(workers, threads, gpus)
    if on == "mpi":
        from sweep.engines.mpi.engine import MpiEngine

        return MpiEngine(threads, gpus)
    if on.startswith("tls://"):
        from sweep.engines.dask import RemoteDaskEngine

        if tls_dir is None:
            raise EngineError(
                f"{on} needs the cluster's certificates: --tls-dir DIR with ca.pem, cert.pem "
                "and key.pem in it."
            )
        return RemoteDaskEngine(on, tls_dir)
    if on.startswith("tcp://"):
        raise EngineError(
            f"{on} is not encrypted: any user of that machine could run code as you through it. "
            "Start the scheduler with --protocol tls and join it with --on tls://... --tls-dir DIR."
        )
    raise EngineError(
        f"There is no engine '{on}'. {did_you_mean(on, KINDS)} "
        "Or the tls://host:port of a Dask scheduler."
    )
