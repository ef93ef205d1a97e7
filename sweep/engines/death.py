"""How a worker process ended, in words, and who or what may have done it."""

import signal
from concurrent.futures import BrokenExecutor

from sweep.engines import Cause

DEADLINE = signal.SIGALRM  # what a worker has itself killed by where a point takes too long
# What a person, a batch system, or a system without memory ends processes with:
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
TAIL_BYTES = 8000  # of what a worker printed last: numba's and others' modules take 3000
MOST_LINES = 15


class WorkerDied(BrokenExecutor):
    """A worker process is gone; the text says how it ended, `cause` why."""

    def __init__(self, text: str, cause: Cause = "unknown") -> None:
        super().__init__(text)
        self.cause = cause


def death_of(pid: int, code: int, peak_bytes: int, printed: str, by: Cause | None) -> WorkerDied:
    """Return how a worker ended.

    Parameters
    ----------
    pid
        The worker's.
    code
        Its exit code, or minus the signal that killed it.
    peak_bytes
        The most memory that it had.
    printed
        The last that it printed.
    by
        Why we killed it; None if we did not.
    """
    cause: Cause = by or ("timeout" if code == -DEADLINE else "died")
    if -code in FROM_OUTSIDE and by is None:
        cause = "unknown"
    words = {
        "memory": "took more memory than its share and was ended",
        "timeout": "was ended at the deadline of a point",
    }.get(cause, ending(code))
    text = f"Worker {pid} {words}, peak memory {peak_bytes / 1e6:.0f} MB."
    said = last_words(printed)
    return WorkerDied(f"{text}\n{said}" if said else text, cause)


def last_words(printed: str) -> str:
    """Return what of a worker's last prints says why: the trace of a crash, else the end."""
    lines = [line for line in printed.splitlines() if not line.startswith("Extension modules")]
    crash = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python")), None)
    chosen = lines[-MOST_LINES:] if crash is None else lines[crash : crash + MOST_LINES]
    return "\n".join(chosen).strip()


def ending(code: int) -> str:
    """Say how a process ended whose exit code, or minus signal, is `code`."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
    return f"was killed by {name}"
