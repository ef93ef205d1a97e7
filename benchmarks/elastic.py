"""Throughput while workers come and go, and how long it takes to follow them.

    python benchmarks/elastic.py [--seconds 20]

Two `sweep work` processes compute the sweep of `elastic_study.py`, whose points sleep for a second
and are a block each. Four more are started, and ended with SIGTERM; four more again, and killed
with SIGKILL. Each phase lasts `--seconds` seconds. Printed are the points that were committed a
second, in windows of two seconds, beside the number of workers; and after each change how long it
took until throughput had followed:

* after more workers: until the last of them has committed its first point. Their start, until they
  begin a task (Python, imports, a look at the store), is told apart.
* after fewer: the longest time that a worker which stayed went without a commit.

The exit code is 1 if either takes longer than one task's time and a half, if any point was
committed twice, or if one is wrong.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr
from elastic_study import TASK_SECONDS

from sweep.journal import Record, journals, read_from
from sweep.plan import Grid
from sweep.run import create_with
from sweep.store import Store
from sweep.study import load_study

STUDY = Path(__file__).with_name("elastic_study.py")
STAY, COME = 2, 4  # workers
WINDOW_SECONDS = 2.0
MOST_TASKS = 1.5  # of one task's time, until throughput has followed
MANNERS = {"SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}


@dataclass
class Workers:
    """The workers of a store: processes, and how many there were since when."""

    store: Path
    running: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    changes: list[tuple[float, int, str]] = field(default_factory=list)  # when, how many, how

    def add(self, count: int) -> None:
        """Start some more."""
        command = [sys.executable, "-m", "sweep", "work", str(self.store), "--workers", "1"]
        self._note(len(self.running) + count, f"{count} more")
        for _ in range(count):
            self.running.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )

    def end(self, count: int, manner: str) -> None:
        """End the last ones."""
        gone = self.running[len(self.running) - count :]
        del self.running[len(self.running) - count :]
        self._note(len(self.running), f"{count} fewer, {manner}")
        for process in gone:
            process.send_signal(MANNERS[manner])
        for process in gone:
            process.wait()

    def _note(self, count: int, how: str) -> None:
        self.changes.append((time.time(), count, how))


def records_of(store: Path) -> list[Record]:
    """Return what was committed, in order."""
    files = journals(Store(store).journal_folder)
    found = [record for file in files for record, _ in read_from(file, 0)]
    return sorted(found, key=lambda record: float(record["ended"]))


def print_windows(records: list[Record], workers: Workers, end: float) -> None:
    """Print how many points were committed a second, beside the workers that there were."""
    begin = workers.changes[0][0]
    edges = np.arange(begin, end, WINDOW_SECONDS)
    counts, _ = np.histogram([record["ended"] for record in records], edges)
    print(f"{'s':>6} {'workers':>8} {'points/s':>9}")
    for low, count in zip(edges[:-1], counts, strict=True):
        number = [n for when, n, _ in workers.changes if when <= low][-1]
        print(f"{low - begin:>6.0f} {number:>8} {count / WINDOW_SECONDS:>9.1f}")


@dataclass(frozen=True)
class Change:
    """What a change of the number of workers led to.

    `start` is how long new workers took to begin [s], `followed` how long throughput took to follow
    from then on [s], `rate` what it was after that until the next change [s-1].
    """

    how: str
    workers: int
    start: float
    followed: float
    rate: float


def what_followed(records: list[Record], workers: Workers, end: float) -> Iterator[Change]:
    """Yield what each change led to."""
    ends = [*(when for when, *_ in workers.changes[1:]), end]
    for (when, count, how), until in zip(workers.changes, ends, strict=True):
        before = {record["run"] for record in records if record["ended"] <= when}
        inside = [record for record in records if when < record["ended"] <= until]
        start, first = 0.0, []
        for run in {record["run"] for record in inside} - before:
            first.append(next(record for record in inside if record["run"] == run))
        if first:
            start = max(record["started"] for record in first) - when
            seconds = max(record["ended"] - record["started"] for record in first)
        else:
            seconds = max(np.diff([when, *times]).max() for times in times_of(inside).values())
        since = when + start + seconds
        rest = sum(record["ended"] > since for record in inside)
        yield Change(how, count, start, float(seconds), rest / (until - since))


def times_of(records: list[Record]) -> dict[int, list[float]]:
    """Return when each run committed."""
    found: dict[int, list[float]] = {}
    for record in records:
        found.setdefault(record["run"], []).append(record["ended"])
    return found


def main() -> int:
    """Measure and print; 1 if throughput does not follow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep-elastic-") as name:
        store = Path(name) / "s.zarr"
        study = load_study(str(STUDY))
        shape = tuple(study.pipeline.dims.values())
        create_with(study.pipeline, study, store, Grid(shape, (1, 1)))
        workers = Workers(store)
        workers.add(STAY)
        try:
            for manner in MANNERS:
                time.sleep(arguments.seconds)
                workers.add(COME)
                time.sleep(arguments.seconds)
                workers.end(COME, manner)
            time.sleep(arguments.seconds)
        finally:
            end = time.time()
            workers.end(len(workers.running), "SIGTERM")
        workers.changes.pop()
        records = records_of(store)
        print_windows(records, workers, end)
        is_right = True
        for change in what_followed(records, workers, end):
            start = f", after a start of {change.start:.1f} s" if change.start else ""
            print(
                f"{change.how:<16} followed in {change.followed / TASK_SECONDS:.2f} task times"
                f"{start}; then {change.rate:.1f} points/s by {change.workers} workers"
            )
            is_right &= change.followed <= MOST_TASKS * TASK_SECONDS
        dataset = xr.open_zarr(store).load()
        done = dataset.status == 1
        sums = dataset.row + dataset.column
        twice = sum(count > 1 for count in Counter(record["block"] for record in records).values())
        print(f"{int(done.sum())} points, {twice} of them committed twice; load {os.getloadavg()}")
        return 0 if is_right and not twice and (dataset.nap == sums).where(done, True).all() else 1


if __name__ == "__main__":
    sys.exit(main())
