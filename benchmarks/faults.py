"""Put faults into sweeps, hundreds of them, and look whether anything is lost or wrong.

    python benchmarks/faults.py [--faults 500] [--seed 1] [--on processes|dask] [--workers 2]

A small sweep (`fault_study.py`) is run by ``sweep run`` and, after each end of its driver,
``sweep resume``. All the while its processes come to harm for real, each at a step of the commit
protocol that was drawn for it or at a random instant (`fault_orders.py`, `fault_killers.py`):
they are killed, crash, leave, are stopped, are refused by the disk; drivers are killed,
interrupted, get a second one beside them; bytes of committed chunks are changed on the disk;
points crash or hang whenever they are computed. Another process reads the store all the while
(`fault_reader.py`). A round ends when the sweep is complete; then its store is gone through
(`fault_checks.py`). Rounds follow until so many faults have hit work in flight.

It must hold: no reader ever sees a wrong value under ``status == done``, or fails to read what
was not damaged on the disk; the outputs and the status at the end are, value for value, those of
an undisturbed serial run, but for a point that crashes or hangs, which is named with its reason;
no committed block is computed again; every committed block is on record, whole, in a journal and
in ``/tasks``; no process outlives its driver; a driver ends as what was done to it says; damage
is found, and nothing but the damage. The exit code is 1 if anything of it does not.
"""

import argparse
import itertools
import json
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fault_orders import STEPS, Kind, Order, drawn_orders
from fault_round import Engine, Fault, Player, Round, run_reference

ON_DASK = 0.13  # of the faults, where both engines are asked for
MOST_IDLE_ROUNDS = 5  # without a fault, until the orders left are given up
MOST_VIOLATIONS = 20  # then there is enough to mend
POISONED_ROUNDS = {3: "crash", 7: "hang"}  # of eight
WORDS = {"crash": "crashes", "hang": "hangs"}
SIDE_BY_SIDE = 2  # rounds
SPARE = 1.08  # orders a fault: some hit a driver with no block in flight


@dataclass
class Report:
    """What a campaign did and found."""

    seed: int
    asked: int
    rounds: list[Round] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    seconds: float = 0.0
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))  # of rounds

    @property
    def faults(self) -> list[Fault]:
        """The faults that hit work in flight."""
        return [fault for each in self.rounds for fault in each.faults if fault.hit_work]

    @property
    def violations(self) -> list[str]:
        """All that was wrong."""
        found = [f"{r.on}, round {r.number}: {text}" for r in self.rounds for text in r.violations]
        return found + [f"nobody came to '{name}'" for name in self.not_reached]

    @property
    def is_right(self) -> bool:
        """Whether nothing was wrong, and as many faults hit as were asked for."""
        return not self.violations and len(self.faults) >= self.asked

    def text(self) -> str:
        """Return the tables of kinds, of steps and of rounds, and the verdict."""
        engines = list(dict.fromkeys(each.on for each in self.rounds))
        lines = [*self._kinds(engines), "", *self._steps(), "", *self._rounds(), ""]
        orphans = sum((each.orphans for each in self.rounds), Counter[str]())
        all_faults = sum(len(each.faults) for each in self.rounds)
        lines += [
            f"after a driver's death, its workers: {json.dumps(orphans)}",
            f"damaged blocks found and computed again: {sum(r.repaired for r in self.rounds)}; "
            f"reads of arrays with damage that were refused: "
            f"{sum(r.refused_reads for r in self.rounds)}",
            f"seed {self.seed}: {len(self.faults)} faults that hit work in flight "
            f"({all_faults} in all), "
            f"{len(self.rounds)} stores, {sum(r.drivers for r in self.rounds)} drivers, "
            f"{sum(r.reads for r in self.rounds)} reads, "
            f"{sum(r.points_checked for r in self.rounds)} points checked while it ran, "
            f"{self.seconds:.0f} s",
            *self.violations,
            "verdict: nothing lost, nothing wrong" if self.is_right else "verdict: WRONG",
        ]
        return "\n".join(lines)

    def _kinds(self, engines: Iterable[str]) -> list[str]:
        counts = {on: Counter(f.kind for f in self._hits(on)) for on in engines}
        others = Counter(f.kind for r in self.rounds for f in r.faults if not f.hit_work)
        heads = "".join(f"{on:>11}" for on in counts)
        lines = [f"{'kind (with work in flight)':<56}{heads}{'all':>8}{'without':>9}"]
        for kind in Kind:
            each = "".join(f"{count[kind]:>11}" for count in counts.values())
            total = sum(count[kind] for count in counts.values())
            lines.append(f"{kind:<56}{each}{total:>8}{others[kind]:>9}")
        each = "".join(f"{count.total():>11}" for count in counts.values())
        return [*lines, f"{'all':<56}{each}{len(self.faults):>8}{others.total():>9}"]

    def _steps(self) -> list[str]:
        """Return the table of steps and kinds; the last column is without work in flight."""
        columns = {
            "killed": (Kind.WORKER_KILLED, Kind.DRIVER_KILLED),
            "crashed": (Kind.WORKER_CRASHED,),
            "left": (Kind.WORKER_LEFT,),
            "disk": (Kind.WORKER_DISK, Kind.DRIVER_DISK),
            "stopped": (Kind.WORKER_STILL, Kind.WORKER_LATE, Kind.WORKER_ORPHANED),
        }
        counts = Counter((fault.step, fault.kind) for fault in self.faults)
        missed = Counter(f.step for r in self.rounds for f in r.faults if not f.hit_work)
        heads = "".join(f"{name:>9}" for name in [*columns, "others", "all", "without"])
        lines = [f"{'step (with work in flight)':<46}{heads}"]
        for step in STEPS:
            total = sum(counts[step.name, kind] for kind in Kind)
            row = [sum(counts[step.name, kind] for kind in kinds) for kinds in columns.values()]
            row += [total - sum(row), total, missed[step.name]]
            lines.append(f"{step.role}, {step.name:<38}{''.join(f'{n:>9}' for n in row)}")
        return lines

    def _rounds(self) -> list[str]:
        head = "faults  in flight  drivers  reads  points checked  repeats  leftovers  seconds"
        lines = [f"{'round':<16}{head}  verdict"]
        for each in self.rounds:
            hit = sum(fault.hit_work for fault in each.faults)
            lines.append(
                f"{each.on:<10}{each.number:>4}  {len(each.faults):>6} {hit:>10} "
                f"{each.drivers:>8} {each.reads:>6} {each.points_checked:>15} {each.repeats:>8} "
                f"{each.leftovers:>10} {each.seconds:>8.1f}  "
                f"{'WRONG' if each.violations else 'right'}"
            )
        return lines

    def _hits(self, on: str) -> list[Fault]:
        return [f for each in self.rounds if each.on == on for f in each.faults if f.hit_work]


def campaign(
    faults: int = 500,
    *,
    seed: int = 1,
    on: str | None = None,
    workers: int = 2,
    say: Callable[[str], None] = print,
) -> Report:
    """Put so many faults into sweeps, and report what became of these.

    On one engine, or mostly on processes and some on Dask.
    """
    report = Report(seed, faults)
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="sweep-faults-")).resolve()
    say(f"seed {seed}, {workers} workers, {faults} faults, in {folder}")
    run_reference(folder / "reference.zarr")
    lanes = [
        Lane(report, folder, share, np.random.default_rng([seed, i]), Engine(name, workers), say)
        for i, (name, share) in enumerate(_shares(faults, on))
    ]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as executor:
        for ended in [executor.submit(lane.play) for lane in lanes]:
            ended.result()
    report.rounds.sort(key=lambda each: each.number)
    report.seconds = time.monotonic() - begun
    if not report.violations:
        shutil.rmtree(folder)
    return report


def _shares(faults: int, on: str | None) -> list[tuple[str, int]]:
    """Return engines and how many faults each lane puts into sweeps on them."""
    first = math.ceil(faults / SIDE_BY_SIDE)
    on_dask = 0 if on else math.ceil(ON_DASK * faults)
    name = on or "processes"
    shares = [(name, first), ("dask", on_dask), (name, faults - first - on_dask)]
    return [(name, share) for name, share in shares if share > 0]


@dataclass
class Lane:
    """Rounds on one engine, one after the other, until so many faults have hit work in flight.

    Two lanes are played side by side: a round mostly waits, for processes to start.
    """

    report: Report
    folder: Path
    faults: int
    rng: np.random.Generator
    engine: Engine
    say: Callable[[str], None]

    def play(self) -> None:
        """Play the rounds."""
        pool = drawn_orders(math.ceil(self.faults * SPARE), self.rng)
        ordered, hits, idle = len(pool), 0, 0
        spare = len(pool) - self.faults
        while hits < self.faults or len(pool) > spare:
            if idle == MOST_IDLE_ROUNDS:
                self.report.not_reached += [f"{STEPS[o.step].name}: {o.kind}" for o in pool]
                return
            if len(self.report.violations) >= MOST_VIOLATIONS:
                return
            done = self._play_round(pool)
            hits += sum(fault.hit_work for fault in done.faults)
            idle = 0 if done.faults else idle + 1
            if not pool and hits < self.faults:
                pool += drawn_orders(self.faults - hits, self.rng, first=ordered)
                ordered += len(pool)

    def _play_round(self, pool: list[Order]) -> Round:
        number = next(self.report.numbers)
        poison = POISONED_ROUNDS.get(number % 8, "")
        done = Player(self.folder, number, self.rng, pool, self.engine, poison).play()
        self.report.rounds.append(done)
        self.say(
            f"round {number} ({self.engine.on}{poison and ', a point that ' + WORDS[poison]}): "
            f"{len(done.faults)} faults, {len(self.report.faults)} in flight so far in all, "
            f"{len(pool)} orders left here, {done.drivers} drivers, {done.reads} reads, "
            f"{done.seconds:.1f} s" + "".join(f"\n  WRONG: {text}" for text in done.violations)
        )
        return done


def main() -> int:
    """Run the campaign that the command line asks for."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--on", choices=("processes", "dask"), help="instead of both")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    report = campaign(asked.faults, seed=asked.seed, on=asked.on, workers=asked.workers, say=say)
    print(report.text())
    return 0 if report.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
