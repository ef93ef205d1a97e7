"""The chunks of every committed block against their checksums in the journals.

A chunk is right if any attempt at its block that is on record wrote it: a worker that was
late may have replaced single chunks by its own.
"""

import errno
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sweep.errors import StoreError, counted, disk_error, short_path
from sweep.journal import Record, decode_line, journals
from sweep.plan import Block
from sweep.store import Store
from sweep.store.chunks import DamagedChunkError, check_chunk, checksum_of, chunk_name
from sweep.store.metadata import (
    read_arrays,
    read_attributes,
    read_consolidated,
    read_metadata,
    with_values,
)
from sweep.template import POINT_NAMES
from sweep.verify.stale import begun, mark_block, remedy, shown

Progress = Callable[[int, int], None]  # so many of so many
Checksum = tuple[int, int]  # crc32c, bytes


@dataclass(frozen=True)
class Damage:
    """Something that is not what was committed.

    Parameters
    ----------
    block
        Name of its block; "" where it belongs to none.
    array
        Its array, "status" among them; "journal" where the block has no record, "zarr.json"
        for metadata.
    what
        What is wrong with it.
    """

    block: str
    array: str
    what: str


@dataclass(frozen=True)
class Report:
    """What a check of a store's checksums found.

    `damaged` are the blocks' chunks; `lost` is what no run computes again: coordinates and
    metadata. A line of a journal is gone for good, too, but harms only a block that has
    no other record, and that one is among the damaged.
    """

    store: Path
    blocks: int  # committed
    chunks: int
    bytes: int
    damaged: tuple[Damage, ...]
    lost: tuple[Damage, ...]
    damaged_lines: tuple[str, ...]  # of journals, as file:line
    marked: bool

    @property
    def is_sound(self) -> bool:
        """Tell whether all data are what was committed."""
        return not self.damaged and not self.lost

    @property
    def damaged_blocks(self) -> tuple[str, ...]:
        """The names of the blocks with damage, each once."""
        return tuple(dict.fromkeys(damage.block for damage in self.damaged))

    def text(self) -> str:
        """Say what was checked and found, and what to do."""
        blocks, chunks = counted(self.blocks, "committed block"), counted(self.chunks, "chunk")
        found = "all as recorded" if self.is_sound else "not all is as recorded"
        lines = [f"{blocks}, {chunks}, {self.bytes / 1e6:.3g} MB: {found}."]
        lines += shown(
            [f"block {d.block or '(the only one)'}, {d.array}: {d.what}" for d in self.damaged]
        )
        if self.damaged:
            what = counted(len(self.damaged_blocks), "block")
            lines.append(remedy(self.store, what, marked=self.marked))
        lines += shown([f"{lost.array}: {lost.what}" for lost in self.lost])
        if self.lost:
            lines.append("No run writes these again: take them from a copy, or make a new store.")
        lines += shown([f"{line}: damaged, a task's record" for line in self.damaged_lines])
        return "\n".join(lines)


def verify(store: Store, *, mark: bool = True, progress: Progress | None = None) -> Report:
    """Check every committed chunk against its record; damaged blocks become stale.

    Holds one chunk at a time, and the checksums of all blocks: about 200 bytes a block of four
    arrays (a million blocks: 200 MB), 50 more for every other attempt at it.

    Parameters
    ----------
    store
        With `mark`, nobody else writes to it.
    mark
        Mark the blocks with damage; else nothing is written.
    progress
        Is called after each block.

    Raises
    ------
    DiskError
        If a file cannot be read, or a mark cannot be written.
    """
    with reading(store):
        numbers = begun(store)  # before the journals: a record comes before its status
        recorded, damaged_lines = _read_journals(store)
        if not recorded and len(numbers):
            return _without_journals(store, len(numbers), damaged_lines)
        check = _Check(store, recorded)
        for count, block in enumerate(map(store.grid.block, numbers.tolist()), 1):
            if check.finds_damage(block) and mark:
                mark_block(store, block)
            if progress:
                progress(count, len(numbers))
        lost = tuple(_lost(store))
    damaged = tuple(check.damaged)
    counts = (check.blocks, check.chunks, check.bytes)
    return Report(store.path, *counts, damaged, lost, tuple(damaged_lines), mark)


def _without_journals(store: Store, blocks: int, damaged_lines: list[str]) -> Report:
    """Return the report of a store whose journals are gone: that says nothing of its blocks."""
    what = "no record is left of any block, so that there is nothing to check them against"
    gone = Damage("", str(store.journal_folder.relative_to(store.path)), what)
    return Report(store.path, blocks, 0, 0, (), (gone,), tuple(damaged_lines), False)


# --- what is on record ---------------------------------------------------------------------


class _Recorded:
    """The checksums on record: of each block those of every attempt, packed."""

    _CHECKSUM = struct.Struct("<IQ")

    def __init__(self, arrays: Sequence[str]) -> None:
        self.arrays = tuple(arrays)
        self._packed: dict[str, bytes] = {}

    def add(self, record: Record) -> None:
        """Take the checksums of a record that has them all."""
        told = record.get("checksums", {})
        if set(self.arrays) <= told.keys():
            packed = b"".join(self._CHECKSUM.pack(*told[name]) for name in self.arrays)
            self._packed[record["block"]] = self._packed.get(record["block"], b"") + packed

    def __bool__(self) -> bool:
        return bool(self._packed)

    def of(self, block: Block) -> dict[str, list[Checksum]]:
        """Return those of a block's arrays, one an attempt; nothing if it has no record."""
        known = list(self._CHECKSUM.iter_unpack(self._packed.get(block.name, b"")))
        count = len(self.arrays)
        return {name: known[i::count] for i, name in enumerate(self.arrays) if known}


def _read_journals(store: Store) -> tuple[_Recorded, list[str]]:
    """Return what is on record, and the lines that are damaged: not those torn by a kill."""
    arrays = (*store.header.specification["outputs"], *POINT_NAMES)
    recorded = _Recorded([name for name in arrays if name != "status"])
    damaged = []
    for path in journals(store.journal_folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):  # torn, or not whole yet
                    break
                record = decode_line(line)
                if record is None:
                    damaged.append(f"{path.relative_to(store.path)}:{number}")
                else:
                    recorded.add(record)
    return recorded, damaged


# --- what is on disk -----------------------------------------------------------------------


@dataclass
class _Check:
    """Goes through the blocks of a store and keeps count."""

    store: Store
    recorded: _Recorded
    blocks: int = 0
    chunks: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)

    def __post_init__(self) -> None:
        outputs = self.store.header.specification["outputs"]
        self._inner_dims = {name: len(output["dims"]) for name, output in outputs.items()}

    def finds_damage(self, block: Block) -> bool:
        """Check a block that has a status, and tell whether it is damaged."""
        before = len(self.damaged)
        if self.store.is_committed(block):
            self._check_committed(block)
        elif self.store.read_status(block) is None:
            self._add(block, "status", "wrong checksum")
        return len(self.damaged) > before

    def _check_committed(self, block: Block) -> None:
        self.blocks += 1
        recorded = self.recorded.of(block)
        if not recorded:
            self._add(block, "journal", "no record of this block, so nothing to check it against")
        for name, known in recorded.items():
            path = self.store.path / name / chunk_name(block.index, self._inner_dims.get(name, 0))
            self.chunks += 1
            try:
                self.bytes += _check_recorded(path, known)
            except DamagedChunkError as error:
                self._add(block, name, str(error))

    def _add(self, block: Block, array: str, what: str) -> None:
        self.damaged.append(Damage(block.name, array, what))


def _check_recorded(path: Path, known: Sequence[Checksum]) -> int:
    """Return how many bytes a chunk has that is whole, and one of those on record.

    Raises
    ------
    DamagedChunkError
        Saying what is wrong with it.
    """
    raw = _read(path)
    sizes = [size for _, size in known]
    if len(raw) not in sizes:
        short = "truncated: " if len(raw) < min(sizes) else ""
        raise DamagedChunkError(f"{short}{len(raw)} of {sizes[-1]} bytes")
    if (checksum_of(raw), len(raw)) not in known:
        raise DamagedChunkError(f"checksum {checksum_of(raw):08x} instead of {known[-1][0]:08x}")
    check_chunk(raw)
    return len(raw)


def _read(path: Path) -> bytes:
    """Return the bytes of a file; that there is none, or a bad sector, is damage as well."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DamagedChunkError("missing") from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise DamagedChunkError("the disk cannot read it") from None


def _lost(store: Store) -> Iterator[Damage]:
    """Yield what is damaged of what no run computes again: metadata and coordinates."""
    try:
        read_attributes(store.path)
        arrays = read_arrays(store.path, store.header.sizes, store.header.specification["outputs"])
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        yield Damage("", "zarr.json", f"of the root or an array: {type(error).__name__}: {error}")
        return
    yield from _lost_of_what_is_remembered(store)
    for array in arrays:
        if read_consolidated(store.path, array.name) != read_metadata(store.path / array.name):
            yield Damage("", array.name, "its zarr.json is not what the root's has of it")
        if array.role == "coordinate":
            try:
                with_values(store.path, array)
            except (DamagedChunkError, FileNotFoundError) as error:
                what = "missing" if isinstance(error, FileNotFoundError) else str(error)
                yield Damage("", array.name, what)


def _lost_of_what_is_remembered(store: Store) -> Iterator[Damage]:
    """Yield what is damaged of the axes and the runs in the private folder."""
    try:
        store.axes()
    except StoreError as error:
        yield Damage("", store.header.axes_file, str(error))
    for number, path in store.run_files().items():
        try:
            store.read_run(number)
        except ValueError as error:
            yield Damage("", f"runs/{path.name}", f"{type(error).__name__}: {error}")


@contextmanager
def reading(store: Store) -> Iterator[None]:
    """Tell what the disk refuses while a store is read.

    Raises
    ------
    DiskError
        In the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        what = f"{short_path(store.path)} cannot be read"
        raise disk_error(error, what, "Mend that, then verify it again.") from error
