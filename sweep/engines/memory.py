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
from itertools import count
from pathlib import Path
from typing import Protocol

POLL_SECONDS = 0.1
CHILDREN_EVERY = 5  # looks: those at what a model has started cost more
SPARE = 0.95  # of a share: the rest is what is taken between two looks
_CGROUP = Path("/sys/fs/cgroup")


def usable_memory() -> int:
    """Return the bytes of memory that this process and its workers may use together.

    The machine's, or less if a control group (a batch job, a container), SLURM or ``ulimit -m``
    says so.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [*_group_limits(), *_job_limits()]
    soft, _ = resource.getrlimit(resource.RLIMIT_RSS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)


def _job_limits() -> list[int]:
    """Return what the SLURM job around us has on this node, if SLURM says so; 0 is all there is."""
    on_node, per_core, cores = (
        int(os.environ.get(f"SLURM_{name}", "0"))
        for name in ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE")
    )
    return [limit * 2**20 for limit in (on_node, per_core * cores) if limit]


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


def group_bytes(pid: int) -> int:
    """Return the bytes of memory that a process and all that it has started have."""
    return sum(map(resident_bytes, [pid, *_descendants(pid)]))


def _descendants(pid: int) -> list[int]:
    """Return the numbers of the processes that a process has started, and those of theirs."""
    children: list[int] = []
    with suppress(OSError):  # gone; or the system does not tell
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (thread / "children").read_text().split())
    return [*children, *(one for child in children for one in _descendants(child))]


def _proportional_bytes(pid: int) -> int:
    """Return the bytes of memory of a process, what it shares divided by who shares it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return resident_bytes(pid)


def takes_more(pid: int, limit: float, *, with_children: bool) -> bool:
    """Tell whether a process takes more than `limit` bytes, alone or with what it has started."""
    if resident_bytes(pid) > limit:
        return True
    if not with_children or group_bytes(pid) <= limit:
        return False
    # Forked processes share pages, which were counted for each of them so far.
    return sum(map(_proportional_bytes, [pid, *_descendants(pid)])) > limit


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
    for look in count():
        time.sleep(POLL_SECONDS)
        with _lock:
            processes = list(_guarded)
        for process in processes:
            share = process.memory_bytes
            is_turn = look % CHILDREN_EVERY == 0
            if share is not None and takes_more(process.pid, SPARE * share, with_children=is_turn):
                process.end_for_memory()
