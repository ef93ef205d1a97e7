"""What a campaign can do to a sweep: kinds of faults, steps of the commit protocol, and orders.

An order is one fault: a kind at a step. It is a file in ``orders/`` of the round's folder, and
all of it stands in the file's name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

When = Literal["creation", "start", "first fold", "work", "end"]
Moment = Literal["before", "half", "after"]
OUTSIDE = "outside"  # the operation of a step that is at no place in the code


class Kind(StrEnum):
    """What goes wrong."""

    WORKER_KILLED = "worker killed (SIGKILL)"
    WORKER_CRASHED = "worker crashed (SIGSEGV)"
    WORKER_LEFT = "worker left (os._exit)"
    WORKER_DISK = "the disk refused a worker (ENOSPC, EIO)"
    WORKER_STILL = "worker stopped for a while"
    WORKER_LATE = "worker stopped until another driver had done its block"
    WORKER_ORPHANED = "worker stopped, then its driver killed"
    ALL_KILLED = "all workers killed at once"
    DRIVER_KILLED = "driver killed (SIGKILL)"
    DRIVER_DISK = "the disk refused the driver (ENOSPC, EIO)"
    INTERRUPTED = "driver interrupted once (SIGINT, SIGTERM)"
    DROPPED = "driver interrupted twice"
    SECOND = "second driver started"
    JOINED = "second driver joined"
    DAMAGED = "bytes of a committed chunk damaged"
    POINT_CRASHES = "point that crashes its worker whenever it is computed"
    POINT_HANGS = "point that hangs whenever it is computed"


REFUSALS = (Kind.WORKER_DISK, Kind.DRIVER_DISK)
STOPS = (Kind.WORKER_STILL, Kind.WORKER_LATE, Kind.WORKER_ORPHANED)
KILLS_DRIVER = (Kind.DRIVER_KILLED, Kind.WORKER_ORPHANED)
ENDS_WORKER = (
    Kind.WORKER_KILLED,
    Kind.WORKER_CRASHED,
    Kind.WORKER_LEFT,
    Kind.WORKER_DISK,
    Kind.WORKER_ORPHANED,
)


@dataclass(frozen=True)
class Step:
    """A step at which something can go wrong.

    Parameters
    ----------
    when
        Where it comes in the life of a store: while it is made ("creation"), when a driver takes
        its run number ("start"), at the first fold of the tables ("first fold"), while blocks
        are computed ("work"), or when all of them are committed ("end").
    operation, moment, path
        What the process is at: an operation on a path (for a rename ``new<old``) that matches.
    most_skips
        An order lets up to so many matches of a process pass, drawn at random.
    """

    name: str
    role: Literal["worker", "driver"]
    when: When
    operation: str
    moment: Moment
    path: str = ""
    most_skips: int = 0

    @property
    def can_be_refused(self) -> bool:
        """Whether it is something that is asked of the disk, which may refuse."""
        if self.operation == "write":
            return True
        return self.operation in ("fsync", "rename", "link") and self.moment == "before"


FIRST, MIDDLE, LAST = "reach", "turns", "run"  # of a block's arrays before status, in order
_OUTPUT = rf"\.zarr/({FIRST}|path|{MIDDLE}|point_seconds|{LAST})"
_STATUS = r"\.zarr/status"
_PARTIAL = r"/\.c\.[\d.]*[0-9a-f]{8}\.partial$"
_ROOT = r"\.zarr/zarr\.json<"


def _worker(name: str, operation: str, moment: Moment, path: str = "", skips: int = 1) -> Step:
    return Step(name, "worker", "work", operation, moment, path, skips)


def _driver(
    when: When, name: str, operation: str, moment: Moment, path: str = "", skips: int = 0
) -> Step:
    return Step(name, "driver", when, operation, moment, path, skips)


STEPS = (
    _worker("output: file half written", "write", "half", _OUTPUT + _PARTIAL, 6),
    _worker("output: written, before its fsync", "fsync", "before", _OUTPUT + _PARTIAL, 6),
    _worker("output: synced, before the rename", "rename", "before", rf"{_OUTPUT}/c\.", 6),
    _worker("output: the first renamed", "rename", "after", rf"\.zarr/{FIRST}/c\."),
    _worker("output: a middle one renamed", "rename", "after", rf"\.zarr/{MIDDLE}/c\."),
    _worker("output: the last renamed", "rename", "after", rf"\.zarr/{LAST}/c\."),
    _worker("output: before the sync of a folder", "fsync", "before", f"{_OUTPUT}$", 6),
    _worker("output: all folders synced", "fsync", "after", rf"\.zarr/{LAST}$"),
    _worker("journal: before the line", "write", "before", r"\.jsonl$"),
    _worker("journal: half a line written", "write", "half", r"\.jsonl$"),
    _worker("journal: line written, not synced", "fsync", "before", r"\.jsonl$"),
    _worker("journal: line synced", "fsync", "after", r"\.jsonl$"),
    _worker("status: file half written", "write", "half", _STATUS + _PARTIAL),
    _worker("status: synced, before the rename", "rename", "before", rf"{_STATUS}/c\."),
    _worker("status: renamed", "rename", "after", rf"{_STATUS}/c\."),
    _worker("status: folder synced", "fsync", "after", f"{_STATUS}$"),
    _worker("random instant of a block", "instant", "after"),
    _driver("creation", "creation: header half written", "write", "half", r"creating/.*header"),
    _driver(
        "creation", "creation: arrays half made", "rename", "after", r"creating/\w+/zarr\.json<", 7
    ),
    _driver("creation", "creation: before the rename", "rename", "before", r"\.zarr<.*creating$"),
    _driver("creation", "creation: renamed, not synced", "rename", "after", r"\.zarr<.*creating$"),
    _driver("start", "run number: half written", "write", "half", r"/runs/\.\d{4}\.json\."),
    _driver("start", "run number: before it is taken", "link", "before", r"/runs/\d{4}\.json<"),
    _driver("start", "run number: taken", "link", "after", r"/runs/\d{4}\.json<"),
    _driver("work", "a block claimed, not handed out", "claim", "after", "", 9),
    _driver("work", "right after submitting", "submit", "after", "", 5),
    _driver(
        "first fold",
        "first fold: tables half made",
        "rename",
        "after",
        r"\.zarr/(tasks|events)/\w+/zarr\.json<",
        24,
    ),
    _driver("work", "fold: rows half written", "fsync", "before", r"/(tasks|events)/\w+$", 30),
    _driver("work", "fold: runs half renewed", "fsync", "before", r"\.zarr/runs/\w+$", 12),
    _driver("work", "fold: before its state's rename", "rename", "before", r"/folds/\d+\.json<"),
    _driver("work", "fold: its state renamed", "rename", "after", r"/folds/\d+\.json<"),
    _driver("work", "fold: a group's metadata renamed", "rename", "after", r"/\w+s/zarr\.json<", 2),
    _driver("work", "root metadata: before the rename", "rename", "before", _ROOT),
    _driver("work", "root metadata: renamed", "rename", "after", _ROOT),
    _driver("work", "random instant, from outside", OUTSIDE, "after"),
    _driver("end", "all done, before the last fold", "end", "after"),
)
FROM_OUTSIDE = next(number for number, step in enumerate(STEPS) if step.operation == OUTSIDE)
WITHIN_POINT = next(number for number, step in enumerate(STEPS) if step.operation == "instant")

# How often a round of all orders holds each: every step of a worker 19 times, of which
_AT_WORKER_STEP = {
    Kind.WORKER_KILLED: 7,
    Kind.WORKER_CRASHED: 4,
    Kind.WORKER_LEFT: 3,
    Kind.WORKER_DISK: 2,  # where the disk is asked; killed where it is not
    Kind.WORKER_STILL: 3,
}
_AT_DRIVER_STEP = 3  # while blocks are computed; one of them refused by the disk, if it is asked
_FROM_OUTSIDE = {
    Kind.DRIVER_KILLED: 8,
    Kind.INTERRUPTED: 8,
    Kind.DROPPED: 6,
    Kind.ALL_KILLED: 14,
    Kind.SECOND: 6,
    Kind.JOINED: 6,
    Kind.DAMAGED: 16,
}
_AT_ANY_STEP = {Kind.WORKER_LATE: 7, Kind.WORKER_ORPHANED: 7}


class Order(NamedTuple):
    """One fault: a kind at a step, by its number in `STEPS`."""

    number: int
    step: int
    kind: Kind
    skips: int
    delay_ms: int

    @property
    def file_name(self) -> str:
        """The name that `read` understands."""
        kind = list(Kind).index(self.kind)
        return f"{self.number}.{self.step}.{kind}.{self.skips}.{self.delay_ms}"

    @classmethod
    def read(cls, file_name: str) -> "Order":
        """Return the order that a file stands for."""
        number, step, kind, skips, delay_ms = map(int, file_name.split("."))
        return cls(number, step, list(Kind)[kind], skips, delay_ms)


def drawn_orders(faults: int, rng: np.random.Generator, first: int = 0) -> list[Order]:
    """Return so many orders, numbered from `first`, in random order.

    They are spread evenly over the steps, and over the kinds as far as the steps allow.
    """
    table = list(_round_of_all(rng))
    stride = len(table) / faults
    places = ((np.arange(faults) + rng.random()) * stride).astype(int) % len(table)
    rng.shuffle(places)
    return [_drawn(first + i, *table[place], rng) for i, place in enumerate(places.tolist())]


def _drawn(number: int, step: int, kind: Kind, rng: np.random.Generator) -> Order:
    skips = int(rng.integers(STEPS[step].most_skips + 1))
    return Order(number, step, kind, skips, delay_ms=int(rng.integers(100)))


def _round_of_all(rng: np.random.Generator) -> Iterator[tuple[int, Kind]]:
    """Yield steps and kinds: step by step, the kinds of each in random order."""
    workers = [number for number, step in enumerate(STEPS) if step.role == "worker"]
    for number in workers:
        plain = Kind.WORKER_KILLED
        kinds = [kind for kind, count in _AT_WORKER_STEP.items() for _ in range(count)]
        if not STEPS[number].can_be_refused:
            kinds = [plain if kind == Kind.WORKER_DISK else kind for kind in kinds]
        rng.shuffle(kinds)
        yield from ((number, kind) for kind in kinds)
    for kind, count in _AT_ANY_STEP.items():
        yield from ((number, kind) for number in rng.permutation(workers)[:count].tolist())
    for number, step in enumerate(STEPS):
        if step.role == "driver" and number != FROM_OUTSIDE:
            count = _AT_DRIVER_STEP if step.when == "work" else 1
            yield from ((number, Kind.DRIVER_KILLED) for _ in range(count - 1))
            is_refused = step.can_be_refused and (step.when == "work" or rng.random() < 0.5)
            yield number, Kind.DRIVER_DISK if is_refused else Kind.DRIVER_KILLED
    for kind, count in _FROM_OUTSIDE.items():
        yield from ((FROM_OUTSIDE, kind) for _ in range(count))


# --- which blocks are hit ------------------------------------------------------------------


def may_hit(folder: Path, block: int, kind: Kind) -> bool:
    """Tell whether a block's worker may be ended by a fault of this kind.

    A point that is at work when two workers crash, or three are killed, is condemned, and rightly
    so. So a block is hit once; a second time by SIGKILL alone.
    """
    hits = sum(1 for _ in (folder / "hits").glob(f"{block}.*"))
    return not hits or (hits == 1 and kind == Kind.WORKER_KILLED)


def note_hit(folder: Path, block: int, order: int) -> None:
    """Take down that a block was hit."""
    (folder / "hits" / f"{block}.{order}").touch()


def spare(folder: Path, block: int) -> None:
    """Have a block never hit."""
    note_hit(folder, block, -1)
    note_hit(folder, block, -2)


def flights(folder: Path) -> dict[int, int]:
    """Return the blocks in flight by the numbers of the processes that are at them."""
    found = {}
    for mark in (folder / "flights").iterdir():
        text = _text_of(mark)
        if text and re.search(r"\) [^ZX]", _text_of(Path("/proc", mark.name, "stat"))):
            found[int(mark.name)] = int(text)
    return found


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just been removed
        return ""
