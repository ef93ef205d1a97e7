"""Which blocks have a status at all, and marking stale what is to be computed again."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sweep.errors import resume_command, short_path, writing
from sweep.plan import Block
from sweep.store import Store
from sweep.template import STALE

MOST_SHOWN = 20  # lines of one kind in a report's text

Place = tuple[int, ...]


def begun(store: Store) -> np.ndarray:
    """Return the numbers of the blocks that have a status chunk, in order."""
    return np.sort(np.fromiter((block.number for block in store.begun()), np.int64))


def mark_block(store: Store, block: Block) -> None:
    """Make all points of a block stale, whatever they were.

    Raises
    ------
    DiskError
        If it cannot be written.
    """
    _write_status(store, block, np.full(block.shape, STALE, np.uint8))


def mark_points(store: Store, places: Iterable[Place]) -> None:
    """Make the points at some places on the swept dims stale.

    Raises
    ------
    DiskError
        If it cannot be written.
    """
    of_blocks: dict[int, list[Place]] = {}
    for place in places:
        of_blocks.setdefault(store.grid.block_of(place), []).append(place)
    for number, inside in of_blocks.items():
        block = store.grid.block(number)
        if (before := store.read_status(block)) is None:
            continue  # it is to be computed as it is
        status = np.array(before)  # of the only point it is no array
        for place in inside:
            status[tuple(i - low for i, low in zip(place, block.start, strict=True))] = STALE
        _write_status(store, block, status)


def _write_status(store: Store, block: Block, status: np.ndarray) -> None:
    with writing(store.path):
        store.write_status(block, status)


def remedy(store: Path, what: str, *, marked: bool) -> str:
    """Return what to do about what is stale, or should be."""
    if marked:
        return f"Marked stale: {what}. Compute again what is stale: {resume_command(store)}"
    return f"Not marked, because nothing was to be written to {short_path(store)}: {what}."


def shown(lines: Sequence[str]) -> list[str]:
    """Return the first of some lines, and how many more there are."""
    left = len(lines) - MOST_SHOWN
    return [*lines[:MOST_SHOWN], *([f"and {left} more"] if left > 0 else [])]
