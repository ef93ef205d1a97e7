"""A reader that knows xarray and nothing of ours: opens a store again and again while it is made.

Every point whose status is done is compared, value for value, with the undisturbed sweep. It
reads until its standard input ends, once more after that, and prints what it found as JSON.

Chunks that the campaign has damaged (it says so before it does, in ``damaged.jsonl``) may be
refused with an error; then what is around them is read. They may never show a wrong value.
"""

import json
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

PENDING, DONE, FAILED, STALE = 0, 1, 2, 4
TABLES = ("tasks", "events", "runs")
MOST_VIOLATIONS = 20
PAUSE = 0.8  # s; a read takes 0.15 s


class Reader:
    """Reads one store and keeps count.

    Parameters
    ----------
    store
        Path of the store; what the campaign damages is listed beside it.
    expected
        The undisturbed sweep.
    """

    def __init__(self, store: Path, expected: xr.Dataset) -> None:
        self.store, self.expected = store, expected
        about = ("status", "run", "point_seconds")
        self.outputs = [str(name) for name in expected.data_vars if name not in about]
        self.reads = self.points = self.refused = 0
        self.violations: list[str] = []
        self._was_done = np.zeros(expected.status.shape, bool)
        self._rows = dict.fromkeys(TABLES, -1)  # no such table yet

    def read(self) -> None:
        """Open the store, and compare what it holds by now."""
        if not self.store.exists():
            return
        self.reads += 1
        try:
            self._read_points()
            for table in TABLES:
                self._read_table(table)
        except Exception:
            self._violated(f"a reader could not read: {traceback.format_exc()}")

    def _read_points(self) -> None:
        found = xr.open_zarr(self.store, chunks=None)
        status = found.status.to_numpy()  # before the outputs, which were written before it
        done, failed = status == DONE, status == FAILED
        harmed = self._harmed(found.status)
        if not (done | failed | (status == PENDING) | (harmed & (status == STALE))).all():
            self._violated(f"there are the states {np.unique(status)}")
        if (failed & (self.expected.status.to_numpy() != FAILED)).any():
            self._violated(f"points that should be done failed: {np.argwhere(failed)}")
        if lost := np.argwhere(self._was_done & ~done & ~harmed).tolist():
            self._violated(f"done once, not done now: {lost}")
        for name in self.outputs:
            got, read = self._values(found[name], done)
            wanted = self.expected[name].to_numpy()[read]
            if not np.array_equal(got, wanted, equal_nan=got.dtype.kind == "f"):
                self._violated(f"wrong values of '{name}' under status done")
        if not (self._values(found.run, done)[0] > 0).all():
            self._violated("done points without the number of their run")
        if not (self._values(found.point_seconds, done)[0] > 0).all():
            self._violated("done points without their time")
        self._was_done = done
        self.points += int(np.count_nonzero(done))

    def _values(self, array: xr.DataArray, done: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return an array's values at the points that are done, and at which it could be read."""
        try:
            return array.to_numpy()[done], done
        except Exception:
            harmed = self._harmed(array)
            if not harmed.any():
                raise
        self.refused += 1
        got, read = np.zeros(array.shape, array.dtype), np.zeros(done.shape, bool)
        for row in self._parts(array, 1):
            try:
                got[row], read[row] = array[row].to_numpy(), True
            except Exception:
                self._read_row(array, row, harmed, got, read)
        return got[done & read], done & read

    def _read_row(
        self,
        array: xr.DataArray,
        row: tuple[slice, ...],
        harmed: np.ndarray,
        got: np.ndarray,
        read: np.ndarray,
    ) -> None:
        """Read chunk by chunk what is around the damage in a row of chunks."""
        for part in self._parts(array, self._was_done.ndim):
            if part[0] == row[0]:
                try:
                    got[part], read[part] = array[part].to_numpy(), True
                except Exception:
                    if not harmed[part].any():
                        raise

    def _harmed(self, array: xr.DataArray) -> np.ndarray:
        """Tell of which points the campaign has damaged a chunk, in this array or another."""
        harmed = np.zeros(self._was_done.shape, bool)
        listed = self.store.with_name("damaged.jsonl")
        names = listed.read_text().splitlines() if listed.exists() else []
        for index in map(json.loads, names):
            sizes = array.encoding["chunks"][: harmed.ndim]
            harmed[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, sizes, strict=True))] = (
                True
            )
        return harmed

    def _parts(self, array: xr.DataArray, dims: int) -> list[tuple[slice, ...]]:
        """Return the regions of the chunks along so many dims, whole along the others."""
        sizes = array.encoding["chunks"][:dims]
        counts = [-(-n // size) for n, size in zip(self._was_done.shape, sizes, strict=False)]
        return [
            tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, sizes, strict=True))
            for index in np.ndindex(*counts)
        ]

    def _read_table(self, table: str) -> None:
        """Open a table; it may be missing until it was seen once, and it never loses a row."""
        try:
            rows = xr.open_zarr(self.store, group=table, chunks=None)
            count = len(rows.load().run)
        except Exception:
            if self._rows[table] >= 0:
                raise
            return
        if count < self._rows[table]:
            self._violated(f"/{table} had {self._rows[table]} rows and has {count}")
        self._rows[table] = count

    def _violated(self, text: str) -> None:
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(f"read {self.reads}: {text}")

    def report(self) -> dict[str, Any]:
        """Return the counts, JSON-able."""
        return {
            "reads": self.reads,
            "points": self.points,
            "refused": self.refused,
            "violations": self.violations,
        }


def main(store: str, reference: str, poison: str) -> None:
    """Read until the standard input ends; `poison` is the place of a point that has to fail."""
    warnings.simplefilter("error")  # a reader is to see no warning either
    expected = xr.open_zarr(reference, chunks=None).load()
    if poison:
        expected.status[tuple(json.loads(poison))] = FAILED
    reader = Reader(Path(store), expected)
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    print("ready", flush=True)
    while not ended.wait(PAUSE):
        reader.read()
    reader.read()
    print(json.dumps(reader.report()))


if __name__ == "__main__":
    main(*sys.argv[1:])
