"""A new store from the points of others: what extend --into, compact and merge have in common.

A block that is, as it stands, a block of one source gets hard links to its chunks; any other
is put together from decoded chunks. Points that no source has are pending.
"""

import errno
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sweep.definition import Axis
from sweep.durable import replace_file
from sweep.errors import StoreError, StoreMismatch, short_path
from sweep.journal import Journal, Record
from sweep.plan import Block
from sweep.store import OPEN_STATES, Checksums, Header, Store, count_failed
from sweep.store.chunks import (
    DamagedChunkError,
    check_chunk,
    checksum_of,
    chunk_name,
    encode_chunk,
)
from sweep.store.create import built_beside, check_sizes, lay_out, refusal
from sweep.store.origin import DamagedBlockError, Event, Origin, Part, Source
from sweep.store.tables import Tables
from sweep.template import DONE, FAILED, PENDING, STALE, Array, block_arrays

NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
AT_ONCE = 1000  # records of a journal that are synced together

# Which of several states of a point is the best to have, by the numbers of the states.
BETTER = np.array([0, 4, 3, 2, 1])  # pending, done, failed, skipped, stale

Found = tuple[Origin, tuple[int, ...], Event]  # an event, where it is from, and its point's place


@dataclass(frozen=True)
class Rebuilt:
    """A store made of others.

    `linked` and `written` count chunks; `damaged` the points that had been computed and are
    pending now, because a chunk of theirs is damaged or gone.
    """

    store: Store
    linked: int
    written: int
    damaged: int


def rebuild(
    path: Path,
    sources: Sequence[Source],
    header: Header,
    axes: Sequence[Axis],
    arrays: Sequence[Array],
    attributes: Mapping[str, Any],
    record: Record,
) -> Rebuilt:
    """Make a store at `path` that holds the points of `sources`, and return what was done.

    Where several have a point, the best state of it counts: done before failed, skipped, stale
    and pending; of equals the first. The sources may be incomplete, and written to meanwhile.

    Parameters
    ----------
    path
        Where nothing may be yet, but, at most, an empty folder.
    header, axes, arrays, attributes
        The store to be: see `sweep.store.create.lay_out`.
    record
        Of the run that this operation is, with `started` and `argv`.

    Raises
    ------
    StoreError
        If something is at `path`, or it cannot be written there.
    StoreMismatch
        If a point is done in two sources and not the same in both.
    """
    path = path.absolute()
    refuse_taken(path)
    try:
        with built_beside(path) as folder:
            lay_out(folder, header, axes, arrays, attributes)
            store = Store(folder)
            check_sizes(arrays, store.grid)
            copier = _Copier(store, block_arrays(tuple(arrays)), axes, sources)
            copier.copy(record)
    except OSError as error:
        raise refusal(path, error) from None
    damaged = sum(origin.damaged for origin in copier.origins)
    return Rebuilt(Store(path), copier.linked, copier.written, damaged)


def refuse_taken(path: Path) -> None:
    """Refuse a path at which something is already, but for an empty folder.

    Raises
    ------
    StoreError
        Saying so.
    """
    is_empty = path.is_dir() and not any(path.iterdir())
    if (path.exists() or path.is_symlink()) and not is_empty:
        raise StoreError(f"{short_path(path)} exists. Move it away or give another name.")


@dataclass(frozen=True, eq=False)
class _Mosaic:
    """What a new block is made of.

    `status` has its points' states, `owner` the numbers of the sources that they are taken
    from, -1 for none; both have the block's shape. Each of `parts` owns a point.
    """

    block: Block
    parts: tuple[Part, ...]
    status: np.ndarray
    owner: np.ndarray

    @cached_property
    def twin(self) -> tuple[Origin, Block] | None:
        """The one block of a source that this block is, if so."""
        if len(self.parts) != 1 or (block := self.parts[0].twin) is None:
            return None
        return self.parts[0].origin, block

    def read(self, array: Array) -> np.ndarray:
        """Return an array of the block, each point from its owner; fill where there is none."""
        inner = array.shape[self.owner.ndim :]
        whole = np.full((*self.owner.shape, *inner), array.fill, array.dtype)
        for part in self.parts:
            mine = self.owner == part.origin.number
            whole[mine] = part.read(array)[mine]
        return whole

    def events(self, found: Sequence[Found]) -> list[Event]:
        """Return those of `found` that the owners of their points tell.

        None where the block has still to be computed: then they are told anew.
        """
        if np.isin(self.status, (PENDING, STALE)).any():
            return []
        return [event for origin, place, event in found if self._is_true(origin, place, event)]

    def _is_true(self, origin: Origin, place: tuple[int, ...], event: Event) -> bool:
        here = tuple(i - low for i, low in zip(place, self.block.start, strict=True))
        if self.owner[here] != origin.number:
            return False
        return event["kind"] != "failed" or bool(self.status[here] == FAILED)


def _mosaic(block: Block, found: Sequence[Part]) -> _Mosaic:
    status = np.full(block.shape, PENDING, np.uint8)
    owner = np.full(block.shape, -1, np.int64)
    for part in found:
        better = BETTER[part.status] > BETTER[status]
        status[better] = part.status[better]
        owner[better] = part.origin.number
    parts = tuple(part for part in found if (owner == part.origin.number).any())
    return _Mosaic(block, parts, status, owner)


class _Copier:
    """Fills a new store with what its sources have."""

    def __init__(
        self,
        store: Store,
        arrays: Sequence[Array],
        axes: Sequence[Axis],
        sources: Sequence[Source],
    ) -> None:
        self.store, self.axes = store, axes
        self.arrays = [array for array in arrays if array.name != "status"]
        (self._status_array,) = (array for array in arrays if array.name == "status")
        self.linked = self.written = 0
        self.origins = [
            Origin(number, source, store.grid.shape, self._copy_runs(source.store, number == 0))
            for number, source in enumerate(sources)
        ]
        self.journal = Journal(store.journal_folder)

    def copy(self, record: Record) -> None:
        """Copy points, records of tasks and of runs, and fold the tables."""
        record = {**record, **self._code()}
        run = self.store.begin_run({**record, "ended": None, "state": "running"})
        events = self._copy_records()
        copied = []
        for number in self._touched():
            row = self._copy_block(self.store.grid.block(number), events.get(number, []))
            if row is not None:
                copied.append({**row, "run": run})
            if len(copied) == AT_ONCE:
                self.journal.extend(copied)
                copied = []
        self.journal.extend(copied)
        self.store.update_run(run, {**record, "ended": time.time(), "state": "complete"})
        Tables(self.store).fold()

    # --- records ---------------------------------------------------------------------------

    def _copy_runs(self, source: Store, first: bool) -> dict[int, int] | None:
        """Copy the records of a source's runs, and return their new numbers by the old.

        The first source's keep theirs (None); those of the others come after.
        """
        last = max(self.store.run_files(), default=0)
        numbers = {}
        for place, number in enumerate(source.run_files(), 1):
            record = source.read_run(number)
            if record["state"] in OPEN_STATES:  # but not here
                record["state"] = "incomplete"
            numbers[number] = number if first else last + place
            self.store.update_run(numbers[number], record)
        return None if first else numbers

    def _code(self) -> Record:
        """Return what the newest run has on record of the study's code."""
        for number in reversed(self.store.run_files()):
            record = self.store.read_run(number)
            if record.get("source"):
                return {key: record.get(key, "") for key in ("source", "code_hash")}
        return {"source": {}}

    def _copy_records(self) -> dict[int, list[Found]]:
        """Carry the sources' records over, and return their events by the new blocks' numbers.

        They come into files of their own, at whose end is what was computed last.
        """
        events: dict[int, list[Found]] = {}
        for origin in self.origins:
            records = origin.records()
            rows = sorted(origin.carried(records), key=lambda row: float(row["ended"]))
            journal = Journal(self.store.journal_folder)
            for start in range(0, len(rows), AT_ONCE):
                journal.extend(rows[start : start + AT_ONCE])
            for place, event in origin.events(records):
                number = self.store.grid.block_of(place)
                events.setdefault(number, []).append((origin, place, event))
        return events

    # --- blocks ----------------------------------------------------------------------------

    def _touched(self) -> list[int]:
        """Return the numbers of the blocks that some source has a state for, in order."""
        found = set()
        for origin in self.origins:
            for number in origin.states:
                block = origin.store.grid.block(number)
                touched = origin.blocks_touched(block, self.store.grid.block_shape)
                found |= set(map(self.store.grid.number_at, touched))
        return sorted(found)

    def _copy_block(self, block: Block, events: Sequence[Found]) -> Record | None:
        """Write a block and return its record; None if no source has a point of it."""
        started, begun = time.time(), time.perf_counter()
        for origin in self.origins:
            origin.keep_recent()
        while True:
            try:
                mosaic = _mosaic(block, self._parts(block))
                if not mosaic.parts:
                    return None
                checksums = self._write_outputs(mosaic)
                break
            except DamagedBlockError as damage:
                damage.origin.forget(damage.block)
                for array in self.arrays:
                    self._file(array, block).unlink(missing_ok=True)
        self._write_status(mosaic)
        return {
            "block": block.name,
            "attempt": 1,
            "status": "copied",
            "points": int(np.count_nonzero(mosaic.status)),
            "failed": count_failed(mosaic.status),
            "stale": int(np.count_nonzero(mosaic.status == STALE)),
            "started": started,
            "ended": time.time(),
            "queue_seconds": 0.0,
            "compile_seconds": 0.0,
            "compute_seconds": 0.0,
            "write_seconds": time.perf_counter() - begun,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "threads": 1,
            "checksums": checksums,
            "events": mosaic.events(events),
        }

    def _parts(self, block: Block) -> list[Part]:
        """Return what each source has of a block; where two have done a point, it is the same."""
        found = [Part(origin, block) for origin in self.origins]
        for number, later in enumerate(found):
            for first in found[:number]:
                self._compare(first, later)
        return [part for part in found if part.status.any()]

    def _compare(self, first: Part, later: Part) -> None:
        both = (first.status == DONE) & (later.status == DONE)
        if not both.any():
            return
        for array in self.arrays:
            if array.role == "output":
                differ = both & ~_same(first.read(array), later.read(array), both.ndim)
                if differ.any():
                    here = np.argwhere(differ)[0].tolist()
                    place = [low + i for low, i in zip(first.block.start, here, strict=True)]
                    self._refuse((first, later), array.name, place)

    def _refuse(self, parts: tuple[Part, Part], output: str, place: Sequence[int]) -> None:
        told = {
            k: v for axis, i in zip(self.axes, place, strict=True) for k, v in axis.at(i).items()
        }
        where = ", ".join(f"{name}={value!r}" for name, value in told.items())
        first, later = (short_path(part.origin.store.path) for part in parts)
        raise StoreMismatch(
            f"{first} and {later} differ in '{output}' at {where or 'the only point'}. One was "
            "made with other code or libraries, or a stage does not give the same answer twice. "
            f"Find out which: sweep verify {first} --rerun 10"
        )

    def _write_outputs(self, mosaic: _Mosaic) -> Checksums:
        checksums, linked = {}, 0
        for array in self.arrays:
            if mosaic.twin and mosaic.twin[0].has_same_chunks(array, self.store.grid.block_shape):
                raw, is_linked = self._take(array, mosaic.block, *mosaic.twin)
                linked += is_linked
            else:
                raw = self._encode(array, mosaic.block, mosaic.read(array))
                replace_file(self._file(array, mosaic.block), raw)
            checksums[array.name] = checksum_of(raw), len(raw)
        self.linked += linked
        self.written += len(checksums) - linked
        return checksums

    def _take(self, array: Array, block: Block, origin: Origin, twin: Block) -> tuple[bytes, bool]:
        """Link a chunk of a source, or copy it; return its bytes and whether it is a link.

        A link is read under its new name: what is there cannot be replaced any more.
        """
        source, target = origin.chunk_file(array.name, twin), self._file(array, block)
        try:
            is_linked = _link(source, target)
            raw = (target if is_linked else source).read_bytes()
            check_chunk(raw)
        except (DamagedChunkError, OSError) as error:
            raise origin.reading_error(twin, error) from None
        if not is_linked:
            replace_file(target, raw)
        return raw, is_linked

    def _write_status(self, mosaic: _Mosaic) -> None:
        """Write the states of a block's points, or link their chunk where it is the same."""
        raw = self._encode(self._status_array, mosaic.block, mosaic.status)
        target = self._file(self._status_array, mosaic.block)
        if mosaic.twin:
            origin, twin = mosaic.twin
            if _link(origin.chunk_file("status", twin), target):
                if target.read_bytes() == raw:
                    self.linked += 1
                    return
                target.unlink()
        replace_file(target, raw)
        self.written += 1

    def _encode(self, array: Array, block: Block, data: np.ndarray) -> bytes:
        shape = (*self.store.grid.block_shape, *array.shape[len(block.shape) :])
        return encode_chunk(data, shape, array.fill)

    def _file(self, array: Array, block: Block) -> Path:
        inner = len(array.shape) - len(block.shape)
        return self.store.path / array.name / chunk_name(block.index, inner)


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name; tell whether the file system lets one."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    return True


def _same(first: np.ndarray, second: np.ndarray, dims: int) -> np.ndarray:
    """Tell of each point whether two arrays have the same there, NaN for NaN."""
    equal = first == second
    if first.dtype.kind == "f":
        equal |= np.isnan(first) & np.isnan(second)
    found: np.ndarray = equal.all(axis=tuple(range(dims, first.ndim)))
    return found
