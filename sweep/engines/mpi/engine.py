"""What rank 0 has: an engine whose workers are those of the other ranks.

A rank has one call at a time; what waits, waits here. MPI can only be asked whether something has
come, and waiting inside it takes a core, so all ranks ask and pause, ever longer. Measured with
mpich 5.0 on two cores, 3 ranks computing: 1500 empty calls a second, 16 ms for one that finds all
ranks at rest, and 1 % of a core for each rank that waits, beside batches of 2 s.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sweep.engines import Arguments, Done, Lost, Outcome, Raised
from sweep.engines.messages import call_message
from sweep.engines.mpi.launch import HOW
from sweep.engines.mpi.post import Message, Post
from sweep.errors import EngineError, EngineLost

SHORTEST_SECONDS, LONGEST_SECONDS = 0.0005, 0.01  # between two looks for messages, ever longer
OUTCOMES = {"Done": Done, "Raised": Raised, "Lost": Lost}

_served: Post | None = None  # rank 0's, while the other ranks serve it


@contextmanager
def served(post: Post) -> Iterator[None]:
    """Let engines be made inside: the other ranks have been told to serve this one."""
    global _served
    _served = post
    try:
        yield
    finally:
        _served = None


class MpiEngine:
    """Hands calls to the workers of the other ranks.

    Parameters
    ----------
    threads
        Kernel threads of a worker.
    gpus
        GPUs of a worker.

    Raises
    ------
    EngineError
        If there are no other ranks that serve this process.
    """

    def __init__(self, threads: int, gpus: int = 0) -> None:
        if _served is None:
            raise EngineError(
                "on='mpi' goes with the command line alone, which has rank 0 drive and the others "
                f"serve it: {HOW}"
            )
        self.name = "mpi"
        self.capacity = _served.size - 1
        self._post = _served
        self._threads, self._gpus = threads, gpus
        self._tickets = 0
        self._queue: dict[int, str] = {}  # ticket -> call, in order
        self._idle: list[int] = []  # ranks
        self._running: dict[int, tuple[int, str]] = {}  # rank -> ticket, call
        self._killed: set[int] = set()  # tickets
        self._ended: list[tuple[int, Outcome]] = []
        self._started: list[int] = []  # ranks that have a worker of ours
        self._refusal = ""  # of the last rank that gave up

    def start(self) -> None:
        """Have each rank start its worker."""
        self._started = list(range(1, self._post.size))
        self._idle = list(self._started)
        for rank in self._started:
            self._post.send(rank, "start", self._threads, self._gpus)

    def submit(self, function: str, arguments: Arguments) -> int:
        """Queue a call.

        Raises
        ------
        EngineLost
            If no rank takes calls any more.
        """
        self._check_ranks()
        message = call_message(function, **arguments)
        self._tickets += 1
        self._queue[self._tickets] = message
        self._hand_out()
        return self._tickets

    def wait(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Return what has ended, waiting up to `timeout` seconds for the first.

        Raises
        ------
        EngineLost
            If no rank takes calls any more.
        """
        end, pause = time.monotonic() + timeout, SHORTEST_SECONDS
        self._take_in()
        while not self._ended and (left := end - time.monotonic()) > 0:
            self._check_ranks()
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_SECONDS)
            self._take_in()
        ended, self._ended = self._ended, []
        return ended

    def kill(self, ticket: int) -> bool:
        """End the worker that runs a call, or take back a call that no rank has yet."""
        if self._queue.pop(ticket, None) is not None:
            self._ended.append((ticket, Lost("The call was taken back.")))
            return True
        for rank, (running, _) in self._running.items():
            if running == ticket:
                self._killed.add(ticket)
                self._post.send(rank, "kill", ticket)
                return True
        return False

    def close(self) -> None:
        """Have all ranks end their workers, and wait until they have."""
        for rank in self._started:
            self._post.send(rank, "stop")
        left, self._started = set(self._started), []
        while left:
            left -= {rank for rank, (word, *_) in self._post.receive() if word == "stopped"}
            time.sleep(SHORTEST_SECONDS)
        self._queue.clear()
        self._running.clear()
        self._idle.clear()

    def _take_in(self) -> None:
        for rank, message in self._post.receive():
            self._take(rank, message)
        self._hand_out()

    def _take(self, rank: int, message: Message) -> None:
        ticket, call = self._running.pop(rank)
        match message:
            case ["ended", kind, fields]:
                outcome: Outcome = OUTCOMES[kind](**fields)
                if ticket in self._killed and not isinstance(outcome, Lost):
                    outcome = Lost("It was killed when it had just ended.")
                self._ended.append((ticket, outcome))
                self._idle.append(rank)
            case ["refused", reason]:  # its machine has no room for workers, say; others go on
                if ticket in self._killed:
                    self._ended.append((ticket, Lost(reason)))
                else:
                    self._queue = {ticket: call, **self._queue}
                self._refusal = reason
                self.capacity -= 1

    def _hand_out(self) -> None:
        while self._queue and self._idle:
            ticket = next(iter(self._queue))
            rank, call = self._idle.pop(), self._queue.pop(ticket)  # it pauses for the least time
            self._running[rank] = ticket, call
            self._post.send(rank, "call", ticket, call)

    def _check_ranks(self) -> None:
        if self.capacity == 0:
            raise EngineLost(
                "No rank takes calls any more, what is finished is kept. The last one said: "
                + self._refusal
            )
