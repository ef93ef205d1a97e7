"""The code of a study: the texts of its file and of what it reaches, and their hash."""

import ast
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import decode_source
from pathlib import Path
from typing import Any

Source = Mapping[str, str]  # file, as it is imported -> its text


def module_name(file: Path) -> tuple[Path, str]:
    """Return the folder that has to be on ``sys.path``, and the module's dotted name there."""
    parts = [] if file.name == "__init__.py" else [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


@dataclass(frozen=True)
class Module:
    """A module of the user's: its dotted name, its file, and the text that was read."""

    name: str
    file: Path
    text: str


def read_source(modules: Iterable[Module]) -> Source:
    """Return the texts of some modules, as a run's record keeps them.

    The keys are paths relative to where each import starts, ``pipelines/kernels/heat.py``.
    """
    return dict(sorted((_key(one.name, one.file), one.text) for one in modules))


def text_on_disk(name: str, file: Path) -> str:
    """Return the text of a module's file as Python reads it."""
    return _decoded(file.read_bytes())


def reached(
    study_file: Path, text_of: Callable[[str, Path], str] = text_on_disk
) -> Iterator[Module]:
    """Yield the study and each module of the user's that it reaches by import statements.

    Left out are the standard library, installed packages and `sweep`. Modules are found
    without importing them, so that the answer does not depend on what has run so far.
    `text_of` returns the text of a module by its name and its file.
    """
    root, own = module_name(study_file)
    found: set[str] = set()
    waiting = [own, *prefixes(own)]
    while waiting:
        name = waiting.pop()
        file = study_file if name == own else _own_file(name, own, root)
        if file is None or name in found or not file.is_file():
            continue
        found.add(name)
        text = text_of(name, file)
        yield Module(name, file, text)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += imported(text, package)


def _decoded(raw: bytes) -> str:
    """Return a file's text as Python reads it; what is not to be read stands as replaced."""
    try:
        return decode_source(raw)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        return raw.decode(errors="replace")


def _key(name: str, file: Path) -> str:
    return name.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")


def prefixes(name: str) -> list[str]:
    """Return the packages around a module: ``a`` and ``a.b`` of ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def imported(text: str, package: str) -> set[str]:
    """Return the modules that a file in `package` may import, and the packages around them.

    What ``from a import b`` takes may be a module or not, so ``a.b`` is among them.
    """
    names = set()
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names | {around for name in names for around in prefixes(name)}


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SystemError:  # of Python 3.11, where another thread parses too
        return _parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # then its text counts
        return ast.Module([ast.Expr(ast.Constant(text.encode()))], [])


def _base(node: ast.ImportFrom, package: str) -> str:
    """Return the module that ``from ... import`` names, relative ones resolved."""
    parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*parts, *([node.module] if node.module else [])])


def _own_file(name: str, own: str, root: Path) -> Path | None:
    """Return a module's file if it is the user's own: of the study's package or not installed."""
    first = name.partition(".")[0]
    if first == own.partition(".")[0]:
        place = root.joinpath(*name.split("."))
        return next((f for f in (place / "__init__.py", Path(f"{place}.py")) if f.is_file()), None)
    if first == "sweep" or first in sys.stdlib_module_names:
        return None
    spec = _find_spec(name)
    origin = spec.origin if spec is not None and spec.has_location else None
    if origin is None or not origin.endswith(".py"):
        return None
    return None if is_installed(Path(origin)) else Path(origin)


def is_installed(file: Path) -> bool:
    """Tell whether a file is of an installed package."""
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _find_spec(name: str) -> ModuleSpec | None:
    """Return where a module is, as `importlib.util.find_spec` but without importing parents."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded
    path = None
    if parent := name.rpartition(".")[0]:
        package = _find_spec(parent)
        if package is None or package.submodule_search_locations is None:
            return None
        path = list(package.submodule_search_locations)
    found = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def code_hash(source: Mapping[str, str]) -> str:
    """Return the SHA-256 of the syntax trees of some files, "" if there are none.

    Comments, docstrings and layout do not count.
    """
    digest = hashlib.sha256()
    for name, text in sorted(source.items()):
        digest.update(f"{name}\n".encode())
        for word in _words(_parsed(text)):
            digest.update(word.encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest() if source else ""


def _words(tree: ast.AST) -> Iterator[str]:
    """Yield a syntax tree as words, without places, docstrings and what is empty.

    `ast.dump` would do for one version of Python, but newer ones add fields that are empty in
    older code. Without recursion, because a sum of a thousand terms is a thousand levels deep.
    """
    waiting: list[Any] = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
            continue
        is_node = isinstance(value, ast.AST)
        parts = _fields(value) if is_node else [_part(v) for v in value if not _is_remark(v)]
        waiting += [")", *reversed(parts), f"({type(value).__name__}"]


def _fields(node: ast.AST) -> list[Any]:
    """Return names and contents of the fields that say something (`kind` is the u of u'...')."""
    fields = [(n, v) for n, v in ast.iter_fields(node) if v is not None and v != [] and n != "kind"]
    return [part for name, value in fields for part in (name, _part(value))]


def _part(value: Any) -> Any:
    return value if isinstance(value, (ast.AST, list)) else repr(value)


def _is_remark(statement: Any) -> bool:
    """Tell whether a statement is nothing but a text, as a docstring is."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
