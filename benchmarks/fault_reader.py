"""A reader that knows xarray and nothing of ours: opens a store again and again while it is made.

Every point whose status is done is compared, value for value, with the undisturbed sweep. It
reads until its standard input ends, once more after that, and prints what it found as JSON.
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

PENDING, DONE, FAILED = 0, 1, 2
TABLES = ("tasks", "events", "runs")
MOST_VIOLATIONS = 20


class Reader:
    """Reads one store and keeps count."""

    def __init__(self, store: Path, expected: xr.Dataset) -> None:
        self.store, self.expected = store, expected
        about = ("status", "run", "point_seconds")
        self.outputs = [str(name) for name in expected.data_vars if name not in about]
        self.reads = self.points = 0
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
        if not (done | failed | (status == PENDING)).all():
            self._violated(f"there are the states {np.unique(status)}")
        if (failed & (self.expected.status.to_numpy() != FAILED)).any():
            self._violated(f"points that should be done failed: {np.argwhere(failed)}")
        if (self._was_done & ~done).any():
            self._violated(f"done once, not done now: {np.argwhere(self._was_done & ~done)}")
        for name in self.outputs:
            got, wanted = found[name].to_numpy()[done], self.expected[name].to_numpy()[done]
            if not np.array_equal(got, wanted, equal_nan=got.dtype.kind == "f"):
                self._violated(f"wrong values of '{name}' under status done")
        if not (found.run.to_numpy()[done] > 0).all():
            self._violated("done points without the number of their run")
        if not (found.point_seconds.to_numpy()[done] > 0).all():
            self._violated("done points without their time")
        self._was_done = done
        self.points += int(np.count_nonzero(done))

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
        return {"reads": self.reads, "points": self.points, "violations": self.violations}


def main(store: str, reference: str) -> None:
    """Read until the standard input ends."""
    warnings.simplefilter("error")  # a reader is to see no warning either
    reader = Reader(Path(store), xr.open_zarr(reference, chunks=None).load())
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    print("ready", flush=True)
    while not ended.wait(0.02):
        reader.read()
    reader.read()
    print(json.dumps(reader.report()))


if __name__ == "__main__":
    main(*sys.argv[1:])
