"""Write a site file from what SLURM says of itself, each value with where it comes from."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from slurm.keys import minutes
from slurm.site import SITES, Site
from sweep.engines.srun.commands import ask
from sweep.errors import EngineError, SiteError, short_path

Run = Callable[[Sequence[str]], str]


def ask_here(command: Sequence[str]) -> str:
    """Run a command of SLURM and return what it says.

    Raises
    ------
    SiteError
        If there is no SLURM here, or it does not answer.
    """
    try:
        return ask(*command, with_errors=True)  # srun lists its kinds of MPI on either
    except EngineError as error:
        raise SiteError(
            f"{error} Ask from a login node of the cluster, or copy "
            f"{short_path(SITES / 'generic.toml')} and fill it in."
        ) from None


def write_site_file(path: str | Path, run: Run = ask_here) -> None:
    """Write what SLURM says of itself to a file that does not exist yet.

    Raises
    ------
    SiteError
        If there is no SLURM, or the file exists or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise _taken(path)
    found = discover(run)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(found)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        name = short_path(path.absolute())
        raise SiteError(f"The site file {name} cannot be written: {error.strerror}.") from None


def _taken(path: Path) -> SiteError:
    name = short_path(path.absolute())
    return SiteError(f"{name} exists, and may hold what somebody wrote. Give another name.")


def discover(run: Run = ask_here) -> str:
    """Return the text of a site file for the default partition of the cluster that answers.

    Raises
    ------
    SiteError
        If there is no SLURM here, it does not answer, or it has no partition for you.
    """
    config = _config(run(["scontrol", "show", "config"]))
    partitions = _partitions(run(["scontrol", "show", "partition", "--oneliner"]))
    if not partitions:
        raise SiteError("SLURM shows no partition to you, so there is nowhere to submit to.")
    name = next((n for n, p in partitions.items() if p.get("Default") == "YES"), "")
    name = name or next(iter(partitions))
    nodes = _nodes(run(["sinfo", "--noheader", "--partition", name, "--format", "%c|%m|%G"]))
    others = [other for other in partitions if other != name]
    lines = [
        f"# The cluster {config.get('ClusterName', '?')}, SLURM {config.get('SLURM_VERSION', '?')},"
        " as it says of itself.",
        "# Further keys stand in slurm/sites/generic.toml. SLURM does not tell the account, the",
        "# modules, the price, and the limits of your qos.",
        "",
        *_partition_lines(name, others, partitions[name]),
        *_node_lines(name, nodes),
        *_array_lines(config),
        *_launcher_lines(config, run(["srun", "--mpi=list"])),
        '# account = "..."  # `sacctmgr show associations user=$USER` lists yours',
        '# modules = ["..."]  # `module avail` lists them',
    ]
    return "\n".join(lines) + "\n"


def _config(text: str) -> dict[str, str]:
    """Return what ``scontrol show config`` has as ``Name = value``."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _partitions(text: str) -> dict[str, dict[str, str]]:
    """Return the partitions by name, each as ``Name=value``, one a line."""
    rows = (
        dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
        for line in text.splitlines()
    )
    return {row["PartitionName"]: row for row in rows if "PartitionName" in row}


def _nodes(text: str) -> list[tuple[int, int, int]]:
    """Return cores, memory [MiB] and GPUs of each kind of node; "16+" is at least 16."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"(\d+)\+?\|(\d+)\+?\|(.*)", line.strip())
        if match:
            found.append((int(match[1]), int(match[2]), _gpus(match[3])))
    return found


def _gpus(gres: str) -> int:
    """Return the number of GPUs in "gpu:a100:4(S:0-1),nvme:1"."""
    kinds = re.findall(r"(?:^|,)gpu(?::[^:,(]+)??:(\d+)(?=[(,]|$)", re.sub(r"\([^)]*\)", "", gres))
    return sum(map(int, kinds))


def _partition_lines(name: str, others: list[str], partition: dict[str, str]) -> list[str]:
    """Return what is known of the partition itself."""
    also = f"; there are also {', '.join(others)}" if others else ""
    default = partition.get("DefaultTime", "NONE")
    longest = partition.get("MaxTime", "UNLIMITED")
    try:
        limit = minutes(longest)
    except ValueError:
        limit = None
    key = "# time_limit" if limit is None else "time_limit"
    lines = [
        f"partition = {_text(name)}  # scontrol show partition{also}",
        f"{key} = {_text(longest)}  # its MaxTime; its DefaultTime is {default}",
    ]
    cores = partition.get("TotalCPUs", "")
    if cores.isdecimal() and int(cores) > 0:
        most = min(int(cores), Site.max_tasks)
        lines.append(f"max_tasks = {most}  # its TotalCPUs is {cores}")
    return lines


def _node_lines(name: str, nodes: list[tuple[int, int, int]]) -> list[str]:
    """Return what the smallest nodes have; GPUs as those that have some."""
    if not nodes:
        return [f"# cores_per_node = ...  # sinfo shows no node of {name}"]
    smallest = f"sinfo: the smallest of {name}"
    lines = [
        f"cores_per_node = {min(cores for cores, _, _ in nodes)}  # {smallest}",
        f"memory_per_node = {min(memory for _, memory, _ in nodes)}  # MB; {smallest}",
    ]
    gpus = [count for _, _, count in nodes if count]
    if gpus:
        lines.append(f"gpus_per_node = {min(gpus)}  # sinfo: its nodes with GPUs")
    else:
        lines.append(f"# gpus_per_node = ...  # sinfo: {name} has none")
    return lines


def _array_lines(config: dict[str, str]) -> list[str]:
    size = config.get("MaxArraySize", "")
    if size == "0":
        return ["# MaxArraySize is 0: there are no arrays here, so use --via dask or mpi"]
    if not size.isdecimal():
        return ["# max_array_size = ...  # scontrol show config has no MaxArraySize"]
    return [f"max_array_size = {size}  # scontrol show config: MaxArraySize"]


def _launcher_lines(config: dict[str, str], listed: str) -> list[str]:
    """Return how ranks are started: SLURM's default if it has one, else what mostly works."""
    default = config.get("MpiDefault", "none")
    kinds = [word for word in re.findall(r"[a-z]\w*", listed) if word in ("pmi2", "pmix")]
    if default != "none":
        return [f"launcher = {_text(f'srun --mpi={default}')}  # scontrol show config: MpiDefault"]
    if kinds:
        kind = min(kinds)  # pmi2 is served by most MPIs
        told = f"srun --mpi=list has {', '.join(sorted(set(kinds)))}; MpiDefault is none"
        return [f"launcher = {_text(f'srun --mpi={kind}')}  # {told}"]
    return ['launcher = "mpiexec"  # srun --mpi=list has neither pmi2 nor pmix']


def _text(value: str) -> str:
    """Return a text as TOML has it; JSON's escapes are among TOML's."""
    return json.dumps(value)
