"""Processes that come to harm at a planned step of the commit protocol.

Nothing of the product knows of it: `install`, called by the campaign's study in the driver and
in every worker, wraps what `sweep.durable` asks of the operating system, and a few functions
above it. The campaign places an order, a file in ``orders/``; the first process that reaches
the ordered step moves it to ``claimed/``, takes down in ``faults.jsonl`` what it was at, and
kills itself, crashes, leaves, stops, or is refused by the disk.
"""

import ctypes
import errno
import importlib
import json
import os
import re
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_orders import (
    ENDS_WORKER,
    REFUSALS,
    STEPS,
    STOPS,
    WITHIN_POINT,
    Kind,
    Order,
    flights,
    may_hit,
    note_hit,
)

from sweep import drive, durable, options, running
from sweep.calls import Calls
from sweep.plan import Block, Grid
from sweep.store import BlockWriter, Store
from sweep.store.claims import Claim, Claims
from sweep.task import Computed, Evaluator

ORDERS = "SWEEP_FAULTS"  # the environment variable that names the round's folder
POISON = "SWEEP_POISON"  # and the one with "crash" or "hang" and the values of a point
BLOCK = (1, 4)  # points of a block: 15 is no multiple of 4, so some are smaller
BATCH_SECONDS = 0.2  # a few blocks, so that a kill costs a few
FOLD_SECONDS = 0.4  # so that folds happen while blocks are in flight
LEFT = 7  # exit code of a worker that leaves

_rename = Path.rename  # as it is before `install` wraps it


class Killer:
    """Watches one process for the ordered steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.block: int | None = None  # in flight in this process
        self.role = "driver"  # until it computes a block
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()  # held while a block ends or this process does

    def reach(self, operation: str, moment: str, path: str = "") -> None:
        """Come to harm if an order is for this step."""
        order = self.due(operation, moment, path)
        if order is not None:
            self.carry_out(order, path)

    def due(self, operation: str, moment: str, path: str = "") -> Order | None:
        """Return the order for this step, now claimed for this process; None if there is none."""
        for file in (self.folder / "orders").iterdir():
            order = Order.read(file.name)
            step = STEPS[order.step]
            if (step.operation, step.moment) != (operation, moment):
                continue
            if not re.search(step.path, path) or not self._may_be_hit(order.kind):
                continue
            self._passed[file.name] += 1
            if self._passed[file.name] > order.skips and self._claim(file.name):
                return order
        return None

    def _may_be_hit(self, kind: Kind) -> bool:
        if kind not in ENDS_WORKER:
            return True
        return self.block is not None and may_hit(self.folder, self.block, kind)

    def _claim(self, name: str) -> bool:
        try:
            _rename(self.folder / "orders" / name, self.folder / "claimed" / name)
        except FileNotFoundError:
            return False
        return True

    def carry_out(self, order: Order, path: str = "") -> None:
        """Take down what this process is at, and do to it what was ordered.

        Raises
        ------
        OSError
            Where it is the disk that refuses.
        """
        log_fault(self.folder, order, os.getpid(), self.role, self.block, path)
        if order.kind in STOPS:
            os.kill(os.getpid(), signal.SIGSTOP)  # the campaign lets it go on, or kills its driver
            return
        self.mark(None)
        if order.kind in REFUSALS:
            self.block = None
            operation = STEPS[order.step].operation
            raise _refusal(errno.ENOSPC if operation == "write" else errno.EIO)
        end_this_process(order.kind)

    def meet_point(self, kind: Kind) -> None:
        """Be at the point that crashes or hangs."""
        if self.block is None:  # a pilot's
            return
        order = Order(-1, WITHIN_POINT, kind, 0, 0)
        log_fault(self.folder, order, os.getpid(), self.role, self.block)
        if kind == Kind.POINT_HANGS:
            while True:
                time.sleep(60)
        self.mark(None)
        end_this_process(kind)

    # --- a block in flight ---------------------------------------------------------------

    def begin(self, block: Block) -> None:
        """Note that this process is at a block."""
        self.block, self.role = block.number, "worker"
        self.mark(block.number)
        order = self.due("instant", "after")
        if order is not None:
            threading.Thread(target=self._carry_out_soon, args=(order, block), daemon=True).start()

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

    def _carry_out_soon(self, order: Order, block: Block) -> None:
        time.sleep(order.delay_ms / 1000)
        with self._lock:
            if self.block == block.number:
                self.carry_out(order)
                return
        # The block was quicker. The order stands again, with less delay.
        again = order._replace(delay_ms=order.delay_ms // 2)
        claimed = self.folder / "claimed" / order.file_name
        _rename(claimed, self.folder / "orders" / again.file_name)


def end_this_process(kind: Kind) -> None:
    """End for real, in the way of this kind."""
    if kind in (Kind.WORKER_CRASHED, Kind.POINT_CRASHES):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)
    if kind == Kind.WORKER_LEFT:
        os._exit(LEFT)
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def log_fault(
    folder: Path, order: Order, pid: int, role: str, block: int | None, path: str = ""
) -> None:
    """Append a fault to the round's log, durably."""
    record = {
        "order": order.number,
        "kind": order.kind,
        "step": STEPS[order.step].name,
        "role": role,
        "pid": pid,
        "block": block,
        "flights": len(flights(folder)),
        "at": path.replace(f"{folder}/", ""),
        "time": time.time(),
    }
    if block is not None and order.kind in ENDS_WORKER:
        note_hit(folder, block, order.number)
    handle = os.open(folder / "faults.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
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
            written = os.write(handle, data[: len(data) // 2])
            self._killer.carry_out(order, path)
            return written
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
    run = importlib.import_module("sweep.run")
    _wrap(Claims, "take", lambda take: _watched_claim(killer, take))
    _wrap(Store, "update_run", lambda update: _watched_update(killer, update))
    _wrap(options, "make_engine", lambda make: _watched_engines(killer, make))
    _wrap(run, "choose_grid", lambda choose: lambda pipeline, *rest: _grid(pipeline))
    _wrap(running, "FOLD_SECONDS", lambda seconds: FOLD_SECONDS)
    _wrap(drive, "BATCH_SECONDS", lambda seconds: BATCH_SECONDS)
    if poison := os.environ.get(POISON):
        what, *values = poison.split()
        kind = Kind.POINT_HANGS if what == "hang" else Kind.POINT_CRASHES
        _wrap(Calls, "for_point", lambda call: _poisoned(killer, call, kind, values))


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


def _poisoned(
    killer: Killer, call: Callable[..., Any], kind: Kind, place: list[str]
) -> Callable[..., Any]:
    def called(calls: Calls, values: Any) -> Any:
        if [str(float(values[name])) for name in ("drive", "shake")] == place:
            killer.meet_point(kind)
        return call(calls, values)

    return called


def _watched_commit(killer: Killer, commit: Callable[..., None]) -> Callable[..., None]:
    def committed(writer: BlockWriter, block: Block, status: Any) -> None:
        commit(writer, block, status)
        killer.end()

    return committed


def _watched_claim(
    killer: Killer, take: Callable[..., Claim | None]
) -> Callable[..., Claim | None]:
    def taken(claims: Claims, block: Block, **how: Any) -> Claim | None:
        claim = take(claims, block, **how)
        if claim is not None:
            killer.reach("claim", "after")
        return claim

    return taken


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
