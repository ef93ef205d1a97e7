"""Call a pipeline's stages, each with what it asks for by name, for one point or a block."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import numpy as np

from sweep.definition import Pipeline, Stage
from sweep.definition.constants import plain
from sweep.definition.specification import canonical_json
from sweep.definition.stage import takes_lists
from sweep.errors import OutputError
from sweep.memo import Memo, frozen, read_only

Values = dict[str, Any]
Columns = dict[str, Any]  # name -> array or list with one value a point


def stream(entropy: int, stage: str, parameters: Mapping[str, Any]) -> np.random.Generator:
    """Return the random numbers of one stage at one point.

    They depend on the entropy, the stage and the values of the parameters that it depends on,
    and on nothing else: not on the engine, the order, a retry, or the rest of the sweep.
    """
    told = {name: plain(_as_whole(value)) for name, value in parameters.items()}
    text = canonical_json([stage, told])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    words = np.frombuffer(digest, "<u4").tolist()
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=words))


def _as_whole(value: Any) -> Any:
    """Return 2 for 2.0: a half that joins an axis of whole numbers makes floats of them."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


class Calls:
    """Calls a pipeline's stages, each with what it asks for by name.

    Each output goes out as soon as it is made, and later stages see it read-only: what a
    stage does to its arguments changes no output, no other stage and no other point.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._constants = _Constants(pipeline.fixed)
        self._memo = Memo(pipeline.needs.memory_bytes // 4)
        self._stages = [Wired(stage, pipeline) for stage in pipeline.stages]

    def for_point(self, swept: Values) -> Iterator[tuple[str, Any]]:
        """Call the stages for one point, and yield each stored output as it is made."""
        known = self._constants.fresh() | swept
        for wired in self._stages:
            answer = self._call(wired, known)
            for name in wired.stored:
                yield name, _field(wired, answer, name) if name in wired.fields else answer
            if wired is self._stages[-1]:
                return
            answer = read_only(answer)
            known[wired.name] = answer
            for name in wired.fields:
                known[name] = _field(wired, answer, name)

    def for_block(self, columns: Columns, points: int) -> Iterator[tuple[str, Any]]:
        """Call the stages for a block, and yield each stored output (points, ...) as it is made.

        `columns` are those of what is swept, each of shape (points,).
        """
        known = {name: read_only(column) for name, column in columns.items()}
        for wired in self._stages:
            call = self._call_vectorized if wired.vectorized else self._call_each
            made = call(wired, known, points)
            for name in wired.stored:
                yield name, made[name]
            known |= {name: read_only(column) for name, column in made.items()}

    def _call(self, wired: "Wired", known: Values) -> Any:
        if not wired.remembered:
            return self._called(wired, known)
        own = {name: plain(known[name]) for name in wired.depends}
        key = canonical_json([wired.name, own])
        return self._memo.get(key, lambda: self._called(wired, known))

    def _called(self, wired: "Wired", known: Values) -> Any:
        arguments = {name: known[name] for name in wired.arguments}
        if wired.takes_rng:
            arguments["rng"] = self._stream(wired, known)
        return wired.function(**arguments)

    def _call_each(self, wired: "Wired", known: Columns, points: int) -> Columns:
        answers = []
        for one in self._rows(known, points):
            answer = self._call(wired, one)
            kept = frozen(answer)  # a function may hand out one buffer again and again
            answers.append(kept[0] if kept else answer)
        columns = {name: [_field(wired, a, name) for a in answers] for name in wired.fields}
        return {wired.name: answers, **columns}

    def _call_vectorized(self, wired: "Wired", known: Columns, points: int) -> Columns:
        arguments: Values = {
            name: np.asarray(known[name]) for name in wired.arguments if name in known
        }
        constants = self._constants.fresh()
        others = {name: constants[name] for name in wired.arguments if name not in known}
        for name in self._columns_of(wired, others, has_columns=bool(arguments)):
            others[name] = np.full(points, others[name])
        arguments |= others
        if wired.takes_rng:
            rows = self._rows(known, points)
            arguments["rng"] = [self._stream(wired, one) for one in rows]
        answer = wired.function(**arguments)
        if not wired.fields:
            return {wired.name: _column(wired, wired.name, answer, points)}
        return {
            name: _column(wired, name, _field(wired, answer, name), points) for name in wired.fields
        }

    def _columns_of(self, wired: "Wired", others: Values, *, has_columns: bool) -> list[str]:
        """Return which of the constants of a vectorized stage go to it as columns.

        Those that are annotated as arrays; and if that leaves it without any column, so that
        its answer could have no point dimension, those that a caller fixed, else all.
        """
        single = [n for n, value in others.items() if isinstance(value, (bool, int, float, str))]
        found = [name for name in single if name in wired.as_arrays]
        if found or has_columns:
            return found
        return [name for name in single if name in self._pipeline.constants] or single

    def _stream(self, wired: "Wired", known: Values) -> np.random.Generator:
        own = {name: known[name] for name in wired.depends}
        return stream(self._pipeline.entropy, wired.name, own)

    def _rows(self, columns: Columns, points: int) -> Iterable[Values]:
        """Yield what is known of each point, swept parameters as plain numbers."""
        lists = {
            name: column.tolist() if isinstance(column, np.ndarray) and column.ndim == 1 else column
            for name, column in columns.items()
        }
        for i in range(points):
            yield self._constants.fresh() | {name: column[i] for name, column in lists.items()}


class _Constants:
    """The parameters that are not swept, as each call may have them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        kept = {name: frozen(value) for name, value in values.items()}
        self._shared = {name: one[0] for name, one in kept.items() if one is not None}
        others = {name: value for name, value in values.items() if name not in self._shared}
        containers = (list, dict, set, bytearray, tuple)
        self._copied = {n: v for n, v in others.items() if isinstance(v, containers)}
        self._shared |= {n: v for n, v in others.items() if n not in self._copied}

    def fresh(self) -> Values:
        """Return all of them, those that a call could change as copies."""
        return self._shared | (deepcopy(self._copied) if self._copied else {})


class Wired:
    """A stage with what has to be known of it at every call."""

    def __init__(self, stage: Stage, pipeline: Pipeline) -> None:
        self.name = stage.name
        self.function = stage.function
        self.vectorized = stage.vectorized
        self.arguments = [name for name in stage.parameters if name != "rng"]
        self.as_arrays = {n for n in self.arguments if takes_lists(stage.parameters[n][0])}
        self.takes_rng = "rng" in stage.parameters
        self.depends = pipeline.depends(stage)
        self.fields = stage.fields or ()
        self.stored = [name for name, var in stage.outputs.items() if var]
        self.remembered = not stage.vectorized and not any(stage.outputs.values())


def _field(wired: Wired, answer: Any, name: str) -> Any:
    try:
        return getattr(answer, name)
    except AttributeError:
        raise OutputError(
            f"{wired.name}() returned {type(answer).__name__}; it declares a NamedTuple with "
            f"{', '.join(wired.fields)}."
        ) from None


def _column(wired: Wired, name: str, column: Any, points: int) -> Any:
    if np.ndim(column) == 0 or len(column) != points:
        raise OutputError(
            f"{wired.name}() was given {points} points and returned '{name}' with shape "
            f"{np.shape(column)}; its first dimension is the points'."
        )
    return column
