"""What growing a sweep costs, against computing the new points alone; and what a kill costs.

    python benchmarks/growth.py [--repetitions 7] [--kills 12]

Growth. A sweep of 10 x 100 points of 20 ms is finished. Then one value is added to its slowest
axis: after the last (in place, and into a new store) and in the middle (into a new store). Each is
compared with a run of the 100 new points alone, in turns, each in a process of its own with two
worker processes; a ratio is that of two that follow each other. In place it may be 1.5 at most;
into a new store the copy comes on top, whose time is told apart. Old values must be the same to the
bit, and new ones those of a fresh sweep.

Kills. The sweep is run anew, its driver killed at a random instant (SIGKILL) and the run resumed.
Each point notes its end, so that work that was done and not committed can be counted: the blocks in
flight. What was begun and not ended is counted as half a point a worker.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import xarray as xr
from growth_study import WORK_SECONDS

from sweep.store import Store, exists

STUDY = Path(__file__).with_name("growth_study.py")
SWEEP = [sys.executable, "-m", "sweep"]
TWO = ["--on", "processes", "--workers", "2"]
MOST_RATIO = 1.5  # in place
WAYS = {
    "after the last, in place": ("10", False),
    "after the last, into a new store": ("10", True),
    "in the middle, into a new store": ("4.5", True),
}


def sweep(*words: str | Path, **environment: str) -> float:
    """Run a command and return how long it took [s]."""
    start = time.perf_counter()
    command = [*SWEEP, *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
    return time.perf_counter() - start


def grow(folder: Path, finished: Path, way: str) -> tuple[float, float, float]:
    """Return the time to add a value, to run its points alone, and to copy the store [s]."""
    value, is_new = WAYS[way]
    alone, grown, copied = folder / "alone.zarr", folder / "grown.zarr", folder / "copied.zarr"
    seconds_alone = sweep("run", STUDY, alone, f"slow=[{value}]", *TWO)
    if is_new:
        seconds = sweep("extend", finished, f"slow={value}", "--into", grown, *TWO)
    else:
        shutil.copytree(finished, grown)
        seconds = sweep("extend", grown, f"slow={value}", *TWO)
    seconds_copying = sweep("compact", finished, copied)
    check(finished, grown, alone)
    for store in (alone, grown, copied):
        shutil.rmtree(store)
    return seconds, seconds_alone, seconds_copying


def check(finished: Path, grown: Path, alone: Path) -> None:
    """Refuse values that are not what they were, or not those of the points computed alone."""
    old, new, own = (xr.open_zarr(store).load() for store in (finished, grown, alone))
    assert (new.status == 1).all()
    assert (np.diff(new.slow) > 0).all()
    np.testing.assert_array_equal(new.work.sel(slow=old.slow), old.work)
    np.testing.assert_array_equal(new.work.sel(slow=own.slow), own.work)
    np.testing.assert_array_equal(new.run.sel(slow=old.slow), old.run)


def lost_work(folder: Path, rng: np.random.Generator) -> float:
    """Kill one driver at a random instant, resume, and return the work that was lost [s]."""
    store, notes = folder / "killed.zarr", folder / "notes"
    environment = os.environ | {"WORK_NOTES": str(notes)}
    driver = subprocess.Popen(
        [*SWEEP, "run", STUDY, store, *TWO], env=environment, stderr=subprocess.DEVNULL
    )
    while not exists(store):
        if driver.poll() is not None:
            raise RuntimeError(f"the driver made no store: exit code {driver.returncode}")
        time.sleep(0.001)
    timed = count_ends(notes)  # points that were timed before the run
    time.sleep(1.0 + rng.uniform(0.0, 5.0))  # of about ten that the sweep takes
    workers = psutil.Process(driver.pid).children()
    driver.kill()
    driver.wait()
    psutil.wait_procs(workers)
    ended, committed = count_ends(notes) - timed, Store(store).count_points()["done"]
    sweep("resume", store, *TWO)
    assert (xr.open_zarr(store).status == 1).all()
    shutil.rmtree(store)
    notes.unlink()
    return (ended - committed + 0.5 * len(workers)) * WORK_SECONDS


def count_ends(notes: Path) -> int:
    """Return how many points have come to their end so far."""
    return len(notes.read_text().splitlines()) if notes.exists() else 0


def main() -> int:
    """Measure and print; 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--kills", type=int, default=12)
    arguments = parser.parse_args()
    is_right = True
    with tempfile.TemporaryDirectory(prefix="sweep-growth-") as name:
        folder = Path(name)
        finished = folder / "finished.zarr"
        sweep("run", STUDY, finished, *TWO)
        print(
            f"{'one value more on the slowest axis':<34} {'extend':>8} {'alone':>8} {'ratio':>22}"
        )
        for way, (_, is_new) in WAYS.items():
            times = [grow(folder, finished, way) for _ in range(arguments.repetitions)]
            extend, alone, copying = (
                statistics.median(column) for column in zip(*times, strict=True)
            )
            ratios = sorted(one / other for one, other, _ in times)
            middle = statistics.median(ratios)
            shown = f"{middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            copy = f"  a copy alone takes {copying:.2f} s" if is_new else ""
            print(f"{way:<34} {extend:>6.2f} s {alone:>6.2f} s {shown:>22}{copy}")
            is_right &= is_new or middle <= MOST_RATIO
        rng = np.random.default_rng(1)
        losses = [lost_work(folder, rng) for _ in range(arguments.kills)]
        print(
            f"a kill of the driver costs {statistics.median(losses):.2f} s of work "
            f"({min(losses):.2f} to {max(losses):.2f}), {arguments.kills} kills"
        )
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
