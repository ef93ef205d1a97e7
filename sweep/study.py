"""Study: a pipeline found by what a person types, the same way on the driver and every worker.

A study is a Python file with a `Pipeline` in it. It is imported once, from exactly the file
that was named, and again when its code has changed: what runs is what stands in the file. Its
folder is appended to ``sys.path``, so it never shadows what is installed; a file inside a
package goes by its dotted name, so that it is one module for everybody.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType, TracebackType

from sweep.definition import Pipeline
from sweep.errors import StudyError, SweepError, did_you_mean, text_of
from sweep.source import code_hash, module_name, reached, read_source

DEFAULT_NAME = "pipeline"

# The texts of each study as this process imported it, or met it for the first time.
_sources: dict[Path, Mapping[str, str]] = {}


@dataclass(frozen=True)
class Study:
    """A pipeline and where it stands: the variable `name` of `file`.

    `title` is the first line of the module's docstring and `summary` the rest; `source` holds
    the texts that this process imported: of the file, and of what it reaches.
    """

    pipeline: Pipeline
    file: Path
    name: str
    title: str
    summary: str
    source: Mapping[str, str] = field(repr=False)

    @property
    def reference(self) -> dict[str, str]:
        """Where the pipeline stands, and the hash of its code, JSON-able."""
        return {"file": str(self.file), "name": self.name, "code": code_hash(self.source)}


def load_study(reference: str) -> Study:
    """Import the study called `reference` and return it.

    Parameters
    ----------
    reference
        A file (``pipelines/heat_flow.py``), a module (``pipelines.heat_flow``), or either with
        the variable's name (``pipelines/heat_flow.py:coarse``).

    Raises
    ------
    StudyError
        If there is no such file or variable, or the file raises while it is imported, or it
        imports a module beside it and this process has another one of that name.
    DefinitionError
        If a definition in it makes no sense.
    """
    place, name = split_reference(reference)
    file = _find_file(place)
    module = load_module(file)
    return _study(module, file, name or _default_name(module, file))


def study_of(pipeline: Pipeline) -> Study | None:
    """Return the study whose pipeline `pipeline` is, or was made from by ``with_values``.

    Returns
    -------
    Study | None
        The module-level variable that agrees in all but axes and constants; None if there is
        none in an importable file: a pipeline of a notebook or a script is sent by value.

    Raises
    ------
    StudyError
        If its code has changed since this process met it.
    """
    places = list(_places_of(pipeline))
    places.sort(key=lambda place: getattr(*place) is not pipeline)
    for module, name in places:
        if (file := _file_of(module)) is not None:
            if _has_changed(file):
                raise StudyError(
                    f"{file} (or what it imports) has changed since it was imported here. Start "
                    f'Python again, or give the file: sweep.run("{file.name}:{name}", ...).'
                )
            return _study(module, file, name)
    return None


def _has_changed(file: Path) -> bool:
    """Tell whether a study has other code than when this process first met it."""
    now = read_source(file)
    return code_hash(_sources.setdefault(file, now)) != code_hash(now)


def _places_of(pipeline: Pipeline) -> Iterator[tuple[ModuleType, str]]:
    """Yield the modules and names of the variables that hold this pipeline, the best first.

    Where the functions are comes first; then the last imported, because a study is imported
    after the script that uses it.
    """
    own = {stage.function.__module__ for stage in pipeline.stages}
    modules = sorted(reversed(list(sys.modules.items())), key=lambda item: item[0] not in own)
    for _, module in modules:
        for name, value in list(getattr(module, "__dict__", {}).items()):
            found = type(value) is Pipeline and _same_but_for_values(value, pipeline)
            if found and module is not sys.modules["__main__"]:
                yield module, name


def _same_but_for_values(one: Pipeline, other: Pipeline) -> bool:
    return (one.stages, one.coords, one.needs, one.units, one.entropy) == (
        other.stages,
        other.coords,
        other.needs,
        other.units,
        other.entropy,
    )


def _study(module: ModuleType, file: Path, name: str) -> Study:
    pipeline = getattr(module, name, None)
    if not isinstance(pipeline, Pipeline):
        raise _no_pipeline(module, file, name)
    title, _, summary = inspect.cleandoc(module.__doc__ or "").partition("\n")
    return Study(pipeline, file, name, title, summary.strip(), _sources[file])


# --- from what is typed to a file --------------------------------------------------------


def split_reference(reference: str) -> tuple[str, str]:
    """Return the file or module, and the variable's name, "" if none is given."""
    place, colon, name = reference.rpartition(":")
    if not colon or "/" in name or Path(reference).is_file():
        return reference, ""
    if not name.isidentifier():
        raise StudyError(f"'{name}' in {reference} is no variable's name. Write {place}:pipeline.")
    return place, name


def _find_file(place: str) -> Path:
    if place.endswith(".py") or "/" in place or Path(place).exists():
        return _existing(Path(place).resolve(), place)
    return _module_file(place)


def _existing(file: Path, place: str) -> Path:
    """Return `file` if it is there and Python; say what is there otherwise."""
    if file.is_dir():
        raise StudyError(f"{place} is a folder. Name a file in it: {_listed(file)}.")
    if not file.is_file():
        raise StudyError(f"There is no file {place}. {_nearest(file)}")
    if file.suffix != ".py":
        raise StudyError(f"{place} is no Python file. A study is a .py file with a Pipeline in it.")
    return file


def _nearest(file: Path) -> str:
    """Return the end of a message about a missing file."""
    if not file.parent.is_dir():
        return f"There is no folder {file.parent} either."
    near = get_close_matches(file.name, [found.name for found in file.parent.glob("*.py")], n=1)
    return f"Did you mean {near[0]}?" if near else f"In its folder: {_listed(file.parent)}."


def _listed(folder: Path) -> str:
    names = sorted(file.name for file in folder.glob("*.py") if file.name != "__init__.py")
    return ", ".join(names) or "no Python files"


def _module_file(name: str) -> Path:
    """Return the file of a dotted module, seen from the working folder first."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise StudyError(f"'{name}' is neither a file nor a module. Write e.g. heat_flow.py.")
    here = Path(*name.split(".")).resolve()
    for file in (here.with_name(f"{here.name}.py"), here / "__init__.py"):
        if file.is_file():
            return file
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        where = _nearest(here.with_name(f"{here.name}.py"))
        raise StudyError(f"There is no module {name}, here or installed. {where}")
    return Path(str(spec.origin)).resolve()


# --- from a file to its module -----------------------------------------------------------


def load_module(file: Path) -> ModuleType:
    """Return the module of `file`, imported if it is not yet or if its code has changed."""
    found = module_at(file)
    if found is not None and not _has_changed(file):
        return found
    if found is not None:
        _forget(file, found)
    root, name = module_name(file)
    if str(root) not in sys.path:
        sys.path.append(str(root))
    source = read_source(file)
    try:
        is_packaged = (file.parent / "__init__.py").is_file()
        module = (_import_from_package if is_packaged else _import_loose)(root, name, file)
    except SweepError:
        raise
    except (Exception, SystemExit) as error:
        error.__traceback__ = _from_file(error.__traceback__, file)
        raise StudyError(_import_failure(file, error)) from error
    _sources[file] = source
    return module


def _forget(file: Path, module: ModuleType) -> None:
    """Let the next import of a study, and of what it reaches, read the files again."""
    for name in (module.__name__, *(name for name, _, _ in reached(file))):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def _refuse_strangers(file: Path, root: Path) -> None:
    """Refuse a study that would get another module than the one that lies beside it."""
    for name, there, _ in reached(file):
        parts = root.joinpath(*name.split("."))
        for beside in (parts / "__init__.py", parts.with_suffix(".py")):
            if beside.is_file() and beside.resolve() != there.resolve() != file:
                raise StudyError(
                    f"{file} imports {name}, which lies beside it, but this process has {there} by "
                    "that name. Rename one, or run the two studies in processes of their own."
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
        if there.endswith(file.name) and not is_script and _file_of(module) == file:
            return module
    return None


def _file_of(module: object) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) and file.endswith(".py") else None


def _import_from_package(root: Path, name: str, file: Path) -> ModuleType:
    """Import a file of a package by its dotted name, from the package that it stands in."""
    top = name.partition(".")[0]
    folder = root / top
    if top not in sys.modules and top not in sys.stdlib_module_names:
        _import_as(top, folder / "__init__.py")  # even if another one of that name is installed
    paths = getattr(sys.modules.get(top), "__path__", [])
    if not any(Path(path).resolve() == folder for path in paths):
        raise StudyError(
            f"{file} stands in the package '{top}', but Python has another one of that name"
            f"{''.join(f' in {path}' for path in list(paths)[:1])}. Rename the folder {folder}, or "
            "take its __init__.py away."
        )
    module = importlib.import_module(name)
    if _file_of(module) != file:
        raise StudyError(f"Importing {name} gave {module.__file__}, not {file}. Rename the file.")
    return module


def _import_loose(root: Path, name: str, file: Path) -> ModuleType:
    """Import a file outside of packages by its stem, or by a private name if that is taken."""
    _refuse_strangers(file, root)
    clean = re.sub(r"\W", "_", name)
    folder = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    names = (name, f"study_{clean}", f"study_{clean}_{folder}")
    return _import_as(next(one for one in names if _is_free(one, file)), file)


def _is_free(name: str, file: Path) -> bool:
    """Tell whether an ``import name`` would find nothing else than `file`."""
    if not name.isidentifier() or name in sys.modules or name in sys.stdlib_module_names:
        return False
    spec = importlib.util.find_spec(name)
    return spec is None or (spec.origin is not None and Path(spec.origin).resolve() == file)


def _import_as(name: str, file: Path) -> ModuleType:
    """Import `file` under a name of our choice, as ``import`` does it."""
    spec = importlib.util.spec_from_file_location(name, file)
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


# --- what went wrong ---------------------------------------------------------------------


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


def pipelines_in(module: ModuleType) -> list[str]:
    """Return the names of the variables of a module that hold a pipeline."""
    return [name for name, value in vars(module).items() if isinstance(value, Pipeline)]


def _default_name(module: ModuleType, file: Path) -> str:
    """Return ``pipeline``, or the only other name that a pipeline goes by."""
    names = pipelines_in(module)
    if DEFAULT_NAME in names or not names:
        return DEFAULT_NAME
    if len(names) == 1:
        return names[0]
    several = " or ".join(f"{file.name}:{name}" for name in names)
    raise StudyError(f"{file} holds {len(names)} pipelines. Say which: {several}.")


def _no_pipeline(module: ModuleType, file: Path, name: str) -> StudyError:
    names = pipelines_in(module)
    if hasattr(module, name):
        kind = type(getattr(module, name)).__name__
        wrong = f"'{name}' in {file} is no Pipeline but of type {kind}."
    else:
        wrong = f"{file} has no variable '{name}'."
    if not names:
        return StudyError(f"{wrong} Add to it: {name} = Pipeline(function, axes=[...]).")
    return StudyError(f"{wrong} {did_you_mean(name, names)}")
