"""What a compiled function depends on: the sources that it reaches, and the values that it takes.

Numba's own cache knows the text of the file that holds a function. But callees of other files are
compiled into it, and so are the values of all globals. Here count

* the text of the function's file, and of what that reaches of the user's own by import statements,
  as it was imported (it may lie on disk otherwise by then);
* the code of the function and of each compiled one that it calls, wherever that stands, and the
  values of the globals, defaults and closures that they name: read when the code is called for,
  since a module may not be complete before.

What is not seen: an overload that is registered in a file which the kernel's own does not import.
"""

import enum
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from sweep.modules import texts_behind
from sweep.source import is_installed

_texts: "WeakKeyDictionary[ModuleType, tuple[object, str]]" = WeakKeyDictionary()
PLAIN = (type(None), bool, int, float, complex, str, bytes)


class Stamp:
    """What one function depends on.

    Made when it is decorated: that is while its module is imported, from the texts that count.
    """

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self._texts = _texts_hash(function)

    def now(self) -> str:
        """Return the hash of all that the function's compiled code depends on by now."""
        digest = hashlib.sha256(self._texts.encode())
        for word in _function(self.function, {}):
            digest.update(f"{word}\n".encode(errors="surrogatepass"))
        return digest.hexdigest()


def _texts_hash(function: FunctionType) -> str:
    """Return the hash of the texts behind a function; looked up once for each module's import."""
    module = sys.modules.get(function.__module__)
    if module is None or vars(module) is not function.__globals__:
        return _hashed(function)
    spec, found = _texts.get(module, (None, ""))
    if not found or spec is not module.__spec__:  # a reloaded module has another one
        found = _hashed(function)
        _texts[module] = module.__spec__, found
    return found


def _hashed(function: FunctionType) -> str:
    digest = hashlib.sha256()
    for name, text in texts_behind(function).items():
        digest.update(f"{name}\n{len(text)}\n{text}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


# --- code and values ---------------------------------------------------------------------

Seen = dict[object, object]  # what has been told: id -> the object, which keeps its id


def _function(function: FunctionType, seen: Seen) -> Iterator[str]:
    """Yield a function's code, and what it names, as words."""
    if id(function) in seen:
        yield f"again {function.__qualname__}"
        return
    seen[id(function)] = function
    names: set[str] = set()
    yield from _code(function.__code__, names)
    for default in (function.__defaults__, *sorted((function.__kwdefaults__ or {}).items())):
        yield from _value(default, names, seen)
    for name in sorted(names & function.__globals__.keys()):
        yield f"global {name}"
        yield from _value(function.__globals__[name], names, seen)
    for cell in function.__closure__ or ():
        try:
            yield from _value(cell.cell_contents, names, seen)
        except ValueError:  # empty yet
            yield "empty"


def _code(code: CodeType, names: set[str]) -> Iterator[str]:
    """Yield compiled Python as words, and add to `names` what it looks up."""
    names.update(code.co_names)
    yield f"code {code.co_name} {code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant, names)
        else:
            yield from _value(constant, set(), {})


def _value(value: Any, names: set[str], seen: Seen) -> Iterator[str]:
    """Yield a value as words; of a module, what `names` may look up in it."""
    kind = type(value)
    if kind in PLAIN or isinstance(value, np.generic):
        yield f"{kind.__name__} {value!r}"
    elif (function := _followed(value)) is not None:
        yield from _function(function, seen)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        raw = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        yield f"array {value.dtype!r} {value.shape} {raw}"
    elif isinstance(value, (tuple, list)):
        yield f"{kind.__qualname__} {len(value)}"
        for item in value:
            yield from _value(item, names, seen)
    elif isinstance(value, (set, frozenset)):
        yield f"{kind.__qualname__} {sorted(map(repr, value))}"
    elif isinstance(value, enum.Enum):
        yield f"{kind.__qualname__} {value!r}"
    elif isinstance(value, enum.EnumMeta):
        yield f"enum {list(value)!r}"
    elif isinstance(value, ModuleType):
        yield from _module(value, names, seen)
    elif isinstance(value, np.dtype) or kind.__module__.startswith("numba.core.types"):
        yield f"type {value}"
    else:
        yield f"{kind.__qualname__} {getattr(value, '__qualname__', '')}"


def _module(module: ModuleType, names: set[str], seen: Seen) -> Iterator[str]:
    yield f"module {module.__name__}"
    key = (id(module), frozenset(names))
    if key in seen:
        return
    seen[key] = module
    for name in sorted(names & vars(module).keys()):
        yield f"attribute {name}"
        yield from _value(vars(module)[name], names, seen)


def _followed(value: Any) -> FunctionType | None:
    """Return the Python function that is compiled into what uses `value`, if it is one.

    Of plain functions, which numba's intrinsics use to write code, those of the user's own count.
    """
    if isinstance(value, FunctionType):
        is_foreign = is_installed(Path(value.__code__.co_filename))
        top = value.__module__.partition(".")[0] if value.__module__ else ""
        return None if is_foreign or top in sys.stdlib_module_names else value
    if type(value).__module__.partition(".")[0] == "numba":
        inner = getattr(value, "py_func", None) or getattr(value, "__wrapped__", None)
        return inner if isinstance(inner, FunctionType) else None
    return None
