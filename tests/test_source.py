import ast
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.source import code_hash, imported, prefixes, reached
from sweep.source import read_source as texts_of

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


def source_of(file: Path) -> dict[str, str]:
    return dict(texts_of(reached(file)))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_source_is_the_study_and_what_it_reaches(folder):
    source = source_of(folder / "top/study.py")

    assert source == {name: text for name, text in FILES.items() if name != "top/unused.py"}


def test_the_source_is_found_without_importing_it(folder):
    source_of(folder / "top/study.py")

    assert not [name for name in sys.modules if name.partition(".")[0] == "top"]


def test_a_loose_study_reaches_what_lies_beside_it(folder, monkeypatch):
    (folder / "random.py").write_text("import spots\n")  # named as one of the standard library
    (folder / "spots.py").write_text("import random\n")

    assert list(source_of(folder / "random.py")) == ["random.py", "spots.py"]


def test_installed_packages_are_left_out_unless_the_study_is_one_of_them(folder, monkeypatch):
    installed = folder / "site-packages"
    for name in ("one/__init__.py", "one/study.py", "two/__init__.py"):
        (installed / name).parent.mkdir(parents=True, exist_ok=True)
        (installed / name).write_text("import two\n")
    (folder / "loose.py").write_text("import one.study\n")
    monkeypatch.syspath_prepend(installed)

    assert list(source_of(folder / "loose.py")) == ["loose.py"]
    assert list(source_of(installed / "one/study.py")) == ["one/__init__.py", "one/study.py"]


def test_a_study_that_is_not_python_is_kept_as_text(folder):
    (folder / "broken.py").write_text("def fade(:\n")

    source = source_of(folder / "broken.py")

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
    before = code_hash(source_of(folder / "top/study.py"))
    kernel = folder / "top/kernels/heat.py"

    kernel.write_text("# the same\n" + kernel.read_text())
    same = code_hash(source_of(folder / "top/study.py"))
    kernel.write_text(kernel.read_text().replace("+ 1", "+ 2"))
    changed = code_hash(source_of(folder / "top/study.py"))

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
