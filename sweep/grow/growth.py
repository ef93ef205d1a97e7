"""What extending into a new store, compacting and merging have in common."""

import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sweep.definition import Axis
from sweep.definition.specification import Specification
from sweep.errors import StoreError, short_path
from sweep.export import FILES
from sweep.journal import Record
from sweep.plan import MOST_FILES, Grid
from sweep.provenance import gather
from sweep.store import FORMAT, Header, Store, new_sweep_id
from sweep.store.metadata import read_attributes
from sweep.store.origin import Source
from sweep.store.rebuild import Rebuilt, rebuild
from sweep.store.room import check_room
from sweep.store.tables import iso_time
from sweep.task import largest_bytes
from sweep.template import Array, block_arrays


@dataclass(frozen=True)
class Growth:
    """What became of a store.

    Parameters
    ----------
    path
        The store, or the file, that holds the result.
    in_place
        Whether it is the one that was there before.
    new_points
        Points that no store had that it was made of.
    linked, written
        Chunks that are those of the old store, and chunks that were written.
    damaged
        Points that had been computed and are pending, because a chunk of theirs is damaged.
    """

    path: Path
    in_place: bool
    new_points: int
    linked: int = 0
    written: int = 0
    damaged: int = 0


def blocks_apart(
    old: Sequence[int], axes: Sequence[Axis], sources: Sequence[Source], arrays: int
) -> tuple[int, ...]:
    """Return the shape of blocks that do not mix points of different origins, if that can be.

    The old length stays along an axis where the borders between the origins fall on those of
    blocks. Else it is 1, unless that makes too many files.
    """
    lengths = []
    for dim, (axis, length) in enumerate(zip(axes, old, strict=True)):
        borders = np.concatenate([_borders(len(axis), source.places[dim]) for source in sources])
        lengths.append(1 if (borders % length).any() else length)
    grid = Grid(tuple(map(len, axes)), tuple(lengths))
    return tuple(old) if grid.blocks * arrays > MOST_FILES else grid.block_shape


def _borders(size: int, places: np.ndarray) -> np.ndarray:
    """Return where along an axis the points of a source begin and end."""
    has = np.zeros(size, bool)
    has[places] = True
    return np.flatnonzero(np.diff(has)) + 1


def rebuilt(
    path: Path,
    sources: Sequence[Source],
    header: Header,
    axes: Sequence[Axis],
    arrays: Sequence[Array],
    engine: str,
) -> Rebuilt:
    """Make a store of others, with a run of its own that says so; see `rebuild`.

    Raises
    ------
    StoreError
        If the path is that of a file.
    DiskError
        If it can hardly fit on the disk.
    """
    if path.suffix in FILES:
        raise StoreError(
            f"{short_path(path)} would be a folder. Give a store's name here, such as "
            f"{path.with_suffix('.zarr').name}; sweep compact makes a {path.suffix} of it then."
        )
    computed = block_arrays(tuple(arrays))
    grid, (_, point_bytes) = (
        Grid(header.shape, header.block_shape),
        largest_bytes(computed, len(axes)),
    )
    check_room(path, grid.points * point_bytes, grid.blocks * len(computed))
    old = read_attributes(sources[0].store.path)
    attributes = {key: old[key] for key in old if key not in ("history", "date_modified")}
    attributes["date_created"] = iso_time(time.time())
    record: Record = {
        **gather(None, sys.argv),
        "started": time.time(),
        "engine": engine,
        "pid": os.getpid(),
    }
    return rebuild(path, sources, header, axes, arrays, attributes, record)


def header_like(
    store: Store, path: Path, spec: Specification, axes: Iterable[Axis], blocks: tuple[int, ...]
) -> Header:
    """Return the header of another store of the same study."""
    return Header(
        FORMAT, new_sweep_id(), spec, tuple(map(len, axes)), blocks, _study_from(store, path)
    )


def _study_from(store: Store, path: Path) -> dict[str, str] | None:
    """Return where the study of a store lies, relative to another place."""
    study = store.header.study
    if study is None:
        return None
    file = (store.path / study["file"]).resolve()
    return {**study, "file": os.path.relpath(file, path.resolve())}


def growth_of(made: Rebuilt, new_points: int) -> Growth:
    """Return what became of the stores that one was made of."""
    counts = made.linked, made.written, made.damaged
    return Growth(made.store.path, False, new_points, *counts)
