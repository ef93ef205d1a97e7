"""Compute some points again, and compare them value for value with what is stored."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweep.definition import Pipeline
from sweep.errors import StoreError, counted, short_path
from sweep.plan import Block
from sweep.store import BlockWriter, Store
from sweep.task import Computed, Evaluator
from sweep.template import DONE
from sweep.verify.checksums import Progress, reading
from sweep.verify.stale import Place, begun, mark_points, remedy, shown


@dataclass(frozen=True)
class Mismatch:
    """A point that does not come out again as it is stored.

    Parameters
    ----------
    place
        Its place on the swept dims.
    values
        Its parameters.
    output
        The output that differs; "" where the point fails now.
    what
        How many values differ, and by how much; or why it fails.
    """

    place: Place
    values: Mapping[str, Any]
    output: str
    what: str

    @property
    def text(self) -> str:
        """Which point, which output, and how it differs."""
        values = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        what = f"{self.output}: {self.what}" if self.output else self.what
        return f"{values or 'the only point'}: {what}"


@dataclass(frozen=True)
class RerunReport:
    """What came of computing some points again."""

    store: Path
    points: int
    mismatches: tuple[Mismatch, ...]
    marked: bool

    @property
    def is_sound(self) -> bool:
        """Tell whether all came out as they are stored."""
        return not self.mismatches

    def text(self) -> str:
        """Say how many points were computed again, which of them differ, and what to do."""
        again = f"{counted(self.points, 'point')} computed again"
        if self.is_sound:
            return f"{again}: every value as stored."
        differing = len({mismatch.place for mismatch in self.mismatches})
        lines = [
            f"{again}, {differing} not as stored:",
            *shown([mismatch.text for mismatch in self.mismatches]),
            "The code or a library has changed since, or a stage does not answer the same twice "
            "(random numbers that are not its rng's?).",
            remedy(self.store, counted(differing, "point"), marked=self.marked),
        ]
        return "\n".join(lines)


def rerun(
    store: Store,
    pipeline: Pipeline,
    count: int,
    seed: int,
    *,
    mark: bool = True,
    progress: Progress | None = None,
) -> RerunReport:
    """Compute some points again, each alone, in this process; those that differ become stale.

    Values are the same if they are bit for bit, or both NaN. Marks are set when all points are
    compared.

    Parameters
    ----------
    store
        With `mark`, nobody else writes to it.
    pipeline
        The store's own, bound to it.
    count
        How many of the points that are done; all if there are fewer.
    seed
        Of the draw.
    mark
        Mark the points that differ; else nothing is written.
    progress
        Is called after each point.

    Raises
    ------
    StoreError
        If a chunk of a drawn point is damaged: `verify` first.
    DiskError
        If a file cannot be read, or a mark cannot be written.
    """
    again = _Again(store, pipeline)
    found: list[Mismatch] = []
    with reading(store):
        drawn = _draw(store, count, seed)
        total = sum(map(len, drawn.values()))
        for points, mismatches in enumerate(again.compare(drawn), 1):
            found += mismatches
            if progress:
                progress(points, total)
    if mark:
        mark_points(store, {mismatch.place for mismatch in found})
    return RerunReport(store.path, total, tuple(found), mark)


# --- the draw ------------------------------------------------------------------------------


def _draw(store: Store, count: int, seed: int) -> dict[int, list[Place]]:
    """Return some points that are done: block number -> places within the block."""
    done = np.zeros(store.grid.blocks, np.int64)
    for number in begun(store).tolist():
        done[number] = len(_places_done(store, store.grid.block(number)))
    total, ends = int(done.sum()), done.cumsum()
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(total, min(count, total), replace=False, shuffle=False))
    numbers = np.searchsorted(ends, drawn, side="right")
    found: dict[int, list[Place]] = {}
    for number in np.unique(numbers).tolist():
        within = drawn[numbers == number] - (ends - done)[number]
        places = _places_done(store, store.grid.block(number))[within]
        found[number] = [tuple(place) for place in places.tolist()]
    return found


def _places_done(store: Store, block: Block) -> np.ndarray:
    """Return the places within a block whose points are done, shape (points, dims)."""
    status = store.read_status(block)
    return np.argwhere(np.zeros(block.shape, bool) if status is None else status == DONE)


# --- the comparison ------------------------------------------------------------------------


class _Again:
    """Computes points of one store again."""

    def __init__(self, store: Store, pipeline: Pipeline) -> None:
        self._store = store
        self._pipeline = pipeline
        self._evaluator = Evaluator(pipeline)
        self._writer = BlockWriter(store, pipeline)

    def compare(self, drawn: Mapping[int, Sequence[Place]]) -> Iterator[list[Mismatch]]:
        """Yield what differs at each of some places within blocks; a block is read once."""
        for number, places in drawn.items():
            block = self._store.grid.block(number)
            stored = self._read(block)
            for here in places:
                there = {name: whole[here] for name, whole in stored.items()}
                yield self._compare_one(block, here, there)

    def _compare_one(
        self, block: Block, here: Place, stored: Mapping[str, np.ndarray]
    ) -> list[Mismatch]:
        place = tuple(low + i for low, i in zip(block.start, here, strict=True))
        alone = Block(block.number, block.index, place, (1,) * len(place))
        differing = _differing(stored, self._evaluator.compute(alone))
        values = self._pipeline.values_at(dict(zip(self._pipeline.dims, place, strict=True)))
        return [Mismatch(place, values, output, what) for output, what in differing.items()]

    def _read(self, block: Block) -> dict[str, np.ndarray]:
        """Return what is stored of a block's outputs, with the leading shape ``block.shape``."""
        stored = self._writer.read_outputs(block)
        if stored is None:
            store = short_path(self._store.path)
            raise StoreError(
                f"Block {block.name} of {store} is damaged, so nothing can be compared with it. "
                f"Have it marked: sweep verify {shlex.quote(store)}"
            )
        return {name: stored[name] for name in self._pipeline.outputs}


def _differing(stored: Mapping[str, np.ndarray], computed: Computed) -> dict[str, str]:
    """Return in words what is not as stored at one point: output -> how; "" -> why it fails."""
    failures = [event for event in computed.events if event["kind"] == "failed"]
    if failures:
        event = failures[0]
        if event["error_type"] == "KeyboardInterrupt":  # a person's wish, not the point's
            raise KeyboardInterrupt
        return {"": f"fails now: {event['error_type']}: {event['error']}"}
    corner = (0,) * computed.status.ndim
    told = {
        name: _difference(there, computed.arrays[name][corner]) for name, there in stored.items()
    }
    return {name: what for name, what in told.items() if what}


def _difference(stored: np.ndarray, found: np.ndarray) -> str:
    """Return in words how two arrays differ; "" if they are the same, NaN for NaN."""
    same = (stored == found) & (np.signbit(stored) == np.signbit(found))
    differs = ~(same | (np.isnan(stored) & np.isnan(found)))
    count = np.count_nonzero(differs)
    if not count:
        return ""
    text = f"{count} of {np.size(stored)} values differ"
    if np.asarray(stored).dtype.kind != "f":
        return text
    absolute, relative = _largest(np.asarray(stored)[differs], np.asarray(found)[differs])
    return f"{text}, by {absolute:.3g} at most, relative to the stored ones by {relative:.3g}"


def _largest(stored: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Return the largest absolute and relative difference; infinite where one is NaN."""
    before, after = stored.astype(np.float64), found.astype(np.float64)
    with np.errstate(all="ignore"):
        absolute = np.abs(after - before)
        relative = np.where(absolute == 0, 0.0, absolute / np.abs(before))
    return _maximum(absolute), _maximum(relative)


def _maximum(gaps: np.ndarray) -> float:
    return float(np.where(np.isnan(gaps), np.inf, gaps).max())
