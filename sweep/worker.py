"""What a worker process does with a batch: open the store once, then compute, write, commit.

Every engine calls `run_batch` with names and indices; what goes back is a receipt a block.
"""

import hashlib
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

from sweep.definition import Pipeline
from sweep.errors import StudyError
from sweep.journal import Journal
from sweep.plan import Block
from sweep.store import BlockWriter, Store, count_failed
from sweep.store.chunks import encode_chunk
from sweep.study import load_study
from sweep.task import Evaluator

StudyReference = Mapping[str, str]

# Pipelines of this very process, for the serial engine: nothing has to travel.
LOCAL: dict[str, Pipeline] = {}


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

    def __init__(self, store: Path, study: StudyReference) -> None:
        self.store = Store(store)
        pipeline = self.store.bind(find_pipeline(study))
        self.evaluator = Evaluator(pipeline)
        self.writer = BlockWriter(self.store, pipeline)
        self.journal = Journal(self.store.journal_folder)


_one_at_a_time = Lock()
_open: dict[tuple[str, ...], Workspace] = {}


def run_batch(
    store: str,
    study: StudyReference,
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
        Where the pipeline is: see `find_pipeline`.
    run
        Number of the run.
    blocks
        Pairs of a block's number and the number of this attempt at it.
    submitted
        When the batch was handed in, in seconds since 1970.
    threads
        Kernel threads.
    """
    with _one_at_a_time:
        here = _workspace(store, study)
        receipts = []
        for number, attempt in blocks:
            block = here.store.grid.block(number)
            receipts.append(_run_block(here, block, run, attempt, submitted, threads))
        return receipts


def prepare(study: StudyReference) -> None:
    """Import all that a batch will need, while the driver makes the store."""
    with _one_at_a_time:
        find_pipeline(study)
        encode_chunk(np.zeros(1), (1,), 0.0)


def time_points(
    study: StudyReference,
    constants: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    copies: int,
    seconds: float,
) -> list[float]:
    """Return the time that each of some points takes [s], stopping after `seconds` in all.

    The first point is computed twice and counted once, because compilers run in the first.
    """
    with _one_at_a_time:
        pipeline = find_pipeline(study)
        found: list[float] = []
        start = time.perf_counter()
        for point in points:
            one = Evaluator(pipeline.with_values(**constants, **point))
            _set_threads(pipeline.needs.cores)
            took = _time_of(one, copies)
            if not found and time.perf_counter() - start < seconds / 2:
                took = _time_of(one, copies)
            found.append(took)
            if time.perf_counter() - start > seconds:
                break
        return found


def _time_of(evaluator: Evaluator, copies: int) -> float:
    start = time.perf_counter()
    try:
        return evaluator.time(copies)
    except (Exception, SystemExit):  # the run itself will take down why it failed
        return time.perf_counter() - start


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


def _workspace(store: str, study: StudyReference) -> Workspace:
    """Return the open workspace; another one only if another sweep is meant than the last time."""
    key = (store, Store(Path(store)).header.sweep_id, json.dumps(dict(study), sort_keys=True))
    if key not in _open:
        _open.clear()
        _open[key] = Workspace(Path(store), study)
    return _open[key]


def find_pipeline(study: StudyReference) -> Pipeline:
    """Return the pipeline that a message means.

    It is named by ``file`` and ``name``; or it is one of this process (``local``); or it was
    defined in a notebook or a script and came by value, as a file outside any store
    (``pickle``) that has to match its ``sha256``.
    """
    if "local" in study:
        return LOCAL[study["local"]]
    if "pickle" in study:
        import cloudpickle

        raw = Path(study["pickle"]).read_bytes()
        if hashlib.sha256(raw).hexdigest() != study["sha256"]:
            raise StudyError(f"{study['pickle']} is not the pipeline that was sent.")
        found: Pipeline = cloudpickle.loads(raw)
        return found
    return load_study(f"{study['file']}:{study['name']}").pipeline


# --- numba, only if the study uses it ----------------------------------------------------

_compile_clock: Any = None


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


def _set_threads(threads: int) -> None:
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
