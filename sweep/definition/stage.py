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

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values that a Literal annotation allows; empty if there is none."""
        return typing.get_args(self.annotation) if self._origin is Literal else ()

    @property
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

    @property
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
        several = self._origin in (UnionType, typing.Union)
        types = typing.get_args(self.annotation) if several else (self.annotation,)
        kinds = [typing.get_origin(one) or one for one in types]
        return any(
            isinstance(kind, type) and issubclass(kind, (Sequence, np.ndarray)) and kind is not str
            for kind in kinds
        )

    def convert(self, value: Any) -> Any:
        """Return `value` as the type that the function asks for.

        Raises
        ------
        DefinitionError
            If it is of another type, NaN, or none of the choices.
        """
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and math.isnan(value):
            raise DefinitionError(f"Parameter '{self.name}' of {self.stage}() cannot be NaN.")
        plain = self.plain_types
        if plain is None:
            return value
        if self.choices and value not in self.choices:
            raise DefinitionError(
                f"Parameter '{self.name}' of {self.stage}() is {value!r}. "
                f"{did_you_mean(str(value), map(str, self.choices))}"
            )
        if type(value) in plain:
            return value
        if float in plain and type(value) is int:
            return float(value)
        if int in plain and type(value) is float and value.is_integer() and abs(value) < 2**53:
            return int(value)
        raise DefinitionError(
            f"Parameter '{self.name}' of {self.stage}() takes {self.type_name}, not {value!r} "
            f"({type(value).__name__})."
        )


@dataclass(frozen=True)
class Stage:
    """One ordinary function of a pipeline.

    Parameters
    ----------
    function
        Its parameters are wired by name to axes, constants, outputs of earlier stages, and
        ``rng`` to the point's own `numpy.random.Generator`.
    vectorized
        It takes a whole block at once: each swept parameter (and each output of an earlier
        stage) as an array with a leading point dimension, ``rng`` as a list of generators, and
        returns each output with a leading point dimension.
    """

    function: Callable[..., Any]
    vectorized: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function) or not hasattr(self.function, "__name__"):
            raise DefinitionError(f"A stage is a function, not {self.function!r}.")
        for parameter in inspect.signature(self.function).parameters.values():
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
        try:
            return typing.get_type_hints(self.function, include_extras=True)
        except (NameError, AttributeError, TypeError, SyntaxError) as error:
            raise DefinitionError(
                f"An annotation of {self.name}() cannot be understood: {error}."
            ) from None

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
            if annotation is float and type(default) is int:
                default = float(default)  # the same sweep as one whose caller writes 1.0
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
            declared = typing.get_type_hints(answer, include_extras=True)
            outputs |= {name: self._var(declared[name]) for name in self.fields}
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
        return replace(found, dtype={int: "int64", bool: "bool"}.get(kind, "float64"))
