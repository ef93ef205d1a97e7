"""Compiled code that is kept: found by the next process, never stale, safe to read."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

import sweep
from sweep.compiling import cache
from sweep.compiling.cache import Entries, make_room
from sweep.compiling.clock import clock
from sweep.modules import load_module

STUDY = '''"""A study whose kernel stands in one file, and what that calls in another one."""

from typing import Annotated

from outer import ascend

from sweep import Axis, Pipeline, Var


def climb(n: int) -> Annotated[float, Var(())]:
    return ascend(n)


pipeline = Pipeline(climb, axes=[Axis("n", [1, 2, 3, 4])])
'''
OUTER = """from numba import njit, prange

from inner import step


@njit(cache=True, parallel=True)
def ascend(n):
    total = 0.0
    for i in prange(n):
        total += step()
    return total
"""
SERIAL = OUTER.replace(", parallel=True", "")  # quicker to compile
INNER = """import os

from numba import njit

HEIGHT = float(os.environ.get("HEIGHT", 2.0))


@njit(cache=True)
def step():
    return HEIGHT
"""
RUN = """import json, sys
import sweep
store, engine = sys.argv[1:]
found = sweep.run("study.py", store, on=engine, workers=None if engine == "serial" else 2)
import xarray
tasks = xarray.open_zarr(store, group="tasks").load()
stats = {}
if engine == "serial":
    import outer, inner
    for one in (outer.ascend, inner.step):
        stats[one.__name__] = [
            sum(one.stats.cache_hits.values()), sum(one.stats.cache_misses.values())
        ]
print(json.dumps({
    "answers": found.climb.values.tolist(),
    "compiling": float(tasks.compile_seconds.max()),
    "stats": stats,
}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"study": STUDY, "outer": SERIAL, "inner": INNER}.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def begin(folder: Path, store: str, engine: str = "serial", **more: str) -> "subprocess.Popen[str]":
    """Run the study in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, store, engine],
        cwd=folder,
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder / "kept")} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(out)
    return found


def kept(folder: Path) -> list[str]:
    """Return the functions whose compiled code is kept."""
    return sorted(file.name.partition("-")[0] for file in folder.rglob("*.compiled"))


class TestProcesses:
    @pytest.mark.thorough
    def test_that_come_later_compile_nothing(self, folder: Path) -> None:
        (folder / "outer.py").write_text(OUTER)
        first = end(begin(folder, "first.zarr"))
        second = end(begin(folder, "second.zarr"))
        third = end(begin(folder, "third.zarr", "processes"))

        assert first["compiling"] > 0.01
        assert first["stats"] == {"ascend": [0, 1], "step": [0, 1]}
        assert second["compiling"] == third["compiling"] == 0
        assert second["stats"]["ascend"] == [1, 0]
        assert first["answers"] == second["answers"] == third["answers"] == [2, 4, 6, 8]

    def test_run_no_stale_code_after_an_edit_two_imports_away(self, folder: Path) -> None:
        before = end(begin(folder, "before.zarr"))
        (folder / "inner.py").write_text(INNER.replace("2.0", "5.0"))  # of the same size
        after = end(begin(folder, "after.zarr"))

        assert before["answers"] == [2, 4, 6, 8]
        assert after["answers"] == [5, 10, 15, 20]
        assert after["compiling"] > 0

    def test_run_no_code_with_the_value_that_a_global_had(self, folder: Path) -> None:
        end(begin(folder, "before.zarr"))
        after = end(begin(folder, "after.zarr", HEIGHT="3"))

        assert after["answers"] == [3, 6, 9, 12]

    @pytest.mark.thorough
    def test_that_start_cold_together_lose_nothing_and_one_compiles(self, folder: Path) -> None:
        (folder / "outer.py").write_text(OUTER)
        together = [begin(folder, f"{number}.zarr") for number in range(4)]
        found = [end(process) for process in together]

        assert [one["answers"] for one in found] == [[2, 4, 6, 8]] * 4
        assert sum(one["stats"]["ascend"][1] for one in found) == 1
        assert sum(one["stats"]["step"][1] for one in found) == 1
        assert kept(folder) == ["inner.step", "outer.ascend"]
        assert list(folder.rglob("*.turn")) == []

    def test_without_numba_pay_nothing(self, folder: Path, throw: Any) -> None:
        code = (
            "import sweep, sys\n"
            f"sweep.run({str(throw.file)!r}, on='serial')\n"
            "print([name for name in sys.modules if name.startswith(('numba', 'llvmlite'))])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "[]\n", done.stderr


LAWS = """from numba.extending import overload

import inner


def height():
    raise NotImplementedError


STEPS = {"fixed": lambda: inner.step()}


@overload(height, strict=False)
def choose():
    return STEPS["fixed"]
"""
CHOOSING = """from numba import njit

import laws


@njit(cache=True)
def ascend():
    return laws.height()
"""
EDITED_AFTER_ITS_IMPORT = """import inner
edit("2.0", "5.0")
import outer
"""
RELOADED_AMID_EDITS = """import importlib, inner, outer
edit("2.0", "5.0")
importlib.reload(inner)
edit("5.0", "2.0")
importlib.reload(outer)
"""
ASCEND = """import sweep
from pathlib import Path

def edit(old, new):
    file = Path("inner.py")
    file.write_text(file.read_text().replace(old, new))

{}
import outer
print(outer.ascend())
"""


@pytest.mark.parametrize(
    ("before", "first", "height", "second"),
    [
        pytest.param(EDITED_AFTER_ITS_IMPORT, "2.0", "", "5.0", id="edit"),
        pytest.param(RELOADED_AMID_EDITS, "5.0", "", "2.0", id="reload"),
        pytest.param("", "2.0", "3.0", "3.0", id="global"),
    ],
)
def test_what_an_overload_calls_is_never_stale(
    before: str, first: str, height: str, second: str, tmp_path: Path
) -> None:
    for name, text in {"outer": CHOOSING, "laws": LAWS, "inner": INNER}.items():
        (tmp_path / f"{name}.py").write_text(text)
    # Python's own cache of bytecode misses an edit of the same second and size.
    own = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}

    def ascend(before: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", ASCEND.format(before)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | own | more,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert ascend(before) == first
    assert ascend("", **({"HEIGHT": height} if height else {})) == second


CALLING = """from numba import njit

from outer import ascend


@njit(cache=True)
def twice(n):
    return 2 * ascend(n)
"""


def test_code_that_calls_threaded_code_from_the_cache_starts_its_threads(tmp_path: Path) -> None:
    for name, text in {"caller": CALLING, "outer": OUTER, "inner": INNER}.items():
        (tmp_path / f"{name}.py").write_text(text)
    own = {"NUMBA_CACHE_DIR": str(tmp_path)}

    def last_line(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", f"import sweep\n{code}"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | own,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    last_line("import outer; outer.ascend(3)")
    calls = "import caller; print(caller.twice(3), caller.twice.stats.cache_hits.total())"

    assert last_line(calls) == "12.0 0"  # compiled, with what it calls from the cache
    assert last_line(calls) == "12.0 1"


def test_numbas_cuda_kernels_are_kept_in_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("def kernel(a):\n    a[0] = 1\n")
    code = (
        "import sweep, here\n"
        "from numba.cuda.dispatcher import CUDACache, CUDADispatcher\n"
        "kept = CUDACache(here.kernel)\n"
        "print(type(kept._cache_file).__module__, CUDADispatcher.compile.__wrapped__.__name__)"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout == "sweep.compiling.cache compile\n", done.stderr


def test_a_numba_that_was_imported_before_is_followed_too(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text(
        "from numba import njit\n@njit(cache=True)\ndef f(a):\n    return a + 1\n"
    )
    code = "import numba, sweep, here; print(here.f(1), type(here.f._cache._cache_file).__name__)"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout == "2 Entries\n", done.stderr
    assert kept(tmp_path) == ["here.f"]


# --- in this process ---------------------------------------------------------------------

Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Import the texts of some files as a fresh process would; the first is the one to use."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def imported(text: str, **others: str) -> Any:
        for name in ("here", *others):
            sys.modules.pop(name, None)
        for name, other in others.items():
            (tmp_path / f"{name}.py").write_text(other)
        (tmp_path / "here.py").write_text(text)
        return load_module(tmp_path / "here.py")

    return imported


def misses(function: Any) -> int:
    return sum(function.stats.cache_misses.values())


PLAIN = "from numba import njit\n\n\n@njit(cache=True)\ndef double(a):\n    return 2 * a\n"


def entries_of(function: Any) -> Entries:
    """Return where a function's compiled code is: this fails if numba is made otherwise."""
    found = function._cache._cache_file
    assert isinstance(found, Entries), "numba's caching is not what sweep/compiling/hook.py changes"
    return found


class TestEntries:
    def test_are_where_numba_looks_for_them(self, make: Make, tmp_path: Path) -> None:
        double = make(PLAIN).double

        assert double(3) == 6
        entries_of(double)
        assert kept(tmp_path) == ["here.double"]
        assert Path(double.stats.cache_path).stat().st_mode & 0o777 == 0o700

    def test_are_found_again_and_by_signature(self, make: Make, tmp_path: Path) -> None:
        make(PLAIN).double(3)
        again = make(PLAIN).double
        again(4)
        again(1.5)

        assert (sum(again.stats.cache_hits.values()), misses(again)) == (1, 1)
        assert kept(tmp_path) == ["here.double"] * 2

    @pytest.mark.parametrize("what", ["damage", "cut"])
    def test_that_are_not_whole_are_made_anew(self, what: str, make: Make, tmp_path: Path) -> None:
        make(PLAIN).double(3)
        (entry,) = tmp_path.rglob("*.compiled")
        raw = entry.read_bytes()
        entry.write_bytes(raw[:-40] if what == "cut" else raw[:500] + b"?" + raw[501:])
        again = make(PLAIN).double

        assert again(4) == 8
        assert misses(again) == 1
        assert make(PLAIN).double(5) == 10

    def test_that_others_may_write_to_are_not_read(self, make: Make, tmp_path: Path) -> None:
        make(PLAIN).double(3)
        (entry,) = tmp_path.rglob("*.compiled")
        entry.chmod(0o666)
        again = make(PLAIN).double

        assert again(4) == 8
        assert misses(again) == 1

    def test_are_not_shared_between_serial_and_parallel(self, make: Make, tmp_path: Path) -> None:
        text = (
            "from numba import njit, prange\n\n\ndef total(n):\n    s = 0.0\n"
            "    for i in prange(n):\n        s += i\n    return s\n\n\n"
            "serial = njit(cache=True)(total)\nparallel = njit(cache=True, parallel=True)(total)\n"
        )
        module = make(text)

        assert module.serial(4) == module.parallel(4) == 6.0
        assert (misses(module.serial), misses(module.parallel)) == (1, 1)

    def test_of_a_function_made_of_others_are_found_again(self, make: Make) -> None:
        text = (
            "from numba import njit\n\n\ndef twice(f):\n    @njit(cache=True)\n"
            "    def both(a):\n        return f(f(a))\n    return both\n\n\n"
            "@njit\ndef double(a):\n    return 2 * a\n\n\n@njit\ndef triple(a):\n"
            "    return 3 * a\n\n\nfour, nine = twice(double), twice(triple)\n"
        )
        make(text).four(1)
        again = make(text)

        assert (again.four(1), again.nine(1)) == (4, 9)
        assert (misses(again.four), misses(again.nine)) == (0, 1)

    def test_of_callees_in_other_files_count_as_those_were_imported(
        self, make: Make, tmp_path: Path
    ) -> None:
        outer = "from other import f\nfrom numba import njit\n\n\n@njit(cache=True)\ndef g(a):\n"
        outer += "    return f(a)\n"
        inner = "from numba import njit\n\n\n@njit\ndef f(a):\n    return a + {}\n"
        assert make(outer, other=inner.format(1)).g(0) == 1
        module = make(outer, other=inner.format(2))
        (tmp_path / "other.py").write_text(inner.format(1))  # edited since

        assert module.g(0) == 2
        assert make(outer, other=inner.format(1)).g(0) == 1

    def test_that_can_only_be_read_are_read(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(30, "Read-only file system")

        make(PLAIN).double(3)
        monkeypatch.setattr(os, "utime", refuse)
        again = make(PLAIN).double

        assert again(4) == 8
        assert misses(again) == 0

    def test_that_cannot_be_written_cost_nothing_but_the_cache(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cache, "_write", full)

        assert make(PLAIN).double(3) == 6

    def test_give_the_turn_back_where_nothing_could_be_compiled(
        self, make: Make, tmp_path: Path
    ) -> None:
        text = "from numba import njit\n\n\n@njit(cache=True)\ndef add(a):\n    return a + 'b'\n"
        add = make(text).add
        with pytest.raises(numba.TypingError):
            add(1)

        assert list(tmp_path.rglob("*.turn")) == []
        assert clock.calls == []

    def test_go_when_they_are_too_many_those_not_used_for_longest_first(
        self, tmp_path: Path
    ) -> None:
        for age, name in enumerate(["new", "middle", "old"]):
            (tmp_path / f"{name}.compiled").write_bytes(bytes(100))
            os.utime(tmp_path / f"{name}.compiled", (10**9 - age, 10**9 - age))
        for name in ("young", "left"):
            (tmp_path / f"{name}.partial").touch()
        os.utime(tmp_path / "left.partial", (10**9, 10**9))

        make_room(tmp_path, 250)

        found = {file.name for file in tmp_path.iterdir()}
        assert found == {"new.compiled", "middle.compiled", "young.partial"}

    def test_are_forgotten_when_numba_is_told_so(self, make: Make, tmp_path: Path) -> None:
        double = make(PLAIN).double
        double(3)
        entries_of(double).flush()

        assert kept(tmp_path) == []


def test_without_a_folder_to_trust_nothing_is_kept_and_that_is_said(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / f"sweep-{os.getuid()}-compiled").mkdir()
    (tmp_path / f"sweep-{os.getuid()}-compiled").chmod(0o777)

    with pytest.warns(UserWarning, match=r"not kept: in .* yours alone.* NUMBA_CACHE_DIR"):
        double = make(PLAIN).double

    assert double(3) == 6
    assert kept(tmp_path) == []


def test_another_numba_is_told_by_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import ModuleType

    from sweep.compiling.hook import _change

    with pytest.warns(UserWarning, match=r"not made as sweep knows it.*remove their __pycache__"):
        _change(ModuleType("numba.core.caching"))


def test_the_numba_that_is_here_is_followed_without_a_warning() -> None:
    code = "import warnings; warnings.simplefilter('error'); import sweep, numba"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sweep  # imported above: what the other tests rest on
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entries_of(numba.njit(cache=True)(here_is_a_function))


def here_is_a_function(a: float) -> float:
    return a
