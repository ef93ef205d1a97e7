"""Processes: worker processes on this machine, one call at a time each; no cluster.

Run as a module this is the worker: it answers each line that it is sent with a line.
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sweep.engines import Done, resolve
from sweep.engines.executor import ExecutorEngine
from sweep.engines.messages import answer, call_message, read_answer
from sweep.engines.workers import MOST_STARTS, Driver, WorkerDied, WorkerProcess

T = TypeVar("T")


class RemoteError(Exception):
    """A call raised in a worker: the class name, text and traceback of what it raised."""

    def __init__(self, kind: str, text: str, trace: str) -> None:
        super().__init__(kind, text, trace)
        self.kind, self.text, self.trace = kind, text, trace

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}\n{self.trace}"


class WorkerPool(Executor):
    """Worker processes behind the interface of `concurrent.futures`.

    A function goes by its name and everything else as JSON, so nothing is pickled. A worker
    that dies takes its own call along (`WorkerDied`) and no other, and is replaced.

    Parameters
    ----------
    count
        Number of workers.
    threads
        Kernel threads of each.
    """

    def __init__(self, count: int, threads: int = 1) -> None:
        self._threads = threads
        self._calls: SimpleQueue[tuple[Future[Any], str] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._running: dict[Future[Any], WorkerProcess] = {}
        self._refusal = ""  # why there are no calls any more
        self._keepers = [
            threading.Thread(target=self._keep_a_worker, name=f"worker {n}", daemon=True)
            for n in range(count)
        ]
        for keeper in self._keepers:
            keeper.start()
