"""What SLURM says of jobs: asked seldom, once a minute for a whole sweep.

Of all processes at work on a store, one asks; the others read its answer in
``.sweep/queue/MINUTE.json``. The file's creation tells who asks.
"""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sweep.durable import file_system_time, replace_file
from sweep.errors import EngineError
from sweep.store.holder import JobEnded

POLL_SECONDS = 60.0
AT_WORK = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}  # states of jobs
ASK_SECONDS = 30.0  # that a busy controller may take to answer
POLL_ASK_SECONDS = 8.0  # the same while work waits, and perhaps the end of a job comes near
OWN_VARIABLES = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_", "SCANCEL_")
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


def ask(*command: str, seconds: float = ASK_SECONDS) -> str:
    """Run a command of SLURM and return what it prints, if it does in time.

    Raises
    ------
    EngineError
        If it fails; with its words.
    """
    # What SLURM tells a job of itself is not for jobs that it submits, and what a person tells
    # squeue (to list no running jobs, say) not for us.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not name.startswith(OWN_VARIABLES)
    }
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=seconds,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        raise EngineError(f"There is no '{command[0]}' on this machine: no SLURM.") from None
    except subprocess.TimeoutExpired:
        raise EngineError(f"SLURM has not answered {command[0]} in {seconds:.0f} s.") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"{command[0]} refused: {said[0].removeprefix(f'{command[0]}: error: ')}")
    return done.stdout


def has_ended(store: Path) -> JobEnded:
    """Return what tells whether a job of this user's is over, as the last poll showed."""

    def told(job: str, then: float) -> bool:
        found = _newest(store / ".sweep" / "queue") if has_slurm() else None
        return found is not None and then < found.minute * POLL_SECONDS and job not in found.jobs

    return told


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
        (folder / f"{minute}.asked").touch(exist_ok=False)
    except FileExistsError:
        return _read(folder, minute) or _read(folder, minute - 1)
    except OSError:  # a store that one may only read
        return None
    with suppress(EngineError, OSError):
        listed = jobs("--me", seconds=POLL_ASK_SECONDS)
        running = sorted({job.number for job in listed if job.state in AT_WORK})
        replace_file(folder / f"{minute}.json", json.dumps(running).encode())
    for old in folder.iterdir():
        if old.stem.isdecimal() and int(old.stem) < minute - 1:
            old.unlink(missing_ok=True)
    return _read(folder, minute)


def _read(folder: Path, minute: int) -> _Answer | None:
    try:
        return _Answer(minute, frozenset(json.loads((folder / f"{minute}.json").read_bytes())))
    except (OSError, ValueError, TypeError):
        return None
