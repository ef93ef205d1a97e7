"""Memory: how much there is for us, how much a process has, and who takes more than its share.

Out of memory, the system ends some process, slowly, and perhaps not the right one. So each
worker has a share, and one that takes more is ended by name before that.
"""

import os
import resource
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Protocol

POLL_SECONDS = 0.1
SPARE = 0.95  # of a share: the rest is what is taken between two looks
_CGROUP = Path("/sys/fs/cgroup")


def usable_memory() -> int:
    """Return the bytes of memory that this process and its workers may use together.

    The machine's, or less if a control group (a batch job, a container) or ``ulimit -m`` says
    so.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_group_limits()]
    soft, _ = resource.getrlimit(resource.RLIMIT_RSS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)


def _group_limits() -> list[int]:
    """Return the limits of this process's control groups, of version 2 or 1."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if names in ("", "memory"):
                top = _CGROUP / names
                file = "memory.limit_in_bytes" if names else "memory.max"
                folder = top / path.lstrip("/")
                found += [_limit(one / file) for one in (folder, *folder.parents) if one >= top]
    return [limit for limit in found if limit]


def _limit(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0  # "max"


def resident_bytes(pid: int) -> int:
    """Return the bytes of memory that a process has; 0 if there is none, or no way to tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Guarded(Protocol):
    """A process with a share of the memory."""

    memory_bytes: int | None

    @property
    def pid(self) -> int:
        """Its number."""

    def end_for_memory(self) -> None:
        """End it, since it takes more than its share."""


_guarded: "weakref.WeakSet[Guarded]" = weakref.WeakSet()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def guard(process: Guarded) -> None:
    """Look after a process from now on, until nobody holds it any more."""
    global _thread
    with _lock:
        _guarded.add(process)
        if _thread is None:
            _thread = threading.Thread(target=_look_again_and_again, name="memory", daemon=True)
            _thread.start()


def _look_again_and_again() -> None:
    while True:
        time.sleep(POLL_SECONDS)
        with _lock:
            processes = list(_guarded)
        for process in processes:
            limit = process.memory_bytes
            if limit is not None and resident_bytes(process.pid) > SPARE * limit:
                process.end_for_memory()
