import os
import subprocess
from pathlib import Path

import pytest

from slurm.discover import ask_here, discover, write_site_file
from slurm.site import Site, load_site
from sweep.errors import SiteError

CONFIG = """Configuration data as of 2026-11-22T12:30:03
ClusterName             = alps
MaxArraySize            = 10001
MpiDefault              = none
SLURM_VERSION           = 23.11.4
"""
PARTITIONS = """\
PartitionName=debug AllowGroups=ALL Default=NO DefaultTime=NONE MaxTime=00:30:00 TotalCPUs=8
PartitionName=batch AllowGroups=ALL Default=YES DefaultTime=01:00:00 MaxTime=2-00:00:00 TotalCPUs=96
"""
NODES = "48+|192000+|(null)\n64|257000|gpu:a100:4(S:0-1),nvme:1\n64|257000|gpu:2,gpu:h100:6\n"
LISTED = "MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions: pmix_v4\n"


def answers(**other):
    """Return what runs a command, answering as a SLURM does; some of its answers are others."""
    said = {"config": CONFIG, "partition": PARTITIONS, "sinfo": NODES, "srun": LISTED} | other

    def run(command):
        key = command[2] if command[0] == "scontrol" else command[0]
        assert "--partition" not in command or command[command.index("--partition") + 1] == "batch"
        return said[key]

    return run


@pytest.fixture
def found(tmp_path):
    def found(**other) -> Site:
        file = tmp_path / "alps.toml"
        file.unlink(missing_ok=True)
        write_site_file(file, answers(**other))
        return load_site(file)

    return found


def test_what_slurm_says_is_a_site_file(found):
    site = found()

    assert site.partition == "batch"
    assert site.time_limit == 2 * 24 * 60
    assert (site.cores_per_node, site.memory_per_node, site.gpus_per_node) == (48, 192000, 4)
    assert site.max_array_size == 10001
    assert site.launcher == ("srun", "--mpi=pmi2")
    assert site.max_tasks == 64  # no more than where nothing is known


def test_each_value_says_where_it_comes_from():
    lines = dict(line.split(" = ", 1) for line in discover(answers()).splitlines() if " = " in line)

    assert lines["partition"] == '"batch"  # scontrol show partition; there are also debug'
    assert lines["time_limit"].endswith("# its MaxTime; its DefaultTime is 01:00:00")
    assert lines["max_array_size"].endswith("# scontrol show config: MaxArraySize")
    assert "sinfo" in lines["cores_per_node"]
    assert "srun --mpi=list has pmi2, pmix" in lines["launcher"]


def test_no_limit_no_gpus_and_one_small_node_are_read_too(found):
    partitions = "PartitionName=batch Default=NO MaxTime=UNLIMITED TotalCPUs=4\n"

    site = found(partition=partitions, sinfo="4|2000|(null)\n")

    assert (site.time_limit, site.gpus_per_node, site.max_tasks) == (None, None, 4)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:4", 4),
        ("gpu:a100:8(S:0-1)", 8),
        ("nvme:1,gpu:a100_3g.20gb:2(IDX:0,1),gpu:4", 6),
        ("mygpu:3", None),
        ("(null)", None),
    ],
)
def test_gpus_are_counted_whatever_their_kind(found, gres, gpus):
    assert found(sinfo=f"4|2000|{gres}\n").gpus_per_node == gpus


@pytest.mark.parametrize(
    ("config", "listed", "launcher"),
    [
        ("MpiDefault = pmix_v4", LISTED, ("srun", "--mpi=pmix_v4")),
        ("MpiDefault = none", "\tnone\n\tpmix\n", ("srun", "--mpi=pmix")),
        ("MpiDefault = none", "\tnone\n", ("mpiexec",)),
    ],
)
def test_ranks_are_started_as_the_cluster_does_by_default(found, config, listed, launcher):
    assert found(config=config, srun=listed).launcher == launcher


def test_a_cluster_that_tells_little_leaves_a_file_that_works(found):
    site = found(config="", partition="PartitionName=batch\n", sinfo="", srun="")

    assert site == Site(file=site.file, partition="batch", launcher=("mpiexec",))


def test_a_cluster_without_arrays_says_so():
    text = discover(answers(config="MaxArraySize = 0\n"))

    assert "# MaxArraySize is 0: there are no arrays here, so use --via dask or mpi" in text


def test_a_cluster_without_a_partition_is_an_error_in_words():
    with pytest.raises(SiteError, match="shows no partition to you"):
        discover(answers(partition="No partitions in the system\n"))


def test_a_file_that_exists_is_left_as_it_is(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("partition = 'mine'")

    with pytest.raises(SiteError, match=r"mine\.toml exists, and may hold .* Give another name"):
        write_site_file(file, answers())

    assert file.read_text() == "partition = 'mine'"


def test_a_file_that_cannot_be_written_is_an_error_in_words(tmp_path):
    with pytest.raises(SiteError, match=r"alps\.toml cannot be written: No such file"):
        write_site_file(tmp_path / "no" / "alps.toml", answers())


def test_a_machine_without_slurm_is_an_error_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(
        SiteError, match=r"There is no 'scontrol' on this machine: no SLURM. Ask from"
    ):
        write_site_file(tmp_path / "x.toml")

    assert not (tmp_path / "x.toml").exists()


def test_a_command_of_slurm_that_fails_is_told_with_its_words(tmp_path, monkeypatch):
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\necho 'scontrol: error: Access denied' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(SiteError, match=r"scontrol refused: Access denied\. Ask from"):
        discover()


@pytest.mark.slurm
def test_a_real_slurm_is_asked(cluster, tmp_path, monkeypatch):
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)

    write_site_file(tmp_path / "real.toml")

    site = load_site(tmp_path / "real.toml")
    shown = subprocess.run(
        ["scontrol", "show", "config"], check=True, capture_output=True, text=True
    )
    nodes = ask_here(["sinfo", "--noheader", "--format", "%R|%c|%m"]).split()
    assert f"MaxArraySize            = {site.max_array_size}\n" in shown.stdout
    assert f"{site.partition}|{site.cores_per_node}|{site.memory_per_node}" in nodes
    assert site.launcher == ("srun", "--mpi=pmi2")
    assert Path(site.file).name == "real.toml"
