"""Stage: one ordinary function, and the parameters that its signature names."""

import inspect
import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Literal

import numpy as np

from sweep.definition.names import is_text
from sweep.definition.output import Var
from sweep.errors import DefinitionError, did_you_mean


class _Missing:
    def __repr__(self) -> str:
        return "(none)"

    def __reduce__(self) -> str:
        return "MISSING"  # stays the one object when a pipeline is sent by value


MISSING: Any = _Missing()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pipeline's functions: its type, its default, its units."""

    name: str
    annotation: Any
    default: Any
    stage: str
    units: str

    @cached_property
    def choices(self) -> tuple[Any, ...]:
        """The values that a Literal annotation allows; empty if there is none."""
        return typing.get_args(self.annotation) if self._origin is Literal else ()

    @cached_property
    def _origin(self) -> Any:
        return typing.get_origin(self.annotation)

    @property
    def type_name(self) -> str:
        """The annotation as a person would write it."""
        if self.annotation is inspect.Parameter.empty:
            return ""
        if self.choices:
            return " | ".join(repr(choice) for choice in self.choices)
        return getattr(self.annotation, "__name__", str(self.annotation).replace("typing.", ""))

    @cached_property
    def plain_types(self) -> frozenset[Any] | None:
        """Those of float, int, bool, str and None that it takes; None if anything else goes."""
        if self.choices:
            return frozenset(type(choice) for choice in self.choices)
        several = self._origin in (UnionType, typing.Union)
        types = typing.get_args(self.annotation) if several else (self.annotation,)
        plain = frozenset(types)
        return plain if plain <= {float, int, bool, str, NoneType} else None

    def takes_lists(self) -> bool:
        """Tell whether one value of this parameter may itself be a list."""
        return takes_lists(self.annotation)

    def convert(self, value: Any) -> Any:
        """Return `value` as the type that the function asks for.

        Raises
        ------
        DefinitionError
            If it is of another type, NaN, or none of the choices.
        """
        what = f"Parameter '{self.name}' of {self.stage}()"
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and math.isnan(value):
            raise DefinitionError(f"{what} cannot be NaN.")
        if isinstance(value, str) and not is_text(value):
            raise DefinitionError(f"{what} is {value!r}, with half of a surrogate pair.")
        plain = self.plain_types
        if plain is None:
            is_pair = {type(value), self._origin} == {list, tuple}
            return self._origin(value) if is_pair else value  # what the command line writes
        if self.choices and value not in self.choices:
            raise DefinitionError(
                f"{what} is {value!r}. {did_you_mean(str(value), map(str, self.choices))}"
            )
        if type(value) in plain:
            return value
        if float in plain and type(value) is int:
            return float(value)
        if int in plain and type(value) is float and value.is_integer() and abs(value) < 2**53:
            return int(value)
        raise DefinitionError(
            f"{what} takes {self.type_name}, not {value!r} ({type(value).__name__})."
        )

    def with_default(self) -> "Parameter":
        """Return this parameter with its default as the type that the function asks for.

        Raises
        ------
        DefinitionError
            If the default is of another type. None goes always: so says an old habit.
        """
        if self.default is MISSING or self.default is None:
            return self
        if type(self.default) is float and math.isnan(self.default):
            return self
        try:
            return replace(self, default=self.convert(self.default))
        except DefinitionError as error:
            raise DefinitionError(f"The default of '{self.name}' does not fit. {error}") from None

    def convert_column(self, column: np.ndarray) -> np.ndarray:
        """Return the values of an axis as the type that the function asks for.

        Raises
        ------
        DefinitionError
            As `convert`, for the first that does not fit.
        """
        plain, kind = self.plain_types, column.dtype.kind
        if plain is None or (not self.choices and _KINDS[kind] in plain):
            return column
        if kind == "i" and float in plain and not self.choices:
            return column.astype(np.float64)
        return np.array([self.convert(value) for value in column.tolist()])


_KINDS = {"f": float, "i": int, "b": bool, "U": str}


@dataclass(frozen=True)
class Stage:
    """One ordinary function of a pipeline.

    Parameters
    ----------
    function
        Its parameters are wired by name to axes, constants, outputs of earlier stages, and
        ``rng`` to the point's own `numpy.random.Generator`.
    vectorized
        It takes a whole block at once: each swept parameter, each output of an earlier stage,
        and whatever is annotated as an array, as an array with a leading point dimension,
        ``rng`` as a list of generators, and returns each output with a leading point dimension.
    """

    function: Callable[..., Any]
    vectorized: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise DefinitionError(f"A stage is a function, not {self.function!r}.")
        if not hasattr(self.function, "__name__"):
            raise DefinitionError(
                f"A stage is a function with a name, not {self.function!r}. Write one that calls "
                "it: def height(speed: float) -> ...: return ..."
            )
        try:
            signature = inspect.signature(self.function)
        except ValueError:
            raise DefinitionError(
                f"The parameters of {self.name}() cannot be known. Write a function that names "
                "them and calls it."
            ) from None
        for parameter in signature.parameters.values():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) or (
                parameter.kind is parameter.VAR_KEYWORD
            ):
                raise DefinitionError(
                    f"{self.name}() has the parameter '{parameter}'; stages are wired by name, so "
                    "each parameter needs a name of its own (no *, ** or /)."
                )

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.function.__name__)

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The function's annotations, resolved."""
        return _hints(self.function, f"{self.name}()")

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Parameter name -> (annotation without extras, default)."""
        empty = inspect.Parameter.empty
        found = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            annotation = self.hints.get(name, empty)
            if typing.get_origin(annotation) is typing.Annotated:
                annotation = typing.get_args(annotation)[0]
            default = MISSING if parameter.default is empty else parameter.default
            found[name] = (annotation, default)
        return found

    @cached_property
    def fields(self) -> tuple[str, ...] | None:
        """The field names of the NamedTuple that the function returns; None for anything else."""
        answer = self.hints.get("return")
        if isinstance(answer, type) and issubclass(answer, tuple) and hasattr(answer, "_fields"):
            return tuple(answer._fields)
        return None

    @cached_property
    def outputs(self) -> dict[str, Var | None]:
        """Output name -> its Var, or None for what is only passed on to later stages.

        A NamedTuple's fields are outputs by their own names; the whole answer is one under the
        function's name.
        """
        answer = self.hints.get("return")
        outputs = {self.name: self._var(answer)}
        if self.fields is not None:
            declared = _hints(answer, f"what {self.name}() returns")
            outputs |= {name: self._var(declared.get(name)) for name in self.fields}
        return outputs

    @staticmethod
    def _var(annotation: Any) -> Var | None:
        if typing.get_origin(annotation) is not typing.Annotated:
            return None
        kind, *extras = typing.get_args(annotation)
        found = next((extra for extra in extras if isinstance(extra, Var)), None)
        if found is not None and kind in (str, complex):
            raise DefinitionError(
                f"{found!r} stands at {kind.__name__}; an output is a number, True/False, or an "
                "array of them."
            )
        if found is None or found.dtype:
            return found
        if isinstance(kind, type) and issubclass(kind, np.generic):
            return replace(found, dtype=np.dtype(kind).name)
        return replace(found, dtype={int: "int64", bool: "bool"}.get(kind, "float64"))


def _hints(annotated: Any, name: str) -> dict[str, Any]:
    """Return the annotations of a function or a class, resolved."""
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise DefinitionError(f"An annotation of {name} cannot be understood: {error}.") from None


def takes_lists(annotation: Any) -> bool:
    """Tell whether a value that is so annotated may be a list or an array."""
    several = typing.get_origin(annotation) in (UnionType, typing.Union)
    types = typing.get_args(annotation) if several else (annotation,)
    kinds = [typing.get_origin(one) or one for one in types]
    return any(
        isinstance(kind, type) and issubclass(kind, (Sequence, np.ndarray)) and kind is not str
        for kind in kinds
    )
