"""Compute one block: call the stages for each point, and take down what became of it.

A point that fails is an outcome, with its exception on record, and costs no other point.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from sweep.calls import Calls, Columns, Values
from sweep.definition import Pipeline
from sweep.errors import Dropped, OutputError, Timeout, text_of
from sweep.marks import WHOLE_BLOCK
from sweep.plan import Block
from sweep.template import DONE, FAILED, Array, block_arrays, template
from sweep.watch import Watch
from sweep.within import at_work

Event = dict[str, Any]
Place = tuple[int, ...]

LONGEST_ERROR = 2000  # characters of an exception's text that are kept
MOST_NOTES = 100  # a block, of what its points said
SHORTEST_SECONDS = 1e-9  # a point's time is above nothing, whatever the clock's resolution


@dataclass(frozen=True, eq=False)
class Computed:
    """A block after its computation: arrays with the leading shape ``block.shape``."""

    arrays: dict[str, np.ndarray]  # every output, and point_seconds
    status: np.ndarray
    events: list[Event]


@dataclass(frozen=True)
class Care:
    """How to go about a block that workers died at; points are counted in C order.

    `first` is the suspect: it is computed before all others, so that if the worker dies again
    nobody else is to blame. Those `condemned` are not computed: they fail with an error's type
    and text. A vectorized stage gets the points one by one.
    """

    first: int | None = None
    condemned: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What a point may take.

    `seconds` is how long, at most: one that took longer fails, though it came to its end.
    `retries` is how often it is tried again after an exception.
    """

    seconds: float | None = None
    retries: int = 0


class Evaluator:
    """A pipeline made ready to compute blocks in this process.

    Parameters
    ----------
    pipeline
        Complete.
    clock
        The seconds that count as a point's.
    watch
        Watches over the points.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Callable[[], float] = time.perf_counter,
        watch: Watch | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.watch = watch or Watch()
        self._clock = clock
        arrays = block_arrays(template(pipeline))
        self._arrays = {a.name: a for a in arrays if a.name not in ("status", "run")}
        self._calls = Calls(pipeline)
        self._vectorized = any(stage.vectorized for stage in pipeline.stages)
        self._sizes = {
            name: {dim: pipeline.inner[dim].size for dim in var.dims}
            for name, var in pipeline.outputs.items()
        }
        self._ragged = any(inner.sizes is not None for inner in pipeline.inner.values())

    def compute(
        self, block: Block, limits: Limits | None = None, care: Care | None = None
    ) -> Computed:
        """Compute all points of a block."""
        arrays = {
            name: np.full((*block.shape, *self._inner(array)), array.fill, array.dtype)
            for name, array in self._arrays.items()
        }
        computed = Computed(arrays, np.full(block.shape, FAILED, np.uint8), [])
        work = _Work(block, computed, limits or Limits())
        with at_work("within a point of another one"), self.watch.listening():
            if not self._vectorized or care is not None:
                self._compute_each(work, care or Care())
            elif not self._compute_whole(work):
                self._compute_each(work, Care())
        return computed

    def time(self, place: Mapping[str, int], copies: int) -> float:
        """Return the seconds that the point at `place` takes; vectorized stages get `copies`."""
        swept = self.pipeline.values_at(place)
        copies = copies if self._vectorized else 1
        start = self._clock()
        with at_work("within a point of another one"), self.watch.listening():
            try:
                if self._vectorized:
                    columns = {name: np.full(copies, value) for name, value in swept.items()}
                    made = self._calls.for_block(columns, copies)
                else:
                    made = self._calls.for_point(swept)
                for _ in made:
                    pass
            except (Exception, SystemExit):  # the run itself will take down why it failed
                copies = 1
        return (self._clock() - start) / copies

    # --- one point -----------------------------------------------------------------------

    def _compute_each(self, work: "_Work", care: Care) -> None:
        """Compute the points of a block one by one, the suspect first."""
        points: Iterable[tuple[int, tuple[Place, Values]]] = enumerate(self._points(work.block))
        if care.first is not None:
            points = sorted(points, key=lambda one: one[0] != care.first)
        for number, (here, values) in points:
            if number in care.condemned:
                work.put(self._place(work.block, here), "failed", *care.condemned[number])
            else:
                self._compute_one(work, number, here, values)

    def _points(self, block: Block) -> Iterator[tuple[Place, Values]]:
        """Yield each point's place within the block, and the values of what is swept."""
        corner = zip(self.pipeline.axes, block.start, block.shape, strict=True)
        along = [[axis.at(low + i) for i in range(n)] for axis, low, n in corner]
        for here, parts in zip(np.ndindex(block.shape), product(*along), strict=True):
            values: Values = {}
            for part in parts:
                values |= part
            yield here, values

    def _compute_one(self, work: "_Work", number: int, here: Place, values: Values) -> None:
        """Compute one point, and take down what became of it and what it said."""
        for _ in range(1 + work.limits.retries):
            start = self._clock()
            error = self._tried(work, number, here, values)
            seconds = self._clock() - start
            if not isinstance(error, Exception) or isinstance(error, OutputError):
                break
            self._clear(work, here)
        if error is None:
            error = _overtime(seconds, work.limits)
        place = None
        if error is not None:
            place = self._place(work.block, here)
            self._clear(work, here)
            work.put(place, "failed", type(error).__name__, self._report(place, error))
        else:
            work.computed.status[here] = DONE
        work.computed.arrays["point_seconds"][here] = max(seconds, SHORTEST_SECONDS)
        for note in self.watch.notes():
            work.put(place or self._place(work.block, here), *note)

    def _tried(
        self, work: "_Work", number: int, here: Place, values: Values
    ) -> BaseException | None:
        """Compute a point and return what it raised, if anything."""
        store = self._store_alone if self._vectorized else self._store_point
        try:
            self.watch.call(number, 1, store, work, here, values)
        except BaseException as error:
            if isinstance(error, Dropped):
                raise
            if isinstance(error.__cause__, StopIteration):  # which no generator lets through
                return error.__cause__
            return error
        return None

    def _store_point(self, work: "_Work", here: Place, values: Values) -> None:
        for name, value in self._calls.for_point(values):
            self._keep(name, value, work.block, here, work.computed)

    def _store_alone(self, work: "_Work", here: Place, values: Values) -> None:
        """Compute a point through stages that take a block, as a block of its own."""
        block = work.block
        start = tuple(low + i for low, i in zip(block.start, here, strict=True))
        one = Block(block.number, block.index, start, (1,) * len(here))
        views = {name: _at(array, here) for name, array in work.computed.arrays.items()}
        self._store_whole(one, Computed(views, _at(work.computed.status, here), []))

    def _clear(self, work: "_Work", here: Place) -> None:
        """Forget what was stored of a point that failed."""
        for name in self._sizes:
            work.computed.arrays[name][here] = self._arrays[name].fill

    def _place(self, block: Block, here: Place) -> dict[str, int]:
        return {dim: block.start[i] + here[i] for i, dim in enumerate(self.pipeline.dims)}

    def _report(self, place: dict[str, int], error: BaseException) -> str:
        text = _report(error)
        if isinstance(error, OutputError):
            values = self.pipeline.values_at(place).items()
            at = ", ".join(f"{name}={value!r}" for name, value in values)
            text += f" At {at}." if at else ""
        return text[:LONGEST_ERROR]

    # --- a whole block -------------------------------------------------------------------

    def _compute_whole(self, work: "_Work") -> bool:
        """Compute a block through its vectorized stages; False if its points are to be alone."""
        block, computed = work.block, work.computed
        start = self._clock()
        try:
            self.watch.call(WHOLE_BLOCK, block.points, self._store_whole, block, computed)
        except BaseException as error:
            if isinstance(error, Dropped):
                raise
            self.watch.notes()  # each will say its own
            return False
        each = (self._clock() - start) / block.points
        if _overtime(each, work.limits):
            return False
        computed.status[...] = DONE
        computed.arrays["point_seconds"][...] = max(each, SHORTEST_SECONDS)
        for note in self.watch.notes():
            work.put(self._place(block, (0,) * len(block.shape)), *note)
        return True

    def _store_whole(self, block: Block, computed: Computed) -> None:
        for name, column in self._calls.for_block(self._columns(block), block.points):
            self._keep_column(name, column, block, computed)

    def _keep_column(self, name: str, column: Any, block: Block, computed: Computed) -> None:
        """Store an output of all points of a block; one by one where their sizes differ."""
        sizes = self._sizes[name]
        if all(self.pipeline.inner[dim].sizes is None for dim in sizes):
            checked = self._check(name, column, {"point": block.points, **sizes})
            computed.arrays[name][...] = checked.reshape((*block.shape, *sizes.values()))
            return
        for here, value in zip(np.ndindex(block.shape), column, strict=True):
            self._keep(name, value, block, here, computed)

    def _keep(self, name: str, value: Any, block: Block, here: Place, computed: Computed) -> None:
        """Store an output of one point."""
        checked = self._check(name, value, self._sizes_at(name, block, here))
        where: tuple[int | slice, ...] = (*here, *(slice(n) for n in checked.shape))
        computed.arrays[name][where] = checked

    def _columns(self, block: Block) -> Columns:
        """Return the swept parameters of a block's points, each of shape (points,)."""
        columns: Columns = {}
        for number, axis in enumerate(self.pipeline.axes):
            low, n = block.start[number], block.shape[number]
            before = math.prod(block.shape[:number])
            after = math.prod(block.shape[number + 1 :])
            for name, column in zip(axis.names, axis.columns, strict=True):
                columns[name] = np.tile(np.repeat(column[low : low + n], after), before)
        return columns

    # --- outputs -------------------------------------------------------------------------

    def _inner(self, array: Array) -> tuple[int, ...]:
        return array.shape[len(self.pipeline.dims) :]

    def _sizes_at(self, output: str, block: Block, here: Place) -> dict[str, int]:
        """Return the lengths of an output's dims at one point."""
        sizes = self._sizes[output]
        if not self._ragged:
            return sizes
        place = {dim: block.start[i] + here[i] for i, dim in enumerate(self.pipeline.dims)}
        return {dim: self.pipeline.inner[dim].size_at(place) for dim in sizes}

    def _check(self, name: str, value: Any, sizes: dict[str, int]) -> np.ndarray:
        """Return an output as the stored type; refuse another shape or kind of values."""
        if np.ma.isMaskedArray(value) and np.ma.is_masked(value):
            raise OutputError(
                f"{self._maker(name)} returned '{name}' with masked values, which the dataset "
                "cannot hold. Fill them: values.filled(numpy.nan)."
            )
        dims = tuple(getattr(value, "dims", ()))
        if dims != tuple(sizes) and sorted(map(str, dims)) == sorted(sizes):
            raise OutputError(
                f"{self._maker(name)} returned '{name}' with the dims {dims}; the pipeline "
                f"declares {tuple(sizes)}. Transpose it: .transpose{tuple(sizes)}."
            )
        try:
            array = np.asarray(value)
        except ValueError:
            raise OutputError(
                f"{self._maker(name)} returned '{name}' as rows of different lengths; an array "
                "has one length along each dim."
            ) from None
        if wrong := _no_numbers(array):
            raise OutputError(
                f"{self._maker(name)} returned '{name}' as {wrong}; a stage returns numbers, or "
                "arrays of numbers."
            )
        if array.shape != tuple(sizes.values()):
            declared = ", ".join(f"{dim}={n}" for dim, n in sizes.items())
            raise OutputError(
                f"{self._maker(name)} returned '{name}' with shape {array.shape}; the pipeline "
                f"declares {declared or 'one number'}."
            )
        stored = _cast(array, self._arrays[name].dtype)
        if stored is None:
            raise OutputError(
                f"{self._maker(name)} returned '{name}' as {_kind(array)}, which does not fit the "
                f"{self._arrays[name].dtype} that the pipeline declares."
            )
        return stored

    def _maker(self, output: str) -> str:
        stage = next(stage for stage in self.pipeline.stages if output in stage.outputs)
        return f"{stage.name}()"


class _Work(NamedTuple):
    """A block while it is computed."""

    block: Block
    computed: Computed
    limits: Limits

    def put(self, place: dict[str, int], kind: str, error_type: str, error: str) -> None:
        """Take down an event; what was merely said, of a hundred points at most."""
        events = self.computed.events
        if kind == "failed" or len(events) < MOST_NOTES:
            events.append({"place": place, "kind": kind, "error_type": error_type, "error": error})


def _overtime(seconds: float, limits: Limits) -> Timeout | None:
    if limits.seconds is None or seconds <= limits.seconds:
        return None
    return Timeout(f"It took {seconds:.3g} s; a point may take {limits.seconds:g} s.")


def _at(array: np.ndarray, here: Place) -> np.ndarray:
    """Return the view of one point, with swept dims of length 1."""
    return array[tuple(slice(i, i + 1) for i in here)]


def _kind(array: np.ndarray) -> str:
    return "text" if array.dtype.kind in "US" else str(array.dtype)


def _no_numbers(array: np.ndarray) -> str:
    """Say what an array of objects is that no output can be; "" if it is none."""
    if array.dtype.kind != "O":
        return ""
    if array.ndim == 0:
        kind = type(array.item()).__name__
        return "a whole number of more than 64 bits" if kind == "int" else f"a {kind}"
    kinds = [type(value).__name__ for value in array.flat if not isinstance(value, float)]
    return f"objects: a {kinds[0]} among them" if kinds else "objects"


def _cast(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | None:
    """Return `array` as `dtype`; None if that is of another kind or too small for a value."""
    if array.dtype == dtype:
        return array
    is_whole = array.dtype.kind in "iu" and dtype.kind in "iu"
    if not is_whole and not np.can_cast(array.dtype, dtype, "same_kind"):
        return None
    with np.errstate(over="ignore"):
        stored = array.astype(dtype)
    if dtype.kind == "f" and array.dtype.kind in "iu":
        return stored if np.array_equal(stored.astype(array.dtype), array) else None
    if dtype.kind == "f":
        return stored if np.array_equal(np.isfinite(stored), np.isfinite(array)) else None
    return stored if np.array_equal(stored, array) else None


def _report(error: BaseException) -> str:
    """Return the exception's text and where it was raised."""
    if isinstance(error, (OutputError, Timeout)):
        return str(error)
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f" [{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}]" if trace else ""
    return text_of(error)[: LONGEST_ERROR - len(where)] + where


def largest_bytes(arrays: Sequence[Array], dims: int) -> tuple[int, int]:
    """Return the bytes of one point in the largest array, and in all together."""
    sizes = [math.prod(array.shape[dims:]) * array.dtype.itemsize for array in arrays]
    return max(sizes), sum(sizes)
