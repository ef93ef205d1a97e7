"""Marks: what each worker is at, on disk before each point, so that a death names its culprit.

A worker has one small file in ``.sweep/marks/CLAIMANT``, the folder of the process that hands it
its blocks, and writes to it through memory: a mark costs a third of a microsecond and survives
the process. After a power cut it may be missing; then
nobody is suspected.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

NO_POINT = -1  # between two points: computing nothing, or writing
WHOLE_BLOCK = -2  # a vectorized stage is at all points of it at once

_LAYOUT = struct.Struct("<4q")


class Mark(NamedTuple):
    """What a worker is at: the attempt at a block in a run, and the point, counted in C order."""

    run: int
    block: int
    attempt: int
    point: int


class Marker:
    """The mark of one worker process.

    Parameters
    ----------
    folder
        Of the marks of this claimant's workers.
    worker
        The worker's name.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        handle = os.open(folder / worker, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            # Written before it is mapped: a full disk is an error here and a SIGBUS there.
            os.pwrite(handle, _LAYOUT.pack(0, 0, 0, NO_POINT), 0)
            self._memory = mmap.mmap(handle, _LAYOUT.size)
        finally:
            os.close(handle)
        self._at = (0, 0, 0)

    def begin(self, run: int, block: int, attempt: int) -> None:
        """Mark a block; its points follow."""
        self._at = (run, block, attempt)
        self.put(NO_POINT)

    def put(self, point: int) -> None:
        """Mark a point of the block, `WHOLE_BLOCK` or `NO_POINT`."""
        _LAYOUT.pack_into(self._memory, 0, *self._at, point)


def read_marks(folder: Path) -> Iterator[Mark]:
    """Yield the marks in a folder, those of dead workers among them."""
    for path in folder.glob("*"):
        with suppress(OSError, struct.error):  # removed meanwhile; cut short by a power cut
            yield Mark(*_LAYOUT.unpack(path.read_bytes()))
