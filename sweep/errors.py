"""What can go wrong, named by what failed.

A point that fails is an outcome and never an exception of ours; these are for the mistakes
that a person can make and mend. The text of each says what is wrong with the value seen,
where, and what to do.
"""

import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class SweepError(Exception):
    """The base of all errors that this package raises for a person to read."""


class DefinitionError(SweepError):
    """A pipeline, or a value given to one, makes no sense."""


class OutputError(SweepError):
    """A stage returned something else than it declares; the point fails with this."""


class Timeout(SweepError):
    """A point took longer than it may; it fails with this."""


class StudyError(SweepError):
    """A pipeline's file cannot be found or imported."""


class StoreError(SweepError):
    """A store is missing, damaged, cannot be written or is of another format."""


class StoreMismatch(StoreError):
    """A store holds another sweep than the one asked for."""


class StoreBusy(StoreError):
    """Another driver is at work on a store."""


class EngineError(SweepError):
    """An engine could not be started or was lost."""


class EngineLost(EngineError):
    """An engine that ran is gone, or blocks lost their workers again and again."""


class SiteError(SweepError):
    """A site file is missing, or holds what SLURM or we cannot take."""


class SubmitError(SweepError):
    """A sweep cannot be made into jobs of a site, or the jobs not be submitted."""


class DiskError(SweepError):
    """The disk refused: it is full, cannot be written, or failed."""


class Dropped(BaseException):
    """A person asked for the second time to end: what is being computed is dropped."""


class WorkerError(SweepError):
    """A worker could not do its part: import the study, say."""

    def __init__(self, kind: str, text: str, trace: str) -> None:
        super().__init__(f"A worker could not go on: {kind}: {text}")
        self.kind = kind
        self.trace = trace


def raised_error(kind: str, text: str, trace: str) -> SweepError:
    """Return the error that a worker raised: as it was if it is for a person to read.

    What it says of a study stands in the text; a trace would add lines of ours alone.
    """
    for told in (DiskError, StoreError, StoreMismatch):
        if kind == told.__name__:
            return told(text)
    is_told = kind in (StudyError.__name__, DefinitionError.__name__)
    return WorkerError(kind, text, "" if is_told else trace)


def disk_error(error: OSError, what: str, remedy: str) -> DiskError:
    """Return what to say when the disk refuses: what cannot be done, why, with which file."""
    file = error.filename2 or error.filename
    path = Path(os.fsdecode(file)) if isinstance(file, (str, bytes)) else None
    if path and path.suffix == ".partial":  # under a name that says nothing to anybody
        path = path.parent
    where = f" ({path})" if path else ""
    return DiskError(f"{what}: {error.strerror or error}{where}. {remedy}")


@contextmanager
def writing(store: str | Path) -> Iterator[None]:
    """Tell what the disk refuses while something is written to a store.

    Raises
    ------
    DiskError
        In the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(
            error,
            f"{short_path(Path(store))} cannot be written",
            f"What is committed is kept. Mend that, then: {resume_command(store)}",
        ) from error


def short_path(path: Path) -> str:
    """Return a path as one would type it here."""
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return str(path)
    text = str(path.relative_to(here) if path.is_relative_to(here) else path)
    return f"./{text}" if text.startswith("-") else text  # else it would be read as an option


def resume_command(store: str | Path) -> str:
    """Return what to type to go on with a store."""
    return f"sweep resume {shlex.quote(short_path(Path(store)))}"


def text_of(error: BaseException) -> str:
    """Return the text of anybody's exception, as what can be written to a file."""
    try:
        text = str(error)
    except Exception as second:
        text = f"(its text cannot be had: {type(second).__name__})"
    return text.encode(errors="replace").decode()


def counted(count: int, noun: str) -> str:
    """Return "1 block" or "2 blocks", "1 process" or "2 processes"."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending * (count != 1)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known one, or all."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(names)}." if names else "There are none."
