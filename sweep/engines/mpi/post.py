"""Messages between the ranks: JSON as bytes, nothing pickled, in order from each to each.

MPI listens in clear, and whoever can reach its ports may try to speak as a rank. So each message is
signed with a key that rank 0 makes at the start, over who sends it to whom and the how manieth it
is; what is not signed so is not read.
"""

import hmac
import json
import os
import secrets
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from sweep.engines.mpi.launch import variables_for

Message = list[Any]  # a word that says what it is, and what belongs to it
SIGNATURE_BYTES = 32  # of SHA-256
LAST_WORDS_SECONDS = 0.5  # a launcher reads what a rank has said within some milliseconds


class Post:
    """What a rank sends to others and gets from them; one thread uses it.

    The first one starts MPI.

    Raises
    ------
    ImportError, RuntimeError
        If there is no MPI.
    """

    def __init__(self) -> None:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True  # ours to start, its own to end
        from mpi4py import MPI

        if not MPI.Is_initialized():
            os.environ |= variables_for(MPI.Get_library_version(), os.environ)
            MPI.Init_thread()
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self._sending: list[Any] = []  # requests; each holds its bytes until they are gone
        self.rank: int = self._world.rank
        self.size: int = self._world.size
        self._key = bytearray(secrets.token_bytes(SIGNATURE_BYTES))
        self._world.Bcast([self._key, MPI.BYTE])
        self._sent: Counter[int] = Counter()  # rank -> messages
        self._received: Counter[int] = Counter()
        first_line = str(MPI.Get_library_version()).splitlines()[0]
        self.library = " ".join(first_line.rstrip("\0").split())

    def ranks_here(self) -> tuple[int, int]:
        """Return how many ranks this machine has, and which of them this one is, without rank 0.

        All ranks ask together.
        """
        shared = self._mpi.COMM_TYPE_SHARED
        workers = self._world.Split(min(self.rank, 1))
        return int(self._world.Split_type(shared).size), int(workers.Split_type(shared).rank)

    def send(self, rank: int, *message: Any) -> None:
        """Send a message and go on at once: two that write to each other do not wait."""
        text = json.dumps(message).encode()
        raw = self._signature(self.rank, rank, self._sent[rank], text) + text
        self._sent[rank] += 1
        self._sending = [one for one in self._sending if not one.Test()]
        self._sending.append(self._world.Isend([raw, self._mpi.BYTE], rank))

    def receive(self) -> Iterator[tuple[int, Message]]:
        """Yield what has come, and from which rank, without waiting for more."""
        status = self._mpi.Status()
        while self._is_there(status):
            raw = bytearray(status.Get_count(self._mpi.BYTE))
            source = status.Get_source()
            self._world.Recv([raw, self._mpi.BYTE], source)  # the first of those, as probed
            signature, text = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
            own = self._signature(source, self.rank, self._received[source], text)
            if not hmac.compare_digest(signature, own):
                print(f"sweep: rank {self.rank} got a message that no rank sent", file=sys.stderr)
                continue
            self._received[source] += 1
            yield source, json.loads(text)

    def _signature(self, source: int, to: int, count: int, text: bytes | bytearray) -> bytes:
        """Return what goes before a message: the count-th from one rank to another."""
        return hmac.digest(self._key, b"%d %d %d " % (source, to, count) + text, "sha256")

    def _is_there(self, status: Any) -> bool:
        """Look for a message, twice: mpich takes it in at one look and tells of it at the next."""
        return any(self._world.Iprobe(status=status) for _ in range(2))

    def flush(self) -> None:
        """Wait until all that was sent is gone."""
        self._mpi.Request.Waitall(self._sending)

    def abort(self) -> NoReturn:
        """Tell of the exception in hand, and end all ranks at once.

        One that left in silence would leave the others waiting for ever.
        """
        try:
            traceback.print_exc()
            time.sleep(LAST_WORDS_SECONDS)  # mpiexec drops what it has not read when it hears of it
        finally:  # stderr may be gone
            self._world.Abort(1)
            os._exit(1)  # mpich's goes on until the launcher kills it
