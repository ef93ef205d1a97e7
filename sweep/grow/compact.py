"""A store in chunks of a size for reading, or in one file."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import numpy as np

from sweep.durable import make_folders, sync_file, sync_folder
from sweep.export import writer_for
from sweep.grow.growth import Growth, growth_of, header_like, rebuilt
from sweep.plan import LARGEST_BLOCK_BYTES, Grid, block_shape
from sweep.store import Store
from sweep.store.create import refusal
from sweep.store.origin import Source, stored_arrays
from sweep.store.rebuild import Rebuilt, refuse_taken
from sweep.task import largest_bytes
from sweep.template import Array, block_arrays

READING_BYTES = 16_000_000  # of a chunk: a second's reading on a slow network disk, not more


def compacted(store: Store, target: Path) -> Growth:
    """Copy a store into one with chunks of a size for reading, or into one file.

    A target that ends in ``.nc`` becomes a netCDF file with the tables as groups, one that ends
    in ``.zip`` the Zarr as an uncompressed zip. The study is not needed.

    Parameters
    ----------
    store
        May be incomplete, and written to meanwhile.
    target
        Where nothing may be yet.

    Raises
    ------
    StoreError
        If something is at `target`, it cannot be written, or a coordinate is damaged.
    """
    target = target.absolute()
    refuse_taken(target)
    if (write := writer_for(target)) is None:
        return growth_of(_compact(store, target), 0)
    folder = target.with_name(f".{target.name}.{token_hex(4)}.creating")
    try:
        make_folders(folder)
        made = _compact(store, folder / "store.zarr")
        file = folder / target.name
        write(made.store.path, file)
        sync_file(file)
        target.hardlink_to(file)
        sync_folder(target.parent)
    except OSError as error:
        raise refusal(target, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(growth_of(made, 0), path=target)


def _compact(store: Store, path: Path) -> Rebuilt:
    arrays, axes = stored_arrays(store), store.axes()
    grid = Grid(store.grid.shape, _blocks_for_reading(store.grid.shape, block_arrays(arrays)))
    header = header_like(store, path, store.header.specification, axes, grid.block_shape)
    source = Source(store, tuple(np.arange(len(axis)) for axis in axes))
    return rebuilt(path, [source], header, axes, arrays, "compact")


def _blocks_for_reading(shape: tuple[int, ...], arrays: Sequence[Array]) -> tuple[int, ...]:
    largest, _ = largest_bytes(arrays, len(shape))
    return block_shape(shape, min(READING_BYTES, LARGEST_BLOCK_BYTES) // max(largest, 1))
