"""The SLURM job that this process is in: its tasks, its end, and how its nodes reach this one.

All of it comes from the environment that SLURM sets, and from scontrol.
"""

import os
import re
import socket
import time
from datetime import datetime

from sweep.engines.srun.commands import ask
from sweep.errors import EngineError

LONGEST_SECONDS = 30 * 24 * 3600.0  # of a job without a time limit


def tasks_of_job() -> int:
    """Return how many tasks the job has: as many workers can srun start.

    Raises
    ------
    EngineError
        If this process is in no job.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise EngineError(
            "--on srun runs inside a SLURM job, and this is none: salloc -n 4 and then the same "
            "command again, or sweep submit --via dask."
        )
    if tasks := os.environ.get("SLURM_NTASKS"):
        return int(tasks)
    return sum(_counts(os.environ.get("SLURM_TASKS_PER_NODE", "1")))  # sbatch -N 2, without -n


def tasks_on_node() -> int:
    """Return how many tasks of this job step are on this node."""
    counts = _counts(os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    return counts[int(os.environ.get("SLURM_NODEID", "0"))]


def _counts(text: str) -> list[int]:
    """Return the numbers that SLURM writes as ``2(x3),1``."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def seconds_left() -> float:
    """Return how long the job may still run [s].

    Raises
    ------
    EngineError
        If SLURM does not know it.
    """
    job = ask("scontrol", "show", "job", "--oneliner", os.environ["SLURM_JOB_ID"])
    end = re.search(r"\bEndTime=(\d\S*)", job)
    if not end:
        return LONGEST_SECONDS
    return max(0.0, datetime.fromisoformat(end[1]).timestamp() - time.time())


def address_for_nodes() -> str:
    """Return the address by which the other nodes of the job reach this one.

    Raises
    ------
    EngineError
        If SLURM, or the network, does not know it.
    """
    nodes = ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    others = [node for node in nodes if node != os.environ.get("SLURMD_NODENAME")]
    if not others:
        return "127.0.0.1"
    node = ask("scontrol", "show", "node", "--oneliner", others[0])
    found = re.search(r"\bNodeAddr=(\S+)", node)
    return address_towards(found[1] if found else others[0])


def address_towards(host: str) -> str:
    """Return the address of that interface of this machine that leads to a host.

    Raises
    ------
    EngineError
        If none does.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # which sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise EngineError(f"There is no way from this node to {host}: {error}") from error
