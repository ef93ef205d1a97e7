"""A store that another one is made of: what it has, by the new places of its points.

Every byte that is taken is checked first: a point whose chunk is damaged counts as pending.
"""

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sweep.errors import StoreError, short_path
from sweep.journal import Record, is_carried, journals, order_of, read_from
from sweep.plan import Block
from sweep.store import Store
from sweep.store.chunks import DamagedChunkError, chunk_name, decode_chunk
from sweep.store.metadata import read_arrays, with_values
from sweep.template import PENDING, STALE, Array, block_arrays

Event = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Source:
    """A store whose points are taken: `places` has, for each swept dim, the new place of each."""

    store: Store
    places: tuple[np.ndarray, ...]


class DamagedBlockError(Exception):
    """A block of a source cannot be taken, because a chunk of it is damaged or gone."""

    def __init__(self, origin: "Origin", block: Block) -> None:
        self.origin, self.block = origin, block


@dataclass(frozen=True, eq=False)
class Overlap:
    """A block of a source, and where some points are along each dim: in it, in a new block."""

    block: Block
    there: tuple[np.ndarray, ...]
    here: tuple[np.ndarray, ...]


def stored_arrays(store: Store) -> tuple[Array, ...]:
    """Return the arrays of a store's dataset, coordinates with their values.

    Raises
    ------
    StoreError
        If a coordinate is damaged.
    """
    try:
        return tuple(
            with_values(store.path, array) if array.role == "coordinate" else array
            for array in _arrays(store)
        )
    except (DamagedChunkError, FileNotFoundError) as error:
        raise StoreError(
            f"A coordinate of {store.path} is damaged ({error}). To see which: "
            f"sweep verify {short_path(store.path)}"
        ) from None


def _arrays(store: Store) -> tuple[Array, ...]:
    return read_arrays(store.path, store.header.sizes, store.header.specification["outputs"])


class Origin:
    """A source, with the states of its points as they are when this is made.

    Parameters
    ----------
    number
        Its place among the sources.
    shape
        Points of the new store along each swept dim.
    runs
        The new numbers of its runs by the old; None if they stay.
    """

    def __init__(
        self,
        number: int,
        source: Source,
        shape: tuple[int, ...],
        runs: Mapping[int, int] | None,
    ) -> None:
        self.number, self.store, self.places = number, source.store, source.places
        self.damaged = 0  # points that are pending because a chunk is damaged
        self._runs = runs
        self._old_places = [_inverse(p, n) for p, n in zip(self.places, shape, strict=True)]
        self._arrays = {array.name: array for array in block_arrays(_arrays(self.store))}
        self._decoded: dict[tuple[str, int], np.ndarray] = {}
        self._recent: dict[tuple[str, int], np.ndarray] = {}
        self.states = self._read_states()

    # --- states ----------------------------------------------------------------------------

    def _read_states(self) -> dict[int, np.ndarray]:
        """Return the states of each block that has any, by its number."""
        found = {}
        for block in self.store.begun():
            status = self.store.read_status(block)
            if status is None:
                self.damaged += block.points
            elif status.any():
                found[block.number] = status
        return found

    def forget(self, block: Block) -> None:
        """Take all points of a block for pending."""
        status = self.states.pop(block.number)
        self.damaged += int(np.isin(status, (PENDING, STALE), invert=True).sum())

    def overlaps(self, block: Block) -> Iterator[Overlap]:
        """Yield how the blocks of this source that have any state lie in a new block."""
        corner = zip(block.start, block.shape, strict=True)
        along = [self._parts_along(dim, low, n) for dim, (low, n) in enumerate(corner)]
        for parts in product(*along):
            number = self.store.grid.number_at(tuple(index for index, _, _ in parts))
            if number in self.states:
                there = tuple(there for _, there, _ in parts)
                here = tuple(here for _, _, here in parts)
                yield Overlap(self.store.grid.block(number), there, here)

    def _parts_along(self, dim: int, low: int, n: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return per block of the source: its index, places in it, places in the new block."""
        old = self._old_places[dim][low : low + n]
        here = np.flatnonzero(old >= 0)
        index, there = np.divmod(old[here], self.store.grid.block_shape[dim])
        return [(int(i), there[index == i], here[index == i]) for i in np.unique(index)]

    def blocks_touched(self, block: Block, block_shape: tuple[int, ...]) -> Iterator[Any]:
        """Yield where a block of this source has points, on the grid of the new blocks."""
        corner = zip(self.places, block.start, block.shape, block_shape, strict=True)
        along = [np.unique(places[low : low + n] // b).tolist() for places, low, n, b in corner]
        yield from product(*along)

    # --- chunks ----------------------------------------------------------------------------

    def chunk_file(self, name: str, block: Block) -> Path:
        """Return the file of a block's chunk."""
        inner = len(self._arrays[name].shape) - len(block.shape)
        return self.store.path / name / chunk_name(block.index, inner)

    def has_same_chunks(self, array: Array, block_shape: tuple[int, ...]) -> bool:
        """Tell whether the chunks of an array that hold the same points are so to the byte."""
        own, lead = self._arrays[array.name], len(block_shape)
        return (
            self.store.grid.block_shape == block_shape
            and own.shape[lead:] == array.shape[lead:]
            and (own.dtype, repr(own.fill)) == (array.dtype, repr(array.fill))
            and (array.name != "run" or self._runs is None)
        )

    def read(self, name: str, block: Block) -> np.ndarray:
        """Return a block of an array, leading shape ``block.shape``; runs by their new numbers.

        Raises
        ------
        DamagedBlockError
            If its chunk is damaged or gone.
        """
        key = name, block.number
        if key not in self._decoded:
            known = key in self._recent
            self._decoded[key] = self._recent[key] if known else self._decode(name, block)
        return self._decoded[key]

    def keep_recent(self) -> None:
        """Forget what was decoded, but for what was asked for since this was last called."""
        self._recent, self._decoded = self._decoded, {}

    def _decode(self, name: str, block: Block) -> np.ndarray:
        array = self._arrays[name]
        shape = (*self.store.grid.block_shape, *array.shape[len(block.shape) :])
        try:
            chunk = decode_chunk(self.chunk_file(name, block).read_bytes(), shape, array.dtype)
        except (DamagedChunkError, OSError) as error:
            raise self.reading_error(block, error) from None
        chunk = chunk[tuple(map(slice, block.shape))]
        return self._new_runs(chunk) if name == "run" and self._runs is not None else chunk

    def _new_runs(self, runs: np.ndarray) -> np.ndarray:
        old, inverse = np.unique(runs, return_inverse=True)
        return np.array([self.new_run(run) for run in old.tolist()], runs.dtype)[inverse].reshape(
            runs.shape
        )

    def reading_error(self, block: Block, error: Exception) -> Exception:
        """Return what to raise where a chunk of a block could not be read."""
        is_damage = isinstance(error, (DamagedChunkError, FileNotFoundError))
        is_damage |= isinstance(error, OSError) and error.errno == errno.EIO
        return DamagedBlockError(self, block) if is_damage else error

    # --- journals --------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """Return all records of tasks, each with its worker."""
        return [
            {"worker": path.stem, **record}
            for path in journals(self.store.journal_folder)
            for record, _ in read_from(path, 0)
        ]

    def carried(self, records: Sequence[Record]) -> Iterator[Record]:
        """Yield records as the new store keeps them: of none of its blocks, without events."""
        newest = self._newest(records)
        for record in records:
            row = {key: record[key] for key in record if key not in ("checksums", "events")}
            row |= {"run": self.new_run(record["run"]), "block": "", "events": []}
            if not is_carried(record):
                row["carried"] = record["block"]
                if newest.get(record["block"]) is not record:
                    row["status"] = "lost"
            yield row

    def events(self, records: Sequence[Record]) -> Iterator[tuple[tuple[int, ...], Event]]:
        """Yield the events of the newest attempts, each with its point's new place."""
        dims = self.store.header.specification["dims"]
        for record in self._newest(records).values():
            for event in record["events"]:
                old = [event["place"][dim] for dim in dims]
                new = tuple(int(p[i]) for p, i in zip(self.places, old, strict=True))
                run = self.new_run(event.get("run", record["run"]))
                yield new, {**event, "place": dict(zip(dims, new, strict=True)), "run": run}

    def _newest(self, records: Sequence[Record]) -> dict[str, Record]:
        """Return the newest record of each block that has any state."""
        own = [record for record in records if not is_carried(record)]
        newest = {record["block"]: record for record in sorted(own, key=order_of)}
        number_of = self.store.grid.block_named
        return {name: r for name, r in newest.items() if number_of(name).number in self.states}

    def new_run(self, run: int) -> int:
        """Return the new number of a run; 0 if there is no record of it."""
        return run if self._runs is None else self._runs.get(run, 0)


def _inverse(places: np.ndarray, size: int) -> np.ndarray:
    """Return the old place of each new one, shape (size,); -1 where there is none."""
    old = np.full(size, -1, np.intp)
    old[places] = np.arange(len(places))
    return old


class Part:
    """What one source has of a new block: `status` has the block's shape."""

    def __init__(self, origin: Origin, block: Block) -> None:
        self.origin, self.block = origin, block
        self.overlaps = list(origin.overlaps(block))
        self.status = np.full(block.shape, PENDING, np.uint8)
        for overlap in self.overlaps:
            states = origin.states[overlap.block.number]
            self.status[np.ix_(*overlap.here)] = states[np.ix_(*overlap.there)]

    @property
    def twin(self) -> Block | None:
        """The source's block that has the very points of this one, in the same order, if any."""
        if len(self.overlaps) != 1:
            return None
        (overlap,) = self.overlaps
        whole = [np.arange(n) for n in self.block.shape]
        is_same = overlap.block.shape == self.block.shape and all(
            np.array_equal(places, every)
            for along in (overlap.there, overlap.here)
            for places, every in zip(along, whole, strict=True)
        )
        return overlap.block if is_same else None

    def read(self, array: Array) -> np.ndarray:
        """Return an array of the block, leading shape ``block.shape``; fill where it has none.

        Raises
        ------
        DamagedBlockError
            If a chunk is damaged or gone.
        """
        dims = len(self.block.shape)
        whole = np.full((*self.block.shape, *array.shape[dims:]), array.fill, array.dtype)
        for overlap in self.overlaps:
            found = self.origin.read(array.name, overlap.block)
            where: Any = (*np.ix_(*overlap.here), *map(slice, found.shape[dims:]))
            whole[where] = found[np.ix_(*overlap.there)]
        return whole
