"""What the engine ``srun`` knows of its job, without one: the rest is in slurm/."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.engines import make_engine
from sweep.engines.memory import usable_memory
from sweep.engines.srun import job
from sweep.engines.srun.job import address_for_nodes, address_towards, seconds_left, tasks_on_node
from sweep.engines.srun.supervisor import PIECE, Told, lines_that_tell
from sweep.errors import EngineError
from sweep.options import Options
from sweep.study import Study


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)


def test_outside_of_a_job_it_says_how_to_get_into_one(throw: Study) -> None:
    with pytest.raises(EngineError, match=r"runs inside a SLURM job.*salloc -n 4.*sweep submit"):
        make_engine("srun")
    with pytest.raises(EngineError, match="runs inside a SLURM job"):
        Options("srun").engine(throw.pipeline, 1)


@pytest.mark.parametrize(
    ("tasks", "text", "node", "expected"),
    [
        (None, "2(x2)", 1, 4),
        (None, "2(x3),1", 3, 7),
        ("5", "1(x2)", 0, 5),
    ],
)
def test_the_tasks_of_a_job_are_counted(
    tasks: str | None, text: str, node: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_TASKS_PER_NODE", text)
    if tasks:
        monkeypatch.setenv("SLURM_NTASKS", tasks)

    assert job.tasks_of_job() == expected


@pytest.mark.parametrize(("node", "expected"), [(0, 2), (2, 2), (3, 1)])
def test_the_tasks_on_this_node_are_counted(
    node: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x3),1")
    monkeypatch.setenv("SLURM_NODEID", str(node))

    assert tasks_on_node() == expected


@pytest.mark.parametrize(
    "limits",
    [
        {"SLURM_MEM_PER_NODE": "100"},
        {"SLURM_MEM_PER_CPU": "25", "SLURM_CPUS_ON_NODE": "4"},
        {"SLURM_MEM_PER_NODE": "100", "SLURM_CPUS_ON_NODE": "4"},
    ],
)
def test_memory_is_what_the_job_has(
    limits: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setenv(name, value)

    assert usable_memory() == 100 * 2**20


def test_a_job_that_has_all_memory_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    before = usable_memory()
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")

    assert usable_memory() == before


@given(
    st.lists(st.tuples(st.integers(0, 3), st.dictionaries(st.text(), st.text(max_size=3 * PIECE))))
)
def test_what_tasks_tell_comes_whole_however_their_lines_are_mixed(
    told: list[tuple[int, dict[str, str]]],
) -> None:
    queues = {task: [] for task, _ in told}  # the lines of a task stay in order
    for task, news in told:
        queues[task] += lines_that_tell(task, news)
    ear, heard, turn = Told(), [], 0
    while any(queues.values()):
        queue = list(queues.values())[turn % len(queues)]
        turn += 1
        assert ear.take("module load: a site greets you\n") is None
        if queue and (news := ear.take(queue.pop(0))):
            heard.append(news)

    for task in queues:
        assert [one for one in heard if one[0] == task] == [one for one in told if one[0] == task]


def test_no_line_is_longer_than_slurm_keeps_whole() -> None:
    assert max(len(line) for line in lines_that_tell(10**6, {"reason": "ü" * 5000})) < 1024


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have scontrol be a shell script."""
    (folder / "scontrol").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")


def test_a_job_on_one_node_stays_on_the_loopback_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, "echo n1")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")

    assert address_for_nodes() == "127.0.0.1"


@pytest.mark.parametrize("here", ["n1", None], ids=["in a batch script", "in salloc"])
def test_other_nodes_are_asked_for_by_the_address_that_slurm_has(
    here: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(
        tmp_path,
        monkeypatch,
        "[ $2 = hostnames ] && echo n1 n2 || echo NodeName=$4 NodeAddr=127.0.0.2 Port=1",
    )
    if here:
        monkeypatch.setenv("SLURMD_NODENAME", here)

    assert address_for_nodes() == address_towards("127.0.0.2") == "127.0.0.1"


def test_a_job_without_a_limit_has_a_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "echo JobId=7 StartTime=2026-01-01T00:00:00 EndTime=Unknown")

    assert seconds_left() == 30 * 24 * 3600


def test_a_job_that_is_over_has_no_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, "echo JobId=7 EndTime=2020-01-01T00:00:00 Deadline=N/A")

    assert seconds_left() == 0


def test_what_slurm_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "echo 'slurm_load_jobs error: Invalid job id' >&2; exit 1")

    with pytest.raises(
        EngineError, match="scontrol refused: slurm_load_jobs error: Invalid job id"
    ):
        seconds_left()


def test_a_name_that_leads_nowhere_is_told() -> None:
    with pytest.raises(EngineError, match=r"no way from this node to no-such-node\.invalid"):
        address_towards("no-such-node.invalid")
