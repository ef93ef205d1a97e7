"""What compiled code depends on: texts as they were imported, code and values that are named."""

import enum
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numba
import numpy as np
import pytest

from sweep.compiling.stamp import Stamp
from sweep.modules import load_module, texts_behind


class Shape(enum.Enum):
    ROUND = 1
    SQUARE = 2


def made(text: str, **given: Any) -> FunctionType:
    """Return the function ``f`` of a text, whose globals hold what is given."""
    module = ModuleType("made")
    vars(module).update(given, njit=numba.njit, np=np)
    exec(compile(text, "made.py", "exec"), vars(module))
    found: FunctionType = module.f  # type: ignore[attr-defined]
    return found


@pytest.fixture(autouse=True)
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made.py").write_text("")  # whose text is that of all of them
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())


def stamp(text: str, **given: Any) -> str:
    return Stamp(made(text, **given)).now()


CALLS = "@njit\ndef g(a):\n    return a + {}\n\n\ndef f(a):\n    return g(a)\n"
LOOKS = "def f(a):\n    return a + b\n"
KNOWS = "def f(a):\n    return a + constants.B\n"


def module_with(**values: Any) -> ModuleType:
    found = ModuleType("constants")
    vars(found).update(values)
    return found


@pytest.mark.parametrize(
    "same",
    [
        lambda: stamp("def f(a):\n    return a + 1\n"),
        lambda: stamp(CALLS.format(1)),
        lambda: stamp(LOOKS, b=np.arange(3.0)),
        lambda: stamp(LOOKS, b=(1, 2.0, "c", Shape.ROUND, None)),
        lambda: stamp(LOOKS, b=frozenset({"x", "y", "z"})),
        lambda: stamp(LOOKS, b={"x": made(LOOKS, b=1), Shape: 2}),
        lambda: stamp(LOOKS, b=numba.float64),
        lambda: stamp(LOOKS, b=np.dtype("f4")),
        lambda: stamp(KNOWS, constants=module_with(B=1, other=object())),
    ],
)
def test_what_is_the_same_has_the_same_stamp(same: Callable[[], str]) -> None:
    assert same() == same()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("def f(a):\n    return a + 1\n", {}), ("def f(a):\n    return a + 2\n", {})),
        (("def f(a, b=1):\n    return a\n", {}), ("def f(a, b=2):\n    return a\n", {})),
        ((CALLS.format(1), {}), (CALLS.format(2), {})),
        ((LOOKS, {"b": 1}), (LOOKS, {"b": 1.0})),
        ((LOOKS, {"b": 0.0}), (LOOKS, {"b": -0.0})),
        ((LOOKS, {"b": np.arange(3.0)}), (LOOKS, {"b": np.arange(3.0)[::-1]})),
        ((LOOKS, {"b": np.float32(1)}), (LOOKS, {"b": np.float64(1)})),
        ((LOOKS, {"b": (1, (2, 3))}), (LOOKS, {"b": (1, (2, 4))})),
        ((LOOKS, {"b": {"x": 1}}), (LOOKS, {"b": {"x": 2}})),
        ((LOOKS, {"b": {"x": made(LOOKS, b=1)}}), (LOOKS, {"b": {"x": made(LOOKS, b=2)}})),
        ((LOOKS, {"b": Shape.ROUND}), (LOOKS, {"b": Shape.SQUARE})),
        ((LOOKS, {"b": numba.float64}), (LOOKS, {"b": numba.float32})),
        (
            (KNOWS, {"constants": module_with(B=1)}),
            (KNOWS, {"constants": module_with(B=2)}),
        ),
    ],
)
def test_what_gives_another_answer_has_another_stamp(
    one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]
) -> None:
    assert stamp(one[0], **one[1]) != stamp(other[0], **other[1])


def test_functions_that_call_each_other_have_one() -> None:
    text = "@njit\ndef g(a):\n    return f(a)\n\n\ndef f(a):\n    return g(a)\n"

    assert stamp(text) == stamp(text)


def test_a_dict_that_holds_itself_has_one() -> None:
    knot: dict[str, object] = {}
    knot["itself"] = knot

    assert stamp(LOOKS, b=knot) == stamp(LOOKS, b=knot)


def test_globals_that_come_after_the_decorator_count() -> None:
    function = made(LOOKS)
    early = Stamp(function)
    before = early.now()
    function.__globals__["b"] = 1

    assert early.now() != before


def test_the_texts_are_those_that_were_imported_and_not_those_on_disk_by_then(
    tmp_path: Path,
) -> None:
    (tmp_path / "below.py").write_text("B = 1\n")
    (tmp_path / "above.py").write_text("from below import B\n\n\ndef f():\n    return B\n")
    found = load_module(tmp_path / "above.py")
    (tmp_path / "below.py").write_text("B = 2\n")

    assert texts_behind(found.f) == {
        "above.py": "from below import B\n\n\ndef f():\n    return B\n",
        "below.py": "B = 1\n",
    }
    for name in ("above", "below"):
        del sys.modules[name]
