import getpass
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.provenance import LONGEST_DIFF, allowed, capped, cpu_model, gather


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "top").mkdir()
    (tmp_path / "top/study.py").write_text("def fade(radius):\n    return radius\n")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(folder) -> Path:
    git(folder, "init", "--initial-branch=trunk")
    git(folder, "add", "top")
    git(folder, "commit", "--message=first")
    return folder


# --- the whole record --------------------------------------------------------------------


def test_a_record_is_json_and_says_who_what_and_where(repository):
    record = gather(repository / "top/study.py", ["sweep", "run", "top/study.py"])

    assert json.loads(json.dumps(record)) == record
    assert record["argv"] == ["sweep", "run", "top/study.py"]
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["user"] == getpass.getuser()
    assert record["cwd"] == str(Path.cwd())
    assert record["cores"] >= 1
    assert record["memory_bytes"] > 1e8
    assert record["packages"]["numpy"]
    assert all(record[name] for name in ("hostname", "platform"))


def test_a_pipeline_without_a_file_has_a_record_without_code():
    record = gather(None, [])

    assert record["git_commit"] == ""
    assert record["packages"]


# --- the environment and the machine -----------------------------------------------------


def test_only_what_can_change_a_result_is_kept_of_the_environment():
    kept = {"OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"}

    assert allowed({**kept, "HOME": "/home/ada", "PATH": "/bin", "PYTHONSTARTUP": "x"}) == kept


@pytest.mark.parametrize("word", ["KEY", "TOKEN", "SECRET", "PASSWORD", "JWT", "AUTH", "token"])
def test_nothing_that_looks_like_a_secret_is_kept(word):
    assert allowed({f"SLURM_{word}": "x", f"SLURM_MY_{word}_1": "x"}) == {}


def test_the_processor_is_named_as_the_kernel_does():
    assert cpu_model("processor\t: 0\nmodel name\t: AMD EPYC 9654 \nflags : a\n") == "AMD EPYC 9654"
    assert cpu_model("Features : fp asimd\n") == ""


# --- git ---------------------------------------------------------------------------------


def test_a_clean_repository_has_a_commit_and_no_difference(repository):
    record = gather(repository / "top/study.py", [])

    assert len(record["git_commit"]) == 40
    assert record["git_branch"] == "trunk"
    assert (record["git_dirty"], record["git_diff"]) == (False, "")


def test_a_difference_is_kept_itself(repository):
    (repository / "top/study.py").write_text("def fade(radius):\n    return radius + 2\n")

    record = gather(repository / "top/study.py", [])

    assert record["git_dirty"]
    assert "+    return radius + 2" in record["git_diff"]


def test_a_study_that_git_does_not_know_is_noted(repository):
    (repository / "top/new.py").write_text("")

    record = gather(repository / "top/new.py", [])

    assert record["git_study_untracked"]
    assert record["git_dirty"]
    assert record["git_commit"]


def test_without_a_repository_the_fields_are_empty(folder, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))

    assert_no_git(gather(folder / "top/study.py", []))


def test_without_git_the_fields_are_empty(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")

    assert_no_git(gather(repository / "top/study.py", []))


def assert_no_git(record: dict) -> None:
    assert [record[f"git_{name}"] for name in ("commit", "branch", "diff")] == ["", "", ""]
    assert not record["git_dirty"]


def test_a_repository_without_commits_has_a_branch_only(folder):
    git(folder, "init", "--initial-branch=trunk")

    record = gather(folder / "top/study.py", [])

    assert (record["git_commit"], record["git_branch"]) == ("", "trunk")
    assert record["git_study_untracked"]


def test_a_hook_of_another_repository_does_not_confuse(repository, monkeypatch, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    git(other, "init")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))

    assert gather(repository / "top/study.py", [])["git_branch"] == "trunk"


def test_a_long_difference_is_cut_with_a_note():
    assert capped("a" * LONGEST_DIFF) == "a" * LONGEST_DIFF
    assert capped("a" * (LONGEST_DIFF + 3)).endswith("a\n[3 more characters]\n")
