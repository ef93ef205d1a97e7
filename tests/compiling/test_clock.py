"""Whose the compiler's seconds are."""

import time
from collections import Counter
from contextlib import suppress
from types import SimpleNamespace

import pytest

from sweep.compiling import clock as module
from sweep.compiling.clock import Clock


class Compiler:
    """Stands in for one of numba's dispatchers, whose calls take what a test says."""

    def __init__(self) -> None:
        self.stats = SimpleNamespace(cache_misses=Counter())

    def miss(self) -> None:
        self.stats.cache_misses["a signature"] += 1


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: found[0])
    return found


def test_a_call_that_compiles_is_compiling(now: list[float]) -> None:
    clock, outer = Clock(), Compiler()
    with clock.call(outer):
        outer.miss()
        now[0] += 3.0

    assert (clock.compiling, clock.loading) == (3.0, 0.0)


def test_a_call_within_is_not_counted_twice(now: list[float]) -> None:
    clock, outer, inner = Clock(), Compiler(), Compiler()
    with clock.call(outer):
        outer.miss()
        with clock.call(inner):
            inner.miss()
            now[0] += 2.0
        now[0] += 1.0

    assert (clock.compiling, clock.loading) == (3.0, 0.0)


def test_a_call_that_finds_all_on_disk_is_loading(now: list[float]) -> None:
    clock, outer = Clock(), Compiler()
    outer.miss()  # before
    with clock.call(outer):
        now[0] += 0.5

    assert (clock.compiling, clock.loading) == (0.0, 0.5)


def test_waiting_for_another_process_that_compiles_is_compiling(now: list[float]) -> None:
    clock, outer = Clock(), Compiler()
    with clock.call(outer):
        now[0] += 2.0
        clock.waited += 2.0
        now[0] += 0.5

    assert (clock.compiling, clock.loading) == (2.0, 0.5)


def test_a_call_that_fails_counts_and_lets_go(now: list[float]) -> None:
    clock, outer, released = Clock(), Compiler(), []
    with suppress(TypeError), clock.call(outer):
        clock.calls[-1].held.callback(released.append, "a turn")
        outer.miss()
        now[0] += 1.0
        raise TypeError

    assert (clock.compiling, clock.calls, released) == (1.0, [], ["a turn"])


def test_the_deadline_of_a_point_waits_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(module, "hold_deadline", lambda: told.append("held") or 7.0)
    monkeypatch.setattr(module, "let_deadline_go_on", told.append)
    clock = Clock()
    with clock.call(Compiler()), clock.call(Compiler()):
        told.append("compiling")

    assert told == ["held", "compiling", 7.0]
