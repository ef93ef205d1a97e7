"""Turns: of several processes on a machine that need the same compiled, one compiles at a time.

A turn is a lock on a file, which ends with its process. It saves work and no more: who waits for
too long, or where locks do not work, compiles, too.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE_SECONDS = 60.0  # with another that compiles: longer than kernels take
LOOK_SECONDS = 0.02


@contextmanager
def turn(file: Path, patience: float, is_done: Callable[[], bool]) -> Iterator[None]:
    """Have the turn at what `file` stands for, if it comes within `patience` seconds.

    Nobody waits any longer for what is done.
    """
    handle = _taken(file, time.monotonic() + patience, is_done)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):  # whoever waits for it looks first whether there is an answer
                file.unlink()
            os.close(handle)


def _taken(file: Path, end: float, is_done: Callable[[], bool]) -> int | None:
    """Return the handle of the locked file; None if it was not or cannot be locked."""
    try:
        handle = os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < end and not is_done():
                time.sleep(LOOK_SECONDS)
                continue
        except OSError:  # a disk without locks
            pass
        else:
            return handle
        os.close(handle)
        return None
