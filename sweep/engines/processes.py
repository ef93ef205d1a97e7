"""Processes: workers on this machine, one call at a time each, without a cluster.

Run as a module this is the worker: it answers each line that it is sent with a line.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from queue import Empty, SimpleQueue
from typing import Any

from sweep.engines import Done, Raised
from sweep.engines.death import WorkerDied
from sweep.engines.devices import Share
from sweep.engines.executor import ExecutorEngine
from sweep.engines.messages import answer, call_message, read_answer
from sweep.engines.workers import MOST_STARTS, Driver, WorkerProcess


class RemoteError(Exception):
    """A call raised in a worker; `kind`, `text` and `trace` say what."""

    def __init__(self, kind: str, text: str, trace: str) -> None:
        super().__init__(kind, text, trace)
        self.kind = kind
        self.text = text
        self.trace = trace

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}\n{self.trace}"


class WorkerPool(Executor):
    """Worker processes behind the interface of `concurrent.futures`.

    A function goes by its name, its arguments and its value go as JSON: nothing is pickled. A
    worker that dies takes one call with it, whose exception is `WorkerDied`, and is replaced.

    Parameters
    ----------
    count
        Number of workers.
    threads
        Kernel threads of a worker.
    memory_bytes
        What a worker may take; None: all there is.
    shares
        The GPUs of each worker, and of those that take its place; none: as in this process.
    """

    def __init__(
        self,
        count: int,
        threads: int = 1,
        memory_bytes: int | None = None,
        shares: Sequence[Share] = (),
    ) -> None:
        self._threads, self._memory_bytes = threads, memory_bytes
        self._calls: SimpleQueue[tuple[Future[Any], str] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._running: dict[Future[Any], WorkerProcess] = {}
        self._refusal = ""  # why no call is taken any more
        self._started = False
        self._keepers = [
            threading.Thread(
                target=self._keep_worker, args=[share], name=f"worker {number}", daemon=True
            )
            for number, share in enumerate(shares or [()] * count)
        ]

    def start(self) -> None:
        """Start the workers now; else the first call does."""
        with self._lock:
            if not self._started and not self._refusal:
                self._started = True
                for keeper in self._keepers:
                    keeper.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call of a function that a module holds by its name.

        Raises
        ------
        BrokenExecutor
            If workers die whenever they are started.
        TypeError
            If a worker could not import the function, or JSON cannot hold an argument.
        """
        name = f"{fn.__module__}:{fn.__qualname__}"
        in_module = getattr(sys.modules[fn.__module__], fn.__qualname__, None)
        if fn.__module__ == "__main__" or in_module is not fn:
            raise TypeError(f"A worker cannot import {name}. Put the function into a module.")
        message = call_message(name, *args, **kwargs)
        self.start()
        future: Future[Any] = Future()
        with self._lock:
            if self._refusal:
                raise BrokenExecutor(self._refusal)
            self._calls.put((future, message))
        return future

    def kill(self, future: "Future[Any]") -> bool:
        """End the worker that runs this call; False if none does."""
        with self._lock:
            worker = self._running.get(future)
            if worker:
                worker.kill()
            return worker is not None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end each worker when it has no more to do."""
        with self._lock:
            self._refusal = self._refusal or "The pool was shut down."
            left = self._take_back() if cancel_futures else []
            self._dismiss_keepers()
        for future in left:
            future.cancel()
        for keeper in self._keepers if wait and self._started else ():
            keeper.join()

    def _keep_worker(self, share: Share) -> None:
        """Hand calls to one worker, and replace it when it dies: what each of our threads does."""
        call = None
        try:
            worker = self._start_worker(share)
            while call := self._calls.get():
                if call[0].cancelled():
                    continue
                if worker.is_gone():
                    worker.death()
                    worker = self._start_worker(share)
                self._carry(worker, *call)
            worker.say_goodbye()
        except WorkerDied as error:
            self._give_up(f"Workers cannot be started: {error}", call)

    def _start_worker(self, share: Share) -> WorkerProcess:
        for _ in range(MOST_STARTS):
            try:
                worker = WorkerProcess(
                    "sweep.engines.processes", self._threads, self._memory_bytes, share
                )
                worker.receive()
                return worker
            except WorkerDied as death:
                last = death
        raise last

    def _carry(self, worker: WorkerProcess, future: "Future[Any]", message: str) -> None:
        with self._lock:
            if not future.set_running_or_notify_cancel():
                return
            self._running[future] = worker
        value: Any = None
        failure: Exception | None = None
        try:
            worker.send(message)
            match read_answer(worker.receive()):
                case Done(value):
                    pass
                case Raised(kind, text, trace):
                    failure = RemoteError(kind, text, trace)
        except WorkerDied as death:
            failure = death
        with self._lock:
            del self._running[future]
        if worker.killed:  # perhaps when it had just answered: a killed call is lost all the same
            failure = worker.death()
        if failure:
            future.set_exception(failure)
        else:
            future.set_result(value)

    def _give_up(self, reason: str, call: "tuple[Future[Any], str] | None") -> None:
        with self._lock:
            self._refusal = reason
            left = self._take_back()
            self._dismiss_keepers()
        for future in [call[0], *left] if call else left:
            if not future.done() and future.set_running_or_notify_cancel():
                future.set_exception(BrokenExecutor(reason))

    def _take_back(self) -> "list[Future[Any]]":
        left = []
        while not self._calls.empty():
            try:
                call = self._calls.get_nowait()
            except Empty:  # a worker was quicker
                break
            if call:
                left.append(call[0])
        return left

    def _dismiss_keepers(self) -> None:
        for _ in self._keepers:
            self._calls.put(None)


class ProcessesEngine(ExecutorEngine):
    """Worker processes on this machine.

    Parameters
    ----------
    count
        Number of workers.
    threads
        Kernel threads of a worker.
    memory_bytes
        What a worker may take; None: all there is.
    shares
        The GPUs of each worker, and of those that take its place; none: as in this process.
    """

    def __init__(
        self,
        count: int,
        threads: int,
        memory_bytes: int | None = None,
        shares: Sequence[Share] = (),
    ) -> None:
        self._pool = WorkerPool(count, threads, memory_bytes, shares)
        super().__init__(self._pool, count)
        self.name = "processes"

    def start(self) -> None:
        """Start the workers."""
        self._pool.start()

    def kill(self, ticket: int) -> bool:
        """End the worker that runs a call, or take back a call that no worker has yet."""
        future = self._live.get(ticket)
        return future is not None and (future.cancel() or self._pool.kill(future))

    def close(self) -> None:
        """End all workers, dropping what they are at."""
        super().close()
        for future in self._live.values():
            self._pool.kill(future)
        self._pool.shutdown()


def main() -> None:
    """Be a worker, until the driver sends no more."""
    driver = Driver(sys.argv[1:])
    driver.reply("ready")
    for message in driver.requests:
        driver.reply(answer(message))


if __name__ == "__main__":
    main()
