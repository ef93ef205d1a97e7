"""The files of a throw-away SLURM, as text."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SHAPE = "# shape: "
# What the commands of SLURM take from the environment: those of an outer job would change them.
INPUTS = ("SLURM", "SLURMD", "SBATCH", "SALLOC", "SRUN", "SQUEUE", "SINFO", "SCANCEL", "SCONTROL")


@dataclass(frozen=True)
class Shape:
    """What a cluster looks like; memory [MB] of a node, lines of slurm.conf besides ours."""

    nodes: int
    cpus: int
    memory: int
    lines: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the names of the nodes."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def __str__(self) -> str:
        lines = "".join(f", {line}" for line in self.lines)
        return f"nodes: {self.nodes}, CPUs: {self.cpus}, memory: {self.memory} MB{lines}"


def shape_of(conf: Path) -> Shape | None:
    """Return the shape that a configuration was made for; None where there is none of ours."""
    try:
        with conf.open() as file:
            known = json.loads(file.readline().removeprefix(SHAPE))
        return Shape(**{**known, "lines": tuple(known["lines"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def configuration(
    folder: Path, shape: Shape, user: str, host: str, address: str, ports: Sequence[int]
) -> str:
    """Return the text of slurm.conf.

    Parameters
    ----------
    folder
        Where all files of the cluster lie.
    shape
        Its nodes, and lines which replace settings of ours of the same name.
    user
        Who runs it.
    host, address
        This machine's name, and the IPv4 address that the name stands for.
    ports
        One for the controller, then one for each node.
    """
    settings = {
        "ClusterName": "throwaway",
        "SlurmctldHost": f"{host}({address})",
        "SlurmctldPort": ports[0],
        # Two on one machine must not have jobs of the same number: mpich names shared memory so.
        "FirstJobId": 1000 * ports[0],
        "CommunicationParameters": listening(address),
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/run/munge.sock",
        "CredType": "cred/munge",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/run/slurmd-%n.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
        "SlurmdLogFile": f"{folder}/log/slurmd-%n.log",
        # One a node: the pmix plugin names its folder by user and step alone.
        "TmpFS": f"{folder}/tmp/%n",
        # No cgroups, as they need privileges. Not pgid: a zombie that nobody reaps keeps a process
        # group alive, and each scancel would wait for it.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "MailProg": "/bin/true",
        "SlurmdParameters": "config_overrides",  # nodes may say that they have more than there is
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "DefMemPerCPU": max(1, shape.memory // shape.cpus),
        # Quick: schedule within a second, take a node for dead after eight, kill 2 s after TERM.
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0",
        "SlurmctldTimeout": 10,
        "SlurmdTimeout": 8,
        "TCPTimeout": 2,
        "MessageTimeout": 10,
        "KillWait": 2,
        "InactiveLimit": 0,
        "MinJobAge": 600,
        "ReturnToService": 2,
        "JobRequeue": 1,
    }
    replaced = {line.partition("=")[0].strip().lower() for line in shape.lines}
    lines = [SHAPE + json.dumps(asdict(shape))]
    lines += [f"{name}={value}" for name, value in settings.items() if name.lower() not in replaced]
    lines += shape.lines
    # Debian's slurmd drops a second node of the same host name; left out, it is the node's own.
    lines += [
        f"NodeName={name} NodeAddr={address} Port={port} CPUs={shape.cpus}"
        f" RealMemory={shape.memory} State=UNKNOWN"
        for name, port in zip(shape.names(), ports[1:], strict=True)
    ]
    lines += ["PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=INFINITE State=UP"]
    return "\n".join(lines) + "\n"


def listening(address: str) -> str:
    """Return how the daemons are told to listen at the address of the machine's name alone.

    Where that is a loopback address other than 127.0.0.1, as on Debian, only the controller can:
    nodes answer srun where its question came from, which is 127.0.0.1, and it would not be there.
    Nodes and srun then listen on all interfaces; the key of munge keeps strangers out.
    """
    nodes_too = address == "127.0.0.1" or not address.startswith("127.")
    return "NoCtldInAddrAny,NoInAddrAny" if nodes_too else "NoCtldInAddrAny"


def environment_script(conf: Path) -> str:
    """Return what any POSIX shell reads to become a client of the cluster."""
    return f"""\
for _name in $(env | sed -nE 's/^(({"|".join(INPUTS)})_[A-Za-z0-9_]*)=.*/\\1/p'); do
    unset "$_name"
done
unset _name
export SLURM_CONF={conf}
export PATH="$PATH:/usr/sbin:/sbin"
"""
