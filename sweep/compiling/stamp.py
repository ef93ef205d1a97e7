"""What a compiled function depends on: the sources that it reaches, and the values that it takes.

Numba's own cache knows the text of the file that holds a function. But callees of other files are
compiled into it, and so are the values of all globals. Here count

* the text of the function's file, and of what that reaches of the user's own by import statements,
  as it was imported (it may lie on disk otherwise by then);
* the code of the function and of each compiled one that it calls, wherever that stands, and the
  values of the globals, defaults and closures that they name: read when the code is called for,
  since a module may not be complete before;
* the same of each overload that those files register. No name in a kernel leads to it, and it may
  call what is in memory and no longer on disk.

What is not seen: an overload that is registered in a file which the kernel's own does not import;
and what an overload finds as an attribute of a class or of an object, other than by its text.
"""

import enum
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from sweep.modules import texts_behind
from sweep.source import is_installed

PLAIN = (type(None), bool, int, float, complex, str, bytes)
# Where numba, and the package numba-cuda, list overloads.
TEMPLATES = ("numba.core.typing.templates", "numba.cuda.typing.templates")


class Texts(NamedTuple):
    """The texts behind a function: their hash, and the modules that they are of."""

    hash: str
    modules: frozenset[str]


_texts: "WeakKeyDictionary[ModuleType, tuple[object, Texts]]" = WeakKeyDictionary()


class Stamp:
    """What one function depends on.

    Made when it is decorated: that is while its module is imported, from the texts that count.
    """

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self._texts = _texts_behind(function)

    def now(self) -> str:
        """Return the hash of all that the function's compiled code depends on by now."""
        words = _words([self.function, *_overloads(self._texts.modules)])
        return _hash([self._texts.hash, *words])


def _texts_behind(function: FunctionType) -> Texts:
    """Return the texts behind a function; looked up once for each module's import."""
    module = sys.modules.get(function.__module__)
    if module is None or vars(module) is not function.__globals__:
        return _looked_up(function)
    spec, found = _texts.get(module, (None, None))
    if found is None or spec is not module.__spec__:  # a reloaded module has another one
        found = _looked_up(function)
        _texts[module] = module.__spec__, found
    return found


def _looked_up(function: FunctionType) -> Texts:
    digest, modules = hashlib.sha256(), {function.__module__}
    for name, text in texts_behind(function).items():
        digest.update(f"{name}\n{len(text)}\n{text}\n".encode(errors="surrogatepass"))
        modules.add(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    return Texts(digest.hexdigest(), frozenset(modules))


def _overloads(modules: frozenset[str]) -> list[FunctionType]:
    """Return what some modules have registered by numba's `overload` and its like so far.

    In the order of their names, since modules are not imported in the same order everywhere.
    """
    found = []
    registries = [vars(sys.modules[n])["builtin_registry"] for n in TEMPLATES if n in sys.modules]
    for template in (t for one in registries for t in (*one.functions, *one.attributes)):
        # Of a thousand templates few are overloads, and those have it as a static method.
        supplied = getattr(vars(template).get("_overload_func"), "__func__", None)
        if isinstance(supplied, FunctionType) and supplied.__module__ in modules:
            found.append(supplied)
    return sorted(found, key=lambda function: (function.__module__, function.__qualname__))


# --- code and values ---------------------------------------------------------------------


class Seen:
    """What was met: functions, which are told in that order, and what else may lead to itself."""

    def __init__(self) -> None:
        self.functions: list[FunctionType] = []
        self.others: dict[object, object] = {}  # id -> the object, which keeps its id
        self._numbers: dict[FunctionType, int] = {}

    def number(self, function: FunctionType) -> int:
        """Return the number of a function, the next one if it was not met before."""
        number = self._numbers.setdefault(function, len(self.functions))
        if number == len(self.functions):
            self.functions.append(function)
        return number


def _words(functions: Iterable[FunctionType]) -> Iterator[str]:
    """Yield functions, and all that they call, as words: one by one, for nested it takes longer."""
    seen = Seen()
    for function in functions:
        seen.number(function)
    for function in seen.functions:  # which grows meanwhile
        yield from _function(function, seen)


def _function(function: FunctionType, seen: Seen) -> Iterator[str]:
    """Yield a function's code, and what it names, as words."""
    code, names = _code(function.__code__)
    yield code
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


@lru_cache(maxsize=4096)
def _code(code: CodeType) -> tuple[str, frozenset[str]]:
    """Return the hash of compiled Python, and the names that it looks up."""
    words = [f"code {code.co_name} {code.co_code.hex()} {code.co_names} {code.co_varnames}"]
    names = {*code.co_names}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner, inner_names = _code(constant)
            words.append(inner)
            names |= inner_names
        else:
            words += _value(constant, frozenset(), Seen())
    return _hash(words), frozenset(names)


def _hash(words: list[str]) -> str:
    return hashlib.sha256("\n".join(words).encode(errors="surrogatepass")).hexdigest()


def _value(value: Any, names: frozenset[str], seen: Seen) -> Iterator[str]:
    """Yield a value as words; of a module, what `names` may look up in it."""
    kind = type(value)
    if kind in PLAIN or isinstance(value, np.generic):
        yield f"{kind.__name__} {value!r}"
    elif (function := _followed(value)) is not None:
        yield f"function {seen.number(function)}"
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        raw = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        yield f"array {value.dtype!r} {value.shape} {raw}"
    elif isinstance(value, (tuple, list)):
        yield f"{kind.__qualname__} {len(value)}"
        for item in value:
            yield from _value(item, names, seen)
    elif isinstance(value, dict):
        yield from _dict(value, names, seen)
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


def _dict(items: dict[Any, Any], names: frozenset[str], seen: Seen) -> Iterator[str]:
    """Yield a dict, such as one of the functions that an overload chooses from, as words."""
    yield f"dict {len(items)}"
    if id(items) in seen.others:  # ``globals()`` holds itself
        return
    seen.others[id(items)] = items
    for key, item in items.items():
        yield from _value(key, names, seen)
        yield from _value(item, names, seen)


def _module(module: ModuleType, names: frozenset[str], seen: Seen) -> Iterator[str]:
    yield f"module {module.__name__}"
    key = (id(module), names)
    if key in seen.others:
        return
    seen.others[key] = module
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
