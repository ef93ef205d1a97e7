"""More values on the axes of a sweep: in place, or in a new store with the old points."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sweep.definition import Axis, Pipeline
from sweep.definition.specification import specification
from sweep.definition.union import direction, places_on, united, with_values
from sweep.errors import DefinitionError, StoreError, StoreMismatch, did_you_mean, short_path
from sweep.grow.growth import Growth, blocks_apart, growth_of, header_like, rebuilt
from sweep.plan import Grid
from sweep.store import Store
from sweep.store.grow import append_in_place, publish
from sweep.store.origin import Source
from sweep.template import block_arrays, template

Values = Mapping[str, Any]


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
    blocks = blocks_apart(store.grid.block_shape, grown.axes, [source], len(block_arrays(arrays)))
    header = header_like(store, into, spec, grown.axes, blocks)
    made = rebuilt(into, [source], header, grown.axes, arrays, "extend")
    return growth_of(made, _points(grown) - _points(pipeline))
