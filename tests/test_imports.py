"""Imports run one way, and only the file that owns a library imports it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file.relative_to(ROOT)
    for top in ("sweep", "pipelines", "slurm")
    for file in (ROOT / top).rglob("*.py")
)

# library -> the files, or folders, that may import it
OWNERS = {
    "click": ["sweep/cli", "slurm/throwaway/__main__.py"],
    "cloudpickle": ["sweep/delivery.py"],
    "dask": ["sweep/engines/dask"],
    "distributed": ["sweep/engines/dask"],
    "google_crc32c": ["sweep/store"],
    "mpi4py": ["sweep/engines/mpi"],
    "llvmlite": ["sweep/compiling", "pipelines/kernels/simd.py", "pipelines/kernels/words.py"],
    "numba": ["pipelines", "sweep/compiling"],
    "numcodecs": ["sweep/store"],
    "pipelines": ["pipelines"],
    "rich": ["sweep/cli", "sweep/progress.py"],
    "slurm": ["slurm", "sweep/cli", "sweep/api.py"],
    "xarray": ["sweep/dataset.py", "sweep/export.py"],
    "zarr": ["sweep/store", "pipelines/bodies.py"],
}
KERNELS_MAY_IMPORT = {"numpy", "numba", "llvmlite", *sys.stdlib_module_names}  # llvmlite is numba's
SLOW_TO_IMPORT = ["dask", "distributed", "numba", "zarr", "matplotlib", "xarray"]


@cache
def imports(file: Path, *, at_module_level: bool = False) -> list[str]:
    """Return the dotted names that a file imports when it runs; ``a.b`` for ``from a import b``."""
    names = []
    for node in statements(ast.parse((ROOT / file).read_text()), at_module_level):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def statements(node: ast.AST, at_module_level: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        if not is_for_types and not (is_function and at_module_level):
            yield child
            yield from statements(child, at_module_level)


def module_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def within(file: Path, places: list[str]) -> bool:
    return any(file == Path(place) or Path(place) in file.parents for place in places)


@pytest.mark.parametrize("library", OWNERS)
def test_only_its_owners_import_a_library(library):
    strangers = [
        str(file)
        for file in FILES
        if any(name.partition(".")[0] == library for name in imports(file))
        and not within(file, OWNERS[library])
    ]

    assert strangers == []


def test_kernels_import_numpy_numba_and_each_other_only():
    kernels = [file for file in FILES if within(file, ["pipelines/kernels"])]
    foreign = {
        f"{file}: {name}"
        for file in kernels
        for name in imports(file)
        if name.partition(".")[0] not in KERNELS_MAY_IMPORT
        and not name.startswith("pipelines.kernels.")
    }

    assert len(kernels) > 2
    assert foreign == set()


def test_slurm_is_imported_when_it_is_needed_only():
    eager = [
        str(file)
        for file in FILES
        if not within(file, ["slurm"])
        and any(name.partition(".")[0] == "slurm" for name in imports(file, at_module_level=True))
    ]

    assert eager == []


def test_modules_of_the_engine_import_each_other_without_cycles():
    graph = {
        module: {found for name in imports(file, at_module_level=True) if (found := known(name))}
        for module, file in MODULES.items()
        if module.partition(".")[0] == "sweep"
    }

    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle: {' -> '.join(reversed(error.args[1]))}")

    assert order.index("sweep.definition") < order.index("sweep.run") < order.index("sweep")


def known(name: str) -> str | None:
    """Return the module that is imported by a dotted name: itself, or what it is taken from."""
    return next((one for one in (name, name.rpartition(".")[0]) if one in MODULES), None)


def test_importing_sweep_is_quick_because_heavy_libraries_come_later():
    code = f"import sweep, sys; print(*[n for n in {SLOW_TO_IMPORT} if n in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert done.stdout.split() == []
