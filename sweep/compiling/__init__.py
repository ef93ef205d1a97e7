"""Numba in a worker: its threads, its compiler's seconds, and what it has compiled, on disk.

`hook.py` gives numba a cache of ours, by which compiled code is kept
(`cache.py`) under all that it depends on (`stamp.py`), in a folder of the user's alone
(`folder.py`); of several processes that need the same, one compiles (`turn.py`).

Who imports `sweep` before any kernel has it, at a prompt, too. A process without `sweep` caches as
numba does: what it has compiled it takes for good while the file that holds the function is the
same, whatever was edited in the files that this one imports. So it is, with `sweep` or without, for
a function in a cell of a notebook, which no file holds: numba takes the cell's text alone.
"""

import importlib
import sys

from sweep.compiling.clock import compile_seconds as compile_seconds
from sweep.compiling.clock import point_clock as point_clock


def warm_numba() -> None:
    """Import numba, and have it fill the tables that any first call needs, before that call."""
    registry = importlib.import_module("numba.core.registry")
    registry.cpu_target.typing_context.refresh()
    registry.cpu_target.target_context.refresh()


def set_threads(threads: int) -> None:
    """Let kernels use so many threads, at most those that numba was started with."""
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
