"""The CUDA kernels where there is no GPU: in numba's simulator, and as code for one."""

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
from plates import cases

from pipelines.kernels import gravity_cuda, heat_cuda
from pipelines.kernels.cuda_device import require_gpu

H100 = (9, 0)  # compute capability
NO_GPU_HERE = pytest.mark.skipif(cuda.is_available(), reason="there is a GPU")


def test_cuda_kernels_pass_their_tests_in_the_simulator():
    # A process of its own, because numba takes the simulator when it is imported, or never.
    here = Path(__file__).parent
    files = [str(here / "test_heat_cuda.py"), str(here / "test_gravity_cuda.py")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *files]

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
    assert int(passed[1]) > 40


def kernels(dtype):
    """Each kernel and the types of its arguments."""
    update = heat_cuda.alone(cases(dtype)[0].stencil)
    update = {name: np.asarray(array, dtype) for name, array in update._asdict().items()}
    stencils = heat_cuda.Stencils(**(update | {"edges": (0, 0, 0, 0)}))
    one, row, table, cube = (np.ones((2,) * n, dtype) for n in range(4))
    number = one[()]
    return {
        "tiled": (heat_cuda.tiled, cube, cube, stencils, 0, 4),
        "whole": (heat_cuda.whole, cube, stencils, 4),
        "pull": (gravity_cuda.KERNELS["pull", one.dtype], table, row, number, 2, cube),
        "depth": (gravity_cuda.KERNELS["depth", one.dtype], table, row, number, 2, cube),
        "total": (gravity_cuda.total, cube, number, table),
        "move": (gravity_cuda.move, cube, number, table, table, number, number, number),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA's compiler is made for Linux")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", kernels(np.float64))
def test_kernels_compile_for_a_gpu_with_all_they_hold_in_registers(name, dtype, monkeypatch):
    kernel, *arguments = kernels(dtype)[name]
    # A function that a kernel calls is compiled for the GPU at hand.
    at_hand = SimpleNamespace(compute_capability=H100)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: at_hand)

    types = tuple(numba.typeof(argument) for argument in arguments)
    code, _ = cuda.compile_ptx(kernel.py_func, types, cc=H100)

    assert ".entry" in code
    assert ".local" not in code  # memory of a thread's own: spilled registers, arrays
    assert not re.search(r"^\s*call", code, re.MULTILINE)
    other = r"\.f64\b" if dtype == np.float32 else r"\.f32\b"
    assert not re.search(other, code)


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
