"""What must hold of a complete store, whatever happened while it was made."""

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from sweep.journal import Record, decode_line, journals
from sweep.plan import Block
from sweep.store import Store
from sweep.store.chunks import checksum_of, chunk_name
from sweep.template import DONE, FAILED
from sweep.verify import verify

TIMED = ("run", "point_seconds")  # arrays that differ between two computations of a block
OUTPUTS = {"reach": 0, "path": 1, "turns": 0, "point_seconds": 0, "run": 0}  # to inner dims


@dataclass(frozen=True)
class Poison:
    """A point that crashes its worker, or hangs, whenever it is computed."""

    what: str  # "crash" or "hang"
    place: tuple[int, int]
    block: int

    @property
    def reason(self) -> str:
        """The type of the error that it has to fail with."""
        return "Timeout" if self.what == "hang" else "WorkerDied"

    @property
    def word(self) -> str:
        """What the error's text has to say."""
        return "deadline" if self.what == "hang" else "SIGSEGV"


@dataclass
class History:
    """What was seen while a store was made: when blocks were committed, and before which runs."""

    first_seen: dict[int, float] = field(default_factory=dict)  # block -> when first committed
    before_runs: list[tuple[int, np.ndarray]] = field(default_factory=list)  # (last run, done)
    shared_runs: set[int] = field(default_factory=set)  # others may have been at work beside them
    damaged: set[int] = field(default_factory=set)  # blocks


def committed(store: Store) -> np.ndarray:
    """Tell for each block whether all its points are done or failed; not by the store's word."""
    found = np.zeros(store.grid.blocks, bool)
    for number in range(store.grid.blocks):
        status = store.read_status(store.grid.block(number))
        found[number] = status is not None and bool(np.isin(status, (DONE, FAILED)).all())
    return found


def path_of(store: Store, name: str, block: Block) -> Path:
    """Return the file of a block's chunk of an array other than status."""
    return store.path / name / chunk_name(block.index, OUTPUTS[name])


class Checks:
    """Goes through a store and says what is wrong.

    Parameters
    ----------
    store
        Complete.
    reference
        The undisturbed sweep.
    poison
        The point that has to fail here and not there, if any.
    history
        What was seen while the store was made.
    violated
        Called with each thing that is wrong.
    """

    def __init__(
        self,
        store: Store,
        reference: Path,
        poison: Poison | None,
        history: History,
        violated: Callable[[str], None],
    ) -> None:
        self.store, self.reference, self.poison = store, reference, poison
        self.history, self.violated = history, violated
        self.records: list[Record] = []

    def go_through(self) -> None:
        """Check everything; what cannot be read is wrong, too."""
        try:
            self._check_values()
            self.records = self._read_journals()
            self._check_repeats()
            self._check_checksums()
            self._check_tasks()
            self._check_events()
            self._check_runs()
        except Exception:
            self.violated(f"the store cannot be gone through: {traceback.format_exc()}")

    def _check_values(self) -> None:
        found = xr.open_zarr(self.store.path, chunks=None).load()
        wanted = xr.open_zarr(self.reference, chunks=None).load()
        for name in sorted(set(wanted.variables) - set(TIMED)):
            got, want = found[name].to_numpy(), wanted[name].to_numpy().copy()
            if self.poison and want.shape[:2] == wanted.status.shape:
                failed = tuple(np.argwhere(wanted.status.to_numpy() == FAILED)[0])
                want[self.poison.place] = want[failed]
            same = got.dtype == want.dtype
            if not same or not np.array_equal(got, want, equal_nan=got.dtype.kind == "f"):
                self.violated(f"'{name}' is not that of an undisturbed run")

    def _read_journals(self) -> list[Record]:
        """Return all records; every line must be whole but, at most, the last of a file."""
        records = []
        for path in journals(self.store.journal_folder):
            lines = path.read_bytes().splitlines(keepends=True)
            for number, line in enumerate(lines, 1):
                record = decode_line(line)
                is_torn_end = number == len(lines) and not line.endswith(b"\n")
                if record is not None and not is_torn_end:
                    records.append({**record, "worker": path.stem})
                elif not is_torn_end:
                    self.violated(f"line {number} of {path.name} is damaged: {line!r}")
        return records

    def _check_repeats(self) -> None:
        """No task may have begun after its block was seen committed, undamaged.

        Unless its driver had planned it before that: one that joined another, or was begun while
        workers of a killed one were still at it, may do a block that those have committed since.
        """
        for record in self.records:
            block, run = self.store.grid.block_named(record["block"]).number, record["run"]
            if block in self.history.damaged:
                continue
            if any(run > last and done[block] for last, done in self.history.before_runs):
                self.violated(f"run {run} computed block {block}, committed before it began")
            begun_after = record["started"] > self.history.first_seen.get(block, np.inf)
            others = {r["run"] for r in self.records if r["block"] == record["block"]}
            if begun_after and not (others - {run} and others & self.history.shared_runs):
                self.violated(f"run {run} computed block {block} again after its commit")

    def _check_checksums(self) -> None:
        """Each chunk of an output is one that a task has on record; `verify` agrees."""
        recorded: dict[tuple[str, str], set[tuple[int, int]]] = {}
        for record in self.records:
            for name, checksum in record["checksums"].items():
                recorded.setdefault((record["block"], name), set()).add(tuple(checksum))
        for block in map(self.store.grid.block, range(self.store.grid.blocks)):
            for name in OUTPUTS:
                raw = path_of(self.store, name, block).read_bytes()
                if (checksum_of(raw), len(raw)) not in recorded.get((block.name, name), set()):
                    self.violated(f"no task has the chunk of '{name}' of {block.name} on record")
        report = verify(self.store, mark=False)
        if not report.is_sound or report.damaged_lines:
            self.violated(f"verify finds damage at the end: {report.text()}")

    def _check_tasks(self) -> None:
        tasks = xr.open_zarr(self.store.path, group="tasks", chunks=None).load()
        columns = (tasks[name].to_numpy().tolist() for name in ("run", "block", "attempt", "pid"))
        found = Counter(zip(*columns, strict=True))
        wanted = Counter((r["run"], r["block"], r["attempt"], r["pid"]) for r in self.records)
        if found != wanted:
            self.violated(f"/tasks and the journals differ: {found - wanted}, {wanted - found}")
        names = {self.store.grid.block(number).name for number in range(self.store.grid.blocks)}
        missing = names - set(tasks.block.to_numpy().tolist())
        if missing:
            self.violated(f"/tasks has no row for the blocks {sorted(missing)}")

    def _check_events(self) -> None:
        """Every failed point is named with its reason, and no other point is."""
        events = xr.open_zarr(self.store.path, group="events", chunks=None).load()
        columns = ("index_drive", "index_shake", "error_type", "error")
        rows = list(zip(*(events[name].to_numpy().tolist() for name in columns), strict=True))
        status = xr.open_zarr(self.store.path, chunks=None).status.to_numpy()
        failed = {tuple(place) for place in np.argwhere(status == FAILED).tolist()}
        if {(drive, shake) for drive, shake, _, _ in rows} != failed:
            self.violated(f"/events tells not of the failed points {failed}, but {rows}")
        for drive, shake, kind, text in rows:
            wanted, word = "ArithmeticError", "the walker fell"
            if self.poison and (drive, shake) == self.poison.place:
                wanted, word = self.poison.reason, self.poison.word
            if kind != wanted or word not in text:
                self.violated(f"({drive}, {shake}) failed by {kind}: {text}; not by {wanted}")

    def _check_runs(self) -> None:
        runs = xr.open_zarr(self.store.path, group="runs", chunks=None).load()
        if runs.run.to_numpy().tolist() != list(self.store.run_files()):
            self.violated("/runs is not the runs")
