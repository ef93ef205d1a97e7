"""Axis: what is varied, one dimension of the result."""

import datetime
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.definition.names import check_name, first_duplicate, is_text, normal
from sweep.errors import DefinitionError

MOST_VALUES = 10_000_000  # on one axis


@dataclass(frozen=True, eq=False, init=False)
class Axis:
    """What is varied: one dimension of the result.

    It carries one parameter, ``Axis("radius", [0.01, 0.02], "m")``, or several that vary
    together (zip), row by row, along a dimension with a name of its own:
    ``Axis(("radius", "seed"), [(0.01, 1), (0.02, 2)], dim="pair")``.

    Parameters
    ----------
    name
        The parameter, or a tuple of parameters.
    values
        1-D numbers, texts or booleans, at most ten million, without NaN and duplicates; for
        several parameters rows of them, shape (points, parameters).
    units
        CF units; for several parameters one text for each. Empty: those that the pipeline
        knows for the parameter, else dimensionless.
    dim
        The name of the dimension; needed (and allowed) only for several parameters.

    Raises
    ------
    DefinitionError
        If a name, the shape or a value is wrong.
    """

    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]  # each (points,)
    units: tuple[str, ...]
    dim: str

    def __init__(
        self,
        name: str | tuple[str, ...],
        values: Any,
        units: str | tuple[str, ...] = "",
        dim: str | None = None,
    ) -> None:
        if not isinstance(name, (str, tuple, list)):
            raise DefinitionError(f"Axis({name!r}, ...): give the name of a parameter first.")
        names = (name,) if isinstance(name, str) else tuple(name)
        for one in names:
            check_name(one, "Axis")
        names = tuple(map(normal, names))
        if isinstance(name, str):
            name = names[0]
            if dim is not None and dim != name:
                raise DefinitionError(
                    f"Axis '{name}' carries one parameter, so its dimension is '{name}'; "
                    f"dim={dim!r} is for parameters that vary together."
                )
            dim = name
            columns: tuple[np.ndarray, ...] = (_column(values, name),)
        else:
            dim, columns = self._zipped(names, values, dim)
        if (twice := _first_twice(columns)) is not None:
            raise DefinitionError(
                f"Axis '{dim}' has the value {twice!r} twice. Take one out; to repeat a point, "
                "vary a seed."
            )
        texts = (units,) * len(names) if isinstance(units, str) else units
        if (
            not isinstance(texts, (tuple, list))
            or len(texts) != len(names)
            or not all(map(is_text, texts))
        ):
            raise DefinitionError(
                f"Axis '{dim}' has units {units!r}; give one text for each of {', '.join(names)}, "
                "'1' for what has none."
            )
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "units", tuple(texts))
        object.__setattr__(self, "dim", dim)

    @staticmethod
    def _zipped(
        names: tuple[str, ...], values: Any, dim: str | None
    ) -> tuple[str, tuple[np.ndarray, ...]]:
        if len(names) < 1 or len(set(names)) != len(names):
            raise DefinitionError(f"Axis {names} must name each of its parameters once.")
        if dim is None:
            raise DefinitionError(
                f"Axis {names} carries several parameters; name its dimension: dim='sample'."
            )
        check_name(dim, "Dimension", reserved=dim != "sample")
        if dim in names:
            raise DefinitionError(
                f"Axis {names} cannot have the dimension '{dim}', one of its parameters. "
                "Give it another name, e.g. dim='sample'."
            )
        rows = list(values) if isinstance(values, Iterable) else []
        _check_count(len(rows), dim)
        if not rows:
            raise DefinitionError(f"Axis '{dim}' has no values. Give it a list of rows.")
        for number, row in enumerate(rows):
            if isinstance(row, str) or not hasattr(row, "__len__") or len(row) != len(names):
                raise DefinitionError(
                    f"Row {number} of axis '{dim}' is {row!r}; it needs a value for each of "
                    f"{', '.join(names)}."
                )
        columns = zip(*rows, strict=True)
        return dim, tuple(
            _column(list(column), name) for name, column in zip(names, columns, strict=True)
        )

    def at(self, place: int) -> dict[str, Any]:
        """Return the parameters' values at a place along the axis, as plain numbers."""
        columns = zip(self.names, self.columns, strict=True)
        return {name: column[place].item() for name, column in columns}

    def __len__(self) -> int:
        return len(self.columns[0])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Axis)
            and (self.names, self.units, self.dim) == (other.names, other.units, other.dim)
            and all(same_column(a, b) for a, b in zip(self.columns, other.columns, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        names = self.names[0] if self.names == (self.dim,) else self.names
        return f"Axis({names!r}, {len(self)} values, dim={self.dim!r})"


def _first_twice(columns: tuple[np.ndarray, ...]) -> Any:
    """Return the first value (or row) that stands on an axis for the second time, or None."""
    if len(columns) > 1:
        return first_duplicate(list(zip(*(column.tolist() for column in columns), strict=True)))
    (column,) = columns
    if len(np.unique(column)) == len(column):
        return None
    return first_duplicate(column.tolist())


def _length(values: Sequence[Any]) -> int:
    try:
        return len(values)
    except OverflowError:  # of a range
        return sys.maxsize


def _check_count(count: int, name: str) -> None:
    if count > MOST_VALUES:
        raise DefinitionError(
            f"Axis '{name}' has {count} values, more than an axis holds ({MOST_VALUES}). Take "
            "fewer, or several axes."
        )


def _column(values: Any, name: str) -> np.ndarray:
    """Return the values of one parameter as a read-only 1-D array of float, int, bool or str."""
    if hasattr(values, "__array__") and not isinstance(values, np.ndarray):
        values = np.asarray(values)  # a pandas Series, an xarray DataArray
        values = values.tolist() if values.dtype.kind == "O" else values
    if not isinstance(values, (Sequence, range, np.ndarray)) or isinstance(values, (str, bytes)):
        raise DefinitionError(
            f"Axis '{name}' needs a list, range or 1-D array of values, not {values!r}."
        )
    _check_count(values.size if isinstance(values, np.ndarray) else _length(values), name)
    kinds = {type(v) for v in values} if not isinstance(values, (range, np.ndarray)) else set()
    booleans = kinds & {bool, np.bool_}
    if len(kinds) > 1 and ((booleans and booleans != kinds) or str in kinds):
        raise DefinitionError(f"Axis '{name}' mixes kinds of values: {list(values)!r}.")
    try:
        column = np.array(values)
    except (ValueError, OverflowError) as error:
        raise DefinitionError(f"Axis '{name}' has values that make no column: {error}.") from None
    if column.size == 0:
        raise DefinitionError(f"Axis '{name}' has no values. Give it at least one.")
    if column.ndim != 1:
        raise DefinitionError(
            f"Axis '{name}' has values of shape {column.shape}; one parameter takes a 1-D list. "
            "Parameters that vary together: Axis(('a', 'b'), rows, dim='pair')."
        )
    target = {"f": np.float64, "i": np.int64, "u": np.int64, "b": np.bool_, "U": np.str_}
    if column.dtype.kind == "M" or isinstance(column.flat[0], datetime.date):
        raise DefinitionError(
            f"Axis '{name}' has dates. Give numbers and say from when they count in the units, "
            f"which xarray shows as dates: Axis('{name}', [0, 1, 2], 'days since 2026-01-01')."
        )
    if column.dtype.kind not in target:
        raise DefinitionError(
            f"Axis '{name}' has values of type {column.dtype}; an axis holds numbers, texts or "
            f"True/False: {column.tolist()[:3]!r}..."
        )
    if column.dtype.kind == "u" and column.max() > np.iinfo(np.int64).max:
        raise DefinitionError(f"Axis '{name}': {column.max()} does not fit in 64-bit integers.")
    column = column.astype(target[column.dtype.kind])
    if column.dtype.kind == "f" and np.isnan(column).any():
        raise DefinitionError(
            f"Axis '{name}' has NaN at position {int(np.isnan(column).argmax())}. "
            "Take it out: NaN is no place on an axis."
        )
    if column.dtype.kind == "U" and not all(map(is_text, column.tolist())):
        raise DefinitionError(f"Axis '{name}' has a text with half of a surrogate pair.")
    column.flags.writeable = False
    return column


def same_column(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two columns hold the same values of the same kind."""
    return a.dtype.kind == b.dtype.kind and a.shape == b.shape and bool(np.all(a == b))
