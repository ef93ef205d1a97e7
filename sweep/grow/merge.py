"""Several stores of one study as one store."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np

from sweep.definition import Axis
from sweep.definition.constants import digest
from sweep.definition.specification import Specification, differences
from sweep.definition.union import common_direction, places_on, united
from sweep.errors import StoreMismatch, short_path
from sweep.grow.growth import Growth, blocks_apart, growth_of, header_like, rebuilt
from sweep.store import Store
from sweep.store.origin import Source, stored_arrays
from sweep.store.rebuild import refuse_taken
from sweep.template import Array, block_arrays, coordinate


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
    blocks = blocks_apart(first.grid.block_shape, axes, sources, count)
    header = header_like(first, path, spec, axes, blocks)
    made = rebuilt(path, sources, header, axes, arrays, "merge")
    return growth_of(made, _points_of_none(header.shape, sources))


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
