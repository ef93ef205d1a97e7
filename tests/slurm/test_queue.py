"""What SLURM says of jobs: asked once a minute for all, and believed no further than it knows."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm import queue
from slurm.queue import Job, has_ended, jobs, queue_text
from sweep.durable import file_system_time
from sweep.engines.srun.commands import Refused, ask
from sweep.errors import EngineError
from sweep.store.holder import Holder

SQUEUE = """#!/bin/bash
# Answers with what stands in a file, and notes that it was asked, and what.
echo "$*" >> "{folder}/asked"
exec cat "{folder}/answer"
"""
RUNNING = "7|7|RUNNING|None|n1|other"
PATIENCE = 60.0  # s

ASKER = """
import sys
from pathlib import Path
import os
from slurm.queue import has_ended
from sweep.store.holder import Holder

holder = Holder("far", 7, None, "far", 0.0, "x", os.getuid(), "8", 0, "here")
print("ready", flush=True)
sys.stdin.readline()
print(has_ended(Path(sys.argv[1]))(holder), flush=True)
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Slurm"]:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
    queue._cluster.cache_clear()
    yield Slurm(folder)
    queue._cluster.cache_clear()


def holder(job: str, taken: float, cluster: str = "here", uid: int | None = None) -> Holder:
    """A process far away, of a job."""
    uid = os.getuid() if uid is None else uid
    return Holder("far", 7, None, "far", taken, "x", uid, job, 0, cluster)


class Slurm:
    """A squeue that says what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs(SQUEUE.format(folder=folder))
        self.says(RUNNING)

    def runs(self, script: str) -> None:
        squeue = self.folder / "squeue"
        squeue.write_text(script)
        squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)

    def says(self, *lines: str) -> None:
        (self.folder / "answer").write_text("".join(f"{line}\n" for line in lines))

    @property
    def asked(self) -> list[str]:
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """What a store has of its own."""
    (tmp_path / "s.zarr" / ".sweep").mkdir(parents=True)
    return tmp_path / "s.zarr"


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what sets the clock of the file system [s since 1970]."""

    def set_clock(now: float) -> None:
        monkeypatch.setattr(queue, "file_system_time", lambda folder: now)

    set_clock(6000.0)
    return set_clock


class TestHasEnded:
    def test_is_told_by_one_question_for_many_processes(self, slurm: Slurm, store: Path) -> None:
        askers = [
            subprocess.Popen(
                [sys.executable, "-c", ASKER, store],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for asker in askers:
            assert asker.stdout.readline() == "ready\n"
        begun = file_system_time(store) // 60
        for asker in askers:
            asker.stdin.write("\n")
            asker.stdin.flush()
        said = [asker.communicate(timeout=PATIENCE)[0] for asker in askers]
        minutes = 1 + file_system_time(store) // 60 - begun
        assert 1 <= len(slurm.asked) <= minutes
        assert "True\n" in said  # whoever asked; others may have been too early for the answer

    def test_asks_for_the_jobs_of_this_user_alone(
        self, slurm: Slurm, store: Path, at: Callable[[float], None]
    ) -> None:
        has_ended(store)(holder("8", 0.0))
        (asked,) = slurm.asked
        assert "--me" in asked

    def test_knows_nothing_of_other_users_and_other_clusters_and_does_not_ask(
        self, slurm: Slurm, store: Path, at: Callable[[float], None]
    ) -> None:
        told = has_ended(store)
        assert told(holder("8", 0.0, cluster="there")) is None
        assert told(holder("8", 0.0, uid=os.getuid() + 1)) is None
        assert slurm.asked == []

    def test_asks_again_in_the_next_minute(
        self, slurm: Slurm, store: Path, at: Callable[[float], None]
    ) -> None:
        told = has_ended(store)
        for now, count in ((6000.0, 1), (6059.9, 1), (6060.0, 2), (6061.0, 2)):
            at(now)
            assert told(holder("8", 0.0))
            assert len(slurm.asked) == count

    def test_tells_whether_a_job_was_at_work_when_slurm_was_asked(
        self, slurm: Slurm, store: Path, at: Callable[[float], None]
    ) -> None:
        states = ["RUNNING", "SUSPENDED", "PENDING", "COMPLETING", "CONFIGURING"]
        slurm.says(*(f"{n}|{n}|{state}|None|n1|x" for n, state in enumerate(states)))
        told = has_ended(store)
        found = [told(holder(str(number), 0.0)) for number in range(6)]
        assert found == [False, False, True, True, True, True]

    def test_takes_no_job_that_began_after_the_last_answer_for_ended(
        self, slurm: Slurm, store: Path, at: Callable[[float], None]
    ) -> None:
        at(6030.0)
        told = has_ended(store)
        assert told(holder("8", 5999.0))
        assert not told(holder("8", 6001.0))  # perhaps it began after the question
        at(6070.0)
        assert told(holder("8", 6001.0))

    def test_takes_the_answer_of_a_minute_ago_while_another_process_asks(
        self, slurm: Slurm, store: Path, at: Callable[[float], None]
    ) -> None:
        told = has_ended(store)
        assert told(holder("8", 5900.0))
        at(6060.0)
        (store / ".sweep" / "queue" / f"101-{os.getuid()}-here.asked").touch()
        assert told(holder("8", 5900.0))
        assert not told(holder("7", 5900.0))
        at(6120.0)
        (store / ".sweep" / "queue" / f"102-{os.getuid()}-here.asked").touch()
        assert not told(holder("8", 5900.0))  # that answer is too old

    def test_knows_nothing_where_slurm_does_not_answer(
        self, slurm: Slurm, store: Path, at: Callable[[float], None]
    ) -> None:
        slurm.runs("#!/bin/bash\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
        assert not has_ended(store)(holder("8", 0.0))
        assert not list((store / ".sweep" / "queue").glob("*.json"))

    def test_waits_not_long_for_an_answer(
        self,
        slurm: Slurm,
        store: Path,
        at: Callable[[float], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from sweep.drive import END_SECONDS

        assert queue.POLL_ASK_SECONDS < END_SECONDS  # else a job may be ended while it asks
        monkeypatch.setattr(queue, "POLL_ASK_SECONDS", 0.2)
        slurm.runs("#!/bin/bash\nexec sleep 60\n")
        assert not has_ended(store)(holder("8", 0.0))

    def test_knows_nothing_where_there_is_no_slurm_and_leaves_nothing(
        self, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert not has_ended(store)(holder("8", 0.0))
        assert not list((store / ".sweep").iterdir())

    def test_knows_nothing_in_a_store_that_one_may_only_read(
        self, slurm: Slurm, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(folder: Path) -> float:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(queue, "file_system_time", refuse)
        assert not has_ended(store)(holder("8", 0.0))
        assert slurm.asked == []

    @pytest.mark.parametrize("content", [b"", b"{", b"7"], ids=str)
    def test_knows_nothing_where_an_answer_is_damaged(
        self, content: bytes, slurm: Slurm, store: Path, at: Callable[[float], None]
    ) -> None:
        told = has_ended(store)
        assert told(holder("8", 0.0))
        (store / ".sweep" / "queue" / f"100-{os.getuid()}-here.json").write_bytes(content)
        assert not told(holder("8", 0.0))

    def test_keeps_the_answers_of_two_minutes(
        self, slurm: Slurm, store: Path, at: Callable[[float], None]
    ) -> None:
        told = has_ended(store)
        for minute in range(100, 106):
            at(60.0 * minute)
            told(holder("8", 0.0))
        names = {path.name for path in (store / ".sweep" / "queue").iterdir()}
        whose = f"-{os.getuid()}-here"
        assert names == {f"{n}{whose}.{end}" for n in (104, 105) for end in ("asked", "json")}
        assert json.loads((store / ".sweep" / "queue" / f"105{whose}.json").read_bytes()) == ["7"]


class TestJobs:
    def test_are_read_as_squeue_lists_them_whatever_their_names(self, slurm: Slurm) -> None:
        slurm.says(
            "12|12|RUNNING|None|n[1-2]|two words",
            "13|10_3|PENDING|Resources||a|b|PENDING|c",
            "no job at all",
        )
        assert jobs() == [
            Job("12", "12", "RUNNING", "None", "n[1-2]", "two words"),
            Job("13", "10_3", "PENDING", "Resources", "", "a|b|PENDING|c"),
        ]

    def test_may_have_names_that_are_no_text(self, slurm: Slurm) -> None:
        (slurm.folder / "answer").write_bytes(b"12|12|RUNNING|None|n1|caf\xe9\n")
        assert [job.number for job in jobs()] == ["12"]

    def test_are_told_in_words(self, slurm: Slurm) -> None:
        slurm.says(
            "1|1|RUNNING|None|n1|x",
            "2|2|PENDING|Resources||x",
            "3|3|PENDING|Priority||x",
            "4|4|PENDING|Priority||x",
        )
        assert queue_text(jobs()) == "3 pending, 1 running (waiting for: 2 Priority, 1 Resources)"
        assert queue_text([]) == ""

    def test_cannot_be_had_where_slurm_refuses_or_is_not_there_or_is_silent(
        self, slurm: Slurm
    ) -> None:
        slurm.runs("#!/bin/bash\necho 'squeue: error: Invalid user' >&2\nexit 1\n")
        with pytest.raises(EngineError, match="squeue refused: Invalid user"):
            jobs()
        for words in ("Socket timed out on send/recv operation", "Unable to contact slurm"):
            slurm.runs(f"#!/bin/bash\necho 'squeue: error: {words}' >&2\nexit 1\n")
            with pytest.raises(
                EngineError, match=f"SLURM has not answered squeue: {words}"
            ) as told:
                jobs()
            assert not isinstance(told.value, Refused), "what was asked may have been done"
        slurm.runs("#!/bin/bash\nexec sleep 60\n")
        with pytest.raises(EngineError, match="SLURM has not answered squeue in 0 s"):
            jobs(seconds=0.2)
        with pytest.raises(EngineError, match="There is no 'sfree' on this machine: no SLURM"):
            ask("sfree")

    def test_are_asked_for_without_what_slurm_or_a_person_has_set_for_others(
        self, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("SLURM_JOB_ID", "SBATCH_ACCOUNT", "SBATCH_ARRAY_INX", "SQUEUE_STATES"):
            monkeypatch.setenv(name, "x")
        monkeypatch.setenv("SLURM_CONF", "x")
        slurm.runs("#!/bin/bash\nenv | grep -E '^S(LURM|BATCH|QUEUE)_' | cut -d= -f1\n")
        assert sorted(ask("squeue").split()) == [
            "SBATCH_ACCOUNT",
            "SLURM_CONF",
            "SLURM_TIME_FORMAT",
        ]
