"""The tables beside the dataset: /tasks, /events and /runs, folded from what is on record.

Rows are only ever appended, in the order in which a fold finds them, and readers see them
when the root's metadata is replaced, so an older handle stays right. How far each journal is
folded stands in ``.sweep/folds/N.json``, and N in the attributes of /tasks: the same rename
shows the rows and remembers them.

A record whose block is not committed waits for the fold after it is. If its worker was killed
before, that is the commit of a later attempt, and its row says "lost". Records that came with
blocks from another store wait for nothing.
"""

import json
import shlex
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sweep.durable import replace_file, sync_folder
from sweep.journal import Record, is_carried, is_final, journals, order_of, read_from
from sweep.store import Store
from sweep.store.chunks import chunk_name, decode_chunk, encode_chunk
from sweep.store.metadata import (
    consolidate,
    fit_arrays,
    read_attributes,
    read_consolidated,
    write_array_metadata,
)
from sweep.template import PENDING, STALE, Array

MOST_EVENTS = 10_000  # failures, and as many others
CHUNK_ROWS = 4096
NOT_A_TIME = -(2**63)
TIME_UNITS = "microseconds since 1970-01-01"


class Column(NamedTuple):
    """A column of a table: its type, fill value, units ("" for texts) and meaning."""

    dtype: str
    fill: Any
    units: str
    long_name: str


def _text(long_name: str) -> Column:
    return Column("U1", "", "", long_name)


def _count(long_name: str) -> Column:
    return Column("int64", 0, "1", long_name)


def _seconds(long_name: str) -> Column:
    return Column("float64", np.nan, "s", long_name)


def _time(long_name: str) -> Column:
    return Column("int64", NOT_A_TIME, TIME_UNITS, long_name)


TASKS = {
    "run": _count("number of the run"),
    "block": _text("place of the block, as in the names of its chunks; empty: of another store"),
    "attempt": _count("how often the block was tried before, plus one"),
    "status": _text(
        "done, failed or stale if a point of it is, lost if it was not committed, copied if it was "
        "taken from another store"
    ),
    "points": _count("points of the block"),
    "failed": _count("points of it that failed"),
    "started": _time("when the task began"),
    "ended": _time("when it was committed"),
    "queue_seconds": _seconds("from submission to the start"),
    "compile_seconds": _seconds("in numba's compiler, or waiting for one of another process"),
    "compute_seconds": _seconds("in the stages, and loading compiled code, without compiling"),
    "write_seconds": _seconds("writing the outputs"),
    "host": _text("host name"),
    "worker": _text("name of the worker's journal"),
    "pid": _count("process number"),
    "threads": _count("kernel threads"),
    "peak_rss_mb": Column("float64", np.nan, "MB", "largest resident memory of the worker"),
    "slurm_job_id": _text("SLURM job, if any"),
    "gpu": _text("CUDA_VISIBLE_DEVICES, if set"),
}

EVENTS = {
    "run": _count("number of the run"),
    "block": _text("place of the block, as in the names of its chunks"),
    "kind": _text("failed, stale (not as before), warned, logged or printed"),
    "error_type": _text("class of the exception or warning, level of the log line"),
    "error": _text("its text"),
}

RUNS = {
    "run": _count("number of the run"),
    "started": _time("when it began"),
    "ended": _time("when it ended"),
    "state": _text("running, complete, incomplete, interrupted or killed"),
    "engine": _text("engine and number of workers"),
    "argv": _text("command line"),
    "user": _text("who started it"),
    "hostname": _text("on which machine"),
    "cpu_model": _text("processor of that machine"),
    "gpu": _text("GPUs of that machine"),
    "python": _text("version of Python"),
    "platform": _text("operating system"),
    "packages": _text("versions of all packages, JSON"),
    "environment": _text("environment variables that can change a result, JSON"),
    "git_commit": _text("commit of the study's repository"),
    "git_branch": _text("its branch"),
    "git_dirty": Column("bool", False, "", "whether the work tree differed from the commit"),
    "git_diff": _text("that difference"),
    "code_hash": _text("SHA-256 of the syntax trees of the study and its modules"),
    "source": _text("the text of these files, JSON"),
}


class Tables:
    """The tables of one store; one process at a time may fold them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._event_columns = _event_columns(store.header.specification["dims"])

    def fold(self) -> None:
        """Add what has come since the last fold, and renew /runs."""
        self.store = Store(self.store.path)  # it may have grown since it was opened
        path, number = self.store.path, self._last_fold()
        runs = self._runs()  # once: another process may end its run meanwhile
        state = self._read_state(number)
        records, offsets = self._new_records(state["offsets"])
        found = [event for record in records for event in _events_of(record)]
        events, kept = _within_room(found, state["events_kept"])
        _append(path / "tasks", TASKS, "task", state["tasks"], list(map(_task_row, records)))
        _append(path / "events", self._event_columns, "event", state["events"], events)
        _append(path / "runs", RUNS, "run", 0, [_run_row(n, run) for n, run in runs.items()])
        state = {
            "tasks": state["tasks"] + len(records),
            "events": state["events"] + len(events),
            "events_kept": kept,
            "events_found": state["events_found"] + len(found),
            "offsets": offsets,
            "runs": _states(runs),
        }
        self._publish(number + 1, state)

    def catch_up(self) -> None:
        """Fold if the last driver was killed before it had; else touch nothing."""
        state = self._read_state(self._last_fold())
        if self._new_records(state["offsets"])[0] or _states(self._runs()) != state["runs"]:
            self.fold()

    def _publish(self, number: int, state: dict[str, Any]) -> None:
        new = self._state_file(number)
        replace_file(new, json.dumps(state).encode())
        sync_folder(new.parent)
        sync_folder(self.store.path)  # the tables' own folders
        fit_arrays(self.store.path, self.store.header.sizes)
        found = {"events_found": state["events_found"]}
        consolidate(
            self.store.path,
            self._attributes(),
            {"tasks": {"fold": number}, "events": found, "runs": {}},
        )
        self._state_file(number - 1).unlink(missing_ok=True)

    def _last_fold(self) -> int:
        tasks = read_consolidated(self.store.path, "tasks")
        return int(tasks["attributes"]["fold"]) if tasks else 0

    def _state_file(self, number: int) -> Path:
        return self.store.private / "folds" / f"{number}.json"

    def _read_state(self, number: int) -> dict[str, Any]:
        state: dict[str, Any] = {"tasks": 0, "events": 0, "events_found": 0, "events_kept": [0, 0]}
        state |= {"offsets": {}, "runs": []}
        if number:
            with suppress(FileNotFoundError):  # then all is folded anew
                state = json.loads(self._state_file(number).read_bytes())
        return state

    def _new_records(self, offsets: Mapping[str, int]) -> tuple[list[Record], dict[str, int]]:
        """Return what can be folded of each journal since `offsets`, oldest first, and to where."""
        records: list[Record] = []
        ends = dict(offsets)
        is_settled = cache(self._is_settled)
        for path in journals(self.store.journal_folder):
            for record, end in read_from(path, ends.get(path.stem, 0)):
                if not is_final(record) and not is_settled(
                    record["block"], bool(record.get("stale"))
                ):
                    break
                ends[path.stem] = end
                records.append({"worker": path.stem, **record})
        records.sort(key=lambda record: float(record["ended"]))
        own = [record for record in records if not is_carried(record)]
        newest = {record["block"]: record for record in sorted(own, key=order_of)}
        for record in own:
            if record is not newest[record["block"]]:
                record |= {"status": "lost", "events": []}
        return records, ends

    def _is_settled(self, name: str, may_be_stale: bool) -> bool:
        """Tell whether a block has the status that its record announces."""
        status = self.store.read_status(self.store.grid.block_named(name))
        unsettled = (PENDING,) if may_be_stale else (PENDING, STALE)
        return status is not None and not np.isin(status, unsettled).any()

    def _runs(self) -> dict[int, dict[str, Any]]:
        return {number: self.store.read_run(number) for number in self.store.run_files()}

    def _attributes(self) -> dict[str, Any]:
        """Return the root's attributes with the history of the runs."""
        runs = map(self.store.read_run, self.store.run_files())
        lines = [f"{iso_time(run['started'])}: {shlex.join(run['argv'])}" for run in runs]
        return {
            **read_attributes(self.store.path),
            **self.store.header.attributes,
            "date_modified": iso_time(time.time()),
            "history": "\n".join(lines),
        }


def _states(runs: Mapping[int, Mapping[str, Any]]) -> list[str]:
    return [run["state"] for run in runs.values()]


def _event_columns(dims: Mapping[str, int]) -> dict[str, Column]:
    places = {f"index_{dim}": _count(f"place of the point along '{dim}'") for dim in dims}
    return {**EVENTS, **places}


def _events_of(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "run": event.get("run", record["run"]),
            "block": record["block"],
            **{key: event[key] for key in ("kind", "error_type", "error")},
            **{f"index_{dim}": i for dim, i in event["place"].items()},
        }
        for event in record["events"]
    ]


def _within_room(
    events: list[dict[str, Any]], kept: list[int]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the events that there is room for, of failures and of others, and the new counts."""
    rows, (failed, others) = [], kept
    for event in events:
        is_failure = event["kind"] == "failed"
        if (failed if is_failure else others) < MOST_EVENTS:
            rows.append(event)
            failed, others = failed + is_failure, others + (not is_failure)
    return rows, [failed, others]


def _task_row(record: Record) -> dict[str, Any]:
    return {
        **record,
        "started": _microseconds(record["started"]),
        "ended": _microseconds(record["ended"]),
    }


def _run_row(number: int, record: Record) -> dict[str, Any]:
    row = {name: record.get(name, column.fill) for name, column in RUNS.items()}
    for name in ("packages", "environment", "source"):
        row[name] = json.dumps(record.get(name, {}), ensure_ascii=False)
    for name in ("started", "ended"):
        row[name] = _microseconds(record[name]) if record.get(name) else NOT_A_TIME
    return {**row, "run": number, "argv": shlex.join(record["argv"])}


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def iso_time(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601 text in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _append(
    folder: Path, columns: Mapping[str, Column], dim: str, old: int, rows: list[dict[str, Any]]
) -> None:
    """Write rows from place `old` on; what readers see does not change yet."""
    for name, column in columns.items():
        attrs = {"long_name": column.long_name} | ({"units": column.units} if column.units else {})
        dtype, shape = np.dtype(column.dtype), (old + len(rows),)
        array = Array(name, "point", (dim,), shape, dtype, column.fill, attrs)
        write_array_metadata(folder / name, array, (CHUNK_ROWS,))
        values = [row.get(name, column.fill) for row in rows]
        if dtype.kind == "U":
            values = [text.encode(errors="replace").decode() for text in values]
        kind = object if dtype.kind == "U" else dtype
        _append_column(folder / name, array, old, np.array(values, dtype=kind))
        sync_folder(folder / name)


def _append_column(folder: Path, array: Array, old: int, values: np.ndarray) -> None:
    while len(values):
        number, kept = divmod(old, CHUNK_ROWS)
        path = folder / chunk_name((number,), 0)
        before = values[:0]
        if kept:
            before = decode_chunk(path.read_bytes(), (CHUNK_ROWS,), array.dtype)[:kept]
        now = np.concatenate([before, values[: CHUNK_ROWS - kept]])
        replace_file(path, encode_chunk(now, (CHUNK_ROWS,), array.fill))
        values, old = values[CHUNK_ROWS - kept :], old + CHUNK_ROWS - kept
