"""Store -> `xarray.Dataset`. Plain ``xarray.open_zarr`` does the same, but for the mask."""

from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import StoreError
from sweep.store import exists, store_path
from sweep.template import DONE

if TYPE_CHECKING:  # xarray takes half a second to import
    import xarray


def open_dataset(store: str | Path, *, mask: bool = False) -> "xarray.Dataset":
    """Open the dataset of a store, lazily, as it is at this moment.

    Parameters
    ----------
    store
        Path of the store.
    mask
        Show outputs only where ``status`` is done: the rest is NaN, also for integers and
        booleans, which become floats.

    Raises
    ------
    StoreError
        If there is no store.
    """
    import xarray

    path = store_path(store)
    if not exists(path):
        raise StoreError(f"{path} is no sweep's store. Make one: sweep run PIPELINE {path}")
    dataset: xarray.Dataset = xarray.open_zarr(path, chunks=None)
    if not mask:
        return dataset
    about = {"status", "point_seconds", "run"}
    done = dataset.status == DONE
    masked: xarray.Dataset = dataset.assign(
        {n: v.where(done) for n, v in dataset.items() if n not in about}
    )
    return masked
