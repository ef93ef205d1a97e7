"""Whether a GPU is at hand: what the CUDA kernels ask before they start."""

import numba
from numba import cuda

# numba can run CUDA kernels in plain Python, with a Python thread for each thread of the GPU
# (NUMBA_ENABLE_CUDASIM=1, before numba is imported): the kernels take tiny blocks then.
IS_SIMULATED = bool(numba.config.ENABLE_CUDASIM)


def require_gpu() -> None:
    """Raise unless there is a GPU, or its simulator.

    Raises
    ------
    RuntimeError
        Its message says what to do.
    """
    if not cuda.is_available():
        raise RuntimeError(
            "CUDA finds no GPU that it can use: start where nvidia-smi lists one, with "
            "pip install 'sweepzarr[cuda]' or a CUDA toolkit; or compute on the CPU (device=cpu)."
        )
