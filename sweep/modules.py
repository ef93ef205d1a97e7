"""A file of the user's -> its module: from the text that is on record, and from no other.

Python keeps compiled modules and tells by the second and the size whether they are still those
of the file; a study edited twice in a second would run as it was. What is imported here is
compiled from the very text that a run's record holds.
"""

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, TracebackType

from sweep.definition import Pipeline
from sweep.errors import StudyError, SweepError, text_of
from sweep.source import Source, code_hash, module_name, reached, read_source, text_on_disk
from sweep.within import at_work

# The texts of each study as this process imported it, or met it for the first time, and when.
_sources: dict[Path, tuple[Source, float]] = {}
Texts = Mapping[str, tuple[Path, str]]  # dotted name -> file and text

_replaced: list[ModuleType] = []  # by newer ones of the same file


class _TextLoader(SourceFileLoader):
    """Makes a module of a text instead of what its file holds by then."""

    def __init__(self, name: str, file: Path, text: str) -> None:
        super().__init__(name, str(file))
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        """Return the text, compiled."""
        code: CodeType = self.source_to_code(self._text, self.path)
        return code

    def get_source(self, fullname: str) -> str:
        """Return the text."""
        return self._text


class _TextFinder(MetaPathFinder):
    """Finds modules by their dotted names: those that a study reaches, while it is imported."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where the module is; None if no study reaches it."""
        return _spec(fullname, *self.texts[fullname]) if fullname in self.texts else None


def _spec(name: str, file: Path, text: str) -> ModuleSpec | None:
    return importlib.util.spec_from_file_location(name, file, loader=_TextLoader(name, file, text))


def load_module(file: Path) -> ModuleType:
    """Return the module of `file`, imported if it is not yet or if its code has changed.

    Raises
    ------
    StudyError
        If the file raises while it is imported, or it imports a module beside it and this
        process has another one of that name.
    DefinitionError
        If a definition in it makes no sense.
    """
    found = module_at(file)
    if found is not None:
        if not has_changed(file, _made(found)):
            return found
        _forget(file, found)
    root, name = module_name(file)
    if str(root) not in sys.path:
        sys.path.append(str(root))
    modules = list(reached(file))
    texts = {one.name: (one.file, one.text) for one in modules}
    is_packaged = (file.parent / "__init__.py").is_file()
    own = texts[name] if is_packaged else texts.pop(name)  # which may go by another name
    finder = _TextFinder(texts)
    sys.meta_path.insert(0, finder)
    try:
        with at_work(f"while {file} was imported"):
            if is_packaged:
                module = _import_from_package(root, name, file, texts)
            else:
                module = _import_loose(root, name, *own)
    except SweepError:
        raise
    except (Exception, SystemExit) as error:
        error.__traceback__ = _from_file(error.__traceback__, file)
        raise StudyError(_import_failure(file, error)) from error
    finally:
        sys.meta_path.remove(finder)
    _sources[file] = read_source(modules), time.time()
    return module


def has_changed(file: Path, made: float) -> bool:
    """Tell whether a study has other code than this process imported.

    `made` [s since 1970] is when its pipeline was made. Of a study that somebody else imported,
    perhaps again, that its files are older than that has to do.
    """
    modules, now = list(reached(file)), time.time()
    if file not in _sources or made > _sources[file][1]:
        if any(made < one.file.stat().st_mtime <= now for one in modules):
            return True
        _sources[file] = read_source(modules), now
    return code_hash(_sources[file][0]) != code_hash(read_source(modules))


def met(file: Path) -> Source:
    """Return the texts of a script, and of what it reaches, as this process met them first."""
    return _sources.setdefault(file, (read_source(reached(file)), time.time()))[0]


def source_of(file: Path) -> Source:
    """Return the texts of a study that was imported here, and of what it reaches."""
    return _sources[file][0]


def is_of_study(namespace: Mapping[str, object]) -> bool:
    """Tell whether a module with these globals was imported as a part of a study."""
    return isinstance(namespace.get("__loader__"), _TextLoader)


def texts_behind(function: FunctionType) -> Source:
    """Return the texts of a function's module and of what that reaches, as they were imported.

    Of modules that are not imported yet, and of those that Python itself has imported, they are
    those on disk.
    """
    own = Path(function.__code__.co_filename).absolute()

    def text_of(name: str, file: Path) -> str:
        loader = function.__globals__.get("__loader__") if file == own else _loader(name)
        if isinstance(loader, _TextLoader):
            return loader.get_source(name)
        return text_on_disk(name, file)

    return read_source(reached(own, text_of))


def _loader(name: str) -> object:
    """Return what has imported a module, or will."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__loader__", None)
    found = (f.find_spec(name, None) for f in sys.meta_path if isinstance(f, _TextFinder))
    return next((spec.loader for spec in found if spec), None)


def replaced_modules() -> list[ModuleType]:
    """Return the modules in whose place newer ones of the same file were imported."""
    return _replaced


def _made(module: ModuleType) -> float:
    """Return when the first pipeline of a module was made; now if there is none."""
    return min((p.made for p in vars(module).values() if type(p) is Pipeline), default=time.time())


def _forget(file: Path, module: ModuleType) -> None:
    """Let the next import of a study, and of what it reaches, read the files again."""
    _replaced.append(module)
    for name in (module.__name__, *(one.name for one in reached(file))):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def _refuse_strangers(file: Path, root: Path) -> None:
    """Refuse a study that would get another module than the one that lies beside it."""
    for one in reached(file):
        parts = root.joinpath(*one.name.split("."))
        for beside in (parts / "__init__.py", parts.with_suffix(".py")):
            if beside.is_file() and beside.resolve() != one.file.resolve() != file:
                raise StudyError(
                    f"{file} imports {one.name}, which lies beside it, but this process has "
                    f"{one.file} by that name. Rename one, or run the two studies in processes of "
                    "their own."
                )


def _from_file(trace: TracebackType | None, file: Path) -> TracebackType | None:
    """Return a traceback without what comes before a file's own lines."""
    while trace and trace.tb_frame.f_code.co_filename != str(file):
        trace = trace.tb_next
    return trace


def module_at(file: Path) -> ModuleType | None:
    """Return the module that was imported from `file`; None if it was not."""
    for module in list(sys.modules.values()):
        # Comparing the last part first leaves few files to look up on the disk.
        there = getattr(module, "__file__", None) or ""
        is_script = module is sys.modules["__main__"]
        if there.endswith(file.name) and not is_script and file_of(module) == file:
            return module
    return None


def file_of(module: object) -> Path | None:
    """Return the Python file that a module was imported from, if any."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) and file.endswith(".py") else None


def _import_from_package(root: Path, name: str, file: Path, texts: Texts) -> ModuleType:
    """Import a file of a package by its dotted name, from the package that it stands in."""
    top = name.partition(".")[0]
    folder = root / top
    if top not in sys.modules and top not in sys.stdlib_module_names:
        _import_as(top, *texts[top])  # even if another one of that name is installed
    paths = getattr(sys.modules.get(top), "__path__", [])
    if not any(Path(path).resolve() == folder for path in paths):
        raise StudyError(
            f"{file} stands in the package '{top}', but Python has another one of that name"
            f"{''.join(f' in {path}' for path in list(paths)[:1])}. Rename the folder {folder}, or "
            "take its __init__.py away."
        )
    module = importlib.import_module(name)
    if file_of(module) != file:
        raise StudyError(f"Importing {name} gave {module.__file__}, not {file}. Rename the file.")
    return module


def _import_loose(root: Path, name: str, file: Path, text: str) -> ModuleType:
    """Import a file outside of packages by its stem, or by a private name if that is taken."""
    _refuse_strangers(file, root)
    clean = re.sub(r"\W", "_", name)
    folder = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    names = (name, f"study_{clean}", f"study_{clean}_{folder}")
    return _import_as(next(one for one in names if _is_free(one, file)), file, text)


def _is_free(name: str, file: Path) -> bool:
    """Tell whether an ``import name`` would find nothing else than `file`."""
    if not name.isidentifier() or name in sys.modules or name in sys.stdlib_module_names:
        return False
    spec = importlib.util.find_spec(name)
    return spec is None or (spec.origin is not None and Path(spec.origin).resolve() == file)


def _import_as(name: str, file: Path, text: str) -> ModuleType:
    """Import a text under a name of our choice, as ``import`` imports its file."""
    spec = _spec(name, file, text)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return sys.modules[name]


def _import_failure(file: Path, error: BaseException) -> str:
    """Return what a file raised, and the last line of it that was running."""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
        return f"{where} is not Python: {error.msg}."
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    where = f"{file}, line {lines[-1]}" if lines else str(file)
    text = f"{where}, raised {type(error).__name__} while it was imported: {text_of(error)}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        text += f". Install {missing} for {sys.executable}, or mend the import."
    return text
