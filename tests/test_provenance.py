import ast
import getpass
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.provenance import (
    LONGEST_DIFF,
    allowed,
    capped,
    code_hash,
    cpu_model,
    gather,
    imported,
    prefixes,
    read_source,
)

STUDY = '''"""A question."""

import json
import random

import numpy as np

import sweep
from top.kernels import heat


def fade(radius):
    """Let a spot fade."""
    from . import late

    return heat.advance(radius)  # one step
'''

FILES = {
    "top/__init__.py": "",
    "top/study.py": STUDY,
    "top/late.py": "from ..top import other as renamed\n",
    "top/other.py": "import json\n",
    "top/unused.py": "",
    "top/kernels/__init__.py": '"""Kernels."""\n',
    "top/kernels/heat.py": "def advance(plate):\n    return plate + 1\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
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
    assert all(record[name] for name in ("hostname", "platform", "code_hash"))


def test_a_pipeline_without_a_file_has_a_record_without_code():
    record = gather(None, [])

    assert (record["source"], record["code_hash"], record["git_commit"]) == ({}, "", "")
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
    (repository / "top/kernels/heat.py").write_text("def advance(plate):\n    return plate + 2\n")

    record = gather(repository / "top/study.py", [])

    assert record["git_dirty"]
    assert "+    return plate + 2" in record["git_diff"]


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


# --- the source --------------------------------------------------------------------------


def test_the_source_is_the_study_and_what_it_reaches(folder):
    source = read_source(folder / "top/study.py")

    assert source == {name: text for name, text in FILES.items() if name != "top/unused.py"}


def test_the_source_is_found_without_importing_it(folder):
    read_source(folder / "top/study.py")

    assert not [name for name in sys.modules if name.partition(".")[0] == "top"]


def test_a_loose_study_reaches_what_lies_beside_it(folder, monkeypatch):
    (folder / "random.py").write_text("import spots\n")  # named as one of the standard library
    (folder / "spots.py").write_text("import random\n")

    assert list(read_source(folder / "random.py")) == ["random.py", "spots.py"]


def test_installed_packages_are_left_out_unless_the_study_is_one_of_them(folder, monkeypatch):
    installed = folder / "site-packages"
    for name in ("one/__init__.py", "one/study.py", "two/__init__.py"):
        (installed / name).parent.mkdir(parents=True, exist_ok=True)
        (installed / name).write_text("import two\n")
    (folder / "loose.py").write_text("import one.study\n")
    monkeypatch.syspath_prepend(installed)

    assert list(read_source(folder / "loose.py")) == ["loose.py"]
    assert list(read_source(installed / "one/study.py")) == ["one/__init__.py", "one/study.py"]


def test_a_study_that_is_not_python_is_kept_as_text(folder):
    (folder / "broken.py").write_text("def fade(:\n")

    source = read_source(folder / "broken.py")

    assert source == {"broken.py": "def fade(:\n"}
    assert code_hash(source) != code_hash({"broken.py": "def fade(::\n"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import a.b.c as d", {"a", "a.b", "a.b.c"}),
        ("from a import b", {"a", "a.b"}),
        ("from . import b", {"pack", "pack.inner", "pack.inner.b"}),
        ("from .b import c", {"pack", "pack.inner", "pack.inner.b", "pack.inner.b.c"}),
        ("from .. import b", {"pack", "pack.b"}),
        ("def f():\n    import a", {"a"}),
        ("a = 'import b'", set()),
    ],
)
def test_import_statements_name_modules(text, expected):
    assert imported(text, "pack.inner") == expected


def test_the_packages_around_a_module_are_its_prefixes():
    assert prefixes("a.b.c") == ["a", "a.b"]
    assert prefixes("a") == []


# --- the hash of the code ----------------------------------------------------------------


def hash_of(text: str) -> str:
    return code_hash({"study.py": text})


@pytest.mark.parametrize(
    "edited",
    [
        STUDY.replace("A question.", "Another question."),
        STUDY.replace("Let a spot fade.", "Watch a spot fade."),
        STUDY.replace("  # one step", ""),
        STUDY.replace("\n\n", "\n\n\n# a remark\n\n"),
        STUDY.replace("heat.advance(radius)", "heat.advance(\n        (radius)\n    )"),
    ],
)
def test_remarks_and_layout_do_not_change_the_code(edited):
    assert edited != STUDY
    assert hash_of(edited) == hash_of(STUDY)


@pytest.mark.parametrize(
    "edited",
    [
        STUDY.replace("advance(radius)", "advance(radius + 1)"),
        STUDY.replace("return heat", "heat"),
        STUDY.replace("import random", "import random as r"),
        STUDY.replace("(radius)", "(*radius)"),
    ],
)
def test_a_changed_statement_changes_the_code(edited):
    assert edited != STUDY
    assert hash_of(edited) != hash_of(STUDY)


def test_an_edited_kernel_changes_the_code_of_the_study(folder):
    before = gather(folder / "top/study.py", [])["code_hash"]
    kernel = folder / "top/kernels/heat.py"

    kernel.write_text("# the same\n" + kernel.read_text())
    same = gather(folder / "top/study.py", [])["code_hash"]
    kernel.write_text(kernel.read_text().replace("+ 1", "+ 2"))
    changed = gather(folder / "top/study.py", [])["code_hash"]

    assert same == before != changed


def test_the_name_of_a_file_is_part_of_the_code():
    assert code_hash({"a.py": "1", "b.py": "2"}) != code_hash({"a.py": "2", "b.py": "1"})


def test_a_very_long_formula_has_a_hash():
    assert hash_of("+".join("x" * 5000)) != hash_of("+".join("x" * 5001))


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(VALUES, VALUES)
def test_constants_that_differ_make_code_that_differs(one, other):
    texts = [
        ast.unparse(ast.Assign([ast.Name("a")], ast.Constant(v), lineno=1)) for v in (one, other)
    ]

    assert (hash_of(texts[0]) == hash_of(texts[1])) == (texts[0] == texts[1])
