"""Any `concurrent.futures.Executor` as an engine: loky, mpi4py, a thread pool, our own workers."""

import traceback
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from queue import Empty, SimpleQueue

from sweep.engines import Arguments, Lost, Outcome, Raised
from sweep.engines.death import WorkerDied
from sweep.engines.messages import answer, call_message, read_answer
from sweep.errors import EngineLost


class ExecutorEngine:
    """Hands calls to an executor, which stays the property of whoever made it.

    Parameters
    ----------
    executor
        Its workers import this package and run one call at a time each.
    capacity
        How many workers it has.
    """

    def __init__(self, executor: Executor, capacity: int) -> None:
        self.name = type(executor).__name__
        self.capacity = capacity
        self._executor = executor
        self._live: dict[int, Future[str]] = {}
        self._tickets = 0
        self._ended: SimpleQueue[int] = SimpleQueue()

    def start(self) -> None:
        """Do nothing: the executor runs."""

    def submit(self, function: str, arguments: Arguments) -> int:
        """Hand a call to the executor."""
        message = call_message(function, **arguments)
        try:
            future = self._executor.submit(answer, message)
        except RuntimeError as error:  # broken, or shut down
            raise EngineLost(
                f"The {self.name} engine takes no calls any more, what is finished is kept. {error}"
            ) from error
        self._tickets += 1
        ticket = self._tickets
        self._live[ticket] = future
        future.add_done_callback(lambda _: self._ended.put(ticket))
        return ticket

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Return what has ended, waiting up to `timeout` seconds for the first."""
        try:
            tickets = [self._ended.get(timeout=timeout)]
        except Empty:
            return []
        while not self._ended.empty():  # nobody else takes from it
            tickets.append(self._ended.get())
        return [(ticket, _outcome(self._live.pop(ticket))) for ticket in tickets]

    def kill(self, ticket: int) -> bool:
        """Return False: executors have no way to end one call."""
        return False

    def close(self) -> None:
        """Take back what has not begun; what runs runs on, and is not waited for."""
        for future in self._live.values():
            future.cancel()


def _outcome(future: "Future[str]") -> Outcome:
    try:
        return read_answer(future.result())
    except (BrokenExecutor, CancelledError) as error:
        cause = error.cause if isinstance(error, WorkerDied) else "unknown"
        return Lost(str(error) or "The call was cancelled.", cause)
    except Exception as error:  # the executor's own: its workers cannot import this package, say
        return Raised(type(error).__name__, str(error), traceback.format_exc())
