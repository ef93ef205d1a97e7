"""A command line that all ranks of MPI have started: the first carries it out, the others serve."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sweep.cli.command import ALL_DONE, MISTAKE
from sweep.engines.mpi.engine import served
from sweep.engines.mpi.launch import HOW, is_first, refusal
from sweep.engines.mpi.post import Post
from sweep.engines.mpi.supervisor import Supervisor
from sweep.errors import EngineError

# A launcher sends these to every rank.
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


def on_ranks(command: Callable[[], int]) -> int:
    """Carry out a command on rank 0 and return its exit code; serve it on the others.

    What the command raises comes out on rank 0 when the others have been sent home.

    Raises
    ------
    EngineError
        If there is no MPI, or no other rank.
    """
    with _held(SIGNALS) as before:  # while MPI starts, and nobody minds them
        post = _start_mpi()
        if reason := refusal(post.size, post.library, os.environ):
            if is_first(os.environ):
                raise EngineError(reason)
            return MISTAKE
        ranks_here, place = post.ranks_here()
        if post.rank > 0:
            _serve(post, ranks_here, place, before)
            return ALL_DONE
        try:
            with served(post):
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                return command()
        finally:
            with _held(SIGNALS):
                _send_home(post)


@contextmanager
def _held(signals: set[signal.Signals]) -> Iterator[set[int]]:
    """Have signals wait for the end of this; yield which waited before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_mpi() -> Post:
    try:
        return Post()
    except (ImportError, RuntimeError) as error:
        raise EngineError(
            f"--on mpi found no MPI: {str(error).splitlines()[0]}. Load the cluster's module, or "
            f"on one machine: pip install mpich. Then: {HOW}"
        ) from error


def _serve(post: Post, ranks_here: int, place: int, mask: set[int]) -> None:
    """Be a supervisor until rank 0 has no more to do."""
    for number in SIGNALS:  # rank 0 has got it as well, and decides
        signal.signal(number, lambda number, frame: None)  # SIG_IGN would pass to the worker
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        Supervisor(post, ranks_here, place).serve()
    except BaseException:
        post.abort()


def _send_home(post: Post) -> None:
    """End the other ranks' service, whatever has become of the command."""
    try:
        for rank in range(1, post.size):
            post.send(rank, "leave")
        post.flush()
    except BaseException:
        post.abort()
