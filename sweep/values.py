"""Text of the command line -> values of parameters (pure).

``0.5,1,2`` is a list; ``0.5:4:16`` 16 numbers from 0.5 to 4, evenly, and ``1e-6:1e-4:16:log``
by equal factors, both ends included; ``0..9`` whole numbers; ``[64]`` a list of one. A list
makes an axis, anything else is one value and makes a constant. The parameter's annotation
decides what a text stands for; without one, ``true``, ``3`` and ``0.5`` are what they look
like, and the rest is text.
"""

import math
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any

import numpy as np

from sweep.definition import Parameter, Pipeline
from sweep.definition.axis import MOST_VALUES
from sweep.definition.names import normal
from sweep.errors import DefinitionError, did_you_mean


def parse_assignments(arguments: Sequence[str], pipeline: Pipeline) -> dict[str, Any]:
    """Return what ``name=value`` arguments say, for ``pipeline.with_values``.

    Raises
    ------
    DefinitionError
        If an argument is no assignment, a name is unknown or given twice, or a value does not
        fit its parameter.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        name = normal(name)
        if not equals or not name.isidentifier():
            raise DefinitionError(f"'{argument}' sets no parameter. Write NAME=VALUE, e.g. nx=64.")
        if name not in pipeline.parameters:
            raise DefinitionError(
                f"{argument}: there is no parameter '{name}'. "
                f"{did_you_mean(name, pipeline.parameters)}"
            )
        if name in values:
            raise DefinitionError(
                f"{argument}: '{name}' is given twice. Write all its values at once: "
                f"{name}=V1,V2,..."
            )
        values[name] = parse(text, pipeline.parameters[name])
    return values


def parse(text: str, parameter: Parameter) -> Any:
    """Return the value that `text` stands for, or the list of values.

    Raises
    ------
    DefinitionError
        If it is none of the forms above, or does not fit the parameter.
    """
    value = _parse_form(text.strip(), parameter)
    if isinstance(value, list):
        return [parameter.convert(one) for one in value]
    return parameter.convert(value)


def _parse_form(text: str, parameter: Parameter) -> Any:
    if not (text.startswith("[") and text.endswith("]")):
        return _parse_plain(text, parameter)
    if not (inside := text[1:-1].strip()):
        raise _refusal(text, parameter, f"the list is empty. {_examples(parameter)}")
    value = _parse_plain(inside, parameter)
    return value if isinstance(value, list) else [value]


def _parse_plain(text: str, parameter: Parameter) -> Any:
    if "," in text:
        return [_read_item(item.strip(), text, parameter) for item in text.split(",")]
    if _may_be_range(parameter):
        if _is_number(text.partition("..")[0]) and ".." in text:
            return _count_up(text, parameter)
        if _is_number(text.partition(":")[0]) and ":" in text:
            return _spread(text, parameter)
    return _read(text, parameter)


def _may_be_range(parameter: Parameter) -> bool:
    """Tell whether ':' and '..' mean a range: not where the annotation allows texts."""
    kinds = parameter.plain_types
    return kinds is None or (bool(kinds & {int, float}) and str not in kinds)


def _refusal(text: str, parameter: Parameter, wrong: str) -> DefinitionError:
    return DefinitionError(f"{parameter.name}={text}: {wrong}")


# --- one value ---------------------------------------------------------------------------


def _read_item(item: str, text: str, parameter: Parameter) -> Any:
    if not item:
        raise _refusal(text, parameter, f"a value of the list is empty. {_examples(parameter)}")
    return _read(item, parameter)


def _read(text: str, parameter: Parameter) -> Any:
    """Return the one value that `text` stands for."""
    if not text:
        raise _refusal(text, parameter, f"there is no value. {_examples(parameter)}")
    kinds = parameter.plain_types or {bool, int, float, str}
    texts = parameter.plain_types is not None and str in kinds
    if not texts and _is_number(text) and _read_float(text) is _NOTHING:
        raise _refusal(
            text, parameter, f"{parameter.name} takes finite numbers. {_examples(parameter)}"
        )
    for kind in _READERS:
        value = _READERS[kind](text) if kind in kinds else _NOTHING
        if value is not _NOTHING:
            return value
    if int in kinds and (whole := _read_whole(text)) is not _NOTHING:
        return whole
    wanted = "true or false" if kinds == {bool} else parameter.type_name
    raise _refusal(
        text, parameter, f"{parameter.name} takes {wanted}, not '{text}'. {_examples(parameter)}"
    )


_NOTHING: Any = object()  # None is a value


def _read_int(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return _NOTHING


def _read_float(text: str) -> Any:
    """Return the finite number that a text is."""
    return float(text) if _is_number(text) and math.isfinite(float(text)) else _NOTHING


def _read_whole(text: str) -> Any:
    """Return the whole number that ``1e6`` is; above 2**53 a float may not be what is meant."""
    value = _read_float(text)
    is_whole = value is not _NOTHING and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else _NOTHING


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_READERS: dict[Any, Callable[[str], Any]] = {  # in the order in which they are tried
    NoneType: lambda text: None if text == "None" else _NOTHING,
    bool: lambda text: {"true": True, "false": False}.get(text.lower(), _NOTHING),
    int: _read_int,
    float: _read_float,
    str: lambda text: text,
}


def _examples(parameter: Parameter) -> str:
    """Return what may be typed for a parameter."""
    name, kinds = parameter.name, parameter.plain_types or {float}
    if parameter.choices:
        return f"Write {name}={parameter.choices[0]}."
    if float in kinds:
        return f"Write {name}=0.5, {name}=0.5,1 or {name}=0.5:4:16."
    if int in kinds:
        return f"Write {name}=64, {name}=64,128 or {name}=64..128."
    if bool in kinds:
        return f"Write {name}=true or {name}=true,false."
    return f"Write {name}=TEXT, or {name}=TEXT1,TEXT2."


# --- ranges ------------------------------------------------------------------------------


def _count_up(text: str, parameter: Parameter) -> list[int]:
    """Return the whole numbers of ``0..9``."""
    first, _, last = text.partition("..")
    low, high, name = _read_int(first), _read_int(last), parameter.name
    if low is _NOTHING or high is _NOTHING:
        raise _refusal(
            text,
            parameter,
            f"'..' counts whole numbers. Write {name}=0..9, or between others with a count, "
            f"{name}=0.5:4:16.",
        )
    if high < low:
        raise _refusal(text, parameter, f"'..' counts upwards. Write {name}={high}..{low}.")
    _check_count(high - low + 1, text, parameter)
    return list(range(low, high + 1))


def _spread(text: str, parameter: Parameter) -> list[Any]:
    """Return the numbers of ``0.5:4:16`` or ``1e-6:1e-4:16:log``."""
    low, high, count, log = _parts(text, parameter)
    with np.errstate(all="ignore"):  # what is too wide is refused below
        values = np.geomspace(low, high, count) if log else np.linspace(low, high, count)
    if not np.isfinite(values).all():
        raise _refusal(text, parameter, "the range is too wide for floating-point numbers.")
    if parameter.plain_types and float not in parameter.plain_types:
        return _whole_numbers(values, text, parameter)
    numbers: list[float] = values.tolist()
    return numbers


def _parts(text: str, parameter: Parameter) -> tuple[float, float, int, bool]:
    """Return both ends, the count, and whether to go by equal factors."""
    name, parts = parameter.name, text.split(":")
    ends = ":".join(parts[:2])
    if len(parts) < 3:
        raise _refusal(text, parameter, f"how many values? Give a count: {name}={ends}:9.")
    if len(parts) > 4 or parts[3:] not in ([], ["log"]):
        raise _refusal(
            text, parameter, f"write {name}=FIRST:LAST:COUNT or {name}=FIRST:LAST:COUNT:log."
        )
    low, high = (_finite(part, text, parameter) for part in parts[:2])
    if low == high:
        raise _refusal(text, parameter, f"both ends are the same. Write {name}=[{parts[0]}].")
    if len(parts) == 4 and not (min(low, high) > 0 or max(low, high) < 0):
        raise _refusal(
            text, parameter, f"equal factors cannot reach or cross 0. Leave out ':log': {ends}:9."
        )
    return low, high, _count(parts[2], text, parameter), len(parts) == 4


def _finite(part: str, text: str, parameter: Parameter) -> float:
    value = _read_float(part)
    if value is _NOTHING:
        raise _refusal(
            text, parameter, f"'{part}' is no finite number. Write {parameter.name}=0.5:4:16."
        )
    return float(value)


def _count(part: str, text: str, parameter: Parameter) -> int:
    count, name, ends = _read_int(part), parameter.name, text.split(":")[:2]
    if count is _NOTHING or count < 2:
        raise _refusal(
            text,
            parameter,
            f"the count is '{part}'; it is a whole number, at least 2, because both ends are "
            f"included. Write {name}={':'.join(ends)}:9, or {name}=[{ends[0]}] for one value.",
        )
    _check_count(count, text, parameter)
    return int(count)


def _check_count(count: int, text: str, parameter: Parameter) -> None:
    if count > MOST_VALUES:
        raise _refusal(
            text,
            parameter,
            f"{count} values are more than an axis holds ({MOST_VALUES}). Take fewer.",
        )


def _whole_numbers(values: np.ndarray, text: str, parameter: Parameter) -> list[int]:
    """Return the values of a range as whole numbers, or refuse it and name some that are."""
    whole = np.rint(values)
    wrong = ~np.isclose(values, whole, rtol=1e-12, atol=0)
    numbers = [int(value) for value in whole]
    if wrong.any():
        near = ",".join(map(str, dict.fromkeys(numbers[:10]))) + ",..." * (len(numbers) > 10)
        raise _refusal(
            text,
            parameter,
            f"this gives {values[wrong][0]:.6g}, but {parameter.name} takes "
            f"{parameter.type_name}. Take another count, or write {parameter.name}={near}.",
        )
    return numbers
