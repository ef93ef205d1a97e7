"""Partition: whether SLURM answers, and has where the site file says that jobs go."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from slurm.environment.check import Check
from slurm.job import ARRAY
from slurm.keys import minutes
from slurm.script import slurm_time
from slurm.site import Site
from sweep.engines.srun.commands import ask
from sweep.errors import EngineError


@dataclass(frozen=True)
class Partition:
    """A line of sinfo: a partition has several where its nodes differ.

    `state` is up or why not, `limit` the longest that a job may take, `gres` what nodes have
    beside cores and memory: "gpu:a100:4(S:0-1),nvme:1".
    """

    name: str
    is_default: bool
    state: str
    limit: str
    gres: str

    @property
    def minutes(self) -> int | None:
        """The longest that a job may take; None if there is no limit, or none that we can read."""
        try:
            return minutes(self.limit)
        except ValueError:
            return None

    @property
    def text(self) -> str:
        """Its name, and how long jobs may take."""
        return self.name if self.minutes is None else f"{self.name} (at most {self.limit})"

    @property
    def has_gpus(self) -> bool:
        """Whether the nodes of this line have GPUs."""
        return re.search(r"(^|,)gpu\b", self.gres) is not None


def check_slurm(site: Site, needs_gpus: bool, via: str) -> list[Check]:
    """Ask SLURM once, and hold its answer to the site file."""
    missing = [name for name in ("sbatch", "squeue") if shutil.which(name) is None]
    if missing:
        text = (
            f"there is no {' and no '.join(missing)} on this machine, so nothing can be submitted "
            "from it, nor the partition be looked at. Go to a login node of the cluster"
        )
        return [Check("SLURM", False, text)]
    try:
        listed = ask("sinfo", "--all", "--noheader", "--format=%P|%a|%l|%G")
    except (EngineError, OSError) as error:
        text = f"it does not answer: {str(error).rstrip('.')}. The partition was not looked at"
        return [Check("SLURM", False, text)]
    known = _partitions(listed)
    found = [Check("SLURM", True, "it answers"), _check_partition(site, known)]
    if needs_gpus and found[-1].ok:
        found.append(_check_gpus(site, known, via))
    return found


def _partitions(listed: str) -> list[Partition]:
    rows = (line.strip().split("|", 3) for line in listed.splitlines())
    return [
        Partition(row[0].removesuffix("*"), row[0].endswith("*"), *row[1:])
        for row in rows
        if len(row) == 4
    ]


def _chosen(site: Site, known: Sequence[Partition]) -> list[str]:
    """Return the names of the partitions that jobs go to."""
    if site.partition:
        return site.partition.split(",")
    return list(dict.fromkeys(one.name for one in known if one.is_default))


def _check_partition(site: Site, known: Sequence[Partition]) -> Check:
    by_name = {one.name: one for one in known}
    there_are = f"There are: {', '.join(one.text for one in by_name.values()) or 'none'}"
    names = _chosen(site, known)
    if not names:
        text = f"{site.file} has no partition, and this SLURM no default one. {there_are}"
        return Check("partition", False, text)
    for name in names:
        if problem := _problem(site, name, by_name.get(name)):
            return Check("partition", False, f"{problem}. {there_are}")
    text = ", ".join(by_name[name].text for name in names)
    if site.time_limit is None and any(by_name[name].minutes for name in names):
        text += f"; write it into {site.file} as time_limit, so that no job asks for more"
    return Check("partition", True, text)


def _problem(site: Site, name: str, found: Partition | None) -> str:
    """Return what is wrong with a partition that jobs go to, "" if nothing."""
    if found is None:
        return f"{site.file}: partition = {site.partition!r}: this SLURM has no {name!r}"
    if found.state != "up":
        return f"{name} is {found.state}: jobs would wait until it is up"
    if found.minutes is None or site.time_limit is None or site.time_limit <= found.minutes:
        return ""
    return (
        f"{site.file}: time_limit is {slurm_time(site.time_limit)}, and jobs in {name} may take "
        f'{found.limit} at most. Write time_limit = "{slurm_time(found.minutes)}"'
    )


def _check_gpus(site: Site, known: Sequence[Partition], via: str) -> Check:
    key = "gpu" if via == ARRAY else "gpu_per_task"
    if not getattr(site, key) and not any("gpu" in one for one in site.directives):
        text = (
            f'{site.file}: {key} = "" asks for none, and a point needs one. Leave it out, or write '
            "how this site gives them"
        )
        return Check("GPUs", False, text)
    having = list(dict.fromkeys(one.name for one in known if one.has_gpus))
    names = _chosen(site, known)
    lacking = [name for name in names if name not in having]
    if not lacking:
        return Check("GPUs", True, f"{', '.join(names)} has nodes with GPUs")
    others = f"Partitions with GPUs: {', '.join(having)}" if having else "No partition has any"
    text = f"a point needs one, and no node of {', '.join(lacking)} has any. {others}"
    return Check("GPUs", False, text)
