"""What is checked before anybody submits: with programs of ours in the place of SLURM's, with a
real bash, Python, MPI and file system, and with a real SLURM."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.environment import Check, checks, checks_text
from slurm.environment import rehearsal as rehearsing
from slurm.environment.folder import (
    Mount,
    check_home,
    check_place,
    check_store,
    mount_of,
    seen_elsewhere,
)
from slurm.environment.launcher import check_launcher, srun_mismatch
from slurm.environment.partition import check_slurm
from slurm.environment.rehearsal import Rehearsal, rehearse
from slurm.job import ARRAY, DASK, MPI
from slurm.site import Site
from slurm.throwaway import Throwaway

SINFO = "short*|up|30:00|(null)\nlong|up|2-00:00:00|(null)\nbig|down|infinite|gpu:a100:4(S:0-1)\n"
MPICH, OPEN_MPI = "MPICH Version: 5.0.2", "Open MPI v5.0.11"
OUR_MPIEXEC = Path(sys.executable).with_name("mpiexec")  # of the wheel


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put programs first on PATH, each given as the lines of shell that it is."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(**lines: str) -> Path:
        for name, code in lines.items():
            (folder / name).write_text(f"#!/bin/sh\n{code}\n")
            (folder / name).chmod(0o755)
        return folder

    return put


@pytest.fixture
def slurm(programs: Callable[..., Path]) -> Callable[..., dict[str, Check]]:
    """Look at a SLURM that answers `said` when sinfo asks."""

    def look(site: Site, said: str = SINFO, *, gpus: bool = False, via: str = ARRAY):
        programs(sbatch="", squeue="", sinfo=f"cat <<'END'\n{said}END")
        return {check.what: check for check in check_slurm(site, gpus, via)}

    return look


def test_a_machine_without_slurm_is_told_and_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, programs: Callable[..., Path]
) -> None:
    for name in ("bash", "env"):
        (programs() / name).symlink_to(f"/bin/{name}" if name == "bash" else "/usr/bin/env")
    monkeypatch.setenv("PATH", str(programs()))

    rows = checks_text(checks(Site(), tmp_path / "a.zarr", False, ARRAY))

    assert list(rows) == ["SLURM", "modules, setup", "python", "folder", "clock", "scratch"]
    assert rows["SLURM"].startswith("NOT OK: there is no sbatch and no squeue on this machine")
    assert "Go to a login node" in rows["SLURM"]
    assert rows["modules, setup"] == "ok: there are none"
    assert rows["scratch"] == "ok: /tmp of each node; cannot be looked at from here"


def test_a_row_is_one_line(programs: Callable[..., Path], tmp_path: Path) -> None:
    programs(sbatch="", squeue="", sinfo="echo 'sinfo: error: no' >&2; exit 1")

    site = Site(file="two\nlines.toml", scratch="/scratch/$USER", setup=("exit 1",))
    found = checks(site, tmp_path / "a.zarr", False, DASK)
    rows = checks_text(found)

    assert len(rows) == len(found)
    assert not any("\n" in row for row in rows.values())
    assert rows["SLURM"].startswith("NOT OK: it does not answer: sinfo refused: no. The part")
    assert rows["scratch"].startswith("ok: /scratch/$USER of each node")
    assert "home" in rows


# --- the partition -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"partition": "long", "time_limit": "1-00:00:00"}, r"long \(at most 2-00:00:00\)"),
        ({"partition": "long", "time_limit": "2-00:00:00"}, r"long \(at most 2-00:00:00\)"),
        ({"partition": "short,long", "time_limit": 20}, r"short \(.* 30:00\), long \(.*\)"),
        ({}, r"short .*; write it into the site file as time_limit"),
    ],
)
def test_a_partition_that_takes_the_jobs_is_told_with_its_limit(slurm, keys, text):
    found = slurm(Site(**keys))

    assert found["partition"].ok
    assert re.fullmatch(
        text, found["partition"].text.removesuffix(", so that no job asks for more")
    )


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"partition": "gpu"}, r"partition = 'gpu': this SLURM has no 'gpu'. There are: short \("),
        ({"partition": "short,tall"}, r"'short,tall': this SLURM has no 'tall'"),
        ({"time_limit": 31}, r'time_limit is 00:31:00.*short.* 30:00 at.*time_limit = "00:30:00"'),
        ({"partition": "short,long", "time_limit": "1-00:00:00"}, r"jobs in short may take 30:00"),
        ({"partition": "big"}, r"big is down: .*There are: short .*, long .*, big$"),
    ],
)
def test_a_partition_that_would_not_take_the_jobs_is_told_with_what_there_is(slurm, keys, text):
    found = slurm(Site(file="alps.toml", **keys), gpus=True)

    assert not found["partition"].ok
    assert re.search(text, found["partition"].text)
    assert "GPUs" not in found


@pytest.mark.parametrize("said", ["", "long|up|infinite|(null)\n"])
def test_no_partition_and_no_default_one_is_told(slurm, said):
    found = slurm(Site(), said)

    assert not found["partition"].ok
    assert (
        "the site file has no partition, and this SLURM no default one" in found["partition"].text
    )


def test_gpus_that_a_point_needs_are_looked_for_among_all_nodes_of_a_partition(slurm):
    said = "mix|up|infinite|(null)\nmix|up|infinite|nvme:1,gpu:2\nplain|up|infinite|gpuless:1\n"

    good = slurm(Site(partition="mix"), said, gpus=True)["GPUs"]
    bad = slurm(Site(partition="plain"), said, gpus=True)["GPUs"]
    none = slurm(Site(), "plain*|up|infinite|(null)\n", gpus=True)["GPUs"]

    assert (good.ok, good.text) == (True, "mix has nodes with GPUs")
    assert (bad.ok, bad.text) == (
        False,
        "a point needs one, and no node of plain has any. Partitions with GPUs: mix",
    )
    assert none.text.endswith("No partition has any")


def test_a_site_file_that_asks_for_no_gpus_is_told(slurm):
    said = "a100*|up|infinite|gpu:4\n"
    by_hand = Site(gpu="", directives=("--gpus-per-node=4",))

    assert slurm(Site(gpu=""), said, gpus=True)["GPUs"].text.startswith('the site file: gpu = ""')
    assert slurm(Site(gpu=""), said, gpus=True, via=MPI)["GPUs"].ok
    assert not slurm(Site(gpu_per_task=""), said, gpus=True, via=DASK)["GPUs"].ok
    assert slurm(by_hand, said, gpus=True)["GPUs"].ok


# --- modules, setup, Python --------------------------------------------------------------


@pytest.fixture
def modules(programs: Callable[..., Path]) -> None:
    """A module command that has gcc, and says what it loads."""
    programs(
        module='[ "$2" = gcc ] && exit; echo "Loading $2" >&2; echo "No module $2" >&2; exit 1'
    )


def test_modules_setup_and_python_are_run_and_leave_an_environment(modules, tmp_path):
    (tmp_path / "activate").write_text("false\nexport FROM_ACTIVATE='two\nlines'\n")
    setup = (
        "if true",
        "then",
        f"source {tmp_path}/activate",
        "fi",
        "[ -e /nowhere ] && true",
        "fi=1",
    )

    found = rehearse(Site(modules=("gcc",), setup=setup))

    assert (found.lines, found.python) == ("", "")
    assert found.environment is not None
    assert found.environment["FROM_ACTIVATE"] == "two\nlines"


def test_a_module_that_cannot_be_loaded_is_told_with_its_last_words(modules):
    found = rehearse(Site(modules=("gcc", "open mpi"), setup=("false",)))

    assert found == Rehearsal(
        "modules: 'open mpi' ends the script here (exit code 2): No module open mpi"
    )


def test_a_line_of_setup_that_fails_is_told_and_the_next_ones_are_run():
    setup = ("true", "source /nowhere/activate", "source /nowhere/activate", "echo late >&2")

    found = rehearse(Site(setup=setup))

    assert found.lines == (
        "setup: 'source /nowhere/activate' fails here (exit code 1): /nowhere/activate: No such "
        "file or directory"
    )
    assert found.environment is not None


@pytest.mark.parametrize(
    ("setup", "told"),
    [
        (("true", "exit 0"), r"setup: 'exit 0' ends the script here \(exit code 0\)"),
        (
            ("set -eu", "ls $MISSING_HERE"),
            r"setup: 'ls \$MISSING_HERE' ends .*: .*unbound variable",
        ),
        (("true", "fi"), r"setup is not bash: line 2: syntax error near unexpected token .fi'"),
        (("echo 'never closed",), "setup is not bash: line .*"),
        (("exec 2>/dev/null", "kill -9 $$"), r"setup: 'kill -9 \$\$' ends .*exit code -9\)"),
    ],
)
def test_setup_that_never_reaches_python_is_told_with_its_line(setup, told):
    found = rehearse(Site(setup=setup))

    assert re.fullmatch(told, found.lines)
    assert found == Rehearsal(found.lines)


def test_setup_that_hangs_is_ended_with_all_that_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(rehearsing, "PATIENCE_SECONDS", 0.5)
    setup = (f"sleep 321 & echo $! > {tmp_path}/pid", "cat /dev/zero > /dev/null")

    found = rehearse(Site(setup=setup))

    assert found.lines.startswith(
        "setup: 'cat /dev/zero > /dev/null' ends the script here (not over"
    )
    assert ended(int((tmp_path / "pid").read_text()))


def ended(pid: int) -> bool:
    """Tell whether a process has ended, after waiting for it a while; a zombie has."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_python_that_setup_spoils_is_told(programs, tmp_path):
    found = checks(Site(setup=("export PYTHONHOME=/nowhere",)), tmp_path / "a.zarr", False, MPI)
    rows = {check.what: check for check in found}

    assert rows["modules, setup"].ok
    assert not rows["python"].ok
    assert "does not start with sweep in it: exit code 1: " in rows["python"].text
    assert rows["launcher"] == Check("launcher", False, "not looked at: what comes before it fails")


def test_no_bash_is_told(programs, monkeypatch):
    monkeypatch.setenv("PATH", str(programs()))

    assert "cannot be tried here" in rehearse(Site(setup=("true",))).lines


# --- launcher and MPI --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "kinds", "library", "told"),
    [
        ("pmi2", ["none", "pmi2"], MPICH, ""),
        ("pmix_v4", ["none", "pmix_v4"], OPEN_MPI, ""),
        ("pmi2", ["pmi2"], "Open MPI v4.1.6", ""),
        ("pmix", ["pmix"], "Intel(R) MPI Library 2021.11", ""),
        ("cray_shasta", ["cray_shasta"], MPICH, ""),
        ("pmi2", ["pmi2", "pmix"], OPEN_MPI, f'connect.*{OPEN_MPI}.*srun --mpi=pmix"$'),
        ("pmi2", ["pmi2"], OPEN_MPI, 'launcher = "mpiexec"$'),
        ("pmix", ["pmix", "pmi2"], MPICH, f'connect.*{MPICH}.*srun --mpi=pmi2"$'),
        ("none", ["none", "pmi2"], MPICH, 'none does not connect .*srun --mpi=pmi2"$'),
        ("none", ["none"], "", 'none does not connect .*any MPI.*"mpiexec"$'),
        ("pmi2", ["none", "pmix"], "", 'has none, pmix, and no pmi2. .*srun --mpi=pmix"$'),
    ],
)
def test_a_way_of_srun_that_does_not_suit_the_mpi_is_told_with_one_that_does(
    kind, kinds, library, told
):
    problem = srun_mismatch(kind, kinds, library)

    assert (re.search(told, problem) is not None) if told else problem == ""


@pytest.fixture
def mpi(tmp_path: Path, programs: Callable[..., Path]) -> Callable[..., list[Check]]:
    """Look at a launcher, where mpi4py finds the library of this name."""

    def look(launcher: str, library: str) -> list[Check]:
        package = tmp_path / "mpi4py"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("class rc: initialize = True")
        code = f"assert not rc.initialize; Get_library_version = {library!r}.strip"
        (package / "MPI.py").write_text(f"from mpi4py import rc; {code}")
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return check_launcher(Site(launcher=launcher), environment)

    return look


@pytest.mark.parametrize("stream", [1, 2])
def test_what_srun_lists_is_read_from_either_stream(mpi, programs, stream):
    listed = "srun: MPI types are...\\nsrun: none\\nsrun: pmi2\\n"
    programs(srun=f"printf '{listed}' >&{stream}")

    good, library = mpi("srun --mpi=pmi2", f"{MPICH}\n more")
    bad, _ = mpi("srun -K --mpi pmix", f"{OPEN_MPI}, package: x")

    assert (good.ok, good.text) == (True, f"launcher = 'srun --mpi=pmi2' ({programs()}/srun)")
    assert (library.ok, library.text) == (True, f"mpi4py has found {MPICH}")
    assert "'srun -K --mpi pmix': srun --mpi=list has none, pmi2, and no pmix" in bad.text


def test_srun_without_a_way_takes_the_default_one(mpi, programs, monkeypatch):
    programs(srun="echo pmix; echo pmi2; echo none", scontrol="echo 'MpiDefault  = none'")
    told = "--mpi=none does not connect the ranks"

    assert told in mpi("srun", OPEN_MPI)[0].text
    monkeypatch.setenv("SLURM_MPI_TYPE", "pmix")
    assert mpi("srun", OPEN_MPI)[0].ok


def test_a_launcher_that_is_not_there_or_fails_is_told(mpi, programs):
    programs(srun="echo no cluster >&2; exit 1")

    assert "there is no mpirun_rsh here. Load the module" in mpi("mpirun_rsh", MPICH)[0].text
    assert "srun --mpi=list fails: no cluster" in mpi("srun --mpi=pmi2", MPICH)[0].text


def test_the_mpiexec_of_another_mpi_is_told(mpi, programs):
    programs(mpiexec="echo 'mpiexec (OpenRTE) 4.1.4'", mpirun="echo HYDRA build details:")

    assert "mpiexec is that of Open MPI, and does not connect" in mpi("mpiexec", MPICH)[0].text
    assert mpi("mpiexec", OPEN_MPI)[0].ok
    assert mpi("mpiexec", "MVAPICH2 Version : 2.3.7")[0].ok
    assert not mpi("mpirun -np 4", OPEN_MPI)[0].ok
    assert mpi("mpirun", MPICH)[0].ok


@pytest.mark.mpi
@pytest.mark.skipif(not OUR_MPIEXEC.exists(), reason="no MPI runtime: pip install mpich")
def test_the_mpi_that_python_has_is_told_and_its_mpiexec_suits_it():
    launcher, library = check_launcher(Site(launcher=str(OUR_MPIEXEC)), os.environ)

    assert launcher.ok
    assert re.fullmatch(r"mpi4py has found MPICH Version: [0-9.]+", library.text)


def test_an_mpi_that_python_does_not_find_is_told(tmp_path, mpi):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text(
        "raise RuntimeError('cannot load MPI library')"
    )

    found = check_launcher(Site(), {**os.environ, "PYTHONPATH": str(tmp_path)})[1]

    assert not found.ok
    assert "RuntimeError: cannot load MPI library. Load the module" in found.text


# --- folders -----------------------------------------------------------------------------


def everything_in(folder: Path) -> list[str]:
    return sorted(map(str, folder.rglob("*")))


@pytest.mark.parametrize("store", ["a.zarr", "runs/of/a.zarr", "there.zarr"])
def test_the_folder_of_a_store_is_tried_and_nothing_is_left_behind(tmp_path, store):
    (tmp_path / "there.zarr" / ".sweep").mkdir(parents=True)
    before = everything_in(tmp_path)

    folder, clock = check_store(tmp_path / store)

    assert "does what a store needs" in folder.text
    assert clock == Check("clock", True, "files are dated as this machine would")
    assert everything_in(tmp_path) == before


def test_what_a_file_system_cannot_do_is_told_and_nothing_is_left_behind(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(os, "O_EXCL", 0)

    folder, _ = check_store(tmp_path / "a.zarr")

    assert not folder.ok
    assert "creating a file that must not exist (without an error, but wrongly)" in folder.text
    assert "hard links (Operation not permitted). Take a folder on another disk" in folder.text
    assert "maps" not in folder.text
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize(("seconds", "how"), [(3600, "3600 s behind"), (-90, "90 s ahead of")])
def test_clocks_that_are_apart_are_told(tmp_path, monkeypatch, seconds, how):
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + seconds)

    found = check_store(tmp_path / "a.zarr")[1]

    assert not found.ok
    assert f"the clock that dates files is {how} this machine's" in found.text


def test_a_folder_that_cannot_be_written_is_told():
    (found,) = check_store(Path("/proc/runs/a.zarr"))

    assert not found.ok
    assert re.search(r"nothing can be written in /proc: .*\. Take another", found.text)


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
tmpfs /home/me/in\\040memory tmpfs rw 0 0
systemd-1 /work autofs rw 0 0
server:/work /work beegfs_nodev rw 0 0
overlay /var/lib/here overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "seen"),
    [
        ("/home/me/runs", "nfs4", True),
        ("/home/me/in memory/runs", "tmpfs", False),
        ("/homes", "ext4", None),
        ("/work", "beegfs_nodev", True),
        ("/tmp/runs", "tmpfs", False),
        ("/var/tmp/runs", "ext4", False),
        ("/var/lib/here/runs", "overlay", False),
    ],
)
def test_whether_nodes_see_a_folder_is_told_by_what_it_lies_on(path, kind, seen):
    mount = mount_of(Path(path), MOUNTS)

    assert mount is not None
    assert (mount.kind, seen_elsewhere(Path(path), mount)) == (kind, seen)


def test_a_folder_in_tmp_is_told_unless_it_is_shared():
    found = check_place("folder", "x", Path("/tmp"))

    assert not found.ok
    assert "of this machine: other nodes do not see it. Take one that" in found.text
    assert seen_elsewhere(Path("/tmp/x"), Mount(Path("/tmp"), "lustre"))
    assert seen_elsewhere(Path("/tmp/x"), None) is False


def test_a_home_that_cannot_hold_keys_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc")
    assert "it is no place for the keys of Dask" in check_home().text

    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path} can be written" in check_home().text
    assert everything_in(tmp_path) == []


# --- a real SLURM ------------------------------------------------------------------------


@pytest.fixture
def in_cluster(cluster: Throwaway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Throwaway]:
    """The real cluster, of which this process is a client."""
    for name in set(os.environ) - set(cluster.environment):
        monkeypatch.delenv(name)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    cluster.run("scontrol", "create", "partition=brief", "nodes=n1", "maxtime=30")
    yield cluster
    cluster.run("scontrol", "delete", "partition=brief")


def test_all_is_looked_at_on_a_real_cluster(in_cluster, tmp_path):
    site = Site(partition="main", launcher="srun --mpi=pmi2", time_limit="02:00:00")

    found = {check.what: check for check in checks(site, tmp_path / "a.zarr", False, MPI)}

    assert list(found) == [
        *("SLURM", "partition", "modules, setup", "python", "launcher", "MPI"),
        *("folder", "clock", "scratch"),
    ]
    assert [found[what].text for what in ("SLURM", "partition")] == ["it answers", "main"]
    assert all(found[what].ok for what in ("SLURM", "partition", "launcher", "clock"))


def test_mistakes_of_a_site_file_are_told_by_a_real_cluster(in_cluster):
    there_are = r"There are: main, brief \(at most 30:00\)$"

    unknown = check_slurm(Site(partition="mian"), False, ARRAY)[-1]
    longer = check_slurm(Site(partition="brief", time_limit=60), False, ARRAY)[-1]
    gpus = check_slurm(Site(), True, ARRAY)[-1]

    assert re.search(f"this SLURM has no 'mian'. {there_are}", unknown.text)
    assert re.search(f'brief may take 30:00 .* "00:30:00". {there_are}', longer.text)
    assert gpus.text.endswith("no node of main has any. No partition has any")


def test_ways_that_the_srun_of_a_real_cluster_has_are_held_to_the_mpi(in_cluster, mpi):
    def told(launcher: str) -> str:
        return mpi(launcher, MPICH)[0].text

    assert "--mpi=pmix does not connect the ranks of MPICH" in told("srun --mpi=pmix")
    assert "--mpi=none does not connect the ranks of MPICH" in told("srun")
    assert 'and no pmi9. Write launcher = "srun --mpi=pmi2"' in told("srun --mpi=pmi9")
