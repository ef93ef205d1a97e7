"""What the launcher has done: whether the ranks found each other, and what to do if not.

Each of N processes that MPI could not connect believes to be alone, and would compute everything.
That is the commonest mishap of srun with MPI, and nothing else tells of it.
"""

from collections.abc import Mapping

HOW = "mpiexec -n 4 sweep run PIPELINE STORE --on mpi"


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
    if size > 1:  # mpiexec may start fewer ranks than a batch job has tasks
        return None
    launched = _launched(environment)
    if launched == 1:
        return f"--on mpi needs two ranks at least, rank 0 drives and the others compute: {HOW}"
    if "PMI_SIZE" in environment or "OMPI_COMM_WORLD_SIZE" in environment:
        return (
            f"{launched} processes were started, but each of them is alone: this environment's "
            f"MPI is {library}, and mpiexec is that of another one. Take the mpiexec that belongs "
            "to it."
        )
    return (
        f"srun started {launched} processes, but each of them is alone: it did not connect them in "
        f"the way of this environment's MPI, {library}. Try srun --mpi=pmi2 (srun --mpi=list "
        f"shows what there is), or in the batch script: {HOW}"
    )


def _launched(environment: Mapping[str, str]) -> int:
    """Return how many processes were started together with this one, as far as is known."""
    sizes = [environment.get("PMI_SIZE"), environment.get("OMPI_COMM_WORLD_SIZE")]
    if "SLURM_STEP_ID" in environment:  # else SLURM_NTASKS is what the batch script may start
        sizes.append(environment.get("SLURM_NTASKS"))
    return max(int(size) for size in (*sizes, "1") if size)


def is_first(environment: Mapping[str, str]) -> bool:
    """Return whether this process is the one that speaks for all that were started."""
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        if name in environment:
            return environment[name] == "0"
    return True
