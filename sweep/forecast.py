"""What a sweep will cost: a few timed points and the disk's commit time, before anything runs."""

import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sweep.definition import Pipeline
from sweep.definition.constants import is_whole, plain
from sweep.durable import replace_file, sync_folder
from sweep.engines import Done, Engine, Lost, Raised
from sweep.errors import DefinitionError, disk_error, raised_error
from sweep.plan import (
    OWN_BLOCK_BYTES,
    Cost,
    Grid,
    block_shape,
    pilot_places,
    points_per_block,
)
from sweep.task import largest_bytes
from sweep.template import block_arrays, template

PILOT_SECONDS = 1.0  # for all timed points together, before a run
PLAN_SECONDS = 5.0  # the same for ``sweep plan``, whose answer they are
PATIENCE_SECONDS = 20.0  # for the first, its compilers included; then its worker is ended
FEW_POINTS = 64  # not worth timing: each is a block of its own
MOST_BLOCKS = 10_000_000
TABLE_FILES = 110  # the tables' columns, the metadata, what lies in .sweep


@dataclass(frozen=True)
class Timing:
    """The times of a few points [s]; `at_least` if none could be timed, and `why` that is."""

    seconds: tuple[float, ...]
    at_least: bool = False
    why: str = ""

    @property
    def slowest(self) -> float:
        """The time of the slowest."""
        return max(self.seconds)

    @property
    def mean(self) -> float:
        """The mean time."""
        return statistics.fmean(self.seconds)


@dataclass(frozen=True)
class Forecast:
    """What ``sweep plan`` says.

    `bytes` are those of the data before compression; `timing` is None where nothing is left.
    """

    points: int
    points_left: int
    points_failed: int
    blocks: int
    blocks_left: int
    block_shape: tuple[int, ...]
    files: int
    bytes: int
    timing: Timing | None
    commit_seconds: float
    workers: int

    @property
    def core_seconds(self) -> float:
        """Time that the points left will take, on one worker."""
        each = self.timing.mean if self.timing else 0.0
        return self.points_left * each

    @property
    def seconds(self) -> float:
        """Time that is left on these workers."""
        commits = self.blocks_left * self.commit_seconds
        return (self.core_seconds + commits) / min(self.workers, max(self.blocks_left, 1))


def sizes(pipeline: Pipeline) -> tuple[int, int, int]:
    """Return the bytes of a point's largest array, of all its arrays, and their number."""
    arrays = block_arrays(template(pipeline))
    return (*largest_bytes(arrays, len(pipeline.dims)), len(arrays))


def needs_timing(pipeline: Pipeline) -> bool:
    """Tell whether the size of a block depends on how long a point takes."""
    points = math.prod(pipeline.dims.values())
    return sizes(pipeline)[0] < OWN_BLOCK_BYTES and points > FEW_POINTS


def choose_grid(
    pipeline: Pipeline, timing: Timing | None, workers: int, commit_seconds: float
) -> Grid:
    """Return how to cut a sweep into blocks; points alone where `timing` is None.

    Raises
    ------
    DefinitionError
        If they would be more than any disk holds as files.
    """
    shape = tuple(pipeline.dims.values())
    block = (1,) * len(shape)
    if timing is not None:
        largest, together, count = sizes(pipeline)
        memory = pipeline.needs.memory_bytes
        cost = Cost(timing.slowest, largest, together, count, commit_seconds, memory)
        block = block_shape(shape, points_per_block(math.prod(shape), workers, cost))
    grid = Grid(shape, block)
    if grid.blocks > MOST_BLOCKS:
        raise DefinitionError(
            f"The sweep has {grid.points:.3g} points in {grid.blocks:.3g} blocks; the most is "
            f"{MOST_BLOCKS:.0e} blocks. Take fewer values, or several stores."
        )
    return grid


def time_a_few(
    engine: Engine, study: Mapping[str, str], pipeline: Pipeline, seconds: float
) -> Timing:
    """Time some points of a pipeline on a worker, until they took `seconds`.

    What they compute is thrown away.

    Raises
    ------
    WorkerError
        If the worker cannot import the study.
    """
    largest, _, _ = sizes(pipeline)
    shape = tuple(pipeline.dims.values())
    places = [dict(zip(pipeline.dims, place, strict=True)) for place in pilot_places(shape)]
    constants = {name: plain(value) for name, value in pipeline.constants.items()}
    ticket = engine.submit(
        "sweep.worker:time_points",
        {
            "study": dict(study),
            "constants": {name: told for name, told in constants.items() if is_whole(told)},
            "points": [pipeline.values_at(place) for place in places],
            "copies": max(1, min(1000, 16_000_000 // largest)),
            "seconds": seconds,
        },
    )
    match _outcome(engine, ticket):
        case Done(times):
            return Timing(tuple(times))
        case Raised(kind, text, trace):
            raise raised_error(kind, text, trace)
        case Lost(reason):
            return Timing((PATIENCE_SECONDS,), at_least=True, why=reason)


def _outcome(engine: Engine, ticket: int) -> Done | Raised | Lost:
    """Wait for the one call; end its worker when patience is over."""
    end = time.monotonic() + PATIENCE_SECONDS
    killed = False
    while True:
        for ended, outcome in engine.wait(0.2):
            if ended == ticket:
                late = f"The first did not end in {PATIENCE_SECONDS:.0f} s."
                return Lost(late) if killed and isinstance(outcome, Lost) else outcome
        if not killed and time.monotonic() > end:
            killed = engine.kill(ticket)


def measure_commit(folder: Path, files: int) -> float:
    """Return the time that it takes to write `files` small files durably near `folder` [s].

    Raises
    ------
    DiskError
        If nothing can be written there.
    """
    while not folder.is_dir():
        folder = folder.parent
    times = []
    try:
        with tempfile.TemporaryDirectory(prefix=".sweep-", dir=folder) as name:
            for number in range(3):
                start = time.perf_counter()
                replace_file(Path(name) / str(number), b"x" * 1000)
                sync_folder(Path(name))
                times.append(time.perf_counter() - start)
    except OSError as error:
        remedy = "Give a STORE where you may write and there is room."
        raise disk_error(error, f"Nothing can be written in {folder}", remedy) from None
    return files * statistics.median(times)


def forecast(
    pipeline: Pipeline,
    grid: Grid,
    left: tuple[int, int],
    failed: int,
    timing: Timing | None,
    commit_seconds: float,
    workers: int,
) -> Forecast:
    """Put together what a sweep will cost; `left` is the blocks and the points to do."""
    _, together, count = sizes(pipeline)
    coordinates = len(template(pipeline)) - count
    return Forecast(
        points=grid.points,
        points_left=left[1],
        points_failed=failed,
        blocks=grid.blocks,
        blocks_left=left[0],
        block_shape=grid.block_shape,
        files=grid.blocks * count + 2 * coordinates + count + TABLE_FILES,
        bytes=grid.points * together,
        timing=timing,
        commit_seconds=commit_seconds,
        workers=workers,
    )
