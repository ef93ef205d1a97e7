"""SLURM's own commands: run in one way, and answered in its words."""

import os
import re
import subprocess

from sweep.errors import EngineError

ASK_SECONDS = 30.0  # that a busy controller may take to answer
KEPT_VARIABLES = {"SLURM_CONF", "SLURM_JWT"}
OWN_VARIABLES = ("SLURM_", "SQUEUE_", "SINFO_", "SCANCEL_", "SBATCH_ARRAY", "SBATCH_DEPENDENCY")


class Refused(EngineError):
    """SLURM said no: nothing has come of it, which is not known where it does not answer."""


def ask(*command: str, seconds: float = ASK_SECONDS, with_errors: bool = False) -> str:
    """Run a command of SLURM and return what it prints, if it does in time.

    `with_errors` what it prints to stderr comes behind it.

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
        if name in KEPT_VARIABLES or not name.startswith(OWN_VARIABLES)
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
            env=environment | {"SLURM_TIME_FORMAT": "standard"},
        )
    except FileNotFoundError:
        raise EngineError(f"There is no '{command[0]}' on this machine: no SLURM.") from None
    except subprocess.TimeoutExpired:
        raise EngineError(f"SLURM has not answered {command[0]} in {seconds:.0f} s.") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        text = said[0].removeprefix(f"{command[0]}: error: ").rstrip(".") + "."
        if re.search("timed out|Unable to contact", text):  # it may have come there all the same
            raise EngineError(f"SLURM has not answered {command[0]}: {text}")
        raise Refused(f"{command[0]} refused: {text}")
    return done.stdout + done.stderr if with_errors else done.stdout
