"""What both kinds of cluster have in common: who is idle, which call is where."""

import asyncio
import threading
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, ExitStack
from queue import Empty, SimpleQueue
from typing import Any

import dask.config
from distributed import Client, KilledWorker, get_worker

from sweep.engines import Arguments, Cause, Lost, Outcome
from sweep.engines.dask.settings import quiet
from sweep.engines.messages import answer, call_message, read_answer
from sweep.errors import EngineError, EngineLost
from sweep.watch import Process, as_worker


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
        self._open = 0  # calls whose outcomes nobody has fetched
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
        self._resources.enter_context(quiet())
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
        self._open += 1
        self._loop.call_soon_threadsafe(self._add, self._tickets, message)
        return self._tickets

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Return what has ended, waiting up to `timeout` seconds for the first.

        Raises
        ------
        EngineLost
            If no call can be carried any more, once the outcomes of all are fetched.
        """
        if self._failure and not self._open:
            raise EngineLost(self._failure)
        try:
            found = [self._ended.get(timeout=timeout)]
        except Empty:
            return []
        while not self._ended.empty():  # nobody else takes from it
            found.append(self._ended.get())
        ended = [one for one in found if one]
        self._open -= len(ended)
        return ended

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
        outcome = read_answer(line)  # it may raise: then this call has to be among those that ran
        del self._running[address]
        self._ended.put((ticket, outcome))
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

    def _left(self, address: str, reason: str, cause: Cause = "unknown") -> None:
        self._workers.discard(address)
        self._mind_absence()
        if address in self._idle:
            self._idle.remove(address)
        if address in self._running:
            ticket, task = self._running.pop(address)
            task.cancel()
            self._ended.put((ticket, Lost(reason, cause)))

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


def answer_here(message: str) -> str:
    """Answer a call in a Dask worker; what uses Dask inside computes by itself.

    It would otherwise hand its tasks to this cluster, whose workers are waiting for it.
    """
    if get_worker().nanny is not None:  # who replaces it
        as_worker(Process(expendable=True))
    with dask.config.set(scheduler="synchronous"):
        return answer(message)
