"""One round of a campaign: a store from nothing to complete, and all that is done to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from fault_checks import OUTPUTS, Checks, History, Poison, committed, path_of
from fault_killers import BLOCK, ORDERS, POISON, log_fault
from fault_orders import (
    FROM_OUTSIDE,
    KILLS_DRIVER,
    REFUSALS,
    STEPS,
    STOPS,
    Kind,
    Order,
    flights,
    may_hit,
    note_hit,
    spare,
)

from sweep.plan import Grid
from sweep.store import Store, exists
from sweep.store.lease import Lease
from sweep.verify import verify

HERE = Path(__file__).parent
STUDY = HERE / "fault_study.py"
SWEEP = Path(sys.executable).with_name("sweep")
SOME_FAILED, MISTAKE, INCOMPLETE, INTERRUPTED, KILLED = 1, 2, 3, 130, -9  # how a driver may end
LONGEST_DRIVER = 120.0  # s; the sweep takes 6 s undisturbed
LONGEST_ORPHAN = 60.0  # s that workers may outlive their driver
LONGEST_JOINED = 60.0  # s
POLL = 0.04  # s
FAULTS_A_ROUND = 30  # or a few more, of drivers that start
MOST_DRIVERS = 50  # a round
MOST_WAITING_BLOCKS = 8  # that an order may wait for a victim
BLOCKS_BEFORE_END = 56  # of 64
# Blocks that are committed at least, and at most, when a second driver comes
BLOCKS_FOR = {
    Kind.WORKER_LATE: (44, BLOCKS_BEFORE_END),
    Kind.SECOND: (0, 24),
    Kind.JOINED: (44, BLOCKS_BEFORE_END),
    Kind.DAMAGED: (4, BLOCKS_BEFORE_END),
}
POISON_SECONDS = 1  # that a point may take where one hangs


@dataclass(frozen=True)
class Fault:
    """One fault, as the victim (or its murderer) took it down just before."""

    order: int
    kind: str
    step: str
    role: str
    pid: int
    block: int | None  # in flight in the victim
    flights: int  # blocks in flight anywhere
    at: str
    time: float

    @property
    def hit_work(self) -> bool:
        """Whether a block was in flight: the victim's own where that is a worker."""
        return self.flights > 0 and (self.role == "driver" or self.block is not None)


@dataclass
class Round:
    """One store from nothing to complete, and what was found wrong with it."""

    number: int
    on: str
    faults: list[Fault] = field(default_factory=list)
    drivers: int = 0
    orphans: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    points_checked: int = 0
    refused_reads: int = 0  # of arrays with a damaged chunk
    repaired: int = 0  # blocks that verify found damaged, and a run computed again
    repeats: int = 0  # tasks on record beyond one a block: the others' status was never written
    leftovers: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


class Engine(NamedTuple):
    """On what a campaign runs."""

    on: str
    workers: int


class _Damage(NamedTuple):
    """A chunk that was damaged, and what it holds since."""

    block: int
    array: str
    bytes: bytes


def environment(folder: Path | None = None, poison: str = "") -> dict[str, str]:
    """Return the environment of a child process, with or without faults in its study."""
    plain = {name: value for name, value in os.environ.items() if name not in (ORDERS, POISON)}
    if folder is not None:
        plain[ORDERS] = str(folder)
    return {**plain, POISON: poison} if poison else plain


class Player:
    """Plays one round: places orders, does what is done from outside, resumes, watches.

    Parameters
    ----------
    campaign_folder
        Where the undisturbed sweep lies, and the round's own folder is to be.
    number
        Of the round.
    rng
        Draws what is left to chance.
    pool
        The orders that are left; what is carried out here is taken from it.
    engine
        On what to run.
    poison
        "crash", "hang" or "": what a point drawn at random does.
    """

    def __init__(
        self,
        campaign_folder: Path,
        number: int,
        rng: np.random.Generator,
        pool: list[Order],
        engine: Engine,
        poison: str,
    ) -> None:
        self.folder = campaign_folder / f"round{number}"
        self.store = self.folder / "walks.zarr"
        self.reference = campaign_folder / "reference.zarr"
        self.rng, self.pool, self.engine = rng, pool, engine
        self.round = Round(number, engine.on)
        self.history = History()
        self._pending: Order | None = None  # placed, not yet carried out
        self._placed: dict[int, Order] = {}
        self._outside_at = 0.0  # when to carry it out, if that is for us to do
        self._quiet_until = 0  # blocks committed before the next order
        self._attended = 0  # faults whose victims we have seen to
        self._started: list[subprocess.Popen[bytes]] = []
        self._damages: list[_Damage] = []  # that are not repaired
        for name in ("orders", "claimed", "flights", "hits"):
            (self.folder / name).mkdir(parents=True)
        self.poison = self._drawn_poison(poison) if poison else None

    def _drawn_poison(self, what: str) -> Poison:
        """Draw a point that would be done, and is no corner; its block is left to itself."""
        grid = Grid((16, 15), BLOCK)
        failing = {(4, 6), (12, 2)}
        place = (4, 6)
        while place in failing:
            place = (int(self.rng.integers(1, 15)), int(self.rng.integers(1, 14)))
        block = grid.block_of(place)
        spare(self.folder, block)
        return Poison(what, place, block)

    def play(self) -> Round:
        """Play the round and return what became of it."""
        begun = time.monotonic()
        try:
            with self._reading():
                code = self._run_to_the_end()
            if code == SOME_FAILED:
                self._go_through_store()
        finally:
            self._end_processes()
            for process in self._started:
                process.wait()
        self._withdraw()
        self.round.faults = self._faults()
        if not self.round.reads:
            self._violated("the reader never saw the store")
        self.round.seconds = time.monotonic() - begun
        return self.round

    def _violated(self, text: str) -> None:
        self.round.violations.append(text)

    def _go_through_store(self) -> None:
        store = Store(self.store)
        checks = Checks(store, self.reference, self.poison, self.history, self._violated)
        checks.go_through()
        self.round.repeats = len(checks.records) - store.grid.blocks
        self.round.leftovers = sum(1 for _ in self.folder.rglob("*.partial"))
        self.round.leftovers += sum(1 for _ in self.folder.glob(".*.creating"))

    # --- drivers -------------------------------------------------------------------------

    def _run_to_the_end(self) -> int:
        """Run and resume until a driver ends by itself with all done; return its exit code.

        Once more where one had joined: what it had on record while the other's last fold was
        made is folded by the next.
        """
        while self.round.drivers < MOST_DRIVERS:
            self._place_order_for_start()
            self._snapshot()
            before = len(self._faults())
            code, said = self._drive()
            faults = self._faults()[before:]
            if problem := self._wrong_end(code, said, faults):
                self._violated(f"a driver ended with {code} {problem}:\n{said}")
                return INCOMPLETE
            self._see_to_orphans(code, faults)
            if self._damages:
                self._find_damages()
            elif code == SOME_FAILED:
                return code
        self._violated(f"the sweep is not complete after {MOST_DRIVERS} drivers")
        return INCOMPLETE

    def _wrong_end(self, code: int, said: str, faults: list[Fault]) -> str:
        """Return why a driver should not have ended as it did, after these faults; "" if it may."""
        kinds = {fault.kind for fault in faults}
        if code == KILLED:
            return "" if kinds & set(KILLS_DRIVER) else "though nobody killed it"
        if "Traceback" in said:
            return "and a traceback"
        if kinds & set(REFUSALS) and code in (MISTAKE, INCOMPLETE):
            creation = any(fault.step.startswith("creation") for fault in faults)
            told = "No space left on device" in said or "Input/output error" in said
            is_right = told and (code == INCOMPLETE or creation)
            return "" if is_right else "and does not say what the disk refused"
        if kinds & {Kind.INTERRUPTED, Kind.DROPPED} and code == INTERRUPTED:
            return "" if "sweep resume" in said else "and does not say how to go on"
        if code == INCOMPLETE and "lost a worker again and again" in said:
            return ""
        if code != SOME_FAILED:
            return "though nothing made it"
        if kinds & {*KILLS_DRIVER, *REFUSALS}:
            return "though it was killed, or the disk refused"
        return "" if committed(Store(self.store)).all() else "and not all is done"

    def _command(self, *options: str) -> list[str | Path]:
        what: list[str | Path] = ["resume"] if exists(self.store) else ["run", STUDY]
        on, workers = self.engine
        limits = ["--timeout", str(POISON_SECONDS)] if self._hangs else []
        chosen = ["--on", on, "--workers", str(workers), *limits, *options]
        return [SWEEP, *what, self.store, *chosen]

    @property
    def _hangs(self) -> bool:
        return self.poison is not None and self.poison.what == "hang"

    def _start(self, said: Path, *options: str) -> "subprocess.Popen[bytes]":
        poison = ""
        if self.poison:
            poison = " ".join([self.poison.what, *(str(i / 8) for i in self.poison.place)])
        with said.open("w") as output:
            started = subprocess.Popen(
                self._command(*options),
                env=environment(self.folder, poison),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._started.append(started)
        return started

    def _drive(self) -> tuple[int, str]:
        """Run one driver; return its exit code and what it said."""
        self.round.drivers += 1
        self._forget_flights()
        self._attended = len(self._faults())
        said = self.folder / f"driver{self.round.drivers}.txt"
        driver = self._start(said)
        patience = time.monotonic() + LONGEST_DRIVER
        while driver.poll() is None:
            self._observe()
            self._place_order()
            self._attend(driver)
            self._act(driver)
            if time.monotonic() > patience:
                self._violated(f"a driver hung for {LONGEST_DRIVER:.0f} s: {said.read_text()}")
                driver.kill()
                return driver.wait() - 1, said.read_text()  # not one of our kills
            time.sleep(POLL)
        self._observe()
        return driver.returncode, said.read_text()

    def _wait(self, process: "subprocess.Popen[bytes]", seconds: float = 60.0) -> None:
        """Wait for the end of a process, observing the store."""
        patience = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < patience:
            self._observe()
            time.sleep(POLL)

    def _orphans(self) -> list[psutil.Process]:
        """Return the processes of this round that live, whoever their parent is by now."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return bool(process.environ().get(ORDERS) == str(self.folder))
        except psutil.Error:  # gone, a zombie, or another user's
            return False

    def _see_to_orphans(self, code: int, faults: list[Fault]) -> None:
        """Deal with the workers of a driver that has ended."""
        if code != KILLED or self._damages or faults[-1].kind == Kind.WORKER_ORPHANED:
            self._wait_for_orphans()
        else:
            self._leave_orphans()

    def _leave_orphans(self) -> None:
        """Deal with the workers of a driver that was killed, in one of three ways."""
        way = str(self.rng.choice(["waited for", "killed", "left at work"]))
        self.round.orphans[way] += 1
        if way == "waited for":
            self._wait_for_orphans()
        elif way == "killed":
            self._end_processes()
        elif exists(self.store):
            self.history.shared_runs.add(self._last_run() + 1)

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
            self._place(starts)

    def _place_order(self) -> None:
        """Place the next order when the last is carried out and some more blocks are done.

        One that finds no victim for some blocks makes room for another; the first fold comes in
        its own time.
        """
        faults = self._faults()
        may_wait_long = self._pending is not None and STEPS[self._pending.step].when == "first fold"
        if not may_wait_long and self._seen > self._quiet_until + MOST_WAITING_BLOCKS:
            self._withdraw()
        if self._pending is not None and self._pending.number in {f.order for f in faults}:
            self._pending = None
            self._quiet_until = self._seen + int(self.rng.integers(2))
        enough = len(faults) >= FAULTS_A_ROUND
        is_time = self._seen >= self._quiet_until and flights(self.folder)
        if self._pending is None and is_time and not enough:
            self._place({"end" if self._seen > BLOCKS_BEFORE_END else "work"})
            self._quiet_until = self._seen

    @property
    def _seen(self) -> int:
        return len(self.history.first_seen)

    def _place(self, whens: set[str]) -> None:
        """Take an order out of the pool and place it, if one fits."""
        order = next((order for order in self.pool if self._fits(order, whens)), None)
        if order is None:
            return
        self.pool.remove(order)
        self._pending = self._placed[order.number] = order
        if order.step == FROM_OUTSIDE:
            self._outside_at = time.monotonic() + order.delay_ms / 100
        else:
            (self.folder / "orders" / order.file_name).touch()

    def _fits(self, order: Order, whens: set[str]) -> bool:
        least, most = BLOCKS_FOR.get(order.kind, (0, 64))
        if self._hangs and order.kind in STOPS:  # the points at work would be late
            return False
        return STEPS[order.step].when in whens and least <= self._seen <= most

    def _withdraw(self) -> None:
        """Take back an order that nobody has carried out; it is to be easier the next time."""
        order, self._pending = self._pending, None
        if order is None or order.number in {fault.order for fault in self._faults()}:
            return
        for file in (self.folder / "orders").iterdir():
            file.unlink(missing_ok=True)  # somebody may have taken it just now
        self.pool.append(order._replace(skips=0, delay_ms=order.delay_ms // 2))

    def _faults(self) -> list[Fault]:
        log = self.folder / "faults.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [Fault(**json.loads(line)) for line in lines]

    # --- what is done from outside -------------------------------------------------------

    def _act(self, driver: "subprocess.Popen[bytes]") -> None:
        """Carry out an order that is for us, when its time has come and blocks are in flight."""
        order = self._pending
        if order is None or order.step != FROM_OUTSIDE or time.monotonic() < self._outside_at:
            return
        if not flights(self.folder):
            return
        match order.kind:
            case Kind.DRIVER_KILLED:
                log_fault(self.folder, order, driver.pid, "driver", None)
                driver.kill()
                driver.wait()
            case Kind.ALL_KILLED:
                self._kill_all_workers(order, driver)
            case Kind.INTERRUPTED | Kind.DROPPED:
                self._interrupt(order, driver)
            case Kind.SECOND:
                self._start_second(order, driver)
            case Kind.JOINED:
                self._join(order, driver)
            case Kind.DAMAGED:
                self._damage(order)

    def _kill_all_workers(self, order: Order, driver: "subprocess.Popen[bytes]") -> None:
        """Kill them while they stand still, so that what they are at is known."""
        workers = []
        with suppress(psutil.Error):
            workers = psutil.Process(driver.pid).children(recursive=True)
        for worker in workers:
            with suppress(psutil.Error):
                worker.suspend()
        at_work = flights(self.folder)
        blocks = [at_work[worker.pid] for worker in workers if worker.pid in at_work]
        may_hit_all = all(may_hit(self.folder, block, Kind.WORKER_KILLED) for block in blocks)
        if not blocks or not may_hit_all:
            for worker in workers:
                with suppress(psutil.Error):
                    worker.resume()
            return
        log_fault(self.folder, order, workers[0].pid, "worker", blocks[0])
        for worker in workers:
            with suppress(psutil.Error):
                worker.kill()
            (self.folder / "flights" / str(worker.pid)).unlink(missing_ok=True)
        for block in blocks:
            note_hit(self.folder, block, order.number)

    def _interrupt(self, order: Order, driver: "subprocess.Popen[bytes]") -> None:
        """Ask a driver to end: once, and what is in flight is to be committed; or twice."""
        number = signal.SIGINT if order.delay_ms % 2 else signal.SIGTERM
        before = set(flights(self.folder).values())
        log_fault(self.folder, order, driver.pid, "driver", None)
        driver.send_signal(number)
        if order.kind == Kind.DROPPED:
            time.sleep(order.delay_ms / 1000)
            if driver.poll() is None:
                driver.send_signal(number)
        self._wait(driver)
        if driver.poll() is None:
            self._violated("a driver did not end within a minute after it was asked to")
        elif order.kind == Kind.INTERRUPTED and driver.returncode != INCOMPLETE:
            # Else the disk had refused just before, and the driver was ending for that.
            left = before - set(np.flatnonzero(committed(Store(self.store))).tolist())
            if left - {self.poison and self.poison.block}:
                self._violated(f"a driver that was asked once dropped the blocks {left}")

    def _start_second(self, order: Order, driver: "subprocess.Popen[bytes]") -> None:
        """Start another driver on the store, which has to be refused and told by whom."""
        said = self.folder / f"second{order.number}.txt"
        log_fault(self.folder, order, driver.pid, "driver", None)
        second = self._start(said)
        self._wait(second)
        if driver.poll() is not None:  # its store was free, then
            self._end_driver(second)
            return
        text = said.read_text()
        named = f"pid {driver.pid} on {socket.gethostname()}"
        if second.returncode != MISTAKE or named not in text:
            self._violated(f"a second driver ended with {second.poll()}, not refused:\n{text}")

    def _join(self, order: Order, driver: "subprocess.Popen[bytes]") -> None:
        """Have another driver help, which has to end well."""
        log_fault(self.folder, order, driver.pid, "driver", None)
        self._run_joined(order)

    def _run_joined(self, order: Order, late: "subprocess.Popen[bytes] | None" = None) -> None:
        """Run a driver that joins to its end; what it computes may be computed twice.

        It takes a `late` driver for dead, as after a long pause; else it would wait for its blocks.
        """
        self.history.shared_runs |= {self._last_run(), self._last_run() + 1}
        said = self.folder / f"joined{order.number}.txt"
        joined = self._start(said, "--join")
        patience = time.monotonic() + LONGEST_JOINED
        while joined.poll() is None and time.monotonic() < patience:
            for claimant in (self.store / ".sweep" / "claimants").glob(f"*-{late and late.pid}-*"):
                claimant.unlink(missing_ok=True)
            self._wait(joined, POLL)
        if joined.poll() != SOME_FAILED or "Traceback" in said.read_text():
            self._violated(f"a driver that joined ended with {joined.poll()}:\n{said.read_text()}")
            self._end_driver(joined)

    def _end_driver(self, driver: "subprocess.Popen[bytes]") -> None:
        if driver.poll() is None:
            driver.kill()
        driver.wait()

    def _attend(self, driver: "subprocess.Popen[bytes]") -> None:
        """See to workers that have stopped themselves."""
        faults = self._faults()
        for fault in faults[self._attended :]:
            if fault.kind not in STOPS:
                continue
            order = self._placed[fault.order]
            self._wait_until_stopped(fault.pid)
            if fault.kind == Kind.WORKER_LATE:
                self._run_joined(order, driver)
            else:
                self._wait(driver, 0.1 + order.delay_ms / 200)
            if fault.kind == Kind.WORKER_ORPHANED:
                driver.kill()  # and the worker dies as it stands
                driver.wait()
            else:
                with suppress(ProcessLookupError):
                    os.kill(fault.pid, signal.SIGCONT)
        self._attended = len(faults)

    def _wait_until_stopped(self, pid: int) -> None:
        """Wait until a process stands still: it took down that it will a moment before."""
        patience = time.monotonic() + 10
        while time.monotonic() < patience:
            with suppress(psutil.Error):
                if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                    return
            time.sleep(0.001)
        self._violated(f"worker {pid} did not stop")

    # --- damage --------------------------------------------------------------------------

    def _damage(self, order: Order) -> None:
        """Change bytes of a committed chunk on the disk; readers are told before."""
        store = Store(self.store)
        whole = set(np.flatnonzero(committed(store)).tolist()) - self.history.damaged
        if not whole:
            return
        block = store.grid.block(int(self.rng.choice(sorted(whole))))
        name = str(self.rng.choice(list(OUTPUTS)))
        path = path_of(store, name, block)
        raw = path.read_bytes()
        damaged = _damaged(raw, self.rng)
        with (self.folder / "damaged.jsonl").open("a") as listed:
            listed.write(json.dumps(block.index) + "\n")
        self.history.damaged.add(block.number)
        log_fault(self.folder, order, os.getpid(), "driver", None, f"{name} {block.name}")
        with path.open("r+b") as file:
            file.write(damaged)
            file.truncate()
        self._damages.append(_Damage(block.number, name, damaged))

    def _find_damages(self) -> None:
        """Have `verify` find what was damaged, and nothing else, and mark it."""
        store = Store(self.store)
        wanted = set()
        for damage in self._damages:
            block = store.grid.block(damage.block)
            if path_of(store, damage.array, block).read_bytes() == damage.bytes:
                wanted.add(block.name)  # and not written again since by one that was late
        with Lease.take(store):
            report = verify(store)
        if set(report.damaged_blocks) != wanted or report.lost or report.damaged_lines:
            self._violated(f"verify found not the damage of {wanted}, but: {report.text()}")
        self.round.repaired += len(wanted)
        self._damages.clear()

    # --- watching ------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Let another process read the store, from before it is there."""
        poison = json.dumps(self.poison.place) if self.poison else ""
        command = [HERE / "fault_reader.py", self.store, self.reference, poison]
        reader = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment(),
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
            reader.communicate()
        found = json.loads(out)
        self.round.reads, self.round.points_checked = found["reads"], found["points"]
        self.round.refused_reads = found["refused"]
        self.round.violations += found["violations"]

    def _observe(self) -> None:
        """Note which blocks are committed by now."""
        if exists(self.store):
            for block in np.flatnonzero(committed(Store(self.store))).tolist():
                self.history.first_seen.setdefault(block, time.time())

    def _snapshot(self) -> None:
        """Note what is committed before a run."""
        if exists(self.store):
            done = committed(Store(self.store))
            self.history.before_runs.append((self._last_run(), done))

    def _last_run(self) -> int:
        return max(Store(self.store).run_files(), default=0)


def _damaged(raw: bytes, rng: np.random.Generator) -> bytes:
    """Return some bytes with a bit flipped, or cut short, or with a tail of zeros."""
    place = int(rng.integers(len(raw)))
    ways: dict[str, Callable[[], bytes]] = {
        "flipped": lambda: raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :],
        "cut": lambda: raw[:place],
        "zeroed": lambda: raw[:place] + bytes(len(raw) - place),
    }
    changed = ways[str(rng.choice(list(ways)))]()
    return changed if changed != raw else ways["flipped"]()


def run_reference(store: Path) -> None:
    """Make the undisturbed sweep, in one process."""
    command = [SWEEP, "run", STUDY, store, "--on", "serial"]
    ended = subprocess.run(command, env=environment(), capture_output=True, check=False)
    if ended.returncode != SOME_FAILED:
        raise RuntimeError(f"the undisturbed run ended with {ended.returncode}: {ended.stderr!r}")
