"""The CUDA kernels where there is no GPU: in numba's simulator, and as code for one."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from numba import cuda
from random_plates import cases

from pipelines.kernels import gravity_cuda, heat_cuda
from pipelines.kernels.cuda_device import require_gpu

H100 = (9, 0)  # compute capability
# Of the simulator's threads one runs at a time. On one core they take a third of what it takes to
# pass the interpreter's lock from core to core.
ON_ONE_CORE = """
import os, sys, pytest
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
sys.exit(pytest.main(sys.argv[1:]))
"""
NO_GPU_HERE = pytest.mark.skipif(cuda.is_available(), reason="there is a GPU")


# Files of tests that need a GPU, and how many tests there are at least.
NEED_A_GPU = {
    "kernels/test_heat_cuda.py": 20,
    "kernels/test_gravity_cuda.py": 15,
    "test_on_gpu.py": 5,
}


@pytest.mark.parametrize("file", NEED_A_GPU)
def test_cuda_kernels_pass_their_tests_in_the_simulator(file):
    # A process of its own, because numba takes the simulator when it is imported, or never.
    here = Path(__file__).parent
    words = ["-m", "gpu", "-p", "no:cacheprovider", str(here.parent / file)]
    command = [sys.executable, "-c", ON_ONE_CORE, *words]

    finished = subprocess.run(
        command,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTEST_ADDOPTS": ""},
        cwd=here.parents[2],
        capture_output=True,
        text=True,
    )

    outcome = finished.stdout.strip().rpartition("\n")[2]
    passed = re.fullmatch(r"=+ (\d+) passed in .* =+", outcome)  # and none failed or skipped
    assert passed, finished.stdout + finished.stderr
    assert int(passed[1]) >= NEED_A_GPU[file]


def kernels(dtype):
    """Each kernel, threads of its largest block, and arguments of the types that it takes."""
    update = heat_cuda.alone(cases(dtype)[0].stencil)
    update = {name: np.asarray(array, dtype) for name, array in update._asdict().items()}
    stencils = heat_cuda.Stencils(**(update | {"edges": (0, 0, 0, 0)}))
    one, row, table, cube = (np.ones((2,) * n, dtype) for n in range(4))
    number = one[()]
    tile, largest = heat_cuda.TILE, heat_cuda.SHARED_BYTES // (2 * one.itemsize)
    plates = heat_cuda.threads_for(largest)
    bodies = gravity_cuda.TILE
    return {
        "uniform": (heat_cuda.TILED[True], tile**2 // heat_cuda.ROWS, cube, cube, stencils, 0, 4),
        "varying": (heat_cuda.TILED[False], tile**2 // heat_cuda.ROWS, cube, cube, stencils, 0, 4),
        "whole": (heat_cuda.whole, plates, cube, stencils, 4),
        "pull": (gravity_cuda.KERNELS["pull", one.dtype], bodies, table, row, number, 2, cube),
        "depth": (gravity_cuda.KERNELS["depth", one.dtype], bodies, table, row, number, 2, cube),
        "total": (gravity_cuda.total, bodies, cube, number, table),
        "move": (gravity_cuda.move, bodies, cube, number, table, table, number, number, number),
    }


@pytest.fixture
def compiled(monkeypatch):
    """Compiles a kernel for an H100; what it calls is compiled for the GPU at hand."""
    at_hand = SimpleNamespace(compute_capability=H100)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: at_hand)

    def compiled(kernel, arguments):
        types = tuple(numba.typeof(argument) for argument in arguments)
        return cuda.compile_ptx(kernel.py_func, types, cc=H100)[0]

    return compiled


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA's compiler is for Linux")
every_kernel = pytest.mark.parametrize("name", kernels(np.float64))
both_kinds = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@pytest.mark.thorough
@on_linux
@both_kinds
@every_kernel
def test_kernels_compile_for_a_gpu_without_arrays_in_memory_or_another_kind(name, dtype, compiled):
    kernel, _, *arguments = kernels(dtype)[name]

    code = compiled(kernel, arguments)

    assert ".entry" in code
    assert ".local" not in code  # arrays of a thread that are not in registers
    assert not re.search(r"^\s*call", code, re.MULTILINE)
    other = r"\.f64\b" if dtype == np.float32 else r"\.f32\b"
    assert not re.search(other, code)


@pytest.mark.thorough
@on_linux
@both_kinds
@every_kernel
def test_a_multiprocessor_has_registers_for_a_block(name, dtype, compiled, tmp_path):
    kernel, threads, *arguments = kernels(dtype)[name]
    (tmp_path / "kernel.ptx").write_text(compiled(kernel, arguments))
    command = [str(assembler()), "-arch=sm_90", "-v", "-o", os.devnull, "kernel.ptx"]
    limit = kernel.targetoptions.get("max_registers")
    command += [f"-maxrregcount={limit}"] if limit else []

    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr

    registers = int(re.search(r"Used (\d+) registers", told)[1])
    spilled = int(re.search(r"(\d+) bytes spill stores", told)[1])
    assert threads <= 1024
    assert threads * 8 * -(-registers // 8) <= 65_536  # given out by eights
    assert spilled <= 64  # a few numbers that are wanted once a step, not the nodes


def assembler():
    """NVIDIA's assembler, from the package that comes with numba-cuda[cu12]."""
    packages = importlib.util.find_spec("nvidia")
    for folder in (packages and packages.submodule_search_locations) or []:
        if (file := Path(folder) / "cuda_nvcc/bin/ptxas").exists():
            return file
    pytest.skip("needs NVIDIA's assembler: pip install 'numba-cuda[cu12]'")


@NO_GPU_HERE
@pytest.mark.parametrize(
    "start",
    [
        require_gpu,
        lambda: heat_cuda.advance(np.ones((7, 11)), cases()[0].stencil, 1),
        lambda: heat_cuda.advance_many(np.ones((1, 7, 11)), heat_cuda.alone(cases()[0].stencil), 1),
        lambda: gravity_cuda.accelerations(*np.ones((2, 1, 3)), 0.1, 1.0, np.ones((1, 3))),
        lambda: gravity_cuda.advance(*np.ones((3, 1, 3)), 0.1, 1.0, 0.1, 1),
    ],
)
def test_without_a_gpu_kernels_say_what_to_do(start):
    with pytest.raises(RuntimeError, match=r"nvidia-smi.*sweepzarr\[cuda\].*device=cpu"):
        start()
