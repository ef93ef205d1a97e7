"""Answers that are remembered within a worker, up to a number of bytes."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

SMALL_BYTES = 1000  # what anything but an array is taken for


class Memo:
    """Answers of stages that are passed on and not stored.

    Arrays are handed out read-only, because others get the same ones; what cannot be made so
    (a list, a dict, an object) is computed again each time.

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
        size = _freeze(answer)
        if size is None:
            return answer
        self._answers[key] = (answer, size)
        self._bytes += size
        while self._bytes > self._most and len(self._answers) > 1:
            _, (_, dropped) = self._answers.popitem(last=False)
            self._bytes -= dropped
        return answer


def _freeze(answer: Any) -> int | None:
    """Make the arrays in an answer read-only; return about how many bytes it takes.

    None if it holds anything else that a later stage could change: that is not remembered.
    """
    if isinstance(answer, np.ndarray) and answer.dtype.kind != "O":
        answer.flags.writeable = False
        return answer.nbytes
    if isinstance(answer, tuple):
        sizes = [_freeze(part) for part in answer]
        return None if None in sizes else sum(size for size in sizes if size)
    if answer is None or isinstance(answer, (bool, int, float, complex, str, bytes, np.generic)):
        return SMALL_BYTES
    return None
