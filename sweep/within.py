"""No sweep within the import of a study, and none within a point of another sweep."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sweep.errors import StudyError

_at_work = threading.local()


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Say that this thread is at what no sweep may be run within."""
    before, _at_work.what = getattr(_at_work, "what", ""), what
    try:
        yield
    finally:
        _at_work.what = before


def refuse_within() -> None:
    """Refuse to run a sweep within the import of a study, or within a point of a sweep.

    Raises
    ------
    StudyError
        Each worker would start workers of its own, for ever; or wait for itself.
    """
    if what := getattr(_at_work, "what", ""):
        raise StudyError(
            f"A sweep was started {what}. In a study, put the call under if __name__ == "
            '"__main__": or in a file of its own; in a function of a pipeline, call the other '
            "function itself."
        )
