"""What the launcher has done: whether the ranks found each other, and what to do if not.

Each of N processes that MPI could not connect believes to be alone, and would compute everything.
That is the commonest mishap of srun with MPI, and nothing else tells of it.
"""

import re
from collections.abc import Mapping

HOW = "mpiexec -n 4 sweep run PIPELINE STORE --on mpi"
NETMOD, OMPI_SIZE = "MPIR_CVAR_CH4_NETMOD", "OMPI_COMM_WORLD_SIZE"


def variables_for(library: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what has to be set in the environment before MPI starts.

    Through srun ranks get each other's addresses in lines of 1024 characters at most. With UCX
    mpich sends 4096 bytes from where the address begins, in hexadecimal with repeated bytes
    counted: what happens to lie behind it can make lines too long, and then the start fails or
    hangs. Addresses of OFI are short. Seen with mpich 5.0.2 and SLURM 22.05, on two nodes.

    Parameters
    ----------
    library
        The name and version of the MPI.
    environment
        In which the process was started.
    """
    device = re.search(r"^MPICH Device:\s*ch4:(.*)$", library, re.MULTILINE)
    has_both = device is not None and {"ucx", "ofi"} <= set(re.split(r"[\s,]+", device[1]))
    if not has_both or "SLURM_STEP_ID" not in environment or NETMOD in environment:
        return {}
    return {NETMOD: "ofi"}


def refusal(size: int, library: str, environment: Mapping[str, str]) -> str | None:
    """Return why so many ranks cannot run a sweep, and what to do; None if they can.

    Parameters
    ----------
    size
        Of MPI's world.
    library
        The name and version of the MPI.
    environment
        In which the process was started.
    """
    launched = _launched(environment)
    if size >= max(launched, 2):
        return None
    if launched == 1:
        return f"--on mpi needs two ranks at least, rank 0 drives and the others compute: {HOW}"
    found = "each of them is alone" if size == 1 else f"they are in worlds of {size}"
    if "SLURM_STEP_ID" not in environment or {"MPI_LOCALNRANKS", OMPI_SIZE} & environment.keys():
        return (
            f"{launched} processes were started, but {found}: this environment's MPI is {library}, "
            "and mpiexec is that of another one. Take the mpiexec that belongs to it."
        )
    return (
        f"srun started {launched} processes, but {found}: it did not connect them in the way of "
        f"this environment's MPI, {library}. Try srun --mpi=pmi2 for mpich and Intel MPI, "
        f"--mpi=pmix for Open MPI (srun --mpi=list shows what there is), or in the batch script: "
        f"{HOW}"
    )


def _launched(environment: Mapping[str, str]) -> int:
    """Return how many processes were started together with this one, as far as is known."""
    sizes = [environment.get("PMI_SIZE"), environment.get(OMPI_SIZE)]
    if "SLURM_STEP_ID" in environment:  # else SLURM_NTASKS is what the batch script may start,
        sizes.append(environment.get("SLURM_NTASKS"))  # and under mpiexec that of its own helpers
    return int(next(filter(None, sizes), "1"))


def is_first(environment: Mapping[str, str]) -> bool:
    """Return whether this process is the one that speaks for all that were started."""
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        if name in environment:
            return environment[name] == "0"
    return True
