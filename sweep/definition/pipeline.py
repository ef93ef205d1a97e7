"""Pipeline: stages, what to vary, and how outputs are laid out."""

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from itertools import product
from types import MappingProxyType, NoneType
from typing import Any, TypeVar

import numpy as np

from sweep.definition.axis import Axis
from sweep.definition.constants import plain
from sweep.definition.names import ARGUMENTS, check_name, is_text, normal, refuse_twice
from sweep.definition.needs import Needs
from sweep.definition.output import Coord, Inner, Var
from sweep.definition.stage import MISSING, Parameter, Stage
from sweep.errors import DefinitionError, did_you_mean

Values = dict[str, Any]
DEVICE, CUDA = "device", "cuda"  # a parameter that may be so, of a study that knows GPUs
Listed = TypeVar("Listed")


@dataclass(frozen=True, eq=False, init=False)
class Pipeline:
    """Stages, what to vary, and how outputs are laid out: everything a scientist declares.

    Parameters
    ----------
    stages
        A function, a Stage, or a list of them in the order in which they run.
    axes
        What is varied; the first varies slowest.
    coords
        The dimensions inside outputs.
    needs
        What one point needs of a machine; where it computes with ``device="cuda"``, a GPU at least.
    units
        CF units of parameters that are no axes; left out, they are dimensionless.
    entropy
        The root of every point's own ``rng``.
    on_gpus
        The values that GPUs can compute, of each parameter of which they cannot do all.

    Raises
    ------
    DefinitionError
        If names do not fit together, or a value does not fit its parameter.
    """

    stages: tuple[Stage, ...]
    axes: tuple[Axis, ...]
    coords: tuple[Coord, ...]
    declared_needs: Needs
    units: Mapping[str, str]
    entropy: int
    constants: Mapping[str, Any] = field(default_factory=dict)  # those set by a caller
    on_gpus: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    made: float = 0.0  # when [s since 1970]: was the file that made it edited since?

    def __init__(
        self,
        stages: Callable[..., Any] | Stage | Sequence[Callable[..., Any] | Stage],
        *,
        axes: Sequence[Axis] = (),
        coords: Sequence[Coord] = (),
        needs: Needs | None = None,
        units: Mapping[str, str] | None = None,
        entropy: int = 0,
        constants: Mapping[str, Any] | None = None,
        on_gpus: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        object.__setattr__(self, "made", time.time())
        several = stages if isinstance(stages, (list, tuple)) else (stages,)
        made = tuple(s if isinstance(s, Stage) else Stage(s) for s in several)
        object.__setattr__(self, "stages", made)
        axes, coords = _listed(axes, Axis, "axes"), _listed(coords, Coord, "coords")
        object.__setattr__(self, "coords", coords)
        if not isinstance(needs, (Needs, NoneType)):
            raise DefinitionError(f"needs= takes Needs(cores=..., memory=...), not {needs!r}.")
        object.__setattr__(self, "declared_needs", needs or Needs())
        object.__setattr__(self, "entropy", entropy)
        if not isinstance(entropy, int) or entropy < 0:
            raise DefinitionError(f"entropy={entropy!r}: give a whole number, 0 or more.")
        axis_units = {n: u for a in axes for n, u in zip(a.names, a.units, strict=True) if u}
        object.__setattr__(self, "units", MappingProxyType({**_units(units), **axis_units}))
        self._check_outputs()
        self._check_axis_names(axes)
        object.__setattr__(self, "axes", tuple(self._converted(axis) for axis in axes))
        fixed = {n: self._parameter(n).convert(v) for n, v in (constants or {}).items()}
        object.__setattr__(self, "constants", MappingProxyType(fixed))
        for name in on_gpus or {}:
            self._parameter(name)
        object.__setattr__(self, "on_gpus", MappingProxyType(dict(on_gpus or {})))
        self._check_names()

    # --- what there is -------------------------------------------------------------------

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters that an axis or a constant can set, in the order of the signatures."""
        found: dict[str, Parameter] = {}
        produced: set[str] = set()
        for stage in self.stages:
            for name, (annotation, default) in stage.parameters.items():
                if name in produced or name == "rng":
                    continue
                units = self.units.get(name, "1")
                new = Parameter(name, annotation, default, stage.name, units)
                if stage.vectorized and new.takes_lists():  # of one value a point
                    new = replace(new, annotation=inspect.Parameter.empty)
                new = new.with_default()
                old = found.setdefault(name, new)
                if old.default is not new.default and plain(old.default) != plain(new.default):
                    raise DefinitionError(
                        f"Parameter '{name}' has the default {old.default!r} in {old.stage}() but "
                        f"{new.default!r} in {stage.name}(). Give both the same."
                    )
            produced |= set(stage.outputs)
        return found

    @cached_property
    def outputs(self) -> dict[str, Var]:
        """The stored outputs, in the order of the stages."""
        return {name: var for stage in self.stages for name, var in stage.outputs.items() if var}

    @cached_property
    def dims(self) -> dict[str, int]:
        """The swept dimensions and their lengths, slowest first."""
        return {axis.dim: len(axis) for axis in self.axes}

    @property
    def swept(self) -> tuple[str, ...]:
        """The swept parameters, in the order of the axes."""
        return tuple(name for axis in self.axes for name in axis.names)

    @cached_property
    def fixed(self) -> Values:
        """The value of each parameter that is not swept; `missing` ones are left out."""
        values = {n: p.default for n, p in self.parameters.items()} | dict(self.constants)
        return {n: v for n, v in values.items() if n not in self.swept and v is not MISSING}

    @cached_property
    def needs(self) -> Needs:
        """What one point needs of a machine: what is declared, and a GPU if it computes on one."""
        needs = self.declared_needs
        return replace(needs, gpus=max(1, needs.gpus)) if self.is_on_gpus else needs

    @property
    def is_on_gpus(self) -> bool:
        """Tell whether points compute on GPUs because a parameter says so.

        That is ``device``, if "cuda" is one of its choices.
        """
        if DEVICE not in self.parameters or CUDA not in self.parameters[DEVICE].choices:
            return False
        return CUDA in self._values_of(DEVICE)

    @property
    def kept_from_gpus(self) -> str:
        """What a GPU cannot compute of what is asked for, as ``name=value``; else empty."""
        for name, possible in self.on_gpus.items():
            for value in self._values_of(name):
                if value not in possible:
                    return f"{name}={value}"
        return ""

    def _values_of(self, name: str) -> Sequence[Any]:
        swept = [axis.columns[axis.names.index(name)] for axis in self.axes if name in axis.names]
        return list(swept[0]) if swept else [self.fixed.get(name)]

    @property
    def missing(self) -> tuple[str, ...]:
        """Parameters that have neither a value nor an axis."""
        return tuple(n for n in self.parameters if n not in self.fixed and n not in self.swept)

    def check_complete(self) -> None:
        """Refuse a pipeline in which a parameter has no value.

        Raises
        ------
        DefinitionError
            Naming the parameter and what to type.
        """
        if self.missing:
            name = self.missing[0]
            raise DefinitionError(
                f"Parameter '{name}' of {self.parameters[name].stage}() has no value: no default, "
                f"no axis. Set it: {name}=VALUE, or {name}=V1,V2,... to vary it."
            )

    def depends(self, stage: Stage) -> tuple[str, ...]:
        """Return the sorted names of the parameters that a stage's answer depends on."""
        found: set[str] = set()
        for name in stage.parameters:
            producer = self._producer(name, before=stage)
            if producer is not None:
                found |= set(self.depends(producer))
            elif name != "rng":
                found.add(name)
        return tuple(sorted(found))

    def _producer(self, name: str, before: Stage) -> Stage | None:
        for stage in self.stages[: self.stages.index(before)]:
            if name in stage.outputs:
                return stage
        return None

    def values_at(self, place: Mapping[str, int]) -> Values:
        """Return the swept parameters' values at a place on the swept dims, as plain numbers."""
        values: Values = {}
        for axis in self.axes:
            if axis.dim in place:
                values |= axis.at(place[axis.dim])
        return values

    # --- changing what is varied ---------------------------------------------------------

    def with_values(self, **values: Any) -> "Pipeline":
        """Return this pipeline with other values: a list makes an axis, one value a constant.

        Raises
        ------
        DefinitionError
            If a name is no parameter or a value does not fit.
        """
        axes, constants = list(self.axes), dict(self.constants)
        # Those that are fixed come first: what they leave of a zipped axis may then be varied.
        for name, value in sorted(_plain_arrays(values).items(), key=lambda one: _is_list(one[1])):
            parameter = self._parameter(name)
            here = next((i for i, axis in enumerate(axes) if name in axis.names), None)
            if _is_list(value) and not parameter.takes_lists():
                constants.pop(name, None)
                new = Axis(name, value)
                if here is None:
                    axes.append(new)
                elif len(axes[here].names) > 1:
                    raise DefinitionError(
                        f"Parameter '{name}' varies together with "
                        f"{', '.join(n for n in axes[here].names if n != name)} along "
                        f"'{axes[here].dim}'; it can be fixed to one value here, not varied alone."
                    )
                else:
                    axes[here] = new
                continue
            if here is not None:
                axes[here : here + 1] = self._without(axes[here], name)
            constants[name] = value
        return self.having(axes, constants)

    def having(self, axes: Sequence[Axis], constants: Mapping[str, Any]) -> "Pipeline":
        """Return this pipeline with these axes and these constants in the place of its own."""
        return Pipeline(
            self.stages,
            axes=axes,
            coords=self.coords,
            needs=self.declared_needs,
            units=self.units,
            entropy=self.entropy,
            constants=constants,
            on_gpus=self.on_gpus,
        )

    @staticmethod
    def _without(axis: Axis, name: str) -> list[Axis]:
        """Return what is left of an axis when one of its parameters is fixed."""
        left = [i for i, other in enumerate(axis.names) if other != name]
        if not left:
            return []
        rows = zip(*(axis.columns[i].tolist() for i in left), strict=True)
        names, units = tuple(axis.names[i] for i in left), tuple(axis.units[i] for i in left)
        return [Axis(names, list(dict.fromkeys(rows)), units, dim=axis.dim)]

    # --- how outputs are laid out --------------------------------------------------------

    @cached_property
    def inner(self) -> dict[str, Inner]:
        """The dimensions inside outputs, with their lengths and values over all points."""
        self.check_complete()
        laid = {coord.name: self._lay(coord) for coord in self.coords}
        for name, var in self.outputs.items():
            self._check_padding(name, [laid[dim] for dim in var.dims])
        return laid

    def _lay(self, coord: Coord) -> Inner:
        axes = [axis for axis in self.axes if set(axis.names) & set(coord.parameters)]
        if not axes:
            values = coord.at(self.fixed)
            if values.dtype.kind == "f" and np.isnan(values).any():
                raise DefinitionError(f"Coord '{coord.name}' has NaN among its values.")
            return Inner(coord, len(values), values)
        over, shape = tuple(axis.dim for axis in axes), tuple(len(axis) for axis in axes)
        columns: dict[tuple[int, ...], np.ndarray] = {}
        for place in product(*map(range, shape)):
            swept = self.values_at(dict(zip(over, place, strict=True)))
            columns[place] = coord.at({**self.fixed, **swept})
        sizes = np.array([len(column) for column in columns.values()]).reshape(shape)
        first = next(iter(columns.values()))
        if first.dtype.kind == "U":
            raise DefinitionError(
                f"Coord '{coord.name}' has texts that depend on a swept parameter; use numbers."
            )
        at = np.full((*shape, int(sizes.max())), np.nan)
        for place, column in columns.items():
            at[place][: len(column)] = column
        return Inner(coord, int(sizes.max()), None, over, at, sizes)

    def _check_padding(self, name: str, inner: list[Inner]) -> None:
        ragged = [one for one in inner if one.sizes is not None]
        if not ragged or any(one.coord.padding for one in ragged):
            return
        dims = sorted({dim for one in ragged for dim in one.over})
        data = 0
        for place in product(*(range(self.dims[dim]) for dim in dims)):
            where = dict(zip(dims, place, strict=True))
            data += math.prod(one.size_at(where) for one in ragged)
        full = math.prod(self.dims[dim] for dim in dims) * math.prod(one.size for one in ragged)
        if full > 4 * data:
            raise DefinitionError(
                f"Output '{name}' would be padded to {full / data:.1f} times its data, because the "
                f"length of {' and '.join(one.coord.name for one in ragged)} changes over "
                f"{', '.join(dims)}. Sweep the extremes into stores of their own, or ask for it: "
                f"Coord('{ragged[0].coord.name}', ..., padding=True)."
            )

    # --- checks --------------------------------------------------------------------------

    def _parameter(self, name: str, what: str = "") -> Parameter:
        if name not in self.parameters:
            functions = " or ".join(f"{stage.name}()" for stage in self.stages)
            raise DefinitionError(
                f"{what}'{name}' is not a parameter of {functions}. "
                f"{did_you_mean(name, self.parameters)}"
            )
        return self.parameters[name]

    def _converted(self, axis: Axis) -> Axis:
        named = zip(axis.names, axis.columns, strict=True)
        columns = [self._parameter(name, "Axis ").convert_column(c) for name, c in named]
        units = tuple("" if text == "1" else text for text in axis.units)
        if axis.names == (axis.dim,):
            return Axis(axis.names[0], columns[0], units)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        return Axis(axis.names, rows, units, dim=axis.dim)

    def _check_axis_names(self, axes: Sequence[Axis]) -> None:
        refuse_twice([name for axis in axes for name in axis.names], "parameter", "two axes")
        refuse_twice([axis.dim for axis in axes], "dimension", "two axes")

    def _check_outputs(self) -> None:
        if not self.stages:
            raise DefinitionError("A pipeline needs at least one function.")
        refuse_twice([stage.name for stage in self.stages], "name", "two stages")
        names = [name for stage in self.stages for name in stage.outputs]
        refuse_twice(names, "name", "two outputs")
        if not self.outputs:
            answer = self.stages[-1].hints.get("return")
            if is_dataclass(answer):
                raise DefinitionError(
                    f"{self.stages[-1].name}() returns a dataclass. Make it a "
                    "NamedTuple, with a Var at each output: class Answer(NamedTuple): ..."
                )
            raise DefinitionError(
                f"{self.stages[-1].name}() declares no output. Annotate what it returns: "
                '-> Annotated[float, Var((), "m", "height")], or a NamedTuple of such fields.'
            )
        coords = [coord.name for coord in self.coords]
        refuse_twice(coords, "name", "two Coords")
        for name, var in self.outputs.items():
            check_name(name, "Output")
            for dim in var.dims:
                if dim not in coords:
                    raise DefinitionError(
                        f"Output '{name}' has dimension '{dim}', which no Coord describes. Add "
                        f"Coord('{dim}', values, units) to the pipeline."
                    )
        for place, stage in enumerate(self.stages):
            later = {name for other in self.stages[place:] for name in other.outputs}
            for name in stage.parameters:
                if name in stage.outputs:
                    raise DefinitionError(
                        f"{stage.name}() takes '{name}', which it makes itself. Give the one or "
                        "the other another name."
                    )
                if name in later:
                    raise DefinitionError(
                        f"{stage.name}() takes '{name}', which a later stage makes. Put that "
                        "stage before it."
                    )

    def _check_names(self) -> None:
        for name in self.parameters:
            check_name(name, "Parameter")
            if name in ARGUMENTS:
                raise DefinitionError(
                    f"Parameter '{name}' of {self.parameters[name].stage}() has the name of an "
                    f"argument of sweep.run ({', '.join(sorted(ARGUMENTS))}). Give it another."
                )
        for name in self.units:
            self._parameter(name, "In units=: ")
        for coord in self.coords:
            for name in coord.parameters:
                if name not in self.parameters:
                    raise DefinitionError(
                        f"Coord '{coord.name}' is a function of '{name}', which is no parameter. "
                        f"{did_you_mean(name, self.parameters)}"
                    )
        zipped = [axis.dim for axis in self.axes if axis.names != (axis.dim,)]
        names = [*self.parameters, *zipped, *self.outputs]
        names += [coord.name for coord in self.coords]
        names += [f"{coord.name}_at" for coord in self.coords if set(coord.parameters)]
        refuse_twice(names, "name", "two things (parameters, outputs, Coords, dimensions)")
        for stage in self.stages:
            self._check_whole_answers(stage)
            if stage.vectorized:
                self._check_vectorized(stage)

    def _check_whole_answers(self, stage: Stage) -> None:
        """Refuse a NamedTuple passed whole to or from a vectorized stage."""
        for name in stage.parameters:
            producer = self._producer(name, before=stage)
            if producer is None or name != producer.name or producer.fields is None:
                continue
            if stage.vectorized or producer.vectorized:
                raise DefinitionError(
                    f"{stage.name}() takes the whole answer of {name}(), and one of them is "
                    f"vectorized. Take the fields it needs by name: {', '.join(producer.fields)}."
                )

    def _check_vectorized(self, stage: Stage) -> None:
        for name, var in stage.outputs.items():
            for coord in self.coords:
                if var and coord.name in var.dims and set(coord.parameters) & set(self.swept):
                    raise DefinitionError(
                        f"{stage.name}() is vectorized, but the length of its output '{name}' "
                        f"may change from point to point along '{coord.name}'. Use a stage that "
                        "takes one point, or fix "
                        f"{', '.join(sorted(set(coord.parameters) & set(self.swept)))}."
                    )


def _units(units: Any) -> dict[str, str]:
    if units is None:
        return {}
    if not isinstance(units, Mapping) or not all(map(is_text, [*units, *units.values()])):
        raise DefinitionError(f"units= takes {{'length': 'm', ...}}, not {units!r}.")
    return {normal(name): text for name, text in units.items()}


def _plain_arrays(values: Values) -> Values:
    """Return values with those of pandas and xarray as numpy's arrays."""
    return {n: np.asarray(v) if hasattr(v, "__array__") else v for n, v in values.items()}


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, range)) or (
        isinstance(value, np.ndarray) and value.ndim > 0
    )


def _listed(values: Any, kind: type[Listed], word: str) -> tuple[Listed, ...]:
    listed = isinstance(values, Sequence)
    wrong = [value for value in values if not isinstance(value, kind)] if listed else [values]
    if wrong:
        raise DefinitionError(f"{word}= takes a list of {kind.__name__}(...), not {wrong[0]!r}.")
    return tuple(values)
