"""The seconds of numba's compiler, which count as no point's; and those of loading its answers.

A call of the compiler that finds all it needs on disk has compiled nothing: `compile_seconds`
does not grow. What it took counts as computing in ``/tasks``, because the stages had to wait for
it, but not as a point's time. Waiting for another process that compiles the same is compiling.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from sweep.watch import hold_deadline, let_deadline_go_on

Compile = Callable[[Any, Any], Any]  # a dispatcher, a signature -> the compiled code


class Call:
    """One call of the compiler: for which function, since when, and what is held until it ends."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        self.held = ExitStack()
        self.start = time.perf_counter()
        self.misses = _misses(dispatcher)


class Clock:
    """Counts the time of the outermost calls of the compiler; one thread at a time is in it."""

    def __init__(self) -> None:
        self.compiling = self.loading = 0.0
        self.waited = 0.0  # for other processes, in the outermost call
        self.calls: list[Call] = []  # the outermost first
        self._misses = 0  # how often nothing was found on disk, in the outermost call

    @contextmanager
    def call(self, dispatcher: Any) -> Iterator[None]:
        """Count a call of the compiler."""
        is_outermost = not self.calls
        if is_outermost:
            left, self.waited, self._misses = hold_deadline(), 0.0, 0
        call = Call(dispatcher)
        self.calls.append(call)
        try:
            with call.held:
                yield
        finally:
            self.calls.pop()
            self._misses += _misses(dispatcher) - call.misses
            if is_outermost:
                self._count(time.perf_counter() - call.start)
                let_deadline_go_on(left)

    def _count(self, seconds: float) -> None:
        compiling = seconds if self._misses else self.waited
        self.compiling += compiling
        self.loading += seconds - compiling


def _misses(dispatcher: Any) -> int:
    return sum(dispatcher.stats.cache_misses.values())


clock = Clock()


def timed(compile_one: Compile, lock: Any) -> Compile:
    """Return a dispatcher's ``compile`` with its time counted; `lock` is the compiler's own."""

    @wraps(compile_one)
    def counted(dispatcher: Any, signature: Any) -> Any:
        with lock, clock.call(dispatcher):
            return compile_one(dispatcher, signature)

    return counted


def compile_seconds() -> float:
    """Return the seconds that this process has spent in numba's compiler."""
    return clock.compiling


def point_clock() -> float:
    """Return a time [s] that stands still while numba compiles, or loads what it compiled."""
    return time.perf_counter() - clock.compiling - clock.loading
