"""Who holds something in a store, the lease or claims: a process, and whether it is still at work.

A process of this machine is dead when the system says so, one of a batch job when that job is
known to have ended. Of any other the age of its file tells, by the file system's own clock.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RENEW_SECONDS = 30.0
HOLD_SECONDS = 300.0  # NFS may show a file as it was a minute ago; ten renewals may fail


def nobody_knows(holder: "Holder") -> bool | None:
    """Tell that nothing is known of a holder's batch job."""
    return None


@dataclass(frozen=True)
class Holder:
    """A process that holds something: what stands in its file.

    `start` is when the process began, in clock ticks since the machine did; None where the
    system does not tell. `machine` is as in `_machine`, `taken` in the file system's time.
    `uid` is the number of its user, `job` that of its SLURM job, "" if it is in none, `restart`
    how often that job was requeued, and `cluster` the name of the cluster it runs on.
    """

    host: str
    pid: int
    start: int | None
    machine: str
    taken: float
    token: str
    uid: int
    job: str = ""
    restart: int = 0
    cluster: str = ""

    @classmethod
    def here(cls, now: float, token: str) -> "Holder":
        """Return this process."""
        _, start = _life_of(os.getpid())
        where = (socket.gethostname(), os.getpid(), start, _machine())
        cluster = os.environ.get("SLURM_CLUSTER_NAME", "")
        return cls(*where, now, token, os.getuid(), *_own_job(), cluster)

    @classmethod
    def read(cls, path: Path) -> "Holder | None":
        """Return what stands in a file; None if it is damaged.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        try:
            found = cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError):
            return None
        is_sound = type(found.pid) is int and 0 < found.pid < 2**31 and type(found.taken) is float
        is_in_job = isinstance(found.job, str) and type(found.restart) is int
        return found if is_sound and is_in_job else None

    @property
    def is_of_this_machine(self) -> bool:
        """Tell whether its process would be seen from here."""
        return bool(self.machine) and (self.host, self.machine) == (
            socket.gethostname(),
            _machine(),
        )

    @property
    def text(self) -> str:
        """Which process it is."""
        return f"pid {self.pid} on {self.host}{f', SLURM job {self.job}' if self.job else ''}"


# Whether the batch job of a holder has ended; None where nobody can say.
JobEnded = Callable[[Holder], bool | None]


def known_at_work(holder: Holder | None, has_ended: JobEnded = nobody_knows) -> bool | None:
    """Tell whether a holder is at work as the system or SLURM know; None if neither can say."""
    if holder is None:
        return None
    if holder.is_of_this_machine:
        known = _is_running(holder.pid, holder.start)
        if known is not None:
            return known
    if not holder.job:
        return None
    job, restart = _own_job()
    if holder.job == job and holder.restart < restart:
        return False
    ended = has_ended(holder)
    return None if ended is None else not ended


def is_at_work(
    holder: Holder | None, renewed: float, now: float | None, has_ended: JobEnded = nobody_knows
) -> bool:
    """Tell whether a holder is at work: as is known, else as the age of its file tells.

    A date in the future is as bad as an old one: it would have been renewed since.

    Parameters
    ----------
    holder
        None if its file is damaged.
    renewed, now
        When it last renewed its file, and the time, both by the file system's clock; `now` is
        None where that cannot be had, in a store that one may only read.
    has_ended
        Tells what is known of batch jobs.
    """
    known = known_at_work(holder, has_ended)
    if known is not None:
        return known
    return now is None or abs(now - renewed) < HOLD_SECONDS


@contextmanager
def renewing(renew: Callable[[], None]) -> Iterator[None]:
    """Call `renew` again and again meanwhile, beside whatever else this process does."""
    over = threading.Event()

    def keep_on() -> None:
        while not over.wait(RENEW_SECONDS):
            renew()

    thread = threading.Thread(target=keep_on, name="renewing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _own_job() -> tuple[str, int]:
    """Return the number of the SLURM job that this process is part of, and its restarts."""
    restarts = os.environ.get("SLURM_RESTART_COUNT", "")
    return os.environ.get("SLURM_JOB_ID", ""), int(restarts) if restarts.isdecimal() else 0


def _is_running(pid: int, start: int | None) -> bool | None:
    """Tell whether the process `pid` that began at `start` runs; None if nobody can say."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    state, began = _life_of(pid)
    if state in ("Z", "X"):  # killed, and its parent has not asked yet
        return False
    return None if start is None or began is None else start == began


def _life_of(pid: int) -> tuple[str, int | None]:
    """Return the state of a process and its start [clock ticks]; "" and None if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", None
    fields = text.rpartition(")")[2].split()  # a program's name may hold spaces and brackets
    return fields[0], int(fields[19])  # fields 3 and 22 of proc(5)


def _machine() -> str:
    """Return what tells where process numbers mean the same: this boot, this container.

    It is "" where that cannot be known; then only the age of a file counts.
    """
    if sys.platform != "linux":
        return sys.platform  # without containers, the name of the host is enough
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}, processes {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
