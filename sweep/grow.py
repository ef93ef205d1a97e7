"""Growing a sweep: more values of its axes, other blocks, two stores as one.

What the functions here return is ready to be gone on with: points that nobody has computed yet
are pending, and a resume computes them.
"""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from sweep.definition import Axis, Pipeline
from sweep.definition.constants import digest
from sweep.definition.specification import Specification, differences, specification
from sweep.definition.union import common_direction, direction, places_on, united, with_values
from sweep.durable import make_folders, sync_file, sync_folder
from sweep.errors import DefinitionError, StoreError, StoreMismatch, did_you_mean, short_path
from sweep.export import writer_for
from sweep.journal import Record
from sweep.plan import LARGEST_BLOCK_BYTES, MOST_FILES, Grid, block_shape
from sweep.provenance import gather
from sweep.store import FORMAT, Header, Store, new_sweep_id
from sweep.store.create import refusal
from sweep.store.grow import append_in_place, publish
from sweep.store.metadata import read_attributes
from sweep.store.origin import Source, stored_arrays
from sweep.store.rebuild import Rebuilt, rebuild, refuse_taken
from sweep.store.tables import iso_time
from sweep.task import largest_bytes
from sweep.template import Array, block_arrays, coordinate, template

READING_BYTES = 16_000_000  # of a chunk: a second's reading on a slow network disk, not more

Values = Mapping[str, Any]


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


# --- extend --------------------------------------------------------------------------------


def extended(store: Store, pipeline: Pipeline, values: Values, into: Path | None = None) -> Growth:
    """Add values to the axes of a sweep: in place, or into a new store with the old points.

    Nothing is computed: the new points are pending.

    Parameters
    ----------
    store
        Nobody else may write to it.
    pipeline
        That of the store, bound to it.
    values
        Parameter -> values to add; those that are there already do no harm. Parameters that
        vary together are all given, with lists of equal length.
    into
        Where the new store is to be; None to grow in place.

    Raises
    ------
    DefinitionError
        If a name is no parameter, or a value does not fit.
    StoreMismatch
        If a parameter is no axis of the store.
    StoreError
        If `into` is None and the store cannot grow in place, with what to type instead; or if
        something is at `into`.
    """
    grown = _with_more(pipeline, values)
    new_points = _points(grown) - _points(pipeline)
    if into is not None:
        return _extended_into(store, pipeline, grown, into)
    if not new_points:
        publish(store)
        return Growth(store.path, True, 0)
    reason = _against_in_place(store, pipeline, grown)
    if reason:
        raise StoreError(
            f"{short_path(store.path)} cannot grow in place: {reason}. Have a new store made, "
            f"with the old points copied: {_command(store, values)} --into NEW"
        )
    names = {name for axis in _longer(pipeline, grown) for name in axis.names}
    coordinates = [array for array in template(grown) if array.name in names]
    append_in_place(store, specification(grown), grown.axes, coordinates)
    return Growth(store.path, True, new_points)


def _points(pipeline: Pipeline) -> int:
    return Grid(tuple(pipeline.dims.values()), (1,) * len(pipeline.dims)).points


def _longer(pipeline: Pipeline, grown: Pipeline) -> list[Axis]:
    pairs = zip(pipeline.axes, grown.axes, strict=True)
    return [new for old, new in pairs if len(new) > len(old)]


def _with_more(pipeline: Pipeline, values: Values) -> Pipeline:
    """Return a pipeline with more values on its axes."""
    for name in values:
        if name not in pipeline.parameters:
            raise DefinitionError(
                f"'{name}' is no parameter of this sweep. {did_you_mean(name, pipeline.swept)}"
            )
        if name not in pipeline.swept:
            raise StoreMismatch(
                f"'{name}' is a constant in this store. In an existing store the rank is fixed; a "
                "constant becomes an axis only in a new store: sweep run PIPELINE NEW "
                f"{name}=V1,V2,..."
            )
    given = {axis.dim: _given(axis, values) for axis in pipeline.axes}
    added = [given[axis.dim] or axis for axis in pipeline.axes]
    converted = pipeline.having(added, pipeline.constants).axes
    axes = [
        united(axis, more, direction(axis)) if given[axis.dim] else axis
        for axis, more in zip(pipeline.axes, converted, strict=True)
    ]
    return pipeline.having(axes, pipeline.constants)


def _given(axis: Axis, values: Values) -> Axis | None:
    """Return the values that are given for an axis as one like it; None if there are none."""
    columns = [_as_list(values[name]) for name in axis.names if name in values]
    if not columns:
        return None
    if len(columns) < len(axis.names) or len(set(map(len, columns))) > 1:
        raise DefinitionError(
            f"{' and '.join(axis.names)} vary together along '{axis.dim}'. Give values for each, "
            "as many for one as for the other."
        )
    is_alone = axis.names == (axis.dim,)
    return with_values(axis, columns[0] if is_alone else list(zip(*columns, strict=True)))


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return list(np.atleast_1d(value).tolist())
    return list(value) if isinstance(value, (list, tuple, range)) else [value]


def _against_in_place(store: Store, pipeline: Pipeline, grown: Pipeline) -> str:
    """Say why a store cannot grow in place; "" if it can."""
    lengths = dict(zip(pipeline.dims, store.grid.block_shape, strict=True))
    for old, new in zip(pipeline.axes, grown.axes, strict=True):
        if len(new) > len(old):
            inner = [coord.name for coord in pipeline.coords if {*coord.parameters} & {*old.names}]
            if inner:
                return f"the size or the values of '{inner[0]}' depend on {' and '.join(old.names)}"
            if _kinds(old) != _kinds(new):
                return f"'{old.dim}' holds whole numbers, and would hold others"
            if not np.array_equal(places_on(new, old), np.arange(len(old))):
                return f"not all new values of '{old.dim}' come after {_last(old)}, its last one"
            if len(old) % lengths[old.dim]:
                return (
                    f"the last block along '{old.dim}' is not full ({len(old)} values in blocks of "
                    f"{lengths[old.dim]})"
                )
    return ""


def _kinds(axis: Axis) -> list[str]:
    return [column.dtype.kind for column in axis.columns]


def _last(axis: Axis) -> str:
    return ", ".join(map(repr, axis.at(len(axis) - 1).values()))


def _command(store: Store, values: Values) -> str:
    words = [f"{name}={','.join(map(str, _as_list(value)))}" for name, value in values.items()]
    return shlex.join(["sweep", "extend", short_path(store.path), *words])


def _extended_into(store: Store, pipeline: Pipeline, grown: Pipeline, into: Path) -> Growth:
    pairs = list(zip(pipeline.axes, grown.axes, strict=True))
    source = Source(store, tuple(places_on(new, old) for old, new in pairs))
    arrays = template(grown)
    spec = specification(grown)
    blocks = _blocks_apart(store.grid.block_shape, grown.axes, [source], len(block_arrays(arrays)))
    header = _header_like(store, into, spec, grown.axes, blocks)
    made = _rebuild(into, [source], header, grown.axes, arrays, "extend")
    return _growth(made, _points(grown) - _points(pipeline))


def _blocks_apart(
    old: Sequence[int], axes: Sequence[Axis], sources: Sequence[Source], arrays: int
) -> tuple[int, ...]:
    """Return the shape of blocks that do not mix points of different origins, if that can be.

    The old length stays along an axis where the borders between the origins fall on those of
    blocks. Else it is 1, unless that makes too many files.
    """
    lengths = []
    for dim, (axis, length) in enumerate(zip(axes, old, strict=True)):
        origin = np.zeros(len(axis), np.int64)
        for number, source in enumerate(sources):
            origin[source.places[dim]] += 1 << number
        borders = np.flatnonzero(np.diff(origin)) + 1
        lengths.append(1 if (borders % length).any() else length)
    grid = Grid(tuple(map(len, axes)), tuple(lengths))
    return tuple(old) if grid.blocks * arrays > MOST_FILES else grid.block_shape


# --- compact -------------------------------------------------------------------------------


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
        return _growth(_compact(store, target), 0)
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
    return replace(_growth(made, 0), path=target)


def _compact(store: Store, path: Path) -> Rebuilt:
    arrays, axes = stored_arrays(store), store.axes()
    grid = Grid(store.grid.shape, _blocks_for_reading(store.grid.shape, block_arrays(arrays)))
    header = _header_like(store, path, store.header.specification, axes, grid.block_shape)
    source = Source(store, tuple(np.arange(len(axis)) for axis in axes))
    return _rebuild(path, [source], header, axes, arrays, "compact")


def _blocks_for_reading(shape: tuple[int, ...], arrays: Sequence[Array]) -> tuple[int, ...]:
    largest, _ = largest_bytes(arrays, len(shape))
    return block_shape(shape, min(READING_BYTES, LARGEST_BLOCK_BYTES) // max(largest, 1))


# --- merge ---------------------------------------------------------------------------------


def merged(stores: Sequence[Store], path: Path) -> Growth:
    """Make one store of several that hold the same study, for different values of its axes.

    What none of them has is pending. The study is not needed.

    Parameters
    ----------
    stores
        May be incomplete, and written to meanwhile; what is equal is as in the first.
    path
        Where nothing may be yet.

    Raises
    ------
    StoreMismatch
        If they hold different studies; or a point is done in two of them, and not the same in
        both.
    StoreError
        If something is at `path`, it cannot be written, or a coordinate is damaged.
    """
    first = stores[0]
    refuse_taken(path)
    held = [stored_arrays(store) for store in stores]
    for store, arrays in zip(stores[1:], held[1:], strict=True):
        _check_same_study(first, store, {a.name for a in arrays} | {a.name for a in held[0]})
    by_dim = zip(*(store.axes() for store in stores), strict=True)
    axes = [reduce(_merged_axis, along) for along in by_dim]
    sources = [Source(store, tuple(map(places_on, axes, store.axes()))) for store in stores]
    arrays = _merged_arrays(stores, held, axes, sources)
    spec = _merged_specification(first.header.specification, axes, arrays)
    count = len(block_arrays(arrays))
    blocks = _blocks_apart(first.grid.block_shape, axes, sources, count)
    header = _header_like(first, path, spec, axes, blocks)
    made = _rebuild(path, sources, header, axes, arrays, "merge")
    return _growth(made, _points_of_none(header.shape, sources))


def _points_of_none(shape: tuple[int, ...], sources: Iterable[Source]) -> int:
    has = np.zeros(shape, bool)
    for source in sources:
        has[np.ix_(*source.places)] = True
    return int(np.count_nonzero(~has))


def _merged_axis(axis: Axis, other: Axis) -> Axis:
    return united(axis, other, common_direction(axis, other))


def _check_same_study(first: Store, other: Store, arrays: set[str]) -> None:
    specs = [_without_values(store.header.specification, arrays) for store in (first, other)]
    if found := differences(*specs):
        raise StoreMismatch(
            f"{short_path(first.path)} and {short_path(other.path)} hold different studies. From "
            "the first to the second:\n  " + "\n  ".join(found)
        )


def _without_values(spec: Specification, arrays: set[str]) -> Specification:
    """Return a specification without the values of axes, and of what changes along them."""
    axes = {name: {k: axis[k] for k in ("dim", "units")} for name, axis in spec["axes"].items()}
    coords = {
        name: {"units": coord["units"]} if f"{name}_at" in arrays else coord
        for name, coord in spec["coords"].items()
    }
    return {**spec, "axes": axes, "coords": coords}


def _merged_arrays(
    stores: Sequence[Store],
    held: Sequence[Sequence[Array]],
    axes: Sequence[Axis],
    sources: Sequence[Source],
) -> tuple[Array, ...]:
    """Return the arrays of the whole: those of the first store over all values."""
    columns = {
        name: column for axis in axes for name, column in zip(axis.names, axis.columns, strict=True)
    }
    sizes = {axis.dim: len(axis) for axis in axes}
    for arrays in held:  # inner dims may be longer in one than in the other
        for array in arrays:
            for dim, n in zip(array.dims, array.shape, strict=True):
                sizes[dim] = max(n, sizes.get(dim, 0))
    places = [dict(zip((axis.dim for axis in axes), s.places, strict=True)) for s in sources]
    found = []
    for array in held[0]:
        shape = tuple(sizes[dim] for dim in array.dims)
        if array.name in columns:
            found.append(coordinate(array.name, array.dims, columns[array.name], array.attrs))
        elif array.role == "coordinate" and array.shape != () and array.dims[0] in places[0]:
            same = [next(a for a in arrays if a.name == array.name) for arrays in held]
            values = _merged_coordinate(same, shape, places, stores)
            found.append(replace(array, shape=shape, data=values))
        else:
            found.append(replace(array, shape=shape))
    return tuple(found)


def _merged_coordinate(
    arrays: Sequence[Array],
    shape: tuple[int, ...],
    places: Sequence[Mapping[str, np.ndarray]],
    stores: Sequence[Store],
) -> np.ndarray:
    """Return a coordinate that changes along swept dims, each part from a store that has it."""
    values = np.full(shape, np.nan)
    has = np.zeros(shape[:-1], bool)
    for array, along, store in zip(arrays, places, stores, strict=True):
        assert array.data is not None
        where = np.ix_(*(along[dim] for dim in array.dims[:-1]))
        padded = np.full((*array.shape[:-1], shape[-1]), np.nan)
        padded[..., : array.shape[-1]] = array.data
        if not np.array_equal(values[where][has[where]], padded[has[where]], equal_nan=True):
            raise StoreMismatch(
                f"The coordinate '{array.name}' of {short_path(store.path)} has other values than "
                f"that of {short_path(stores[0].path)} for the same parameters: the study has "
                "changed between the two. Run one of them anew."
            )
        values[where], has[where] = padded, True
    if not has.all():
        dims = " and ".join(arrays[0].dims[:-1])
        raise StoreMismatch(
            f"The coordinate '{arrays[0].name}' changes with {dims}, and no store knows it for all "
            f"of their combinations. Extend one of them first, so that it has all values of {dims}."
        )
    return values


def _merged_specification(
    spec: Specification, axes: Iterable[Axis], arrays: Iterable[Array]
) -> Specification:
    """Return a specification with other axes, and what changes along them."""
    told = {
        name: {**spec["axes"][name], "size": len(axis), "values": digest(column)}
        for axis in axes
        for name, column in zip(axis.names, axis.columns, strict=True)
    }
    data = {array.name: array.data for array in arrays}
    coords = dict(spec["coords"])
    for name, coord in coords.items():
        at = data.get(f"{name}_at")
        if at is not None:
            coords[name] = {**coord, "size": at.shape[-1], "values": digest(at)}
    return {**spec, "axes": told, "coords": coords}


# --- what they share -----------------------------------------------------------------------


def _rebuild(
    path: Path,
    sources: Sequence[Source],
    header: Header,
    axes: Sequence[Axis],
    arrays: Sequence[Array],
    engine: str,
) -> Rebuilt:
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


def _header_like(
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


def _growth(made: Rebuilt, new_points: int) -> Growth:
    counts = made.linked, made.written, made.damaged
    return Growth(made.store.path, False, new_points, *counts)
