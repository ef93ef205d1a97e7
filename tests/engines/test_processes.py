"""The pool of worker processes, as the executor that it is."""

import math
import operator
import os
import signal
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from sweep.engines.death import death_of
from sweep.engines.processes import RemoteError, WorkerPool
from sweep.engines.workers import WorkerDied


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


def test_it_maps_like_any_executor(pool: WorkerPool) -> None:
    assert list(pool.map(operator.mul, range(5), range(5))) == [0, 1, 4, 9, 16]


def test_arguments_may_be_named(pool: WorkerPool) -> None:
    assert pool.submit(math.isclose, 1.0, 1.1, abs_tol=0.2).result() is True


def test_an_exception_comes_in_words(pool: WorkerPool) -> None:
    error = pool.submit(operator.truediv, 1, 0).exception()

    assert isinstance(error, RemoteError)
    assert (error.kind, error.text) == ("ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError: division by zero" in str(error)


def test_a_worker_that_dies_takes_its_call_along(pool: WorkerPool) -> None:
    futures = [pool.submit(os._exit, 5), *(pool.submit(operator.neg, 1) for _ in range(9))]

    with pytest.raises(WorkerDied, match="ended with exit code 5"):
        futures[0].result()
    assert [future.result() for future in futures[1:]] == [-1] * 9


def test_a_worker_that_died_when_it_had_nothing_to_do_loses_no_call() -> None:
    with WorkerPool(1) as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

        assert pool.submit(os.getpid).result() != pid


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGSEGV, "died"),
        (signal.SIGABRT, "died"),
        (signal.SIGALRM, "timeout"),
        (signal.SIGKILL, "unknown"),
        (signal.SIGTERM, "unknown"),  # a batch system at the end of a job
        (signal.SIGUSR1, "unknown"),
    ],
)
def test_a_signal_that_others_send_is_not_held_against_a_call(
    number: signal.Signals, cause: str
) -> None:
    assert death_of(1, -number, 0, "", None).cause == cause


def test_what_a_worker_cannot_import_is_refused(pool: WorkerPool) -> None:
    with pytest.raises(TypeError, match=r"cannot import.*lambda"):
        pool.submit(lambda: 1)


def test_shutting_down_waits_for_what_was_submitted() -> None:
    pool = WorkerPool(1)
    futures = [pool.submit(operator.neg, number) for number in range(5)]

    pool.shutdown()

    assert [future.result(0) for future in futures] == [0, -1, -2, -3, -4]
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(operator.neg, 1)


def test_shutting_down_may_cancel_what_waits() -> None:
    pool = WorkerPool(1)
    futures = [pool.submit(operator.neg, number) for number in range(50)]

    pool.shutdown(cancel_futures=True)

    assert all(future.done() for future in futures)
    with pytest.raises(CancelledError):
        futures[-1].result()
