"""What SLURM says of jobs: asked seldom, once a minute for a whole sweep.

Of all processes of a user at work on a store, one asks; the others read its answer in
``.sweep/queue/MINUTE-UID-CLUSTER.json``. The creation of a file beside it tells who asks.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sweep.durable import file_system_time, replace_file
from sweep.engines.srun.commands import ASK_SECONDS, ask
from sweep.errors import EngineError, SubmitError
from sweep.store.holder import Holder, JobEnded

POLL_SECONDS = 60.0
AT_WORK = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}  # states of jobs
POLL_ASK_SECONDS = 8.0  # the same while work waits, and perhaps the end of a job comes near
FORMAT = "%A|%i|%T|%r|%N|%j"  # a name may hold a bar


@dataclass(frozen=True)
class Job:
    """A job that is queued or runs: squeue's words.

    `number` is SLURM_JOB_ID, which each element of an array has one of; `shown` how squeue shows it
    (123_4, or 123_[4-9] for those that wait); `reason` why it waits.
    """

    number: str
    shown: str
    state: str
    reason: str
    nodes: str
    name: str


def has_slurm() -> bool:
    """Tell whether there is a SLURM to ask."""
    return shutil.which("squeue") is not None


def require_slurm() -> None:
    """See that there is a SLURM to submit to.

    Raises
    ------
    SubmitError
        If there is none, with what to do.
    """
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        raise SubmitError(
            f"There is no {' and no '.join(missing)} on this machine: no SLURM. Submit from a "
            "login node of a cluster; here: sweep run."
        )


def jobs(*arguments: str, seconds: float = ASK_SECONDS) -> list[Job]:
    """Return the jobs that squeue lists with these arguments, an array's elements one by one.

    Raises
    ------
    EngineError
        If SLURM does not answer; with its words.
    """
    squeue = ("squeue", "--noheader", "--array", f"--format={FORMAT}")
    lines = ask(*squeue, *arguments, seconds=seconds)
    rows = (line.split("|", 5) for line in lines.splitlines())
    return [Job(*row) for row in rows if len(row) == 6]


def queue_text(found: Sequence[Job]) -> str:
    """Say how many jobs run and how many wait, and what for; "" if there are none."""
    states = Counter(job.state.lower() for job in found)
    texts = [f"{count} {state}" for state, count in states.most_common()]
    reasons = Counter(job.reason for job in found if job.state == "PENDING")
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
    return ", ".join(texts) + (f" (waiting for: {why})" if why else "")


def has_ended(store: Path) -> JobEnded:
    """Return what tells whether a job of this user on this cluster is over, as SLURM last said."""

    def told(holder: Holder) -> bool | None:
        if holder.uid != os.getuid() or not has_slurm() or holder.cluster != _cluster():
            return None
        found = _newest(store / ".sweep" / "queue")
        if found is None or holder.taken >= found.minute * POLL_SECONDS:
            return None
        return holder.job not in found.jobs

    return told


@cache
def _cluster() -> str:
    """Return the name of this cluster; "" if SLURM does not tell."""
    if "SLURM_CLUSTER_NAME" in os.environ:  # in a job
        return os.environ["SLURM_CLUSTER_NAME"]
    with suppress(EngineError):
        found = re.search(
            r"^ClusterName\s*=\s*(\S+)", ask("scontrol", "show", "config"), re.MULTILINE
        )
        return found[1] if found else ""
    return ""


@dataclass(frozen=True)
class _Answer:
    """The jobs of this user that ran when SLURM was asked, in a minute since 1970 or soon after."""

    minute: int
    jobs: frozenset[str]


def _newest(folder: Path) -> _Answer | None:
    """Return the newest answer, asking if nobody has in this minute; None if there is none."""
    try:
        folder.mkdir(exist_ok=True)
        minute = int(file_system_time(folder) // POLL_SECONDS)
        (folder / f"{minute}{_whose()}.asked").touch(exist_ok=False)
    except FileExistsError:
        return _read(folder, minute) or _read(folder, minute - 1)
    except OSError:  # a store that one may only read
        return None
    with suppress(EngineError, OSError):
        listed = jobs("--me", seconds=POLL_ASK_SECONDS)
        running = sorted({job.number for job in listed if job.state in AT_WORK})
        replace_file(_answer(folder, minute), json.dumps(running).encode())
    for old in folder.iterdir():
        number = old.name.partition("-")[0]
        if number.isdecimal() and int(number) < minute - 1:
            with suppress(OSError):  # another user's
                old.unlink()
    return _read(folder, minute)


def _whose() -> str:
    return f"-{os.getuid()}-{re.sub('[^A-Za-z0-9_-]', '_', _cluster())}"


def _answer(folder: Path, minute: int) -> Path:
    return folder / f"{minute}{_whose()}.json"


def _read(folder: Path, minute: int) -> _Answer | None:
    try:
        return _Answer(minute, frozenset(json.loads(_answer(folder, minute).read_bytes())))
    except (OSError, ValueError, TypeError):
        return None
