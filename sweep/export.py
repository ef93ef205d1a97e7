"""A store -> one file: netCDF, or the Zarr itself in an uncompressed zip."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

from sweep.errors import StoreError
from sweep.store import PRIVATE

FILES = (".nc", ".zip")
TABLES = ("tasks", "events", "runs")

Write = Callable[[Path, Path], None]


def writer_for(file: Path) -> Write | None:
    """Return what writes a store to a file of this name; None if it is the name of a store.

    Raises
    ------
    StoreError
        If a library for it is not installed.
    """
    if file.suffix == ".nc":
        if find_spec("h5netcdf") is None or find_spec("h5py") is None:
            raise StoreError(
                f"{file.name} needs h5netcdf, which is not installed: pip install h5netcdf h5py"
            )
        return write_netcdf
    return write_zip if file.suffix == ".zip" else None


def write_netcdf(store: Path, file: Path) -> None:
    """Write the dataset of a store, and its tables as groups, to a netCDF-4 file.

    Chunks stay those of the store, and are in memory a few at a time.
    """
    import xarray

    with xarray.open_zarr(store, decode_cf=False) as dataset:
        encoding: dict[Any, Any] = {}
        for name, variable in dataset.variables.items():
            chunks = variable.encoding["chunks"]
            variable.encoding = {}
            if variable.dtype.kind != "O" and variable.shape:
                sizes = tuple(map(min, chunks, variable.shape))
                encoding[name] = {"chunksizes": sizes, "zlib": True, "shuffle": True}
        dataset.to_netcdf(file, engine="h5netcdf", encoding=encoding)
    for group in TABLES:
        with xarray.open_zarr(store, group=group, decode_cf=False, chunks=None) as table:
            for variable in table.variables.values():
                variable.encoding = {}
            table.to_netcdf(file, mode="a", group=group, engine="h5netcdf")


def write_zip(store: Path, file: Path) -> None:
    """Write the dataset of a store, and its tables, to a zip that Zarr reads as a store."""
    with ZipFile(file, "x", ZIP_STORED) as zipped:
        for path in sorted(store.rglob("*")):
            inside = path.relative_to(store)
            if path.is_file() and inside.parts[0] != PRIVATE:
                zipped.write(path, inside)
