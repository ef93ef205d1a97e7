"""Answers that are remembered within a worker, up to a number of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

SMALL_BYTES = 1000  # what anything but an array is taken for


class Memo:
    """Answers of stages that are passed on and not stored.

    Arrays are copied and handed out read-only, because others get the same ones; what cannot
    be made so (a list, a dict, an object) is computed again each time.

    Parameters
    ----------
    most_bytes
        Above this the answers that were not asked for the longest are forgotten.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return what is remembered under `key`, else compute and remember it."""
        if key in self._answers:
            self._answers.move_to_end(key)
            return self._answers[key][0]
        answer = compute()
        kept = frozen(answer)
        if kept is None:
            return answer
        self._answers[key] = kept
        self._bytes += kept[1]
        while self._bytes > self._most and len(self._answers) > 1:
            _, (_, dropped) = self._answers.popitem(last=False)
            self._bytes -= dropped
        return kept[0]


def frozen(answer: Any) -> tuple[Any, int] | None:
    """Return a copy of an answer that nobody can change, and about how many bytes it takes.

    None if it holds anything but arrays, tuples, numbers and texts.
    """
    if isinstance(answer, np.ndarray) and answer.dtype.kind != "O":
        copy = answer.copy()
        copy.flags.writeable = False
        return copy, copy.nbytes
    if _is_tuple(answer):
        parts = [frozen(part) for part in answer]
        if None in parts:
            return None
        values, sizes = zip(*(part for part in parts if part), strict=True) if parts else ((), ())
        return _like(answer, values), sum(sizes)
    if answer is None or isinstance(answer, (bool, int, float, complex, str, bytes, np.generic)):
        return answer, SMALL_BYTES
    return None


def read_only(answer: Any) -> Any:
    """Return an answer with its arrays as views that cannot be written through."""
    if isinstance(answer, np.ndarray):
        view = answer.view()
        view.flags.writeable = False
        return view
    if _is_tuple(answer):
        return _like(answer, map(read_only, answer))
    return answer


def _is_tuple(answer: Any) -> bool:
    return type(answer) is tuple or (isinstance(answer, tuple) and hasattr(answer, "_fields"))


def _like(answer: Any, parts: Iterable[Any]) -> Any:
    return tuple(parts) if type(answer) is tuple else type(answer)(*parts)
