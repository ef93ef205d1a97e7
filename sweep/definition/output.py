"""Var and Coord: what a point leaves behind, and the dimensions inside it."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sweep.definition.names import check_name, is_text
from sweep.errors import DefinitionError, text_of


@dataclass(frozen=True)
class Var:
    """One output: ``Annotated[np.ndarray, Var(("y", "x"), "K", "temperature")]``.

    Parameters
    ----------
    dims
        The dimensions inside one point's output, each described by a Coord; ``()`` for a number.
    units, long_name
        CF attributes; ``"1"`` is dimensionless.
    dtype
        The numpy type it is stored as, ``"float32"`` or ``np.float32``: a float of at most 64
        bits, an integer or bool. By default int64 or bool where the annotation says int or
        bool, else float64.
    """

    dims: tuple[str, ...]
    units: str = "1"
    long_name: str = ""
    dtype: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.dims, tuple):
            raise DefinitionError(
                f"Var({self.dims!r}, ...): the dimensions are a tuple, ('x',) for one, () for none."
            )
        if len(set(self.dims)) != len(self.dims):
            raise DefinitionError(f"Var({self.dims!r}, ...) names a dimension twice.")
        for text in (self.units, self.long_name):
            if not is_text(text):
                raise DefinitionError(
                    f"Var({self.dims!r}, ...): units and long_name are texts, not {text!r}; '1' is "
                    "dimensionless."
                )
        if self.dtype != "":
            object.__setattr__(self, "dtype", _storable(self.dtype))


def _storable(dtype: Any) -> str:
    """Return the name of a type that a store holds."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.kind not in "fiub" or found.itemsize > 8:
        raise DefinitionError(
            f"Var dtype {dtype!r} cannot be stored; use a float, an integer or bool of at most 64 "
            "bits, e.g. 'float32'."
        )
    return str(found.name)


@dataclass(frozen=True, eq=False)
class Coord:
    """A dimension inside an output, with its values.

    Parameters
    ----------
    name
        The dimension's name.
    values
        1-D numbers or texts, or a function of parameters of the pipeline that returns them
        (``nodes(nx, length)``).
    units, long_name
        CF attributes.
    padding
        Where the length depends on a swept parameter, shorter outputs are padded with fill.
        More than four times the data is refused unless this is True.
    """

    name: str
    values: Any
    units: str = "1"
    long_name: str = ""
    padding: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "Coord")
        for text in (self.units, self.long_name):
            if not is_text(text):
                raise DefinitionError(
                    f"Coord('{self.name}', ...): units and long_name are texts, not {text!r}; '1' "
                    "is dimensionless."
                )
        if not callable(self.values):
            self.check(self.values)
        _ = self.parameters

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters that the values are a function of."""
        if not callable(self.values):
            return ()
        try:
            return tuple(inspect.signature(self.values).parameters)
        except ValueError:
            raise DefinitionError(
                f"The parameters of the function of Coord '{self.name}' cannot be known. Write one "
                "that names them: lambda n: range(n)."
            ) from None

    def at(self, values: Mapping[str, Any]) -> np.ndarray:
        """Return the coordinate's values, shape (n,), for these parameters."""
        if not callable(self.values):
            return self.check(self.values)
        arguments = {name: values[name] for name in self.parameters}
        shown = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        call = f"{getattr(self.values, '__name__', 'function')}({shown})"
        try:
            found = self.values(**arguments)
        except Exception as error:
            raise DefinitionError(
                f"The values of Coord '{self.name}' could not be computed: {call} raised "
                f"{type(error).__name__}: {text_of(error)}"
            ) from error
        return self.check(found, f" from {call}")

    def check(self, values: Any, source: str = "") -> np.ndarray:
        """Return `values` as a 1-D array of float, int or str; `source` says where they are from.

        Raises
        ------
        DefinitionError
            If they are nothing of that, or there are none.
        """
        try:
            column = np.asarray(values)
        except ValueError as error:
            raise DefinitionError(
                f"Coord '{self.name}' has values that make no column{source}: {error}."
            ) from None
        target = {"f": np.float64, "i": np.int64, "u": np.int64, "U": np.str_}
        if column.shape == (0,):
            raise DefinitionError(f"Coord '{self.name}' has no values{source}; it needs one.")
        if column.ndim != 1 or column.dtype.kind not in target:
            raise DefinitionError(
                f"Coord '{self.name}' needs 1-D numbers or texts, not {column.dtype} of shape "
                f"{column.shape}{source}."
            )
        if column.dtype.kind == "u" and column.max() > np.iinfo(np.int64).max:
            raise DefinitionError(
                f"Coord '{self.name}': {column.max()} does not fit in 64-bit integers{source}."
            )
        return column.astype(target[column.dtype.kind])


@dataclass(frozen=True, eq=False)
class Inner:
    """A dimension inside outputs, laid out for all points of a pipeline.

    `values` holds the index (size,), or None where the coordinate changes from point to point;
    then `at` holds it along the swept dims `over` and the dimension itself, padded with fill,
    and `sizes` the length at each place of `over`.
    """

    coord: Coord
    size: int
    values: np.ndarray | None
    over: tuple[str, ...] = ()
    at: np.ndarray | None = None
    sizes: np.ndarray | None = None

    def size_at(self, place: Mapping[str, int]) -> int:
        """Return the length at a place on the swept dims."""
        if self.sizes is None:
            return self.size
        return int(self.sizes[tuple(place[dim] for dim in self.over)])
