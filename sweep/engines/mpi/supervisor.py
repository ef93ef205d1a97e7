"""What every rank but the first is: a supervisor with one worker, which does as rank 0 says."""

import json
import socket
import sys
import time
from dataclasses import asdict

from sweep.engines.devices import share_of
from sweep.engines.memory import usable_memory
from sweep.engines.mpi.post import Message, Post
from sweep.engines.processes import ProcessesEngine
from sweep.errors import EngineError, EngineLost

DRIVER = 0  # its rank
SHORTEST_SECONDS, LONGEST_SECONDS = 0.001, 0.02  # between two looks for messages, ever longer


class Supervisor:
    """Keeps a worker for rank 0.

    Parameters
    ----------
    post
        This rank's.
    ranks_here
        How many ranks share the memory of this machine.
    place
        Which of the workers on this machine is ours: 0, 1, ...
    """

    def __init__(self, post: Post, ranks_here: int, place: int) -> None:
        self._post = post
        self._place = place
        self._refusal = ""  # why there is no worker
        self._memory_bytes = usable_memory() // ranks_here
        self._engine: ProcessesEngine | None = None
        self._at: tuple[int, int] | None = None  # rank 0's ticket of a call, and our engine's
        self._is_wanted = True

    def serve(self) -> None:
        """Do as rank 0 says, until it says "leave"."""
        pause = SHORTEST_SECONDS
        while self._is_wanted:
            messages = [message for _, message in self._post.receive()]
            for message in messages:
                self._obey(message)
            if messages or self._has_ended(pause):
                pause = SHORTEST_SECONDS
            else:
                pause = min(2 * pause, LONGEST_SECONDS)
        self._post.flush()

    def _obey(self, message: Message) -> None:
        match message:
            case ["start", threads, gpus]:
                self._start(threads, gpus)
            case ["call", ticket, call]:
                self._begin(ticket, call)
            case ["kill", ticket]:
                if self._engine and self._at and self._at[0] == ticket:
                    self._engine.kill(self._at[1])
            case ["stop"]:
                self._stop()
                self._post.send(DRIVER, "stopped")
            case ["leave"]:
                self._stop()
                self._is_wanted = False
            case _:
                raise ValueError(f"Rank 0 says {message!r}: is it of another version?")

    def _start(self, threads: int, gpus: int) -> None:
        try:
            shares = [share_of(self._place, gpus)] if gpus else []
        except EngineError as error:
            self._refusal = str(error)
            return
        self._engine = ProcessesEngine(1, threads, self._memory_bytes, shares)
        self._engine.start()

    def _begin(self, ticket: int, call: str) -> None:
        function, _, arguments = json.loads(call)
        try:
            if self._engine is None:
                raise EngineLost(self._refusal)
            self._at = ticket, self._engine.submit(function, arguments)
        except EngineLost as error:
            where = f"rank {self._post.rank} on {socket.gethostname()}"
            print(f"sweep: {where} takes no calls any more: {error}", file=sys.stderr, flush=True)
            self._post.send(DRIVER, "refused", f"{where}: {error}")

    def _has_ended(self, seconds: float) -> bool:
        """Wait for the end of the call, for some seconds, and tell rank 0 of it."""
        if self._engine is None or self._at is None:
            time.sleep(seconds)
            return False
        ended = self._engine.wait(seconds)
        for _, outcome in ended:
            self._post.send(DRIVER, "ended", type(outcome).__name__, asdict(outcome))
            self._at = None
        return bool(ended)

    def _stop(self) -> None:
        if self._engine:
            self._engine.close()
        self._engine = self._at = None
