"""What a worker process does with a batch: open the store once, then compute, write, commit.

Every engine calls `run_batch` with names and indices; what goes back is a receipt a block.
"""

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypedDict

import numpy as np

from sweep.compiling import compile_seconds, point_clock, set_threads, warm_numba
from sweep.definition import Axis, Pipeline
from sweep.definition.constants import restored
from sweep.delivery import Message, received
from sweep.errors import writing
from sweep.journal import Journal
from sweep.marks import Marker
from sweep.modules import source_of
from sweep.plan import Block
from sweep.reproduce import hold_against
from sweep.store import BlockWriter, Store, count_failed, is_settled
from sweep.store.chunks import encode_chunk
from sweep.task import Care, Computed, Evaluator, Limits
from sweep.template import DONE, STALE
from sweep.watch import Watch, leaving_if_exhausted


class Receipt(TypedDict):
    """What a finished task sends back."""

    block: int
    points: int
    failed: int
    stale: int
    noted: int
    slowest_seconds: float
    compute_seconds: float
    compile_seconds: float
    write_seconds: float


class Workspace:
    """One store and its pipeline, open in this process."""

    def __init__(self, store: Path, study: Message, marks: Path) -> None:
        self.store = Store(store)
        pipeline = self.store.bind(received(study))
        _meet_numba(study)
        self.writer = BlockWriter(self.store, pipeline)
        self.journal = Journal(self.store.journal_folder)
        self.marker = Marker(marks, self.journal.worker)
        self.evaluator = Evaluator(pipeline, point_clock, Watch(self.marker))


_one_at_a_time = Lock()
_open: dict[tuple[str, ...], Workspace] = {}


def run_batch(
    store: str,
    study: Message,
    run: int,
    marks: str,
    blocks: Sequence[Sequence[Any]],
    submitted: float,
    threads: int,
    limits: Mapping[str, Any],
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
    marks
        Folder of the marks.
    blocks
        A block's number, the number of this attempt at it, and, for one that workers died at, the
        suspected point (or None) and the condemned ones: rows of number, error's type and text.
    submitted
        When the batch was handed in, in seconds since 1970.
    threads
        Kernel threads.
    limits
        "seconds" and "retries" of a point (see `Limits`), and "hard_seconds": a point that takes
        longer takes this worker along, where that can be replaced.

    Raises
    ------
    StoreError, StudyError
        If the store or the study cannot be opened.
    DiskError
        If a block cannot be written.
    """
    with _one_at_a_time:
        with writing(store):
            here = _workspace(store, study, marks)
        here.evaluator.watch.hard_seconds = limits["hard_seconds"]
        mine = Limits(limits["seconds"], limits["retries"])
        receipts = []
        for number, attempt, *care in blocks:
            order = _Order(here.store.grid.block(number), run, attempt, mine, _care(*care))
            with writing(store), leaving_if_exhausted():
                receipts.append(_run_block(here, order, submitted, threads))
        return receipts


class _Order(NamedTuple):
    """A block to compute, and how."""

    block: Block
    run: int
    attempt: int
    limits: Limits
    care: Care | None


def _care(
    first: int | None = None, condemned: Sequence[Sequence[Any]] | None = None
) -> Care | None:
    if condemned is None:
        return None
    return Care(first, {number: (kind, text) for number, kind, text in condemned})


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
            set_threads(pipeline.needs.cores)
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


def _run_block(here: Workspace, order: _Order, submitted: float, threads: int) -> Receipt:
    block, run = order.block, order.run
    if (done := _committed(here, block)) is not None:  # somebody else was quicker
        return _receipt(block, done)
    started = time.time()
    clock, compiled = time.perf_counter(), compile_seconds()
    set_threads(threads)
    here.marker.begin(run, block.number, order.attempt)
    computed = here.evaluator.compute(block, order.limits, order.care)
    compiled = compile_seconds() - compiled
    computing = time.perf_counter() - clock
    if (late := _committed(here, block)) is not None:  # by others, while this was computed
        return _receipt(block, late)
    computed.arrays["run"] = np.full(block.shape, run, np.int32)
    _hold_against_what_is_done(here, block, computed)
    checksums = here.writer.write_outputs(block, computed.arrays)
    receipt = _receipt(block, computed.status) | {
        "noted": len({str(e["place"]) for e in computed.events if e["kind"] != "failed"}),
        "slowest_seconds": _slowest(computed.arrays["point_seconds"]),
        "compute_seconds": computing - compiled,
        "compile_seconds": compiled,
        "write_seconds": time.perf_counter() - clock - computing,
    }
    here.journal.append(
        {
            **receipt,
            "block": block.name,
            "run": run,
            "attempt": order.attempt,
            "status": next((s for s in ("stale", "failed") if receipt[s]), "done"),
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


def _receipt(block: Block, status: np.ndarray) -> Receipt:
    """Return the receipt of a block that has this status, and took no time."""
    return Receipt(
        block=block.number,
        points=block.points,
        failed=count_failed(status),
        stale=int(np.count_nonzero(status == STALE)),
        noted=0,
        slowest_seconds=0.0,
        compute_seconds=0.0,
        compile_seconds=0.0,
        write_seconds=0.0,
    )


def _committed(here: Workspace, block: Block) -> np.ndarray | None:
    """Return the status of a block that is committed; None if it is not."""
    status = here.store.read_status(block)
    return status if status is not None and is_settled(status) else None


def _hold_against_what_is_done(here: Workspace, block: Block, computed: Computed) -> None:
    """Look whether a block that was in part done comes out the same."""
    status = here.store.read_status(block)
    if status is None or not (status == DONE).any():
        return
    before = here.writer.read_outputs(block)
    if before is not None:
        hold_against(status, before, computed, list(here.evaluator.pipeline.dims), block.start)


def _slowest(seconds: np.ndarray) -> float:
    """Return the longest of some times, 0 if there is none."""
    return float(np.nan_to_num(seconds).max(initial=0.0))


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


def _workspace(store: str, study: Message, marks: str) -> Workspace:
    """Return the open workspace; another one only if another sweep is meant than the last time."""
    header = Store(Path(store)).header  # whose shape changes when the sweep grows
    key = (
        store,
        header.sweep_id,
        str(header.shape),
        json.dumps(dict(study), sort_keys=True),
        marks,
    )
    if key not in _open:
        _open.clear()
        _open[key] = Workspace(Path(store), study, Path(marks))
    return _open[key]


def _meet_numba(study: Message) -> None:
    """Import numba before the first point where the study will, inside of a function maybe.

    Its threads are then set from the first point on.
    """
    if "file" in study and any("numba" in text for text in source_of(Path(study["file"])).values()):
        warm_numba()
