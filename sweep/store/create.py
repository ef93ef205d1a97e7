"""Creation of a store: the whole empty dataset, built beside its place and renamed into it."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sweep.definition import Axis, Pipeline
from sweep.definition.specification import specification
from sweep.durable import create_file, make_folders, replace_file, sync_folder
from sweep.errors import StoreError, SweepError, disk_error, short_path
from sweep.plan import Grid
from sweep.store import FORMAT, PRIVATE, PRIVATE_FOLDERS, Header, Store, exists, new_sweep_id
from sweep.store.chunks import LARGEST_CHUNK_BYTES, chunk_name, encode_chunk
from sweep.store.metadata import consolidate, write_array_metadata
from sweep.template import Array, template


def create_store(
    path: Path,
    pipeline: Pipeline,
    grid: Grid,
    *,
    study: Mapping[str, str] | None,
    attributes: Mapping[str, Any],
) -> Store:
    """Make the store of a pipeline: all arrays, coordinates and attributes, nothing computed.

    Parameters
    ----------
    path
        Where it is to be; nothing may be there but, at most, an empty folder.
    grid
        The blocks; its shape is that of the pipeline's dims.
    study
        Where the pipeline lies, relative to the store (see `Header`).
    attributes
        Root attributes beside those that the specification gives.

    Raises
    ------
    StoreError
        If something is there that is no store of this sweep, or it cannot be written.
    StoreMismatch
        If another driver has just made a store of another sweep there.
    """
    arrays = template(pipeline)
    spec = specification(pipeline)
    place = dict(study) if study else None
    header = Header(FORMAT, new_sweep_id(), spec, grid.shape, grid.block_shape, place)
    check_sizes(arrays, grid)
    path = path.absolute()
    try:
        with built_beside(path) as folder:
            lay_out(folder, header, pipeline.axes, arrays, attributes)
    except OSError as error:
        if not exists(path):
            raise refusal(path, error) from None
        Store(path).check_same(pipeline)
    return Store(path)


@contextmanager
def built_beside(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which is renamed to it at the end, or removed.

    Files written to it have to be synced; their names are synced here.

    Raises
    ------
    OSError
        If something is at `path` by then, but for an empty folder.
    """
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.creating")
    try:
        make_folders(path.parent)
        folder.mkdir()
        yield folder
        _sync_tree(folder)
        folder.rename(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def refusal(path: Path, error: OSError) -> SweepError:
    """Return what to say where a store cannot be made."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        what = f"{short_path(path)} cannot be made"
        return disk_error(error, what, "Free some space, or give a STORE on another disk.")
    if path.exists():
        return StoreError(
            f"{path} exists and is no sweep's store. Move it away or give another name."
        )
    return StoreError(
        f"{path} cannot be made: {error.strerror or error} ({error.filename or path.parent}). "
        "Give another STORE."
    )


def check_sizes(arrays: Iterable[Array], grid: Grid) -> None:
    """Refuse outputs of which a block is more than a chunk holds.

    Raises
    ------
    StoreError
        Naming the first.
    """
    for array in arrays:
        if array.role == "output":
            inner = array.shape[len(grid.shape) :]
            size = int(np.prod([*grid.block_shape, *inner], dtype=object)) * array.dtype.itemsize
            if size > LARGEST_CHUNK_BYTES:
                raise StoreError(
                    f"Output '{array.name}' takes {size / 1e9:.1f} GB a point; the most that one "
                    f"chunk holds is {LARGEST_CHUNK_BYTES / 1e9:.0f} GB. Keep less of it, or "
                    "store it as float32."
                )


def lay_out(
    folder: Path,
    header: Header,
    axes: Sequence[Axis],
    arrays: Iterable[Array],
    attributes: Mapping[str, Any],
) -> None:
    """Write a store in which nothing is computed into an empty folder.

    Parameters
    ----------
    axes
        Those that the header's specification tells of, with their values.
    arrays
        The arrays of the dataset, coordinates with their values.
    attributes
        Root attributes beside those that the header gives.
    """
    arrays = tuple(arrays)
    _write_private(folder / PRIVATE, header, axes)
    _write_arrays(folder, arrays, header.block_shape)
    listed = [a.name for a in arrays if a.role == "coordinate" and a.dims != (a.name,)]
    consolidate(folder, {**attributes, "coordinates": " ".join(listed), **header.attributes})


def _write_private(folder: Path, header: Header, axes: Sequence[Axis]) -> None:
    for name in PRIVATE_FOLDERS:
        (folder / name).mkdir(parents=True)
    create_file(folder / "header.json", header.encode())
    create_file(folder / header.axes_file, encode_axes(axes))


def encode_axes(axes: Sequence[Axis]) -> bytes:
    """Return the values of axes as a store keeps them: an .npz, a column a parameter."""
    buffer = BytesIO()
    np.savez(buffer, *(column for axis in axes for column in axis.columns))
    return buffer.getvalue()


def _write_arrays(folder: Path, arrays: Iterable[Array], block_shape: tuple[int, ...]) -> None:
    for array in arrays:
        lead = block_shape if array.role != "coordinate" else ()
        write_array_metadata(folder / array.name, array, (*lead, *array.shape[len(lead) :]))
        if array.data is not None:
            raw = encode_chunk(array.data, array.shape, array.fill)
            replace_file(folder / array.name / chunk_name((), len(array.shape)), raw)


def _sync_tree(folder: Path) -> None:
    """Sync the names of all that was made; the files are synced already."""
    for root, _, _ in os.walk(folder):
        sync_folder(Path(root))
