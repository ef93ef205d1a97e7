"""Serial: calls run in this process, one after the other, when they are waited for."""

import traceback
from collections import deque

from sweep.engines import Arguments, Done, Outcome, Raised, resolve


class SerialEngine:
    """The reference that every other engine is held to."""

    name = "serial"
    capacity = 1

    def __init__(self) -> None:
        self._queue: deque[tuple[int, str, Arguments]] = deque()
        self._tickets = 0

    def start(self) -> None:
        """Do nothing: there are no workers."""

    def submit(self, function: str, arguments: Arguments) -> int:
        """Queue a call."""
        self._tickets += 1
        self._queue.append((self._tickets, function, arguments))
        return self._tickets

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Run the next call, however long it takes."""
        if not self._queue:
            return []
        ticket, function, arguments = self._queue.popleft()
        try:
            return [(ticket, Done(resolve(function)(**arguments)))]
        except Exception as error:
            return [(ticket, Raised(type(error).__name__, str(error), traceback.format_exc()))]

    def kill(self, ticket: int) -> bool:
        """Return False: a call cannot be ended without ending this process."""
        return False

    def close(self) -> None:
        """Forget what was queued."""
        self._queue.clear()
