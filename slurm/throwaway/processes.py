"""Whose processes are whose, as /proc tells it, and how they end.

A zombie counts as gone: under a PID 1 that does not reap, as in many containers, what has ended
stays as one. It has no open files and no environment, so that it is never found here.
"""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

DAEMONS = ("munged", "slurmctld", "slurmd", "slurmstepd")
POLL_SECONDS = 0.05

Answer = TypeVar("Answer")


class Daemon(NamedTuple):
    """A process of SLURM or munge; a step's daemon writes to the log of its node."""

    pid: int
    program: str
    log: str


def until(condition: Callable[[], Answer], seconds: float) -> Answer:
    """Ask until the answer is true or the time is over; return the last answer."""
    end = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return answer


def daemons(logs: Path) -> list[Daemon]:
    """Return the daemons that write to the logs of a folder.

    Step daemons write their title over their arguments and environment, and a number in a file
    may be another process by now, but each holds its log open. Others may too, to read it.
    """
    return [
        Daemon(pid, program, log.stem)
        for pid in _all()
        if (program := _read(pid, "comm").strip()) in DAEMONS
        for log in set(_open_files(pid))
        if log.parent == logs
    ]


def of_jobs(conf: Path, node: str | None = None) -> set[int]:
    """Return the processes that jobs of a cluster started on a node, or on any."""
    cluster = f"SLURM_CONF={conf}"
    return {
        pid
        for pid in _all()
        if cluster in (environment := _read(pid, "environ").split("\0"))
        and any(
            name == "SLURMD_NODENAME" and node in (value, None)
            for name, _, value in (one.partition("=") for one in environment)
        )
    }


def with_descendants(pids: Collection[int]) -> set[int]:
    """Return processes and all that descends from them, but neither us nor our ancestors."""
    parents = {pid: _parent(pid) for pid in _all()}
    found, new = set(pids), set(pids)
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    ours: int | None = os.getpid()
    while ours:
        found.discard(ours)
        ours = parents.get(ours)
    return found


def kill_at_once(find: Callable[[], Collection[int]]) -> set[int]:
    """Kill all that is found, none having the time to tell of another's end or to start more."""
    stopped: set[int] = set()
    while new := with_descendants(find()) - stopped:
        _send(signal.SIGSTOP, new)
        stopped |= new
    _send(signal.SIGKILL, stopped)
    until(lambda: not any(map(_lives, stopped)), 5.0)
    return stopped


def end(pids: Collection[int], seconds: float) -> None:
    """Ask processes to end; kill those that have not after a while."""
    _send(signal.SIGTERM, pids)
    if not until(lambda: not any(map(_lives, pids)), seconds):
        kill_at_once(lambda: pids)


def _send(number: signal.Signals, pids: Collection[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _all() -> Iterator[int]:
    return (int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal())


def _read(pid: int, name: str) -> str:
    """Return a file of a process; nothing where it has ended or is another user's."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text(errors="surrogateescape")
    return ""


def _open_files(pid: int) -> Iterator[Path]:
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield Path(str(link.readlink()).removesuffix(" (deleted)"))


def _stat(pid: int) -> list[str]:
    """Return state, parent, ... of a process: what follows its name, which may hold anything."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _parent(pid: int) -> int:
    stat = _stat(pid)
    return int(stat[1]) if stat else 0


def _lives(pid: int) -> bool:
    stat = _stat(pid)
    return bool(stat) and stat[0] not in "ZX"
