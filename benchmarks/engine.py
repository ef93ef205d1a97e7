"""What the machinery costs: 10,000 points of a trivial function against a bare loop.

    python benchmarks/engine.py [--repetitions 5]

The sweep of `engine_study.py` (two floats to one) on a Dask cluster that runs already (scheduler
and two workers, TLS) may take at most 2 s longer than a bare Python loop over the same points
that writes the same outputs and coordinates with ``Dataset.to_zarr``; and the process that calls
`sweep.run` may take at most 60 MB more memory at its peak than when the cluster was up. The exit
code is 1 if the median of a bounded row is over its bound.

Each measurement is a process of its own with a store of its own, and they take turns. Before the
clock starts a process has imported numpy, xarray, zarr, distributed and sweep, has seen the
cluster's two workers, and has written a small dataset with xarray. Inside the clock is all of
``sweep.run(file, store, on=...)``: finding the study, connecting, timing points, choosing blocks,
creating the store, computing, committing (synced to the disk), provenance, tables, disconnecting,
and opening the result. "new": the cluster has run nothing before, so that its workers import the
study and this package inside the clock; "used": it has run one such sweep before.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
STUDY = HERE / "engine_study.py"
WORKERS = 2
MOST_SECONDS = 2.0  # that the sweep may take longer than the bare loop
MOST_MEGABYTES = 60.0  # that its process may grow
BOUNDED = ("dask, new", "dask, used")
START_SECONDS = 60.0  # for a cluster


@dataclass(frozen=True)
class Measured:
    """One measurement: wall time, and the memory of the process before and at its peak [MB]."""

    seconds: float
    before_mb: float
    peak_mb: float
    start_seconds: float  # of a local engine, not in `seconds`

    @property
    def growth_mb(self) -> float:
        """How much the process grew."""
        return self.peak_mb - self.before_mb


# --- one measurement, in a process of its own ---------------------------------------------


def measure(kind: str, folder: Path, cluster: str) -> Measured:
    """Measure one kind in `folder`; `cluster` is the address of the scheduler, if one is meant."""
    import distributed  # noqa: F401 - imported here, so that the parent stays small
    import xarray as xr

    import sweep
    from sweep.engines.processes import WorkerPool

    write_bare(folder / "warm.zarr", 2)
    store = folder / "store.zarr"
    start = 0.0
    options: dict[str, Any] = {"on": kind}
    if cluster:
        see_workers(cluster, folder.parent)
        options = {"on": cluster, "tls_dir": folder.parent}
    elif kind == "processes":
        begun = time.perf_counter()
        pool = WorkerPool(WORKERS, 1)
        wait([pool.submit(os.getpid) for _ in range(WORKERS)])
        start = time.perf_counter() - begun
        options = {"on": pool, "workers": WORKERS}
    before = forget_peak()
    begun = time.perf_counter()
    if kind == "bare loop":
        write_bare(store, None)
        found = xr.open_zarr(store)
    else:
        found = sweep.run(str(STUDY), store, **options)
    seconds = time.perf_counter() - begun
    peak = peak_mb()
    check(found)
    if kind == "processes":
        pool.shutdown()
    return Measured(seconds, before, peak, start)


def write_bare(store: Path, size: int | None) -> None:
    """Compute the points of the first `size` speeds and times in a loop, and write them."""
    import engine_study as study
    import xarray as xr

    speeds, times = study.SPEEDS[:size], study.TIMES[:size]
    heights = np.empty((len(speeds), len(times)))
    for i, speed in enumerate(speeds):
        for j, t in enumerate(times):
            heights[i, j] = study.height(speed, t)
    xr.Dataset(
        {"height": (("speed", "time"), heights, {"units": "m", "long_name": "height"})},
        {"speed": ("speed", speeds, {"units": "m s-1"}), "time": ("time", times, {"units": "s"})},
    ).to_zarr(store)


def check(found: Any) -> None:
    """Refuse to call it measured if the answer is wrong."""
    import engine_study as study

    speed, t = np.meshgrid(study.SPEEDS, study.TIMES, indexing="ij")
    np.testing.assert_array_equal(found.height.to_numpy(), study.height(speed, t))


def see_workers(address: str, tls_dir: Path) -> None:
    """Return when the cluster has all its workers."""
    from distributed import Client

    from sweep.engines.dask.settings import read_security

    with Client(address, security=read_security(tls_dir), set_as_default=False) as client:
        client.wait_for_workers(WORKERS, timeout=START_SECONDS)


def forget_peak() -> float:
    """Make the peak what is resident now, where the system can (Linux), and return it [MB]."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """Return the largest resident memory of this process [MB]."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


# --- taking turns -------------------------------------------------------------------------


def measured(kind: str, folder: Path, cluster: str = "") -> Measured:
    """Measure in a fresh process, in a new folder in `folder`."""
    own = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, str(Path(__file__)), "--measure", kind, str(own), cluster]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{kind} could not be measured:\n{done.stderr}")
    return Measured(**json.loads(done.stdout))


@contextmanager
def running_cluster(folder: Path) -> Iterator[str]:
    """Start a scheduler and two workers, and yield the address when all are up.

    Their certificates are in `folder`.
    """
    tls = [
        *("--tls-ca-file", str(folder / "ca.pem")),
        *("--tls-cert", str(folder / "cert.pem")),
        *("--tls-key", str(folder / "key.pem")),
    ]
    note = folder / "scheduler.json"
    note.unlink(missing_ok=True)
    where = ["--protocol", "tls", "--host", "127.0.0.1", "--no-dashboard", *tls]
    where += ["--dashboard-address", "127.0.0.1:0"]  # without, even that port is open to all
    started = [spawn("dask_scheduler", "--port", "0", "--scheduler-file", str(note), *where)]
    try:
        address = scheduler_address(note)
        for _ in range(WORKERS):
            options = ["--nthreads", "1", "--local-directory", str(folder), *where]
            started.append(spawn("dask_worker", address, *options))
        see_workers(address, folder)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def spawn(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start one of Dask's commands."""
    command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def scheduler_address(note: Path) -> str:
    """Return the address in the scheduler's file, as soon as it is there and whole."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            return str(json.loads(note.read_text())["address"])
        except (FileNotFoundError, ValueError):
            time.sleep(0.05)
    raise TimeoutError(f"no Dask scheduler after {START_SECONDS:.0f} s")


def take_turns(repetitions: int, folder: Path) -> dict[str, list[Measured]]:
    """Measure every kind so many times."""
    rows: dict[str, list[Measured]] = {
        kind: [] for kind in ("bare loop", "serial", "processes", *BOUNDED)
    }
    for number in range(repetitions):
        print(f"repetition {number + 1} of {repetitions}", file=sys.stderr)
        for kind in ("bare loop", "serial", "processes"):
            rows[kind].append(measured(kind, folder))
        with running_cluster(folder) as cluster:
            for kind in BOUNDED:
                rows[kind].append(measured(kind, folder, cluster))
    return rows


def text_of(values: list[float], unit: str) -> str:
    """Return a median with its range."""
    digits = 2 if unit == "s" else 0
    low, mid, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{mid} {unit} ({low} to {high})"


def main() -> int:
    """Measure, print the table, and say whether the bounds are kept."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        kind, own, cluster = asked.measure
        print(json.dumps(vars(measure(kind, Path(own), cluster))))
        return 0
    from sweep.engines.certificates import write_certificates

    with tempfile.TemporaryDirectory(prefix="sweep-engine-") as name:
        write_certificates(Path(name), 3600)
        rows = take_turns(asked.repetitions, Path(name))
    bare = [one.seconds for one in rows["bare loop"]]
    missed = []
    head = (
        "10,000 points",
        "wall time",
        "more than the bare loop",
        "memory more",
        "engine's start",
    )
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores; load average over the last minute {load:.1f}")
    print("{:<14} {:<24} {:<26} {:<20} {}".format(*head))
    for kind, several in rows.items():
        more = [one.seconds - loop for one, loop in zip(several, bare, strict=True)]
        growth = [one.growth_mb for one in several]
        start = [one.start_seconds for one in several]
        print(
            f"{kind:<14} {text_of([one.seconds for one in several], 's'):<24} "
            f"{text_of(more, 's') if kind != 'bare loop' else '':<26} "
            f"{text_of(growth, 'MB'):<20} {text_of(start, 's') if any(start) else ''}".rstrip()
        )
        if kind in BOUNDED:
            if statistics.median(more) > MOST_SECONDS:
                missed.append(f"{kind}: more than {MOST_SECONDS} s over the bare loop")
            if statistics.median(growth) > MOST_MEGABYTES:
                missed.append(f"{kind}: more than {MOST_MEGABYTES} MB")
    print("\n".join(missed) or f"Bounds kept: {MOST_SECONDS} s, {MOST_MEGABYTES:.0f} MB.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
