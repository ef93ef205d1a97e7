"""Serial: calls run in this process, one after the other, when they are waited for."""

from collections import deque

from sweep.engines import Arguments, Outcome
from sweep.engines.messages import answer, call_message, read_answer


class SerialEngine:
    """The reference that every other engine is held to."""

    def __init__(self) -> None:
        self.name = "serial"
        self.capacity = 1
        self._queue: deque[tuple[int, str]] = deque()
        self._tickets = 0

    def start(self) -> None:
        """Do nothing: there are no workers."""

    def submit(self, function: str, arguments: Arguments) -> int:
        """Queue a call."""
        self._tickets += 1
        self._queue.append((self._tickets, call_message(function, **arguments)))
        return self._tickets

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Run the next call, however long it takes."""
        if not self._queue:
            return []
        ticket, message = self._queue.popleft()
        return [(ticket, read_answer(answer(message)))]

    def kill(self, ticket: int) -> bool:
        """Return False: a call cannot be ended without ending this process."""
        return False

    def close(self) -> None:
        """Forget what was queued."""
        self._queue.clear()
