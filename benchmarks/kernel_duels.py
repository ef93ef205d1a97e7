"""One of our kernels against one alternative: prepared, checked, timed in turn, and made a row."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from kernel_results import Check, Marks, Measured, Row
from kernel_yardsticks import NotThereError
from pairs import Timed, calls_to_fill, interleave, median_of, ratio_of

Run = Callable[[], np.ndarray]
Kernel = TypeVar("Kernel")


class NotYetError(NotThereError):
    """A kernel of ours that is not there."""

    def __init__(self) -> None:
        super().__init__("ours is not there yet")


class Prepared(NamedTuple):
    """One side, ready to run: its units of work in a run, and what is to be said of it.

    A run may go on from where the one before has left its arrays: only the first answer counts.
    """

    run: Run
    work: float
    note: str = ""


Prepare = Callable[[], Prepared]


@dataclass(frozen=True)
class Duel:
    """What meets what, and how the answers are compared.

    `unit` counts `scale` units of work in a second. `bound` names what `Limits.bound` derives, if
    anything. `same` is ours with the work of the other, where that does less of it.
    """

    case: str
    against: str
    unit: str
    marks: Marks
    ours: Prepare
    other: Prepare
    check: Callable[[np.ndarray, np.ndarray], Check]
    scale: float = 1e9
    bound: str = ""
    same: Prepare | None = None

    @property
    def name(self) -> str:
        """What it is called while it is fought, and what `--only` looks in."""
        return f"{self.case} against {self.against}"


class Effort(NamedTuple):
    """How much is measured: pairs, and seconds for each measurement at least."""

    pairs: int
    seconds: float


def there(kernel: Kernel | None) -> Kernel:
    """Return a kernel of ours, or refuse if there is none."""
    if kernel is None:
        raise NotYetError
    return kernel


def faster(candidates: dict[str, Prepare]) -> Prepared:
    """Return a fresh one of the kind that runs faster, which its note names."""
    seconds = {}
    for name, prepare in candidates.items():
        candidate = prepare()
        candidate.run()
        begun = time.perf_counter()
        candidate.run()
        seconds[name] = time.perf_counter() - begun
    name = min(seconds, key=seconds.__getitem__)
    return candidates[name]()._replace(note=name)


def fought(duel: Duel, effort: Effort) -> Row:
    """Measure a duel; the row says why if it cannot be."""
    print(duel.name, file=sys.stderr)
    row = Row(duel.case, duel.against, duel.unit, duel.scale, duel.bound, duel.marks, None)
    try:
        ours, mine = _ready(duel.ours)
        if duel.same:
            mine = _ready(duel.same)[1]
        other, others = _ready_if_it_can(duel.other)
    except NotThereError as error:
        return row._replace(why=str(error), is_ours_missing=isinstance(error, NotYetError))
    check = duel.check(mine, others)
    sides = [_timed(one, effort.seconds) for one in (ours, other)]
    pairs = interleave(sides[0], sides[1], effort.pairs)
    seconds = median_of(pairs)
    measured = Measured(ratio_of(pairs), 1 / seconds.ours, 1 / seconds.other, check)
    return row._replace(measured=measured, note=", ".join(filter(None, (ours.note, other.note))))


def _ready(prepare: Prepare) -> tuple[Prepared, np.ndarray]:
    """Return a side that has run once, so that it is compiled, and a copy of its answer."""
    prepared = prepare()
    return prepared, np.array(prepared.run())


def _ready_if_it_can(prepare: Prepare) -> tuple[Prepared, np.ndarray]:
    """Return the other side; what another package fails at does not end the comparison."""
    try:
        return _ready(prepare)
    except NotThereError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise NotThereError(f"failed: {type(error).__name__}: {said}") from error


def _timed(one: Prepared, seconds: float) -> Timed:
    return Timed(one.run, calls_to_fill(seconds, one.run), one.work)
