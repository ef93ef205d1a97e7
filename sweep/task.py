"""Compute one block: call the stages for each point, and take down what became of it.

A point that fails is an outcome, with its exception on record, and costs no other point.
"""

import hashlib
import math
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.definition import Pipeline, Stage, Var
from sweep.definition.specification import canonical_json, plain
from sweep.errors import OutputError
from sweep.plan import Block
from sweep.template import DONE, FAILED, Array, block_arrays, template

Values = dict[str, Any]
Event = dict[str, Any]

LONGEST_ERROR = 2000  # characters of an exception's text that are kept


@dataclass(frozen=True, eq=False)
class Computed:
    """A block after its computation: arrays with the leading shape ``block.shape``."""

    arrays: dict[str, np.ndarray]  # every output, and point_seconds
    status: np.ndarray
    events: list[Event]


def stream(entropy: int, stage: str, parameters: Mapping[str, Any]) -> np.random.Generator:
    """Return the random numbers of one stage at one point.

    They depend on the entropy, the stage and the values of the parameters that it depends on,
    and on nothing else: not on the engine, the order, a retry, or the rest of the sweep.
    """
    text = canonical_json([stage, {name: plain(value) for name, value in parameters.items()}])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    words = np.frombuffer(digest, "<u4").tolist()
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=words))


class Memo:
    """Answers of stages that are passed on and not stored, up to a number of bytes.

    Arrays are handed out read-only, because others get the same ones.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return what is remembered under `key`, else compute and remember it."""
        if key in self._answers:
            self._answers.move_to_end(key)
            return self._answers[key][0]
        answer = compute()
        size = _freeze(answer)
        self._answers[key] = (answer, size)
        self._bytes += size
        while self._bytes > self._most and len(self._answers) > 1:
            _, (_, dropped) = self._answers.popitem(last=False)
            self._bytes -= dropped
        return answer


def _freeze(answer: Any) -> int:
    """Make the arrays in an answer read-only; return about how many bytes it takes."""
    if isinstance(answer, np.ndarray):
        answer.flags.writeable = False
        return answer.nbytes
    if isinstance(answer, (tuple, list)):
        return sum(map(_freeze, answer))
    return 1000


class Evaluator:
    """A pipeline made ready to compute blocks in this process."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._memo = Memo(pipeline.needs.memory_bytes // 4)
        self._vectorized = any(stage.vectorized for stage in pipeline.stages)
        self._depends = {stage.name: pipeline.depends(stage) for stage in pipeline.stages}
        self._arrays: dict[str, Array] = {a.name: a for a in block_arrays(template(pipeline))}
        self._ragged = any(inner.sizes is not None for inner in pipeline.inner.values())

    def compute(self, block: Block) -> Computed:
        """Compute all points of a block."""
        arrays = {
            name: np.full((*block.shape, *self._inner(array)), array.fill, array.dtype)
            for name, array in self._arrays.items()
            if name not in ("status", "run")
        }
        computed = Computed(arrays, np.full(block.shape, FAILED, np.uint8), [])
        places = list(block.places())
        if self._vectorized:
            self._compute_whole(block, places, computed)
        else:
            for place in places:
                self._compute_one(block, place, computed)
        return computed

    def time(self, copies: int) -> float:
        """Return the seconds that one point takes; a vectorized stage is given `copies` of it."""
        points = [dict(self.pipeline.fixed)] * (copies if self._vectorized else 1)
        start = time.perf_counter()
        self._run(points)
        return (time.perf_counter() - start) / len(points)

    # --- points of a block ---------------------------------------------------------------

    def _compute_one(self, block: Block, place: tuple[int, ...], computed: Computed) -> None:
        start = time.perf_counter()
        try:
            known = self._run([self._values(place)])
            checked = self._checked({n: known[n][0] for n in self.pipeline.outputs}, place)
        except (Exception, SystemExit) as error:
            self._fail(block, place, computed, error)
        else:
            self._keep(block, place, computed, checked)
        here = _within(block, place)
        computed.arrays["point_seconds"][here] = max(time.perf_counter() - start, 1e-9)

    def _compute_whole(
        self, block: Block, places: list[tuple[int, ...]], computed: Computed
    ) -> None:
        """Compute a block through its vectorized stages; point by point if one of them raises."""
        start = time.perf_counter()
        try:
            known = self._run([self._values(place) for place in places])
        except (Exception, SystemExit):
            for place in places:
                self._compute_one(block, place, computed)
            return
        for number, place in enumerate(places):
            try:
                own = {name: known[name][number] for name in self.pipeline.outputs}
                self._keep(block, place, computed, self._checked(own, place))
            except OutputError as error:
                self._fail(block, place, computed, error)
        each = (time.perf_counter() - start) / len(places)
        computed.arrays["point_seconds"][...] = max(each, 1e-9)

    def _values(self, place: tuple[int, ...]) -> Values:
        where = dict(zip(self.pipeline.dims, place, strict=True))
        return {**self.pipeline.fixed, **self.pipeline.values_at(where)}

    def _keep(
        self,
        block: Block,
        place: tuple[int, ...],
        computed: Computed,
        checked: dict[str, np.ndarray],
    ) -> None:
        here = _within(block, place)
        for name, value in checked.items():
            where: tuple[int | slice, ...] = (*here, *(slice(n) for n in value.shape))
            computed.arrays[name][where] = value
        computed.status[here] = DONE

    def _fail(
        self, block: Block, place: tuple[int, ...], computed: Computed, error: BaseException
    ) -> None:
        computed.events.append(
            {
                "place": dict(zip(self.pipeline.dims, place, strict=True)),
                "kind": "failed",
                "error_type": type(error).__name__,
                "error": _text_of(error),
            }
        )

    # --- stages --------------------------------------------------------------------------

    def _run(self, points: list[Values]) -> dict[str, Sequence[Any]]:
        """Run all stages; return for each output one value a point."""
        known: dict[str, Sequence[Any]] = {}
        for stage in self.pipeline.stages:
            answers = (
                self._call_vectorized(stage, points, known)
                if stage.vectorized
                else [self._call(stage, point, known, i) for i, point in enumerate(points)]
            )
            known |= _by_output(stage, answers, len(points))
        return known

    def _call(
        self, stage: Stage, point: Values, known: Mapping[str, Sequence[Any]], number: int
    ) -> Any:
        arguments = {
            name: known[name][number] if name in known else point[name]
            for name in stage.parameters
            if name != "rng"
        }
        if all(stage.outputs[name] is None for name in stage.outputs):
            own = {name: plain(point[name]) for name in self._depends[stage.name]}
            key = canonical_json([stage.name, own])
            return self._memo.get(key, lambda: self._called(stage, point, arguments))
        return self._called(stage, point, arguments)

    def _called(self, stage: Stage, point: Values, arguments: Values) -> Any:
        if "rng" in stage.parameters:
            arguments["rng"] = self._stream(stage, point)
        return stage.function(**arguments)

    def _call_vectorized(
        self, stage: Stage, points: list[Values], known: Mapping[str, Sequence[Any]]
    ) -> Any:
        arguments: Values = {}
        for name in stage.parameters:
            if name == "rng":
                arguments[name] = [self._stream(stage, point) for point in points]
            elif name in known:
                arguments[name] = np.stack([np.asarray(value) for value in known[name]])
            elif name in self.pipeline.swept:
                arguments[name] = np.array([point[name] for point in points])
            else:
                arguments[name] = points[0][name]
        return stage.function(**arguments)

    def _stream(self, stage: Stage, point: Values) -> np.random.Generator:
        own = {name: point[name] for name in self._depends[stage.name]}
        return stream(self.pipeline.entropy, stage.name, own)

    # --- outputs -------------------------------------------------------------------------

    def _inner(self, array: Array) -> tuple[int, ...]:
        return array.shape[len(self.pipeline.dims) :]

    def _checked(self, values: Values, place: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {
            name: self._check(name, var, values[name], place)
            for name, var in self.pipeline.outputs.items()
        }

    def _check(self, name: str, var: Var, value: Any, place: tuple[int, ...]) -> np.ndarray:
        array = np.asarray(value)
        shape = self._inner(self._arrays[name])
        if self._ragged:
            where = dict(zip(self.pipeline.dims, place, strict=True))
            shape = tuple(self.pipeline.inner[dim].size_at(where) for dim in var.dims)
        if array.shape != shape:
            declared = ", ".join(f"{d}={n}" for d, n in zip(var.dims, shape, strict=True))
            raise OutputError(
                f"{self._shown(name, place)} with shape {array.shape}; the pipeline declares "
                f"{declared or 'one number'}."
            )
        stored = _cast(array, self._arrays[name].dtype)
        if stored is None:
            raise OutputError(
                f"{self._shown(name, place)} as {array.dtype}, which does not fit the {var.dtype} "
                "that the pipeline declares."
            )
        return stored

    def _shown(self, name: str, place: tuple[int, ...]) -> str:
        stage = next(stage for stage in self.pipeline.stages if name in stage.outputs)
        swept = self.pipeline.values_at(dict(zip(self.pipeline.dims, place, strict=True)))
        return (
            f"{stage.name}({', '.join(f'{n}={v!r}' for n, v in swept.items())}) returned '{name}'"
        )


def _cast(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | None:
    """Return `array` as `dtype`; None if that is of another kind or too small for a value."""
    if array.dtype == dtype:
        return array
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        return None
    with np.errstate(over="ignore"):
        stored = array.astype(dtype)
    if dtype.kind == "f":
        return stored if np.array_equal(np.isfinite(stored), np.isfinite(array)) else None
    return stored if np.array_equal(stored, array) else None


def _by_output(stage: Stage, answers: Any, points: int) -> dict[str, Sequence[Any]]:
    """Return for each output of a stage one value a point."""
    if stage.fields is None:
        return {stage.name: _one_each(stage.name, stage.name, answers, points)}
    if stage.vectorized:
        _check_fields(stage, answers)
        columns = {name: getattr(answers, name) for name in stage.fields}
        return {n: _one_each(stage.name, n, column, points) for n, column in columns.items()}
    for answer in answers:
        _check_fields(stage, answer)
    columns = {name: [getattr(answer, name) for answer in answers] for name in stage.fields}
    return {**columns, stage.name: answers}


def _check_fields(stage: Stage, answer: Any) -> None:
    assert stage.fields is not None
    if not all(hasattr(answer, name) for name in stage.fields):
        raise OutputError(
            f"{stage.name}() returned {type(answer).__name__}; it declares a NamedTuple with "
            f"{', '.join(stage.fields)}."
        )


def _one_each(stage: str, name: str, column: Any, points: int) -> Sequence[Any]:
    if not hasattr(column, "__len__") or len(column) != points:
        raise OutputError(
            f"{stage}() was given {points} points and returned '{name}' with "
            f"{np.shape(column)} values; its first dimension is the points'."
        )
    found: Sequence[Any] = column
    return found


def _within(block: Block, place: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i - low for i, low in zip(place, block.start, strict=True))


def _text_of(error: BaseException) -> str:
    """Return the exception's text and where it was raised."""
    if isinstance(error, OutputError):
        return str(error)[:LONGEST_ERROR]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f" [{frame.filename}:{frame.lineno}]"
    return str(error)[: LONGEST_ERROR - len(where)] + where


def largest_bytes(arrays: Sequence[Array], dims: int) -> tuple[int, int]:
    """Return the bytes of one point in the largest array, and in all together."""
    sizes = [math.prod(array.shape[dims:]) * array.dtype.itemsize for array in arrays]
    return max(sizes), sum(sizes)
