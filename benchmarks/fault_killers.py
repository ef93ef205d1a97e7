"""Processes that kill themselves at a planned step of the commit protocol.

Nothing of the product knows of it: `install`, called by the campaign's study in the driver and
in every worker, wraps what `sweep.durable` asks of the operating system, and a few functions
above it. The campaign places an order, a file in ``orders/``; the first process that reaches
the ordered step moves it to ``claimed/``, takes down in ``kills.jsonl`` what it was at, and
kills itself (SIGKILL).
"""

import importlib
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sweep import durable
from sweep.plan import Block, Grid
from sweep.store import BlockWriter, Store
from sweep.task import Computed, Evaluator

ORDERS = "SWEEP_FAULTS"  # the environment variable that names the campaign's folder
BLOCK = (1, 4)  # points of a block: 15 is no multiple of 4, so some are smaller
BATCH_SECONDS = 0.2  # a few blocks, so that a kill costs a few
FOLD_SECONDS = 0.4  # so that folds happen while blocks are in flight

When = Literal["creation", "start", "first fold", "work", "end"]
Moment = Literal["before", "half", "after"]
ROOT = r"\.zarr/zarr\.json<"

_rename = Path.rename  # as it is before `install` wraps it


@dataclass(frozen=True)
class Step:
    """A step at which a process can be killed.

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


FIRST, MIDDLE, LAST = "reach", "turns", "run"  # of a block's arrays before status, in order
_OUTPUT = rf"\.zarr/({FIRST}|path|{MIDDLE}|point_seconds|{LAST})"
_STATUS = r"\.zarr/status"
_PARTIAL = r"/\.c\.[\d.]*[0-9a-f]{8}\.partial$"


def _worker(name: str, operation: str, moment: Moment, path: str = "", skips: int = 3) -> Step:
    return Step(f"worker, {name}", "worker", "work", operation, moment, path, skips)


def _driver(
    when: When,
    name: str,
    operation: str,
    moment: Moment,
    path: str = "",
    skips: int = 0,
) -> Step:
    return Step(f"driver, {name}", "driver", when, operation, moment, path, skips)


STEPS = (
    _worker("output: file half written", "write", "half", _OUTPUT + _PARTIAL, 9),
    _worker("output: written, before its fsync", "fsync", "before", _OUTPUT + _PARTIAL, 9),
    _worker("output: synced, before the rename", "rename", "before", rf"{_OUTPUT}/c\.", 9),
    _worker("output: the first renamed", "rename", "after", rf"\.zarr/{FIRST}/c\."),
    _worker("output: a middle one renamed", "rename", "after", rf"\.zarr/{MIDDLE}/c\."),
    _worker("output: the last renamed", "rename", "after", rf"\.zarr/{LAST}/c\."),
    _worker("output: before the sync of a folder", "fsync", "before", f"{_OUTPUT}$", 9),
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
    _driver("work", "right after submitting", "submit", "after", "", 5),
    _driver(
        "first fold",
        "fold: tables half made",
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
    _driver("work", "root metadata: before the rename", "rename", "before", ROOT),
    _driver("work", "root metadata: renamed", "rename", "after", ROOT),
    _driver("work", "random instant, from outside", "outside", "after"),
    _driver("end", "all done, before the last fold", "end", "after"),
)


class Order(NamedTuple):
    """What a file in ``orders/`` asks for; all of it stands in the file's name."""

    number: int
    step: int
    skips: int
    delay_ms: int

    @property
    def file_name(self) -> str:
        """The name that `read` understands."""
        return ".".join(map(str, self))

    @classmethod
    def read(cls, file_name: str) -> "Order":
        """Return the order that a file stands for."""
        return cls(*map(int, file_name.split(".")))


class Killer:
    """Watches one process for the ordered steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.block: int | None = None  # in flight in this process
        self.role = "driver"  # until it computes a block
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()  # held while a block ends or this process does

    def reach(self, operation: str, moment: str, path: str = "") -> None:
        """Die if an order is for this step."""
        order = self.due(operation, moment, path)
        if order is not None:
            self.die(order, path)

    def due(self, operation: str, moment: str, path: str = "") -> Order | None:
        """Return the order for this step, now claimed for this process; None if there is none."""
        for file in (self.folder / "orders").iterdir():
            order = Order.read(file.name)
            step = STEPS[order.step]
            if (step.operation, step.moment) != (operation, moment):
                continue
            if not re.search(step.path, path):
                continue
            self._passed[file.name] += 1
            if self._passed[file.name] > order.skips and self._claim(file.name):
                return order
        return None

    def _claim(self, name: str) -> bool:
        try:
            _rename(self.folder / "orders" / name, self.folder / "claimed" / name)
        except FileNotFoundError:
            return False
        return True

    def die(self, order: Order, path: str = "") -> None:
        """Take down what this process is at, and kill it."""
        log_kill(self.folder, order, os.getpid(), self.role, self.block, path)
        self.mark(None)
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    # --- a block in flight ---------------------------------------------------------------

    def begin(self, block: Block) -> None:
        """Note that this process is at a block."""
        self.block, self.role = block.number, "worker"
        self.mark(block.number)
        order = self.due("instant", "after")
        if order is not None:
            threading.Thread(target=self._die_soon, args=(order, block), daemon=True).start()

    def end(self) -> None:
        """Note that the block is committed."""
        with self._lock:
            self.block = None
            self.mark(None)

    def mark(self, block: int | None) -> None:
        """Show the campaign whether a block is in flight here."""
        mark = self.folder / "flights" / str(os.getpid())
        if block is None:
            mark.unlink(missing_ok=True)
        else:
            mark.write_text(str(block))

    def _die_soon(self, order: Order, block: Block) -> None:
        time.sleep(order.delay_ms / 1000)
        with self._lock:
            if self.block == block.number:
                self.die(order)
        # The block was quicker. The order stands again, with less delay.
        again = order._replace(delay_ms=order.delay_ms // 2)
        claimed = self.folder / "claimed" / order.file_name
        _rename(claimed, self.folder / "orders" / again.file_name)


def log_kill(
    folder: Path, order: Order, pid: int, role: str, block: int | None, path: str = ""
) -> None:
    """Append a kill to the campaign's log, durably."""
    record = {
        "order": order.number,
        "step": STEPS[order.step].name,
        "role": role,
        "pid": pid,
        "block": block,
        "flights": sum(1 for _ in (folder / "flights").iterdir()),
        "at": path.replace(f"{folder}/", ""),
        "time": time.time(),
    }
    handle = os.open(folder / "kills.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    os.write(handle, json.dumps(record).encode() + b"\n")
    os.fsync(handle)
    os.close(handle)


# --- where the killer is put in ----------------------------------------------------------


class WatchedOs:
    """The module `os` as `sweep.durable` sees it: writes and syncs pass by the killer."""

    def __init__(self, killer: Killer) -> None:
        self._killer = killer
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        """Open a file and remember its path."""
        handle = os.open(path, flags, mode)
        self._paths[handle] = str(path)
        return handle

    def write(self, handle: int, data: memoryview) -> int:
        """Write, or only half of it."""
        path = self._paths[handle]
        self._killer.reach("write", "before", path)
        order = self._killer.due("write", "half", path)
        if order is not None:
            os.write(handle, data[: len(data) // 2])
            self._killer.die(order, path)
        return os.write(handle, data)

    def fsync(self, handle: int) -> None:
        """Sync."""
        path = self._paths[handle]
        self._killer.reach("fsync", "before", path)
        os.fsync(handle)
        self._killer.reach("fsync", "after", path)


def install(folder: Path) -> None:
    """Put a killer into this process."""
    killer = Killer(folder)
    _wrap(durable, "os", lambda module: WatchedOs(killer))
    _wrap(Path, "replace", lambda move: _watched_move(killer, move))
    _wrap(Path, "rename", lambda move: _watched_move(killer, move))
    _wrap(Path, "hardlink_to", lambda link: _watched_link(killer, link))
    _wrap(Evaluator, "compute", lambda compute: _watched_compute(killer, compute))
    _wrap(BlockWriter, "commit", lambda commit: _watched_commit(killer, commit))
    # `sweep.run` is also the name of a function, which hides the module.
    run, drive = importlib.import_module("sweep.run"), importlib.import_module("sweep.drive")
    _wrap(Store, "update_run", lambda update: _watched_update(killer, update))
    _wrap(run, "make_engine", lambda make: _watched_engines(killer, make))
    _wrap(run, "choose_grid", lambda choose: lambda pipeline, *rest: _grid(pipeline))
    _wrap(run, "FOLD_SECONDS", lambda seconds: FOLD_SECONDS)
    _wrap(drive, "BATCH_SECONDS", lambda seconds: BATCH_SECONDS)


def _wrap(owner: Any, name: str, wrapped: Callable[[Any], Any]) -> None:
    setattr(owner, name, wrapped(getattr(owner, name)))


def _grid(pipeline: Any) -> Grid:
    return Grid(tuple(pipeline.dims.values()), BLOCK)


def _watched_move(killer: Killer, move: Callable[[Path, Path], Path]) -> Callable[..., Path]:
    def moved(path: Path, target: Path) -> Path:
        where = f"{target}<{path}"
        killer.reach("rename", "before", where)
        found = move(path, target)
        killer.reach("rename", "after", where)
        return found

    return moved


def _watched_link(killer: Killer, link: Callable[[Path, Path], None]) -> Callable[..., None]:
    def linked(path: Path, target: Path) -> None:
        where = f"{path}<{target}"
        killer.reach("link", "before", where)
        link(path, target)
        killer.reach("link", "after", where)

    return linked


def _watched_compute(killer: Killer, compute: Callable[..., Computed]) -> Callable[..., Computed]:
    def computed(evaluator: Evaluator, block: Block, *how: Any) -> Computed:
        killer.begin(block)
        return compute(evaluator, block, *how)

    return computed


def _watched_commit(killer: Killer, commit: Callable[..., None]) -> Callable[..., None]:
    def committed(writer: BlockWriter, block: Block, status: Any) -> None:
        commit(writer, block, status)
        killer.end()

    return committed


def _watched_update(killer: Killer, update: Callable[..., None]) -> Callable[..., None]:
    def updated(store: Store, number: int, record: Any) -> None:
        update(store, number, record)
        if record["state"] == "complete":
            killer.reach("end", "after")

    return updated


def _watched_engines(killer: Killer, make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*arguments: Any, **options: Any) -> Any:
        engine = make(*arguments, **options)
        submit = engine.submit

        def submitted(function: str, arguments: Any) -> int:
            ticket: int = submit(function, arguments)
            if function == "sweep.worker:run_batch":
                killer.reach("submit", "after")
            return ticket

        engine.submit = submitted
        return engine

    return made
