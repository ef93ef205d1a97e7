"""What the steps of a sweep cost on this machine: seconds, and operations on metadata.

Each step is done for real, in a store in a temporary folder, by a process of its own: once to time
it (the lower quartile, as others use the machine, too), and once under strace, to count the calls
that a file server would see: those that name a file, and syncs. What stands in a folder comes with
its listing, 1,000 names an operation (32 kB).
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import slurm.queue
from sweep.blame import Attempt
from sweep.cli.ranks import on_ranks
from sweep.drive import BATCH_SECONDS, Drive, Orders, Stop, Tally
from sweep.durable import encode_json, file_system_time, make_folders
from sweep.engines import Engine, make_engine
from sweep.engines.serial import SerialEngine
from sweep.feed import ShareFeed
from sweep.marks import read_marks
from sweep.plan import Block, Grid
from sweep.run import create_with
from sweep.running import new_record
from sweep.store import Store
from sweep.store.claims import FOLDERS, Claims
from sweep.store.holder import Holder
from sweep.study import Study, load_study
from sweep.worker import run_batch

NAMES = 1000  # of a folder, that come with one operation
TOGETHER = 8  # blocks of a batch whose commits are measured
MANY_NAMES, MANY_MARKS = 20_000, 500
BATCHES = 100  # of a drive
SQUEUE = "#!/bin/sh\necho '1|1|RUNNING|None|elsewhere|sweep'\n"
STRACE = ["strace", "-qq", "-y", "-s", "400", "--signal=none", "-e", "trace=%file,fsync,fdatasync"]
CALL = re.compile(r"^(?:\d+ +)?(\w+)\(")
KINDS = {"unlink": "remove", "unlinkat": "remove", "rmdir": "remove", "mkdir": "make folder"}
KINDS |= {"link": "link", "linkat": "link", "utimensat": "date", "fsync": "sync"}
KINDS |= {"rename": "rename", "renameat": "rename", "renameat2": "rename", "fdatasync": "sync"}
STUDY = '''
"""How long is a nap? As long as stands in a file beside this one."""

import time
from pathlib import Path
from typing import Annotated

import numpy as np

from sweep import Axis, Pipeline, Var

SECONDS = np.load(Path(__file__).with_name("naps.npy"))


def nap(number: int) -> Annotated[float, Var((), "s", "length of the nap")]:
    """Sleep, which needs no core."""
    time.sleep(SECONDS[number])
    return SECONDS[number]


pipeline = Pipeline(nap, axes=[Axis("number", range(len(SECONDS)))])
'''


class Cost(NamedTuple):
    """Of one step: operations on metadata, and the time that it takes on a local disk [s]."""

    operations: float
    seconds: float

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(self[0] + other[0], self[1] + other[1])

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self[0] - other[0], self[1] - other[1])

    def __mul__(self, times: float) -> "Cost":  # type: ignore[override]
        return Cost(self[0] * times, self[1] * times)


class Costs(NamedTuple):
    """The costs of all steps."""

    claim: Cost  # a block, and see that it is not committed
    release: Cost
    doubt: Cost  # a block of another claimant, of whom nothing is known yet
    doubt_near: Cost  # the same if that is a process of this machine
    doubt_again: Cost  # of one that was looked at within seconds
    look: Cost  # for what is free, without the names that there are
    name: Cost  # each of the names there
    begin: Cost  # a batch, in a worker
    commit: Cost  # a block, in a worker
    marks: Cost  # look at the mark of one worker
    mark: Cost  # each worker more
    renew: Cost  # a claimant's file
    drive: Cost  # hand out a batch and take it back, without messages
    join: Cost  # begin an element and its worker, without what Python imports
    leave: Cost


class Message(NamedTuple):
    """Of a call and its answer: the driver's own time, and how long both take at rest [s]."""

    seconds: float
    rest_seconds: float


# --- counting -----------------------------------------------------------------------------


def calls_in(log: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the operations on metadata that strace saw in a folder: kind and line."""
    place = os.fspath(folder)
    for line in log.read_text(errors="replace").splitlines():
        found = CALL.match(line)
        if found and place in line and "AT_EMPTY_PATH" not in line and found[1] != "execve":
            yield _kind(found[1], line), line


def _kind(call: str, line: str) -> str:
    if call in ("open", "openat"):
        return "create" if "O_CREAT" in line else "list" if "O_DIRECTORY" in line else "open"
    return KINDS.get(call, "look up")


# --- a store ------------------------------------------------------------------------------


def make_store(folder: Path, naps: np.ndarray) -> tuple[Store, Study]:
    """Make a store of points that sleep so long, each a block, with a run that has begun."""
    folder.mkdir()
    np.save(folder / "naps.npy", naps)
    (folder / "naps.py").write_text(STUDY.lstrip())
    study = load_study(str(folder / "naps.py"))
    grid = Grid((len(naps),), (1,))
    store = create_with(study.pipeline, study, folder / "store.zarr", grid)
    store.begin_run(new_record(study.source, "simulation"))
    return store, study


def run_elements(folder: Path, naps: np.ndarray, elements: int) -> Store:
    """Have real elements compute all points but the last one, which this process holds.

    So none of them finishes the sweep. What each called is in ``folder/N.strace``.
    """
    store, _ = make_store(folder, naps)
    for number in range(FOLDERS):  # which come one by one else
        make_folders(store.private / "claims" / f"{number:02d}")
    work = [sys.executable, "-P", "-m", "sweep", "work", str(store.path), "--run=1", "--workers=1"]
    traced = [*STRACE, "-f", "--seccomp-bpf"]
    with Claims(store, 1).open() as held:
        assert held.take(store.grid.block(len(naps) - 1))
        started = [
            subprocess.Popen(
                [*traced, f"--output={folder}/{n}.strace", *work, f"--share={n}/{elements}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for n in range(elements)
        ]
        codes = [process.wait() for process in started]
    done = store.count_points()["done"]
    assert done == len(naps) - 1, f"{done} points done, exit codes {codes}"
    return store


# --- the steps ----------------------------------------------------------------------------

Steps = Iterator[tuple[str, Callable[[Any], object], Sequence[Any]]]


def steps(folder: Path) -> Steps:
    """Yield all steps, ready to be done: name, function, and the things to do it with."""
    store, study = make_store(folder / "steps", np.zeros(MANY_NAMES + 3000))
    blocks = [store.grid.block(number) for number in range(1000)]
    mine = Claims(store, 1, slurm.queue.has_ended(store.path))
    near, far = Claims(store, 1), Claims(store, 1)

    def claim(number: int) -> None:
        mine.take(blocks[number])
        store.read_status(blocks[number])

    def doubt(number: int) -> None:
        mine._known.clear()
        mine.take(blocks[number])

    def run(numbers: Sequence[int]) -> None:
        limits = {"seconds": None, "retries": 0, "hard_seconds": None}
        where = (str(store.path), study.reference, 1, str(mine.mark_folder))
        run_batch(*where, [[n, 1] for n in numbers], time.time(), 1, limits)

    with mine.open(), near.open():
        claimant = store.private / "claimants" / far.name
        now = file_system_time(store.private)
        holder = replace(
            Holder.here(now, far.name),
            host="elsewhere",
            job="1",
            taken=now - 2 * slurm.queue.POLL_SECONDS,
        )
        claimant.write_bytes(encode_json(asdict(holder)))
        for number in range(900, 1000):
            (near if number < 950 else far).take(blocks[number])
        doubt(999)  # SLURM is asked, once a minute
        for number in range(100):
            claim(number)  # makes the folders
        yield "claim", claim, range(100, 400)
        yield "release", lambda number: mine.release(blocks[number]), range(100, 400)
        yield "doubt_near", doubt, range(900, 950)
        yield "doubt", doubt, range(950, 1000)
        yield "doubt_again", lambda number: mine.take(blocks[number]), range(950, 1000)
        run([400])  # imports
        yield "begin", run, [[]] * 40
        yield "batch", run, [range(n, n + TOGETHER) for n in range(401, 881, TOGETHER)]
        yield "renew", lambda _: mine._renew(), range(100)
        yield "marks", lambda _: list(read_marks(mine.mark_folder)), range(40)
        mark = next(mine.mark_folder.iterdir()).read_bytes()
        for number in range(MANY_MARKS):
            (mine.mark_folder / str(number)).write_bytes(mark)
        yield "many marks", lambda _: list(read_marks(mine.mark_folder)), range(10)
        feed = ShareFeed(mine, (0, 1))
        yield "look", lambda _: feed._look_again(), range(20)
        for number in range(1000, 1000 + MANY_NAMES):
            (store.path / "status" / f"c.{number}").touch()
        yield "many names", lambda _: feed._look_again(), range(5)
        yield "drive", lambda _: _drive(BATCHES), range(20)


def receipts(blocks: Sequence[Sequence[int]], **rest: Any) -> list[dict[str, float]]:
    """Return what a worker sends back: that each block filled a batch's time."""
    took = dict.fromkeys(("slowest_seconds", "compute_seconds"), BATCH_SECONDS)
    none = dict.fromkeys(("failed", "stale", "noted", "compile_seconds", "write_seconds"), 0)
    return [{"block": number, "points": 1, **took, **none} for number, _ in blocks]


class _Blocks(deque[Attempt]):
    """A feed without claims: what those cost is measured apart."""

    left = property(len)

    def next(self, *, suspects: bool = True) -> Attempt | None:
        return self.popleft() if self else None

    def is_over(self) -> bool:
        return not self

    def release(self, block: Block) -> None: ...


def _drive(batches: int) -> None:
    feed = _Blocks(map(Attempt, map(Grid((batches,), (1,)).block, range(batches))))
    orders = Orders(f"{Path(__file__).stem}:{receipts.__name__}", {})
    drive = Drive(SerialEngine(), feed, orders, lambda _: None, tuple)
    drive.run(Tally(batches, 0, 0), Stop(), lambda _: None)


def _do(folder: Path) -> None:
    """Do all steps, with a mark in strace's log before and after each; print how long they took."""
    took = {}
    for name, step, things in steps(folder):
        times = []
        os.access(folder / f"step {name}", os.F_OK)
        for thing in things:
            begun = time.perf_counter()
            step(thing)
            times.append(time.perf_counter() - begun)
        os.access(folder / "step ", os.F_OK)
        took[name] = statistics.quantiles(times, n=4)[0], len(things)
    print(json.dumps(took))


# --- measuring ----------------------------------------------------------------------------


def measure(folder: Path) -> tuple[Costs, dict[str, str], int]:
    """Measure all steps in a folder.

    Returns
    -------
    costs
        Of all steps.
    kinds
        Of their operations, in words.
    outside
        What an element calls outside of the store, most of it to import.
    """
    log, counted = folder / "steps.strace", folder / "counted"
    timed = _in_another(folder / "timed")
    _in_another(counted, *STRACE, f"--output={log}")
    counts, name = {step: Counter[str]() for step in ("", *timed)}, ""
    for kind, line in calls_in(log, counted):
        if mark := re.search(r'/step (.*?)"', line):
            name = mark[1]
        else:
            counts[name][kind] += 1
    one, kinds = {}, {}
    for name, (seconds, number) in timed.items():
        one[name] = Cost(counts[name].total() / number, seconds)
        each = (f"{n / number:.3g} {kind}" for kind, n in counts[name].most_common())
        kinds[name] = ", ".join(each)
    kinds["commit"] = f"{TOGETHER} blocks and their batch: {kinds['batch']}"
    one["commit"] = (one.pop("batch") - one["begin"]) * (1 / TOGETHER)
    one["mark"] = (one.pop("many marks") - one["marks"]) * (1 / MANY_MARKS)
    names = one.pop("many names") - one["look"]
    one["name"] = Cost(1 / NAMES, names.seconds / MANY_NAMES)
    one["drive"] *= 1 / BATCHES
    one["join"], one["leave"], outside = _element(folder / "element", one)
    return Costs(**one), kinds, outside


def _in_another(folder: Path, *before: str) -> dict[str, tuple[float, int]]:
    """Have another process do all steps; return the time of each, and with how many things."""
    squeue = folder.with_name(f"bin-{folder.name}") / "squeue"
    for new in (folder, squeue.parent):
        new.mkdir()
    squeue.write_text(SQUEUE)
    squeue.chmod(0o700)
    told = {"PATH": f"{squeue.parent}:{os.environ['PATH']}", "SLURM_CLUSTER_NAME": "there"}
    command = [*before, sys.executable, __file__, "steps", str(folder)]
    done = subprocess.run(command, env=os.environ | told, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def _element(folder: Path, one: Mapping[str, Cost]) -> tuple[Cost, Cost, int]:
    """Return what an element calls to join and to leave, beside other steps, and elsewhere."""
    run_elements(folder, np.zeros(2), 1)
    log = folder / "0.strace"
    lines = [line for _, line in calls_in(log, folder)]
    commit = max(n for n, line in enumerate(lines) if "rename" in line and "/status/" in line)
    until = commit + 1 + 2  # the folder is synced
    join = until - (one["claim"] + one["begin"] + one["commit"]).operations
    leave = len(lines) - until - (one["release"] + one["look"] + one["doubt_near"]).operations
    everything = sum(bool(CALL.match(line)) for line in log.read_text().splitlines())
    return Cost(join, 0.0), Cost(leave, 0.0), everything - len(lines)


# --- messages -----------------------------------------------------------------------------


def time_messages(engine: Engine, calls: int) -> Message:
    """Measure the messages of an engine whose driver is this process."""
    engine.start()
    try:
        _carry(engine, calls, 4)
        begun = time.process_time()
        _carry(engine, calls, 4)
        busy = (time.process_time() - begun) / calls
        rests = []
        for _ in range(20):
            time.sleep(0.05)
            begun = time.perf_counter()
            _carry(engine, 1, 1)
            rests.append(time.perf_counter() - begun)
        return Message(busy, statistics.median(rests))
    finally:
        engine.close()


def _carry(engine: Engine, calls: int, window: int) -> None:
    begun = ended = 0
    while ended < calls:
        while begun < min(calls, ended + window):
            engine.submit("os:getpid", {})
            begun += 1
        ended += len(engine.wait(0.2))


def mpi_messages() -> Message:
    """Measure the messages of rank 0 and two more."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    command = [str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", "3"]
    done = subprocess.run(
        [*command, sys.executable, __file__, "mpi"], check=True, capture_output=True, text=True
    )
    return Message(*json.loads(done.stdout))


def _rank() -> int:
    print(json.dumps(time_messages(make_engine("mpi", threads=1), 1000)))
    return 0


def print_table(head: str, rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    columns = [name.strip() for name in head.split("|")]
    for row in (columns, ["---"] * len(columns), *rows):
        print(f"| {' | '.join(row)} |", flush=True)
    print(flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["mpi"]:
        sys.exit(on_ranks(_rank))
    _do(Path(sys.argv[2]))
