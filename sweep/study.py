"""Study: a pipeline found by what a person types, the same way on the driver and every worker.

A study is a Python file with a `Pipeline` in it. It is imported once, from exactly the file
that was named, and again when its code has changed: what runs is what stands in the file. Its
folder is appended to ``sys.path``, so it never shadows what is installed; a file inside a
package goes by its dotted name, so that it is one module for everybody.
"""

import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from sweep.definition import Pipeline
from sweep.errors import StudyError, did_you_mean, short_path
from sweep.modules import (
    file_of,
    has_changed,
    load_module,
    met,
    replaced_modules,
    source_of,
)
from sweep.source import Source, code_hash, reached, read_source

DEFAULT_NAME = "pipeline"


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
    places = list(_places_of(pipeline, list(sys.modules.values())))
    places.sort(key=lambda place: getattr(*place) is not pipeline)
    for module, name in places:
        if (file := file_of(module)) is not None:
            if has_changed(file, getattr(module, name).made):
                raise _changed(file, name)
            return _study(module, file, name)
    for module, name in _places_of(pipeline, replaced_modules()):
        if (file := file_of(module)) is not None:
            raise _changed(file, name)
    return None


def script_of(pipeline: Pipeline) -> tuple[Path | None, Source]:
    """Return the script that made a pipeline which no study holds, and the texts of its code.

    In a notebook there is no file, and the texts are those of the functions, by their names.

    Raises
    ------
    StudyError
        If a module that the script reaches has changed since this process met it.
    """
    file = file_of(sys.modules.get(pipeline.stages[-1].function.__module__))
    if file is not None and file.is_file():
        source = met(file)
        if helpers_hash(file, read_source(reached(file))) != helpers_hash(file, source):
            raise StudyError(
                f"A module that {file} imports has changed since it was imported here. Start "
                "Python again."
            )
        return file, source
    texts = {}
    for stage in pipeline.stages:
        with suppress(OSError, TypeError):  # typed at a prompt
            texts[stage.name] = inspect.getsource(stage.function)
    return None, texts


def helpers_hash(script: Path, source: Source) -> str:
    """Return the hash of the code that a script reaches, without its own."""
    own = f"{script.stem}.py"
    return code_hash({name: text for name, text in source.items() if name != own})


def _changed(file: Path, name: str) -> StudyError:
    return StudyError(
        f"{file} (or what it imports) has changed since it was imported here. Start Python again, "
        f'or give the file: sweep.run("{short_path(file)}:{name}", ...).'
    )


def _places_of(pipeline: Pipeline, modules: list[ModuleType]) -> Iterator[tuple[ModuleType, str]]:
    """Yield the modules and names of the variables that hold this pipeline, the best first.

    Where the functions are comes first; then the last imported, because a study is imported
    after the script that uses it.
    """
    own = {stage.function.__module__ for stage in pipeline.stages}
    modules = sorted(reversed(modules), key=lambda one: getattr(one, "__name__", "") not in own)
    for module in modules:
        for name, value in list(getattr(module, "__dict__", {}).items()):
            found = type(value) is Pipeline and _same_but_for_values(value, pipeline)
            if found and module is not sys.modules["__main__"]:
                yield module, name


def _same_but_for_values(one: Pipeline, other: Pipeline) -> bool:
    return (one.stages, one.coords, one.declared_needs, one.units, one.entropy) == (
        other.stages,
        other.coords,
        other.declared_needs,
        other.units,
        other.entropy,
    )


def _study(module: ModuleType, file: Path, name: str) -> Study:
    pipeline = getattr(module, name, None)
    if not isinstance(pipeline, Pipeline):
        raise _no_pipeline(module, file, name)
    title, _, summary = inspect.cleandoc(module.__doc__ or "").partition("\n")
    return Study(pipeline, file, name, title, summary.strip(), source_of(file))


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


# --- which variable of the module -----------------------------------------------------------


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
