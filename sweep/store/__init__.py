"""The store: a Zarr group with outputs, status, timing and provenance, written block by block.

What is true of a block stands in one place only: its chunk of ``status``, written last. NaN,
or a chunk that exists, means nothing. Beside the dataset lies ``.sweep/``: the specification
(header.json, axes-N.npz), a file a run, a journal a worker.
"""

import json
import secrets
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from sweep.definition import Axis, Pipeline
from sweep.definition.constants import is_whole, plain, restored
from sweep.definition.specification import (
    canonical_json,
    differences,
    differences_of,
    specification,
    specification_hash,
    stages_of,
)
from sweep.durable import create_file, encode_json, make_folders, replace_file, sync_folder
from sweep.errors import StoreError, StoreMismatch
from sweep.plan import Block, Grid, Plan
from sweep.store.chunks import (
    DamagedChunkError,
    checksum_of,
    chunk_name,
    decode_chunk,
    encode_chunk,
)
from sweep.template import (
    DONE,
    FAILED,
    PENDING,
    STALE,
    STATUS_MEANINGS,
    Array,
    block_arrays,
    template,
)

FORMAT = 2  # docs/format.md
PRIVATE = ".sweep"
PRIVATE_FOLDERS = ("runs", "journal", "folds", "marks", "claims", "claimants")
SEED_RULE = (
    "numpy.random.SeedSequence(entropy, spawn_key=the four 32-bit words of the 128-bit blake2b of "
    "the canonical JSON of [stage, parameters], 2.0 as 2)"
)

Checksums = dict[str, tuple[int, int]]  # array name -> (crc32c, bytes)


@dataclass(frozen=True)
class Header:
    """What a store remembers of its sweep, in ``.sweep/header.json``.

    `study` is where the pipeline lies: its file relative to the store, and its name in it;
    None for one defined in a notebook or a script. `axes_file` holds the values of the axes;
    a sweep that grows gets another one.
    """

    format: int
    sweep_id: str
    specification: dict[str, Any]
    shape: tuple[int, ...]
    block_shape: tuple[int, ...]
    study: dict[str, str] | None
    axes_file: str = "axes-1.npz"

    @property
    def sizes(self) -> dict[str, int]:
        """The lengths of the swept dims by their names."""
        return dict(zip(self.specification["dims"], self.shape, strict=True))

    @property
    def attributes(self) -> dict[str, str]:
        """What the dataset's own attributes tell of it."""
        return {
            "seed_entropy": self.specification["entropy"],
            "seed_rule": SEED_RULE,
            "sweep_format": str(self.format),
            "sweep_id": self.sweep_id,
            "sweep_spec": canonical_json(self.specification),
            "sweep_spec_hash": specification_hash(self.specification),
        }

    def encode(self) -> bytes:
        """Return the header as JSON."""
        return encode_json(asdict(self), indent=1)


OPEN_STATES = ("queued", "running")  # of runs that have not ended


class Store:
    """A store that exists.

    Raises
    ------
    StoreError
        If there is none at `path`, or it is of a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.header = _read_header(self.path)
        self.grid = Grid(self.header.shape, self.header.block_shape)

    @property
    def private(self) -> Path:
        """The folder of what is not the dataset."""
        return self.path / PRIVATE

    @property
    def mark_folder(self) -> Path:
        """The folder of the workers' marks, a folder a claimant (see ``marks.py``)."""
        return self.private / "marks"

    @property
    def journal_folder(self) -> Path:
        """The folder of the workers' record files."""
        return self.private / "journal"

    # --- what is done --------------------------------------------------------------------

    def read_status(self, block: Block) -> np.ndarray | None:
        """Return the status of a block's points, shape ``block.shape``; None if it has none."""
        path = self.path / "status" / chunk_name(block.index, 0)
        try:
            chunk = decode_chunk(path.read_bytes(), self.grid.block_shape, np.dtype("uint8"))
        except (FileNotFoundError, DamagedChunkError):
            return None
        return chunk[tuple(map(slice, block.shape))]

    def is_committed(self, block: Block) -> bool:
        """Tell whether no point of a block has to be computed."""
        status = self.read_status(block)
        return status is not None and is_settled(status)

    def forget_failures(self) -> int:
        """Make failed points pending again, and return how many there were.

        For the one driver of the store, before a run.
        """
        count = 0
        for block in list(self.begun()):
            status = self.read_status(block)
            if status is not None and (status == FAILED).any():
                count += count_failed(status)
                self.write_status(block, np.where(status == FAILED, PENDING, status))
        return count

    def write_status(self, block: Block, status: np.ndarray) -> None:
        """Write the status of a block's points, durably: what is true of them from now on."""
        raw = encode_chunk(status.astype(np.uint8, copy=False), self.grid.block_shape, PENDING)
        replace_file(self.path / "status" / chunk_name(block.index, 0), raw)
        sync_folder(self.path / "status")

    def plan(self) -> Plan:
        """Return what is left to do."""
        return self.survey()[0]

    def count_points(self) -> dict[str, int]:
        """Return how many points are in each state, by the names of the states."""
        counts = np.zeros(len(STATUS_MEANINGS), np.int64)
        for block in self.begun():
            status = self.read_status(block)
            if status is not None:
                counts += np.bincount(status.ravel(), minlength=len(counts))
        counts[PENDING] += self.grid.points - counts.sum()
        return dict(zip(STATUS_MEANINGS, counts.tolist(), strict=True))

    def survey(self) -> tuple[Plan, int, int]:
        """Return what is left to do, and how many points of committed blocks are done, and failed.

        A block of which a point is left is computed as a whole, so that none of its points count.
        """
        committed = np.zeros(self.grid.blocks, bool)
        done = failed = 0
        for block in self.begun():
            status = self.read_status(block)
            if status is not None and is_settled(status):
                committed[block.number] = True
                done += int(np.count_nonzero(status == DONE))
                failed += count_failed(status)
        return Plan(self.grid, committed), done, failed

    def begun(self) -> Iterator[Block]:
        """Yield the blocks that have a status chunk."""
        for path in (self.path / "status").glob("c*"):
            yield self.grid.block_named(path.name[2:])

    def unsettled(self) -> dict[str, str]:
        """Return the names of the blocks that have a status and are left all the same.

        With each goes what tells its status from others.
        """
        found = {}
        for block in self.begun():
            status = self.read_status(block)
            if status is None or not is_settled(status):
                found[block.name] = fingerprint(status)
        return found

    def numbers_with_status(self) -> np.ndarray:
        """Return the numbers of the blocks that have a status chunk, whatever it says."""
        names = [path.name[2:] for path in (self.path / "status").glob("c*")]
        if not names or not self.grid.shape:
            return np.zeros(len(names), np.int64)
        index = np.array([name.split(".") for name in names]).astype(np.int64)
        return np.asarray(np.ravel_multi_index(tuple(index.T), self.grid.blocks_shape))

    # --- what it remembers ---------------------------------------------------------------

    def bind(self, pipeline: Pipeline) -> Pipeline:
        """Return `pipeline` with the axes and constants of this store.

        Raises
        ------
        StoreMismatch
            If it is another pipeline than the one that the store was made with.
        """
        spec = self.header.specification
        self._refuse(differences_of("stage", spec["stages"], stages_of(pipeline)))
        told = spec["constants"]
        own = {name: plain(value) for name, value in pipeline.fixed.items()}
        others = [name for name in told if name not in own or told[name] != own[name]]
        for name in others:
            if not is_whole(told[name]):
                raise StoreMismatch(
                    f"In {self.path} the constant '{name}' has a value that only Python can hold: "
                    f"set there, or changed in the study since. Go on from Python, with the old "
                    f"value: sweep.run(pipeline, store, {name}=...)."
                )
        constants = {name: restored(told[name]) for name in others}
        bound = pipeline.having(self.axes(), {**pipeline.constants, **constants})
        self.check_same(bound)
        return bound

    def check_same(self, pipeline: Pipeline) -> None:
        """Refuse a pipeline whose specification is not this store's.

        Raises
        ------
        StoreMismatch
            With what differs, in words.
        """
        self._refuse(differences(self.header.specification, specification(pipeline)))

    def _refuse(self, found: list[str]) -> None:
        if found:
            raise StoreMismatch(
                f"{self.path} holds another sweep:\n  "
                + "\n  ".join(found)
                + "\nGive a new store for this one, or take the old values."
            )

    def axes(self) -> list[Axis]:
        """Return the axes of the sweep."""
        spec = self.header.specification
        made = []
        file = self.private / self.header.axes_file
        try:
            with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as saved:
                columns = dict(zip(spec["axes"], map(saved.get, saved.files), strict=True))
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise _damaged(file, error) from None
        for dim in spec["dims"]:
            names = tuple(name for name, axis in spec["axes"].items() if axis["dim"] == dim)
            texts = (spec["axes"][name]["units"] for name in names)
            units = tuple("" if text == "1" else text for text in texts)
            if names == (dim,):
                made.append(Axis(dim, columns[dim], units))
            else:
                rows = list(zip(*(columns[name].tolist() for name in names), strict=True))
                made.append(Axis(names, rows, units, dim=dim))
        return made

    # --- runs ----------------------------------------------------------------------------

    def begin_run(self, record: Mapping[str, Any]) -> int:
        """Take the next run number, whose file then holds `record`, and return it."""
        for name in PRIVATE_FOLDERS:  # empty ones get lost where a store is copied
            make_folders(self.private / name)
        number = 1 + max(self.run_files(), default=0)
        while True:
            try:
                create_file(self._run_file(number), encode_json(record, indent=1))
            except FileExistsError:
                number += 1
            else:
                return number

    def update_run(self, number: int, record: Mapping[str, Any]) -> None:
        """Replace what is known of a run."""
        path = self._run_file(number)
        replace_file(path, encode_json(record, indent=1))
        sync_folder(path.parent)

    def note_begun(self, number: int) -> None:
        """Say that a run which was queued has begun.

        Many jobs of it say so at once, beside whoever holds the lease and replaces the record.
        """
        self._begun_file(number).touch()

    def read_run(self, number: int) -> dict[str, Any]:
        """Return what is known of a run."""
        record: dict[str, Any] = json.loads(self._run_file(number).read_bytes())
        if record.get("state") == "queued" and self._begun_file(number).exists():
            record["state"] = "running"
        return record

    def has_jobs(self, number: int) -> bool:
        """Tell whether a run was submitted as jobs, and has not ended as far as is known."""
        record = self.read_run(number)
        return record["state"] in OPEN_STATES and "jobs" in record

    def reopened(self, number: int) -> dict[str, str]:
        """Return the names of blocks that had a status and were left when a run began.

        Points of theirs failed, or went stale, and are to be computed again, once: with each goes
        what told its status then from others.
        """
        found: dict[str, str] = self.read_run(number).get("reopened", {})
        return found

    def reopened_by_now(self, number: int) -> dict[str, str]:
        """Return the same as it is now, for jobs of the run that are still to come.

        A block is not among them that became stale meanwhile: its values did not come out the same,
        and whether the new ones are to be taken is for a person to say.
        """
        before = self.reopened(number)
        return {
            name: told
            for name, told in self.unsettled().items()
            if before.get(name) == told or not self._is_stale(name)
        }

    def _is_stale(self, name: str) -> bool:
        status = self.read_status(self.grid.block_named(name))
        return status is not None and bool((status == STALE).any())

    def run_files(self) -> dict[int, Path]:
        """Return the files of the runs by their numbers, in order."""
        found = {int(path.stem): path for path in (self.private / "runs").glob("*.json")}
        return dict(sorted(found.items()))

    def _run_file(self, number: int) -> Path:
        return self.private / "runs" / f"{number:04d}.json"

    def _begun_file(self, number: int) -> Path:
        return self.private / "runs" / f"{number:04d}.begun"


class BlockWriter:
    """Writes blocks of one pipeline's outputs, and commits them."""

    def __init__(self, store: Store, pipeline: Pipeline) -> None:
        self.store = store
        self._arrays = {array.name: array for array in block_arrays(template(pipeline))}

    def write_outputs(self, block: Block, data: Mapping[str, np.ndarray]) -> Checksums:
        """Write the block's chunk of every array but status, durably.

        `data` has the leading shape ``block.shape``.
        """
        checksums = {}
        for name, array in self._arrays.items():
            if name != "status":
                checksums[name] = self._write(array, block, data[name])
        for name in checksums:
            sync_folder(self.store.path / name)
        return checksums

    def read_outputs(self, block: Block) -> dict[str, np.ndarray] | None:
        """Return what is stored of a block in every array but status, of shape ``block.shape``.

        None if a chunk is missing or damaged.
        """
        found = {}
        for name, array in self._arrays.items():
            if name != "status":
                inner = array.shape[len(block.shape) :]
                path = self.store.path / name / chunk_name(block.index, len(inner))
                shape = (*self.store.grid.block_shape, *inner)
                try:
                    chunk = decode_chunk(path.read_bytes(), shape, array.dtype)
                except (FileNotFoundError, DamagedChunkError):
                    return None
                found[name] = chunk[tuple(map(slice, block.shape))]
        return found

    def commit(self, block: Block, status: np.ndarray) -> None:
        """Write the block's status, which makes it done: outputs and journal come before."""
        self.store.write_status(block, status)

    def _write(self, array: Array, block: Block, data: np.ndarray) -> tuple[int, int]:
        inner = array.shape[len(block.shape) :]
        shape = (*self.store.grid.block_shape, *inner)
        raw = encode_chunk(data.astype(array.dtype, copy=False), shape, array.fill)
        replace_file(self.store.path / array.name / chunk_name(block.index, len(inner)), raw)
        return checksum_of(raw), len(raw)


def store_path(store: str | Path) -> Path:
    """Return the path that a person means by a STORE.

    Raises
    ------
    StoreError
        If it is an address: blocks are committed by what a file system promises.
    """
    if "://" in str(store):
        raise StoreError(f"{store} is an address; a STORE is a folder on a disk that all see.")
    return Path(store).expanduser()


def exists(path: Path) -> bool:
    """Tell whether there is a store at `path`; one that may not be read is one."""
    try:
        return (path / PRIVATE / "header.json").exists()
    except PermissionError:
        return True


def _read_header(path: Path) -> Header:
    try:
        raw = (path / PRIVATE / "header.json").read_bytes()
    except PermissionError as error:
        raise StoreError(
            f"{error.filename} may not be read: it is somebody else's, or its mode forbids it. "
            "Ask its owner: chmod -R g+rwX, say."
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        if path.is_file():
            raise StoreError(f"{path} is a file; a sweep's STORE is a folder.") from None
        what = "is no sweep's store" if path.exists() else "does not exist"
        raise StoreError(
            f"{path} {what}. Make one: sweep run PIPELINE {path.name or 'STORE'}"
        ) from None
    try:
        found = json.loads(raw)
        if found["format"] > FORMAT:
            raise StoreError(
                f"{path} has the format {found['format']}; this version reads up to {FORMAT}. "
                "Update: pip install -U sweepzarr"
            )
        if found["format"] < FORMAT:
            raise StoreError(
                f"{path} has the format {found['format']} of an older version, which this one does "
                "not go on with. Its data opens in xarray; run the sweep into a new store."
            )
        shapes = {name: tuple(found[name]) for name in ("shape", "block_shape")}
        return Header(**{**found, **shapes})
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path / PRIVATE / "header.json", error) from None


def _damaged(file: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{file} is damaged ({type(error).__name__}: {error}). The data beside it opens in xarray "
        "still; to go on, run the sweep into a new store."
    )


def new_sweep_id() -> str:
    """Return a random identifier for a sweep."""
    return secrets.token_hex(16)


def is_settled(status: np.ndarray) -> bool:
    """Tell whether no point with this status has to be computed."""
    return not np.isin(status, (PENDING, STALE)).any()


def fingerprint(status: np.ndarray | None) -> str:
    """Return what tells a block's status from others; "" where it is damaged."""
    return "" if status is None else f"{zlib.crc32(status.tobytes()):08x}"


def count_failed(status: np.ndarray) -> int:
    """Return the number of failed points in a status array."""
    return int(np.count_nonzero(status == FAILED))
