"""Numba in a worker: its threads, and the seconds of its compiler, which count as no point's."""

import importlib
import sys
import time
from typing import Any

from sweep.watch import hold_deadline, let_deadline_go_on

_clock: Any = None


def import_numba() -> None:
    """Import numba now, so that the first point does not."""
    importlib.import_module("numba")


def set_threads(threads: int) -> None:
    """Let kernels use so many threads, at most those that numba was started with."""
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def point_clock() -> float:
    """Return a time [s] that stands still while numba compiles."""
    return time.perf_counter() - compile_seconds()


def compile_seconds() -> float:
    """Return the seconds that this process has spent in numba's compiler."""
    global _clock
    if _clock is None and "numba" in sys.modules:
        from numba.core import event

        _clock = _make_clock(event)
        event.register("numba:compile", _clock)
    return float(_clock.seconds) if _clock is not None else 0.0


def _make_clock(event: Any) -> Any:
    class CompileClock(event.Listener):  # type: ignore[misc]  # numba is imported late
        """Counts the time in the outermost calls of the compiler."""

        def __init__(self) -> None:
            self.seconds = 0.0
            self._depth = 0
            self._since = self._left = 0.0

        def on_start(self, event: Any) -> None:
            if self._depth == 0:
                self._since = time.perf_counter()
                self._left = hold_deadline()
            self._depth += 1

        def on_end(self, event: Any) -> None:
            self._depth -= 1
            if self._depth == 0:
                self.seconds += time.perf_counter() - self._since
                let_deadline_go_on(self._left)

    return CompileClock()
