"""The values of two axes on one: which order they have, and where the old ones stand then."""

from typing import Any

import numpy as np

from sweep.definition.axis import Axis
from sweep.errors import DefinitionError

NUMBERS = "if"


def direction(axis: Axis) -> int:
    """Return 1 if the values of an axis ascend, -1 if they descend, 0 if they are in no order.

    A single number ascends. Texts, truth values, and rows of several parameters have no order.
    """
    column = axis.columns[0]
    if axis.names != (axis.dim,) or column.dtype.kind not in NUMBERS:
        return 0
    if (column[1:] > column[:-1]).all():
        return 1
    return -1 if (column[1:] < column[:-1]).all() else 0


def common_direction(first: Axis, second: Axis) -> int:
    """Return the direction that two axes share; a single value goes with any."""
    if len(first) == 1:
        return direction(second)
    if len(second) == 1 or direction(first) == direction(second):
        return direction(first)
    return 0


def united(axis: Axis, other: Axis, order: int) -> Axis:
    """Return `axis` with the values of `other` that it lacks, sorted if `order` is not 0.

    Raises
    ------
    DefinitionError
        If numbers, texts and truth values would be on one axis.
    """
    for name, old, new in zip(axis.names, axis.columns, other.columns, strict=True):
        kinds = {old.dtype.kind, new.dtype.kind}
        if len(kinds) > 1 and kinds != set(NUMBERS):
            raise DefinitionError(
                f"Axis '{name}' holds values like {old[0].item()!r}; {new[0].item()!r} is of "
                "another kind."
            )
    keys = list(dict.fromkeys([*_keys(axis), *_keys(other)]))
    if order:
        keys.sort(reverse=order < 0)
    return with_values(axis, keys)


def with_values(axis: Axis, values: Any) -> Axis:
    """Return an axis like `axis` with other values, or rows of them."""
    if axis.names == (axis.dim,):
        return Axis(axis.dim, values, axis.units)
    return Axis(axis.names, values, axis.units, dim=axis.dim)


def places_on(whole: Axis, axis: Axis) -> np.ndarray:
    """Return where each value of `axis` stands on `whole`, which has them all, shape (points,)."""
    where = {key: place for place, key in enumerate(_keys(whole))}
    columns = zip(axis.columns, whole.columns, strict=True)
    keys = _keys(axis, [old.astype(new.dtype) for old, new in columns])
    return np.array([where[key] for key in keys], np.intp)


def _keys(axis: Axis, columns: Any = None) -> list[Any]:
    """Return the values of an axis; those of several parameters as rows."""
    lists = [column.tolist() for column in columns or axis.columns]
    return lists[0] if axis.names == (axis.dim,) else list(zip(*lists, strict=True))
