"""What a worker process does with a batch: open the store once, then compute, write, commit.

Every engine calls `run_batch` with names and indices; what goes back is a receipt a block.
"""

import importlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypedDict

import numpy as np

from sweep.definition import Axis, Pipeline
from sweep.definition.constants import restored
from sweep.delivery import Message, received
from sweep.errors import writing
from sweep.journal import Journal
from sweep.modules import source_of
from sweep.plan import Block
from sweep.store import BlockWriter, Store, count_failed
from sweep.store.chunks import encode_chunk
from sweep.task import Evaluator


class Receipt(TypedDict):
    """What a finished task sends back."""

    block: int
    points: int
    failed: int
    compute_seconds: float
    compile_seconds: float
    write_seconds: float


class Workspace:
    """One store and its pipeline, open in this process."""

    def __init__(self, store: Path, study: Message) -> None:
        self.store = Store(store)
        pipeline = self.store.bind(received(study))
        _meet_numba(study)
        self.evaluator = Evaluator(pipeline, point_clock)
        self.writer = BlockWriter(self.store, pipeline)
        self.journal = Journal(self.store.journal_folder)


_one_at_a_time = Lock()
_open: dict[tuple[str, ...], Workspace] = {}


def run_batch(
    store: str,
    study: Message,
    run: int,
    blocks: Sequence[Sequence[int]],
    submitted: float,
    threads: int,
) -> list[Receipt]:
    """Compute and commit blocks, one after the other.

    Parameters
    ----------
    store
        Path of the store.
    study
        Where the pipeline is: see `received`.
    run
        Number of the run.
    blocks
        Pairs of a block's number and the number of this attempt at it.
    submitted
        When the batch was handed in, in seconds since 1970.
    threads
        Kernel threads.

    Raises
    ------
    StoreError, StudyError
        If the store or the study cannot be opened.
    DiskError
        If a block cannot be written.
    """
    with _one_at_a_time:
        here = _workspace(store, study)
        receipts = []
        for number, attempt in blocks:
            block = here.store.grid.block(number)
            with writing(store):  # a model's own OSError is an event of its point
                receipts.append(_run_block(here, block, run, attempt, submitted, threads))
        return receipts


def prepare(study: Message) -> None:
    """Import all that a batch will need, while the driver makes the store."""
    with _one_at_a_time:
        received(study)
        _meet_numba(study)
        encode_chunk(np.zeros(1), (1,), 0.0)


def time_points(
    study: Message,
    constants: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    copies: int,
    seconds: float,
) -> list[float]:
    """Return the time that each of some points takes [s], stopping after `seconds` in all.

    The first point is computed twice and counted once, because caches are cold in the first.

    Parameters
    ----------
    study
        Where the pipeline is: see `received`.
    constants
        Those that a caller set, as `plain` tells them.
    points
        The values of what is swept, at each.
    copies
        How many points a vectorized stage is given.
    seconds
        When this much has passed, no other point is begun.
    """
    with _one_at_a_time:
        pipeline = received(study)
        _meet_numba(study)
        found: list[float] = []
        start = time.perf_counter()
        for point in points:
            one = Evaluator(_at_point(pipeline, constants, point), point_clock)
            _set_threads(pipeline.needs.cores)
            place = dict.fromkeys(point, 0)
            took = one.time(place, copies)
            if not found and time.perf_counter() - start < seconds / 2:
                took = one.time(place, copies)
            found.append(took)
            if time.perf_counter() - start > seconds:
                break
        return found


def _at_point(
    pipeline: Pipeline, constants: Mapping[str, Any], point: Mapping[str, Any]
) -> Pipeline:
    """Return a pipeline whose axes hold one point."""
    axes = [Axis(name, [value]) for name, value in point.items()]
    told = {name: restored(value) for name, value in constants.items()}
    return pipeline.having(axes, {**pipeline.constants, **told})


def _run_block(
    here: Workspace, block: Block, run: int, attempt: int, submitted: float, threads: int
) -> Receipt:
    started = time.time()
    clock, compiled = time.perf_counter(), compile_seconds()
    _set_threads(threads)
    computed = here.evaluator.compute(block)
    compiled = compile_seconds() - compiled
    computing = time.perf_counter() - clock
    arrays = {**computed.arrays, "run": _run_numbers(computed.status, run)}
    checksums = here.writer.write_outputs(block, arrays)
    receipt = Receipt(
        block=block.number,
        points=block.points,
        failed=count_failed(computed.status),
        compute_seconds=computing - compiled,
        compile_seconds=compiled,
        write_seconds=time.perf_counter() - clock - computing,
    )
    here.journal.append(
        {
            **receipt,
            "block": block.name,
            "run": run,
            "attempt": attempt,
            "status": "failed" if receipt["failed"] else "done",
            "started": started,
            "ended": time.time(),
            "queue_seconds": max(0.0, started - submitted),
            **_process_facts(threads),
            "checksums": checksums,
            "events": computed.events,
        }
    )
    here.writer.commit(block, computed.status)
    return receipt


def _run_numbers(status: np.ndarray, run: int) -> np.ndarray:
    return np.full(status.shape, run, np.int32)


def _process_facts(threads: int) -> dict[str, Any]:
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "threads": threads,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID", ""),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }


def _workspace(store: str, study: Message) -> Workspace:
    """Return the open workspace; another one only if another sweep is meant than the last time."""
    header = Store(Path(store)).header  # whose shape changes when the sweep grows
    key = (store, header.sweep_id, str(header.shape), json.dumps(dict(study), sort_keys=True))
    if key not in _open:
        _open.clear()
        _open[key] = Workspace(Path(store), study)
    return _open[key]


# --- numba, only if the study uses it ----------------------------------------------------

_compile_clock: Any = None


def point_clock() -> float:
    """Return a time [s] that stands still while numba compiles."""
    return time.perf_counter() - compile_seconds()


def compile_seconds() -> float:
    """Return the seconds that this process has spent in numba's compiler."""
    global _compile_clock
    if _compile_clock is None and "numba" in sys.modules:
        from numba.core import event

        _compile_clock = event.TimingListener()
        event.register("numba:compile", _compile_clock)
    if _compile_clock is None or not _compile_clock.done:
        return 0.0
    return float(_compile_clock.duration)


def _meet_numba(study: Message) -> None:
    """Import numba before the first point where the study will, inside of a function maybe.

    Its threads are then set, and its compiler is watched, from the first point on.
    """
    if "file" in study and any("numba" in text for text in source_of(Path(study["file"])).values()):
        importlib.import_module("numba")


def _set_threads(threads: int) -> None:
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
