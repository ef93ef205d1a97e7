"""Kill workers and drivers, at least a hundred times, and look whether anything is lost or wrong.

    python benchmarks/faults.py [--kills 150] [--seed 1] [--on processes|dask] [--workers 2]

A small sweep (`fault_study.py`) is run by ``sweep run`` and, after each death of its driver,
``sweep resume``. All the while processes are killed (SIGKILL): each at a step of the commit
protocol that was drawn for it, or at a random instant (`fault_killers.py`), and another process
reads the store (`fault_reader.py`). A round ends when the sweep is complete; then its store is
gone through. Rounds follow until every kill has hit.

It must hold: no reader ever sees a wrong value under ``status == done``, or fails to read; the
outputs and the status at the end are, value for value, those of an undisturbed serial run; no
committed block is computed again; every committed block is on record, whole, in a journal and in
``/tasks``; no process outlives its driver; a driver that was not killed never ends otherwise
than complete, or saying that blocks lost their workers again and again. The exit code is 1 if
anything of it does not.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import xarray as xr
from fault_killers import ORDERS, STEPS, Order, Step, log_kill

from sweep.journal import Record, decode_line, journals
from sweep.store import Store, exists
from sweep.store.chunks import checksum_of, chunk_name
from sweep.template import DONE, FAILED

HERE = Path(__file__).parent
SWEEP = Path(sys.executable).with_name("sweep")
SOME_FAILED, INCOMPLETE, KILLED = 1, 3, -9  # how a driver may end
MOST_IDLE_ROUNDS = 5  # without a kill, until the steps left are given up
LONGEST_DRIVER = 120.0  # s; the sweep takes 3 s undisturbed
LONGEST_ORPHAN = 60.0  # s that workers may outlive their driver
POLL = 0.02  # s
KILLS_A_ROUND = 14  # or a few more, of drivers that start
MOST_DRIVERS = 50  # a round
MOST_WAITING_BLOCKS = 8  # that an order may wait for a victim
BLOCKS_BEFORE_END = 56  # of 64
MOST_VIOLATIONS = 20  # then there is enough to mend
TIMED = ("run", "point_seconds")  # arrays that differ between two computations of a block


@dataclass(frozen=True)
class Kill:
    """One death, as the victim (or its murderer) took it down just before."""

    order: int
    step: str
    role: str
    pid: int
    block: int | None  # in flight in the victim
    flights: int  # blocks in flight anywhere
    at: str
    time: float

    @property
    def hit_work(self) -> bool:
        """Whether a worker was at a block; what a driver is at is its own work."""
        return self.role == "driver" or self.block is not None


@dataclass
class Round:
    """One store from nothing to complete, and what was found wrong with it."""

    number: int
    kills: list[Kill] = field(default_factory=list)
    drivers: int = 0
    orphans: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    points_checked: int = 0
    repeats: int = 0  # tasks on record beyond one a block: the others' status was never written
    leftovers: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What a campaign did and found."""

    seed: int
    on: str
    rounds: list[Round] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kills(self) -> list[Kill]:
        """The kills that hit work."""
        return [kill for each in self.rounds for kill in each.kills if kill.hit_work]

    @property
    def violations(self) -> list[str]:
        """All that was wrong."""
        found = [f"round {r.number}: {text}" for r in self.rounds for text in r.violations]
        return found + [f"no process came to the step '{name}'" for name in self.not_reached]

    def text(self) -> str:
        """Return the tables of steps and of rounds, and the verdict."""
        counts = Counter(kill.step for kill in self.kills)
        flights = Counter(kill.step for kill in self.kills if kill.flights)
        lines = [f"{'killed at this step':<52} {'kills':>5} {'with blocks in flight':>22}"]
        for step in STEPS:
            lines.append(f"{step.name:<52} {counts[step.name]:>5} {flights[step.name]:>22}")
        roles = Counter(kill.role for kill in self.kills)
        lines.append(f"{'all':<52} {counts.total():>5} {flights.total():>22}")
        lines.append(f"of them workers {roles['worker']}, drivers {roles['driver']}")
        head = "round  kills  drivers  reads  points checked  repeats  leftovers  seconds  verdict"
        lines += ["", head]
        for each in self.rounds:
            lines.append(
                f"{each.number:>5} {len(each.kills):>6} {each.drivers:>8} {each.reads:>6} "
                f"{each.points_checked:>15} {each.repeats:>8} {each.leftovers:>10} "
                f"{each.seconds:>8.1f}  {'WRONG' if each.violations else 'right'}"
            )
        orphans = sum((each.orphans for each in self.rounds), Counter[str]())
        reads = sum(each.reads for each in self.rounds)
        checked = sum(each.points_checked for each in self.rounds)
        lines += [
            "",
            f"after a driver's death, its workers: {json.dumps(orphans)}",
            f"engine {self.on}, seed {self.seed}: {len(self.kills)} kills, {reads} reads, "
            f"{checked} points checked while it ran, {self.seconds:.0f} s",
            *self.violations,
            "verdict: WRONG" if self.violations else "verdict: nothing lost, nothing wrong",
        ]
        return "\n".join(lines)


def campaign(
    kills: int = 100,
    *,
    seed: int = 1,
    on: str = "processes",
    workers: int = 2,
    say: Callable[[str], None] = print,
) -> Report:
    """Kill so many processes and report what became of the sweeps.

    Every step of a worker is ordered twice as often as each of a driver.
    """
    rng = np.random.default_rng(seed)
    pool = _drawn_steps(kills, rng)
    report = Report(seed, on)
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="sweep-faults-")).resolve()
    say(f"seed {seed}, engine {on}, {workers} workers, {kills} kills ordered, in {folder}")
    _run_reference(folder / "reference.zarr")
    idle = 0
    while pool and idle < MOST_IDLE_ROUNDS and len(report.violations) < MOST_VIOLATIONS:
        done = _Player(folder, len(report.rounds) + 1, rng, pool, (on, str(workers))).play()
        report.rounds.append(done)
        idle = 0 if done.kills else idle + 1
        say(
            f"round {done.number}: {len(done.kills)} kills, {done.drivers} drivers, "
            f"{done.reads} reads, {done.seconds:.1f} s"
            + "".join(f"\n  WRONG: {text}" for text in done.violations)
        )
    report.not_reached = [STEPS[order.step].name for order in pool]
    report.seconds = time.monotonic() - begun
    if not report.violations:
        shutil.rmtree(folder)
    return report


def _drawn_steps(kills: int, rng: np.random.Generator) -> list[Order]:
    """Return the orders of a campaign, in random order; two of a worker's for one of a driver's."""
    round_of_all = [
        number
        for number, step in enumerate(STEPS)
        for _ in range(2 if step.role == "worker" else 1)
    ]
    rest = rng.permutation(round_of_all)[: kills % len(round_of_all)].tolist()
    steps = round_of_all * (kills // len(round_of_all)) + rest
    rng.shuffle(steps)
    return [
        Order(
            number,
            step,
            skips=int(rng.integers(STEPS[step].most_skips + 1)),
            delay_ms=int(rng.integers(100)),
        )
        for number, step in enumerate(steps)
    ]


def _run_reference(store: Path) -> None:
    """Make the undisturbed sweep, in one process."""
    command = [str(SWEEP), "run", str(HERE / "fault_study.py"), str(store), "--on", "serial"]
    code = subprocess.run(command, env=_environment(None), capture_output=True, check=False)
    if code.returncode != SOME_FAILED:
        raise RuntimeError(f"the undisturbed run ended with {code.returncode}: {code.stderr!r}")


def _environment(campaign_folder: Path | None) -> dict[str, str]:
    """Return the environment of a child process, with or without killers in its study."""
    plain = {name: value for name, value in os.environ.items() if name != ORDERS}
    return plain if campaign_folder is None else {**plain, ORDERS: str(campaign_folder)}


def committed(store: Store) -> np.ndarray:
    """Tell for each block whether all its points are done or failed; not by the store's word."""
    found = np.zeros(store.grid.blocks, bool)
    for number in range(store.grid.blocks):
        status = store.read_status(store.grid.block(number))
        found[number] = status is not None and bool(np.isin(status, (DONE, FAILED)).all())
    return found


class _Player:
    """Plays one round: places orders, resumes, watches."""

    def __init__(
        self,
        campaign_folder: Path,
        number: int,
        rng: np.random.Generator,
        pool: list[Order],
        engine: tuple[str, str],
    ) -> None:
        self.folder = campaign_folder / f"round{number}"
        self.store = self.folder / "walks.zarr"
        self.reference = campaign_folder / "reference.zarr"
        self.rng, self.pool, self.engine = rng, pool, engine
        self.round = Round(number)
        self._pending: Order | None = None  # placed, not yet carried out
        self._kill_driver_at = 0.0
        self._quiet_until = 0  # blocks committed before the next order
        self._first_seen: dict[int, float] = {}  # block -> when it was first seen committed
        self._seen_by_run: list[tuple[int, np.ndarray]] = []  # (last run, committed before more)
        self._hurried_runs: set[int] = set()  # begun while older workers may have been at work
        for name in ("orders", "claimed", "flights"):
            (self.folder / name).mkdir(parents=True)

    def play(self) -> Round:
        begun = time.monotonic()
        try:
            with self._reading():
                code = self._run_to_the_end()
            if code == SOME_FAILED:
                self._go_through_store()
        finally:
            self._end_processes()
        self._withdraw()
        self.round.kills = self._kills()
        if not self.round.reads:
            self._violated("the reader never saw the store")
        self.round.seconds = time.monotonic() - begun
        return self.round

    def _violated(self, text: str) -> None:
        self.round.violations.append(text)

    # --- drivers -------------------------------------------------------------------------

    def _run_to_the_end(self) -> int:
        """Run and resume until a driver ends by itself; return its exit code."""
        while self.round.drivers < MOST_DRIVERS:
            self._place_order_for_start()
            self._snapshot()
            code, said = self._drive()
            if code == KILLED:
                self._leave_orphans()
            elif code == INCOMPLETE and "lost a worker again and again" in said:
                self._wait_for_orphans()
            else:
                if code != SOME_FAILED or "Traceback" in said:
                    self._violated(f"a driver that was not killed ended with {code}:\n{said}")
                    code = INCOMPLETE
                self._wait_for_orphans()
                return code
        self._violated(f"the sweep is not complete after {MOST_DRIVERS} drivers")
        return INCOMPLETE

    def _drive(self) -> tuple[int, str]:
        """Run one driver; return its exit code and what it said."""
        self.round.drivers += 1
        self._forget_flights()
        said = self.folder / f"driver{self.round.drivers}.txt"
        on, workers = self.engine
        what = ["resume"] if exists(self.store) else ["run", HERE / "fault_study.py"]
        command = [SWEEP, *what, self.store, "--on", on, "--workers", workers]
        with said.open("w") as output:
            driver = subprocess.Popen(
                command, env=_environment(self.folder), stdout=output, stderr=subprocess.STDOUT
            )
        patience = time.monotonic() + LONGEST_DRIVER
        while driver.poll() is None:
            self._observe()
            self._place_order()
            self._kill_from_outside(driver)
            if time.monotonic() > patience:
                self._violated(f"a driver hung for {LONGEST_DRIVER:.0f} s: {said.read_text()}")
                driver.kill()
                return driver.wait() - 1, said.read_text()  # not one of our kills
            time.sleep(POLL)
        self._observe()
        return driver.returncode, said.read_text()

    def _orphans(self) -> list[psutil.Process]:
        """Return the processes of this round that live, whoever their parent is by now."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return bool(process.environ().get(ORDERS) == str(self.folder))
        except psutil.Error:  # gone, a zombie, or another user's
            return False

    def _leave_orphans(self) -> None:
        """Deal with the workers of a driver that was killed, in one of three ways."""
        way = str(self.rng.choice(["waited for", "killed", "left at work"]))
        self.round.orphans[way] += 1
        if way == "waited for":
            self._wait_for_orphans()
        elif way == "killed":
            self._end_processes()
        elif exists(self.store):
            self._hurried_runs.add(self._last_run() + 1)

    def _wait_for_orphans(self) -> None:
        _, alive = psutil.wait_procs(self._orphans(), LONGEST_ORPHAN)
        if alive:
            self._violated(f"{len(alive)} processes outlived their driver by a minute: {alive}")
            self._end_processes()

    def _end_processes(self) -> None:
        """Kill what is left of this round."""
        orphans = self._orphans()
        while orphans:
            for process in orphans:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(orphans, LONGEST_ORPHAN)
            orphans = self._orphans()

    def _forget_flights(self) -> None:
        """Remove the marks of processes that were killed by others."""
        alive = {str(process.pid) for process in self._orphans()}
        for mark in (self.folder / "flights").iterdir():
            if mark.name not in alive:
                mark.unlink()

    # --- orders --------------------------------------------------------------------------

    def _place_order_for_start(self) -> None:
        """Place an order for the next driver's first steps, two times of three.

        Every time if no others are left.
        """
        self._withdraw()
        starts = {"start"}
        if not exists(self.store):
            starts |= {"creation"}
        if not (self.store / "tasks").exists():
            starts |= {"first fold"}
        has_others = any(STEPS[order.step].when in ("work", "end") for order in self.pool)
        if not has_others or self.rng.random() < 2 / 3:
            self._place(lambda step: step.when in starts)

    def _place_order(self) -> None:
        """Place the next order when the last is carried out and some more blocks are done.

        One that finds no victim for some blocks makes room for another; the first fold comes in
        its own time.
        """
        may_wait_long = self._pending is not None and STEPS[self._pending.step].when == "first fold"
        if not may_wait_long and len(self._first_seen) > self._quiet_until + MOST_WAITING_BLOCKS:
            self._withdraw()
        if self._pending is not None and self._pending.number in {k.order for k in self._kills()}:
            self._pending = None
            self._quiet_until = len(self._first_seen) + int(self.rng.integers(4))
        enough = len(self.round.kills) >= KILLS_A_ROUND
        is_time = self._in_flight() and len(self._first_seen) >= self._quiet_until
        if self._pending is None and is_time and not enough:
            now = "end" if len(self._first_seen) > BLOCKS_BEFORE_END else "work"
            self._place(lambda step: step.when == now)
            self._quiet_until = len(self._first_seen)

    def _place(self, fits: Callable[[Step], bool]) -> None:
        """Take an order out of the pool and place it, if one fits."""
        order = next((order for order in self.pool if fits(STEPS[order.step])), None)
        if order is None:
            return
        self.pool.remove(order)
        self._pending = order
        if STEPS[order.step].operation == "outside":
            self._kill_driver_at = time.monotonic() + order.delay_ms / 100
        else:
            (self.folder / "orders" / order.file_name).touch()

    def _withdraw(self) -> None:
        """Take back an order that nobody has carried out; it is to be easier the next time."""
        order, self._pending = self._pending, None
        if order is None or order.number in {kill.order for kill in self._kills()}:
            return
        for file in (self.folder / "orders").iterdir():
            file.unlink(missing_ok=True)  # somebody may have taken it just now
        self.pool.append(order._replace(skips=0, delay_ms=order.delay_ms // 2))

    def _kill_from_outside(self, driver: "subprocess.Popen[bytes]") -> None:
        order = self._pending
        if order is None or STEPS[order.step].operation != "outside":
            return
        if self._in_flight() and time.monotonic() > self._kill_driver_at:
            log_kill(self.folder, order, driver.pid, "driver", None)
            driver.kill()
            driver.wait()

    def _in_flight(self) -> bool:
        return any((self.folder / "flights").iterdir())

    def _kills(self) -> list[Kill]:
        log = self.folder / "kills.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [Kill(**json.loads(line)) for line in lines]

    # --- watching ------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Let another process read the store, from before it is there."""
        reads = map(str, (HERE / "fault_reader.py", self.store, self.reference))
        reader = subprocess.Popen(
            [sys.executable, *reads],
            env=_environment(None),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert reader.stdout is not None
        try:
            reader.stdout.readline()  # it is ready
            yield
            out, _ = reader.communicate(timeout=60)
        finally:
            reader.kill()
        found = json.loads(out)
        self.round.reads, self.round.points_checked = found["reads"], found["points"]
        self.round.violations += found["violations"]

    def _observe(self) -> None:
        """Note which blocks are committed by now."""
        if exists(self.store):
            for block in np.flatnonzero(committed(Store(self.store))).tolist():
                self._first_seen.setdefault(block, time.time())

    def _snapshot(self) -> None:
        """Note what is committed before a run."""
        if exists(self.store):
            self._seen_by_run.append((self._last_run(), committed(Store(self.store))))

    def _last_run(self) -> int:
        return max(Store(self.store).run_files(), default=0)

    # --- the store at the end ------------------------------------------------------------

    def _go_through_store(self) -> None:
        """Check all that must hold of a complete store; what cannot be read is wrong, too."""
        try:
            self._check_store(Store(self.store))
        except Exception:
            self._violated(f"the store cannot be gone through: {traceback.format_exc()}")

    def _check_store(self, store: Store) -> None:
        self._check_values()
        records = self._read_journals(store)
        self._check_repeats(records)
        self._check_checksums(store, records)
        self._check_tables(store, records)
        self.round.repeats = len(records) - store.grid.blocks
        self.round.leftovers = sum(1 for _ in self.folder.rglob("*.partial"))
        self.round.leftovers += sum(1 for _ in self.folder.glob(".*.creating"))

    def _check_values(self) -> None:
        found = xr.open_zarr(self.store, chunks=None).load()
        wanted = xr.open_zarr(self.reference, chunks=None).load()
        for name in sorted(set(wanted.variables) - set(TIMED)):
            got, want = found[name].to_numpy(), wanted[name].to_numpy()
            same = got.dtype == want.dtype
            if not same or not np.array_equal(got, want, equal_nan=got.dtype.kind == "f"):
                self._violated(f"'{name}' is not that of an undisturbed run")

    def _read_journals(self, store: Store) -> list[Record]:
        """Return all records; every line must be whole but, at most, the last of a file."""
        records = []
        for path in journals(store.journal_folder):
            lines = path.read_bytes().splitlines(keepends=True)
            for number, line in enumerate(lines, 1):
                record = decode_line(line)
                is_torn_end = number == len(lines) and not line.endswith(b"\n")
                if record is not None and not is_torn_end:
                    records.append({**record, "worker": path.stem})
                elif not is_torn_end:
                    self._violated(f"line {number} of {path.name} is damaged: {line!r}")
        return records

    def _check_repeats(self, records: list[Record]) -> None:
        """No task may have begun after its block was seen committed.

        Unless its driver had planned it before that: a run that was begun while workers of a
        killed driver were still at it may do a block that those have committed meanwhile.
        """
        for record in records:
            block, run = self._number(record["block"]), record["run"]
            if any(run > last and done[block] for last, done in self._seen_by_run):
                self._violated(f"run {run} computed block {block}, committed before it began")
            begun_after = record["started"] > self._first_seen.get(block, np.inf)
            older = [r for r in records if r["block"] == record["block"] and r["run"] != run]
            if begun_after and not (older and self._overlapped(run, older)):
                self._violated(f"run {run} computed block {block} again after its commit")

    def _number(self, block: str) -> int:
        return Store(self.store).grid.block_named(block).number

    def _overlapped(self, run: int, older: list[Record]) -> bool:
        return run in self._hurried_runs or any(r["run"] in self._hurried_runs for r in older)

    def _check_checksums(self, store: Store, records: list[Record]) -> None:
        """Each chunk of an output is one that a task has on record."""
        inner = {"path": 1}
        recorded: dict[tuple[str, str], set[tuple[int, int]]] = {}
        for record in records:
            for name, checksum in record["checksums"].items():
                recorded.setdefault((record["block"], name), set()).add(tuple(checksum))
        for number in range(store.grid.blocks):
            block = store.grid.block(number)
            for name in ("reach", "path", "turns", *TIMED):
                raw = (store.path / name / chunk_name(block.index, inner.get(name, 0))).read_bytes()
                if (checksum_of(raw), len(raw)) not in recorded.get((block.name, name), set()):
                    self._violated(f"no task has the chunk of '{name}' of block {number} on record")

    def _check_tables(self, store: Store, records: list[Record]) -> None:
        tasks = xr.open_zarr(store.path, group="tasks", chunks=None).load()
        columns = (tasks[name].to_numpy().tolist() for name in ("run", "block", "attempt", "pid"))
        found = Counter(zip(*columns, strict=True))
        wanted = Counter((r["run"], r["block"], r["attempt"], r["pid"]) for r in records)
        if found != wanted:
            self._violated(f"/tasks and the journals differ: {found - wanted}, {wanted - found}")
        names = {store.grid.block(number).name for number in range(store.grid.blocks)}
        missing = names - set(tasks.block.to_numpy().tolist())
        if missing:
            self._violated(f"/tasks has no row for the blocks {sorted(missing)}")
        events = xr.open_zarr(store.path, group="events", chunks=None).load()
        of_points = zip(
            events.index_drive.to_numpy().tolist(),
            events.index_shake.to_numpy().tolist(),
            strict=True,
        )
        status = xr.open_zarr(store.path, chunks=None).status.to_numpy()
        failed = {tuple(place) for place in np.argwhere(status == FAILED).tolist()}
        if set(of_points) != failed:
            self._violated(f"/events does not tell of the failed points {failed}")
        runs = xr.open_zarr(store.path, group="runs", chunks=None).load()
        if runs.run.to_numpy().tolist() != list(store.run_files()):
            self._violated("/runs is not the runs")


def main() -> int:
    """Run the campaign that the command line asks for."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=150)  # over 100 with blocks in flight
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--on", choices=("processes", "dask"), default="processes")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    report = campaign(asked.kills, seed=asked.seed, on=asked.on, workers=asked.workers)
    print(report.text())
    return 1 if report.violations or len(report.kills) < asked.kills else 0


if __name__ == "__main__":
    sys.exit(main())
