"""Creation of a store: the whole empty dataset, built beside its place and renamed into it."""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sweep.definition import Axis, Pipeline
from sweep.definition.specification import canonical_json, specification, specification_hash
from sweep.durable import create_file, make_folders, replace_file, sync_folder
from sweep.errors import StoreError
from sweep.plan import Grid
from sweep.store import FORMAT, PRIVATE, Header, Store, exists, new_sweep_id
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
    _check_sizes(arrays, grid)
    path = path.absolute()
    building = path.with_name(f".{path.name}.{secrets.token_hex(4)}.creating")
    try:
        make_folders(path.parent)
        building.mkdir()
        _build(building, pipeline, grid, arrays, study, attributes)
        building.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        if not exists(path):
            raise StoreError(_refusal(path, error)) from None
        Store(path).check_same(pipeline)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Store(path)


def _refusal(path: Path, error: OSError) -> str:
    if path.exists():
        return f"{path} exists and is no sweep's store. Move it away or give another name."
    return f"{path} cannot be made: {error.strerror} ({error.filename}). Give another STORE."


def _check_sizes(arrays: tuple[Array, ...], grid: Grid) -> None:
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


def _build(
    building: Path,
    pipeline: Pipeline,
    grid: Grid,
    arrays: tuple[Array, ...],
    study: Mapping[str, str] | None,
    attributes: Mapping[str, Any],
) -> None:
    spec = specification(pipeline)
    header = Header(
        FORMAT, new_sweep_id(), spec, grid.shape, grid.block_shape, dict(study) if study else None
    )
    _write_private(building / PRIVATE, header, pipeline)
    _write_arrays(building, arrays, grid)
    listed = [a.name for a in arrays if a.role == "coordinate" and a.dims != (a.name,)]
    consolidate(
        building,
        {
            **attributes,
            "coordinates": " ".join(listed),
            "seed_entropy": str(pipeline.entropy),
            "seed_rule": "numpy.random.SeedSequence(entropy, spawn_key=the four 32-bit words of "
            "the 128-bit blake2b of the canonical JSON of [stage, parameters], 2.0 as 2)",
            "sweep_format": str(FORMAT),
            "sweep_id": header.sweep_id,
            "sweep_spec": canonical_json(spec),
            "sweep_spec_hash": specification_hash(spec),
        },
    )
    _sync_tree(building)


def _write_private(folder: Path, header: Header, pipeline: Pipeline) -> None:
    for name in ("runs", "journal", "folds"):
        (folder / name).mkdir(parents=True)
    create_file(folder / "header.json", header.encode())
    create_file(folder / header.axes_file, encode_axes(pipeline.axes))


def encode_axes(axes: Sequence[Axis]) -> bytes:
    """Return the values of axes as a store keeps them: an .npz, a column a parameter."""
    buffer = BytesIO()
    np.savez(buffer, *(column for axis in axes for column in axis.columns))
    return buffer.getvalue()


def _write_arrays(folder: Path, arrays: tuple[Array, ...], grid: Grid) -> None:
    for array in arrays:
        lead = grid.block_shape if array.role != "coordinate" else ()
        write_array_metadata(folder / array.name, array, (*lead, *array.shape[len(lead) :]))
        if array.data is not None:
            raw = encode_chunk(array.data, array.shape, array.fill)
            replace_file(folder / array.name / chunk_name((), len(array.shape)), raw)


def _sync_tree(folder: Path) -> None:
    """Sync the names of all that was made; the files are synced already."""
    for root, _, _ in os.walk(folder):
        sync_folder(Path(root))
