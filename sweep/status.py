"""What a store says of its sweep, from any machine that sees it: counts, runs, failures."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.journal import Record, is_final, journals, order_of, read_from
from sweep.store import Store, store_path

RECENT_SECONDS = 60.0  # the rate is that of the last minute


@dataclass(frozen=True)
class Failure:
    """A point that failed: its place on the swept dims, its parameters there, and why."""

    place: dict[str, int]
    values: dict[str, Any]
    error_type: str
    error: str

    @property
    def text(self) -> str:
        """What failed, where, and why."""
        values = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"{values or 'the only point'}: {self.error_type}: {self.error}"


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    `points` counts them by state; `rate` is in points per second over the last minute of
    work; `last_commit` is in seconds since 1970, None if there was none.
    """

    store: Path
    points: dict[str, int]
    blocks: int
    blocks_left: int
    runs: dict[int, Record]
    failures: tuple[Failure, ...]
    compute_seconds: float
    rate: float
    last_commit: float | None

    @property
    def total(self) -> int:
        """The number of points of the sweep."""
        return sum(self.points.values())

    @property
    def complete(self) -> bool:
        """Tell whether no point is left."""
        return self.blocks_left == 0


def status(store: str | Path) -> Status:
    """Return how far the sweep in a store is.

    Raises
    ------
    StoreError
        If there is no store.
    """
    found = Store(store_path(store))
    records = [
        record for path in journals(found.journal_folder) for record, _ in read_from(path, 0)
    ]
    last = max((float(record["ended"]) for record in records), default=None)
    return Status(
        store=found.path,
        points=found.count_points(),
        blocks=found.grid.blocks,
        blocks_left=found.plan().blocks_left,
        runs={number: found.read_run(number) for number in found.run_files()},
        failures=tuple(_failures(records, found)),
        compute_seconds=sum(float(record["compute_seconds"]) for record in records),
        rate=_rate([record for record in records if not is_final(record)]),
        last_commit=last,
    )


def _failures(records: list[Record], store: Store) -> list[Failure]:
    """Return the failures of the newest attempt at each block, if it is committed."""
    axes = store.axes()
    newest = {record["block"]: record for record in sorted(records, key=order_of)}
    found: dict[tuple[int, ...], Failure] = {}
    for name, record in newest.items():
        if not record["events"] or not store.is_committed(store.grid.block_named(name)):
            continue
        for event in record["events"]:
            if event["kind"] != "failed":
                continue
            place = event["place"]
            values = {name: v for axis in axes for name, v in axis.at(place[axis.dim]).items()}
            failure = Failure(place, values, event["error_type"], event["error"])
            found[tuple(place.values())] = failure
    return [found[place] for place in sorted(found)]


def _rate(records: list[Record]) -> float:
    if not records:
        return 0.0
    last = max(float(record["ended"]) for record in records)
    recent = [record for record in records if float(record["ended"]) > last - RECENT_SECONDS]
    since = min(float(record["started"]) for record in recent)
    return sum(int(record["points"]) for record in recent) / max(last - since, 1e-9)


def age_text(then: float) -> str:
    """Say how long ago a time (seconds since 1970) was."""
    return f"{max(0.0, time.time() - then):.0f} s ago"
