"""What the launcher of MPI's ranks has done, told from their environment."""

import pytest

from sweep.engines.mpi.launch import NETMOD, is_first, refusal, variables_for

LIBRARY = "MPICH Version: 5.0"

# As found inside each on SLURM 22.05 with mpich 5.0, in a batch job of four tasks on two nodes.
BATCH_SCRIPT = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
MPIEXEC_OF_2 = {"PMI_SIZE": "2", "PMI_RANK": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}
MPIEXEC_OF_4 = {
    **{"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALNRANKS": "2"},
    **{"SLURM_STEP_ID": "1", "SLURM_NTASKS": "2"},
}
MPIEXEC_OF_3_ON_4_NODES = MPIEXEC_OF_4 | {"PMI_SIZE": "3", "SLURM_NTASKS": "4"}
SRUN_PMI2 = {"PMI_SIZE": "4", "PMI_RANK": "2", "SLURM_STEP_ID": "3", "SLURM_NTASKS": "4"}
SRUN_NONE = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (2, MPIEXEC_OF_2),
        (4, MPIEXEC_OF_4),
        (3, MPIEXEC_OF_3_ON_4_NODES),
        (4, SRUN_PMI2),
        (3, {}),
        (3, BATCH_SCRIPT),
    ],
)
def test_ranks_that_found_each_other_may_begin(size: int, found: dict[str, str]) -> None:
    assert refusal(size, LIBRARY, found) is None


@pytest.mark.parametrize("found", [{}, BATCH_SCRIPT, {"PMI_SIZE": "1", "PMI_RANK": "0"}])
def test_one_rank_is_told_that_it_takes_two(found: dict[str, str]) -> None:
    reason = refusal(1, LIBRARY, found)

    assert reason
    assert "needs two ranks at least" in reason
    assert "mpiexec -n 4 sweep run" in reason


def test_processes_that_srun_did_not_connect_are_told_how_to() -> None:
    reason = refusal(1, LIBRARY, SRUN_NONE)

    assert reason
    assert "srun started 4 processes, but each of them is alone" in reason
    assert LIBRARY in reason
    assert "srun --mpi=pmi2 for mpich" in reason
    assert "--mpi=pmix for Open MPI (srun --mpi=list" in reason


@pytest.mark.parametrize("found", [SRUN_NONE, SRUN_PMI2])
def test_worlds_smaller_than_the_step_are_refused(found: dict[str, str]) -> None:
    reason = refusal(2, LIBRARY, found)

    assert reason
    assert "srun started 4 processes, but they are in worlds of 2" in reason


@pytest.mark.parametrize("device", ["ch4:ucx ofi", "ch4:ofi,ucx"])
def test_srun_is_given_no_addresses_longer_than_its_lines(device: str) -> None:
    library = f"MPICH Version:      5.0.2\nMPICH Device:       {device}\nMPICH CC: cc"

    assert variables_for(library, SRUN_PMI2) == {NETMOD: "ofi"}
    assert variables_for(library, SRUN_PMI2 | {NETMOD: "ucx"}) == {}, "set by hand"
    assert variables_for(library, {}) == {}


@pytest.mark.parametrize("library", ["MPICH Device:  ch4:ucx", "MPICH Device: ch3", "Open MPI v5"])
def test_an_mpi_without_a_choice_is_left_as_it_is(library: str) -> None:
    assert variables_for(library, SRUN_PMI2) == {}


@pytest.mark.parametrize("found", [MPIEXEC_OF_4, {"OMPI_COMM_WORLD_SIZE": "4"}])
def test_processes_of_a_strange_mpiexec_are_told_which_mpi_they_have(found: dict[str, str]) -> None:
    reason = refusal(1, LIBRARY, found)

    assert reason
    assert "4 processes were started, but each of them is alone" in reason
    assert f"MPI is {LIBRARY}, and mpiexec is that of another" in reason


@pytest.mark.parametrize(
    ("found", "speaks"),
    [({}, True), (SRUN_NONE, True), (SRUN_NONE | {"SLURM_PROCID": "3"}, False), (SRUN_PMI2, False)],
)
def test_one_process_speaks_for_all(found: dict[str, str], speaks: bool) -> None:
    assert is_first(found) is speaks
