"""Pipeline -> the empty labelled dataset: names, dims, dtypes, fill values and attributes.

Pure: what the store writes before the first point runs is decided here.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sweep.definition import Inner, Pipeline, Var

PENDING, DONE, FAILED, SKIPPED, STALE = range(5)
STATUS_MEANINGS = ("pending", "done", "failed", "skipped", "stale")

POINT_NAMES = ("point_seconds", "run", "status")  # kept about each point

Role = Literal["output", "point", "coordinate"]


@dataclass(frozen=True, eq=False)
class Array:
    """One array of the dataset.

    `role` is "output" (computed), "point" (kept about each point: status, run, point_seconds)
    or "coordinate" (known from the start: then `data` holds it). Arrays of the first two roles
    lead with the swept dims and are cut into blocks along them.
    """

    name: str
    role: Role
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    attrs: dict[str, Any] = field(default_factory=dict)
    data: np.ndarray | None = None


def template(pipeline: Pipeline) -> tuple[Array, ...]:
    """Return the arrays of a pipeline's dataset.

    Raises
    ------
    DefinitionError
        If a parameter has no value, or a coordinate cannot be computed.
    """
    return (
        *_parameter_arrays(pipeline),
        *_coordinate_arrays(pipeline),
        *_output_arrays(pipeline),
        *_point_arrays(pipeline),
    )


def block_arrays(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return those that every block writes a chunk of, status last."""
    return tuple(array for array in arrays if array.role != "coordinate")


def _parameter_arrays(pipeline: Pipeline) -> list[Array]:
    """Swept parameters along their dims, then constants as scalar coordinates."""
    found = []
    for axis in pipeline.axes:
        for name, column in zip(axis.names, axis.columns, strict=True):
            found.append(coordinate(name, (axis.dim,), column, _units(pipeline, name, column)))
    for name, value in pipeline.fixed.items():
        if isinstance(value, (bool, int, float, str)) and _fits(value):
            data = np.array(value)
            found.append(coordinate(name, (), data, _units(pipeline, name, data)))
    return found


def _fits(value: object) -> bool:
    return not isinstance(value, int) or abs(value) < 2**63


def _units(pipeline: Pipeline, name: str, column: np.ndarray) -> dict[str, Any]:
    if column.dtype.kind in "Ub":
        return {}
    return {"units": pipeline.parameters[name].units}


def coordinate(name: str, dims: tuple[str, ...], data: np.ndarray, attrs: dict[str, Any]) -> Array:
    """Return the array of a coordinate, known from the start."""
    fill = {"f": np.nan, "i": 0, "b": False, "U": ""}[data.dtype.kind]
    return Array(name, "coordinate", dims, data.shape, data.dtype, fill, attrs, data)


def _coordinate_arrays(pipeline: Pipeline) -> list[Array]:
    return [_inner_coordinate(inner) for inner in pipeline.inner.values()]


def _inner_coordinate(inner: Inner) -> Array:
    coord = inner.coord
    attrs = {"long_name": coord.long_name} if coord.long_name else {}
    if inner.values is not None:
        if inner.values.dtype.kind != "U":
            attrs = {"units": coord.units, **attrs}
        return coordinate(coord.name, (coord.name,), inner.values, attrs)
    assert inner.at is not None
    attrs = {"units": coord.units, **attrs}
    return coordinate(f"{coord.name}_at", (*inner.over, coord.name), inner.at, attrs)


def _output_arrays(pipeline: Pipeline) -> list[Array]:
    return [_output(pipeline, name, var) for name, var in pipeline.outputs.items()]


def _output(pipeline: Pipeline, name: str, var: Var) -> Array:
    dtype = np.dtype(var.dtype)
    shape = (*pipeline.dims.values(), *(pipeline.inner[dim].size for dim in var.dims))
    attrs: dict[str, Any] = {} if dtype.kind == "b" else {"units": var.units}
    if var.long_name:
        attrs["long_name"] = var.long_name
    fill = {"f": np.nan, "i": 0, "u": 0, "b": False}[dtype.kind]
    return Array(name, "output", (*pipeline.dims, *var.dims), shape, dtype, fill, attrs)


def _point_arrays(pipeline: Pipeline) -> list[Array]:
    dims, shape = tuple(pipeline.dims), tuple(pipeline.dims.values())
    seconds = {"units": "s", "long_name": "time spent computing the point"}
    run = {"units": "1", "long_name": "number of the run that computed the point (0: none)"}
    status = {
        "long_name": "state of the point",
        "flag_values": list(range(len(STATUS_MEANINGS))),
        "flag_meanings": " ".join(STATUS_MEANINGS),
    }
    return [
        Array("point_seconds", "point", dims, shape, np.dtype("float32"), np.nan, seconds),
        Array("run", "point", dims, shape, np.dtype("int32"), 0, run),
        Array("status", "point", dims, shape, np.dtype("uint8"), PENDING, status),
    ]
