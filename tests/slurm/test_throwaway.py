"""The throw-away SLURM: it comes, survives the loss of a node, goes without a trace, and touches
nothing that is not its own."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.throwaway import Throwaway, ThrowawayError, until
from slurm.throwaway.configuration import Shape, configuration, environment_script
from slurm.throwaway.folder import MARKER, OURS

PATIENCE = 30.0  # s; what is waited for takes one or two
COMMAND = [sys.executable, "-m", "slurm.throwaway"]


def type_in(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def processes_of(cluster: Throwaway) -> list[str]:
    """Return the processes that have to do with a cluster, other than our own commands."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            files = [str(file.readlink()) for file in (process / "fd").iterdir()]
        except OSError:
            continue
        is_client = f"SLURM_CONF={cluster.conf}".encode() in environment
        if is_client or any(file.startswith(f"{cluster.logs}/") for file in files):
            found.append((process / "cmdline").read_text())
    return found


def lives(pid: str) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return (Path("/proc") / pid / "cmdline").read_bytes() != b""
    except OSError:
        return False


def everything_in(folder: Path) -> dict[str, str]:
    return {str(file): file.read_text() for file in folder.rglob("*") if file.is_file()}


def submit(cluster: Throwaway, command: str, *options: str, cwd: Path) -> str:
    return cluster.run("sbatch", "--parsable", *options, "--wrap", command, cwd=cwd).strip()


def test_a_cluster_that_runs_is_left_as_it_is(cluster: Throwaway) -> None:
    before = cluster.conf.read_text()

    assert Throwaway.start(cluster.folder, nodes=2, cpus=4).conf.read_text() == before
    with pytest.raises(ThrowawayError, match=r"nodes: 2, CPUs: 4.* asked for: nodes: 3.* Stop it"):
        Throwaway.start(cluster.folder, nodes=3)


def test_an_array_job_runs_on_the_nodes(cluster: Throwaway, tmp_path: Path) -> None:
    job = submit(cluster, "echo $SLURMD_NODENAME > $SLURM_ARRAY_TASK_ID", "-a0-3", cwd=tmp_path)

    wanted = {f"{job}_{element}": "COMPLETED" for element in range(4)}
    assert until(lambda: cluster.states(job) == wanted, PATIENCE), cluster.states(job)
    names = {(tmp_path / str(element)).read_text().strip() for element in range(4)}
    assert names <= {"n1", "n2"}


def test_a_job_whose_node_crashes_is_run_again_when_the_node_is_back(
    cluster: Throwaway, tmp_path: Path
) -> None:
    # Neither a session of its own nor an empty environment saves a process from the loss of power.
    hidden = "setsid sleep 321 & echo $! >>hidden; env -i sleep 321 & echo $! >>hidden"
    script = f'[ -n "$SLURM_RESTART_COUNT" ] && exec touch again; {hidden}; touch begun; wait'
    job = submit(cluster, script, "--nodelist=n2", "--requeue", cwd=tmp_path)
    assert until((tmp_path / "begun").exists, PATIENCE), cluster.states(job)

    cluster.crash("n2")
    assert not any(map(lives, (tmp_path / "hidden").read_text().split()))
    cluster.run("scontrol", "update", "node=n2", "state=down", "reason=crash")  # not to wait for it
    assert until(lambda: cluster.states(job) == {job: "PENDING"}, PATIENCE), cluster.states(job)
    cluster.revive("n2")
    cluster.run("scontrol", "update", f"job={job}", "starttime=now")  # not to wait two minutes

    assert until(lambda: cluster.states(job) == {job: "COMPLETED"}, PATIENCE), cluster.states(job)
    assert (tmp_path / "again").exists()


def test_two_clusters_run_at_once_and_a_stop_leaves_no_process_of_its_own(
    cluster: Throwaway, cluster_folder: Path, tmp_path: Path
) -> None:
    done = type_in("start", cluster_folder, "--nodes", "1", "--line", "KillWait=30")
    assert (done.stdout, done.returncode) == (f". {cluster_folder}/env.sh; sinfo\n", 0), done.stderr
    other = Throwaway(cluster_folder)
    assert "KillWait = 30 sec" in " ".join(other.run("scontrol", "show", "config").split())
    job = submit(other, "trap '' TERM; setsid sleep 321 & touch here; sleep 321", cwd=tmp_path)
    assert until((tmp_path / "here").exists, PATIENCE), other.states(job)

    assert type_in("stop", cluster_folder).returncode == 0

    assert processes_of(other) == []
    assert cluster.run("sinfo", "-h", "-o", "%D").strip() == "2"
    assert Throwaway.start(cluster_folder, nodes=1).states() == {}, "jobs were cancelled"
    other.stop(purge=True)
    assert not cluster_folder.exists()
    assert processes_of(other) == []


def test_daemons_listen_at_the_address_of_this_machine_alone(cluster: Throwaway) -> None:
    text = cluster.conf.read_text()
    (address,) = re.findall(r"SlurmctldHost=.*\((.*)\)", text)
    controller, *nodes = (f"{int(port):04X}" for port in re.findall(r"Port=(\d+)", text))
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = dict(reversed(words[1].split(":")) for words in sockets if words[3] == "0A")

    own = f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"
    assert listening[controller] == own
    where = own if address == "127.0.0.1" or not address.startswith("127.") else "00000000"
    assert [listening[node] for node in nodes] == [where] * 2


def test_a_shell_with_the_settings_of_an_outer_job_is_a_client_of_this_one(tmp_path: Path) -> None:
    (tmp_path / "env.sh").write_text(environment_script(Path("/here/slurm.conf")))
    outer = {"SLURM_JOB_ID": "7", "SBATCH_PARTITION": "a\nSLURM_B=c", "SQUEUE_FORMAT": "%i"}

    shown = subprocess.run(
        ["sh", "-c", ". ./env.sh; env"],
        cwd=tmp_path,
        env={**os.environ, **outer},
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    ours = [line for line in shown.splitlines() if line.startswith(("SLURM", "SBATCH", "SQUEUE"))]
    assert ours == ["SLURM_CONF=/here/slurm.conf"]


@pytest.mark.parametrize("purge", [[], ["--purge"]])
def test_a_folder_that_was_not_made_for_it_is_left_alone(tmp_path: Path, purge: list[str]) -> None:
    for name in ("run", "log", "tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("dear")
    conf = configuration(tmp_path, Shape(1, 1, 1), "me", "here", "127.0.0.1", [1, 2])
    (tmp_path / "slurm.conf").write_text(conf)
    before, mode = everything_in(tmp_path), tmp_path.stat().st_mode

    done = [type_in("start", tmp_path), type_in("stop", tmp_path, *purge)]

    for one in done:
        assert one.returncode == 2
        assert "was not made for a throw-away SLURM, so that it is left alone" in one.stderr
    assert (everything_in(tmp_path), tmp_path.stat().st_mode) == (before, mode)


def test_a_purge_removes_files_of_its_own_only(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "s", tmp_path / "elsewhere"
    (folder / "log").mkdir(parents=True)
    (folder / MARKER).touch()
    (folder / "log" / "slurmctld.log").write_text("ours")
    (folder / "slurm-1.out").write_text("the output of a job")
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("dear")
    (folder / "tmp").symlink_to(elsewhere)

    Throwaway(folder).stop(purge=True)

    assert {file.name for file in folder.iterdir()} == {MARKER, "slurm-1.out"}
    assert everything_in(elsewhere) == {str(elsewhere / "mine"): "dear"}
    (folder / "slurm-1.out").unlink()
    Throwaway(folder).stop(purge=True)
    assert not folder.exists()


def test_all_that_is_written_is_removed(cluster: Throwaway) -> None:
    assert {file.name for file in cluster.folder.iterdir()} == {*OURS, MARKER}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a folder", "may hold A-Z a-z 0-9"),
        ("50%n", "may hold A-Z a-z 0-9"),
        ("a\nb", "may hold A-Z a-z 0-9"),
        ("long" * 20, "70 is the most"),
    ],
)
def test_a_folder_that_slurm_cannot_use_is_refused_in_words(
    cluster: Throwaway, tmp_path: Path, name: str, reason: str
) -> None:
    done = type_in("start", tmp_path / name)

    assert (done.stdout, done.returncode) == ("", 2)
    assert reason in done.stderr
    assert "Take another, /tmp/slurm say." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_programs_are_told_with_what_installs_them(tmp_path: Path) -> None:
    done = type_in("start", tmp_path / "s", PATH="/nonexistent")

    if Path("/usr/sbin/slurmctld").exists():
        # They are looked for where they are installed, too; a client's programs are not there.
        assert "slurmctld" not in done.stderr
    assert done.returncode == 3
    assert done.stderr.startswith("throwaway: Not installed: ")
    assert "apt-get install --no-install-recommends slurm-wlm munge libpmix-dev" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_node_is_told_with_those_that_there_are(cluster: Throwaway) -> None:
    done = type_in("crash", cluster.folder, "n3")

    assert done.returncode == 2
    assert "There is no node 'n3'" in done.stderr
    assert "Known: n1, n2." in done.stderr


def test_what_slurm_says_of_a_bad_line_is_shown_and_nothing_keeps_running(
    cluster: Throwaway, cluster_folder: Path
) -> None:
    done = type_in("start", cluster_folder, "--line", "Fancy=yes")

    assert done.returncode == 3
    assert "slurmctld did not start" in done.stderr
    assert "Fancy" in done.stderr
    assert processes_of(Throwaway(cluster_folder)) == []
