"""Which blocks are left to do, in which order, at what cost: pure arithmetic on indices.

A block is a hyper-rectangle of points and one chunk of every variable. Blocks are numbered in
C order over the grid of blocks and made one at a time, so a million of them cost nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

OWN_BLOCK_BYTES = 256_000  # a point this large is a block of its own
LARGEST_BLOCK_BYTES = 64_000_000
MOST_FILES = 20_000
BLOCK_SECONDS = 1.0  # what a kill may cost, and long beside a commit
BLOCKS_A_SECOND = 100  # of all workers together: what one feeder hands out (benchmarks/RESULTS.md)
COMMIT_SHARE = 0.1  # a block computes for at least its commit's time divided by this


@dataclass(frozen=True, slots=True)
class Block:
    """A hyper-rectangle of points: its place on the grid of blocks, and its corner and shape."""

    number: int
    index: tuple[int, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]  # smaller than the grid's block at the far edges

    @property
    def points(self) -> int:
        """The number of points in it."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """Its place on the grid of blocks as its chunks have it in their names: "3.0"."""
        return ".".join(map(str, self.index))

    def places(self) -> Iterator[tuple[int, ...]]:
        """Yield the index of each point on the swept dims, in C order."""
        return product(
            *(range(low, low + n) for low, n in zip(self.start, self.shape, strict=True))
        )


@dataclass(frozen=True)
class Grid:
    """How the points of a sweep are cut into blocks.

    Parameters
    ----------
    shape
        Points along each swept dim; ``()`` is one point.
    block_shape
        Points of a block along each.
    """

    shape: tuple[int, ...]
    block_shape: tuple[int, ...]

    @property
    def points(self) -> int:
        """The number of points."""
        return math.prod(self.shape)

    @property
    def blocks_shape(self) -> tuple[int, ...]:
        """The number of blocks along each swept dim."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.block_shape, strict=True))

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return math.prod(self.blocks_shape)

    def block(self, number: int) -> Block:
        """Return block `number`, from 0 to ``blocks - 1``."""
        index = tuple(int(i) for i in np.unravel_index(number, self.blocks_shape))
        start = tuple(i * b for i, b in zip(index, self.block_shape, strict=True))
        shape = tuple(
            min(b, n - low) for b, n, low in zip(self.block_shape, self.shape, start, strict=True)
        )
        return Block(number, index, start, shape)

    def block_named(self, name: str) -> Block:
        """Return the block whose `name` is this: numbers change when a sweep grows, names not.

        Raises
        ------
        ValueError
            If there is no such block.
        """
        index = tuple(map(int, name.split("."))) if name else ()
        if len(index) != len(self.shape):
            raise ValueError(f"'{name}' names no block of {len(self.shape)} dims")
        return self.block(self.number_at(index))

    def number_at(self, index: tuple[int, ...]) -> int:
        """Return the number of the block at a place on the grid of blocks.

        Raises
        ------
        ValueError
            If there is none.
        """
        return int(np.ravel_multi_index(index, self.blocks_shape)) if index else 0

    def block_points(self) -> np.ndarray:
        """Return the number of points of every block, shape (blocks,)."""
        count = np.ones(1, np.int64)
        for n, b, blocks in zip(self.shape, self.block_shape, self.blocks_shape, strict=True):
            lengths = np.minimum(b, n - b * np.arange(blocks))
            count = np.multiply.outer(count, lengths).ravel()
        return count

    def block_of(self, place: tuple[int, ...]) -> int:
        """Return the number of the block that holds the point at `place`."""
        return self.number_at(tuple(i // b for i, b in zip(place, self.block_shape, strict=True)))


@dataclass(frozen=True)
class Plan:
    """What is left of a sweep.

    `done` has one entry a block: True where it is committed.
    """

    grid: Grid
    done: np.ndarray

    @property
    def blocks_left(self) -> int:
        """The number of blocks that are not committed."""
        return int(self.done.size - np.count_nonzero(self.done))

    @property
    def points_left(self) -> int:
        """The number of points in them."""
        return int(self.grid.block_points()[~self.done].sum())

    def remaining(self, *, backwards: bool = False) -> Iterator[Block]:
        """Yield the blocks that are not committed, in order, each made when it is asked for."""
        numbers = np.flatnonzero(~self.done)
        for number in numbers[::-1] if backwards else numbers:
            yield self.grid.block(int(number))


@dataclass(frozen=True)
class Cost:
    """What decides the size of a block.

    Parameters
    ----------
    point_seconds
        Time of the slowest of the timed points [s].
    point_bytes
        Bytes of one point of the largest variable.
    all_bytes
        Bytes of one point of all variables together.
    variables
        Number of variables that every block writes, status among them.
    commit_seconds
        Time to commit one block on this disk [s].
    memory_bytes
        What one point may take of a worker's memory.
    """

    point_seconds: float
    point_bytes: int
    all_bytes: int
    variables: int
    commit_seconds: float
    memory_bytes: int


def points_per_block(points: int, workers: int, cost: Cost) -> int:
    """Return how many points a block should hold.

    A block computes for about a second, so that a kill costs little, or longer where hundreds of
    workers would ask for too many; but for less where that leaves workers idle (eight blocks each),
    and never so short that committing it counts. The number of files is bounded, and so are the
    bytes of a block.
    """
    if cost.point_bytes >= OWN_BLOCK_BYTES:
        return 1
    seconds = max(cost.point_seconds, 1e-9)
    for_feeder = workers / BLOCKS_A_SECOND
    for_loss = max(BLOCK_SECONDS, for_feeder, cost.commit_seconds / COMMIT_SHARE) / seconds
    for_balance = max(points / (8 * workers), cost.commit_seconds / seconds)
    for_files = points * cost.variables / MOST_FILES
    fits = min(
        LARGEST_BLOCK_BYTES / max(cost.point_bytes, 1),
        cost.memory_bytes / 4 / max(cost.all_bytes, 1),
    )
    return max(1, min(points, int(min(max(min(for_loss, for_balance), for_files), fits))))


def block_shape(shape: tuple[int, ...], points: int) -> tuple[int, ...]:
    """Return a block of at most `points` points: whole fast dims, part of one, 1 along the rest.

    Along the dim that is cut, a length that divides it is preferred where one is at most half
    as short, so that the sweep can later grow there without touching what is written.
    """
    block: list[int] = []
    room = max(1, points)
    for n in reversed(shape):
        length = _cut(n, room)
        block.append(length)
        room = room // length if length == n else 1
    return tuple(reversed(block))


def _cut(n: int, room: int) -> int:
    if room >= n:
        return n
    divisor = next(d for d in range(room, 0, -1) if n % d == 0)
    return divisor if 2 * divisor > room else room


def pilot_places(shape: tuple[int, ...], count: int = 6) -> list[tuple[int, ...]]:
    """Return points to time: corners of the parameter box, then some drawn at random.

    The first corner comes first, because small values tend to be quick and what compilers take
    shows there; then the last, the slow one. The draw is the same every time.
    """
    first = tuple(0 for _ in shape)
    last = tuple(n - 1 for n in shape)
    rng = np.random.default_rng(0)
    drawn = [tuple(int(rng.integers(n)) for n in shape) for _ in range(count)]
    return list(dict.fromkeys([first, last, *drawn]))[:count]
