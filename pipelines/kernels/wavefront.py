"""Many steps of a plate in one pass over its rows, so that all rows at work stay in the cache.

A wavefront (Wellein et al. 2009, doi:10.1109/COMPSAC.2009.82): step s + 1 of a row is done when
step s is two rows ahead. In one pass a band of rows, of one strip of columns, is taken up to
`Layout.depth` steps ahead; beyond the band, and beyond the strip, it is computed with a margin that
gets narrower by one node a step, because others compute the same there.

All numbers of a plate on its way are in one work array `w`, and its `Layout` says where: to count
references to arrays of their own would take longer than a row of a narrow plate does.

A narrow plate is one strip, interleaved (`rows.py`) as a whole from the first step to the last; of
a wide one, strips are interleaved row by row as a pass meets them, and come out of it as they were.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.kernels.conduction import (
    conduct_uniform,
    conduct_varying,
    copy_row,
    heat_up,
    reflect,
)
from pipelines.kernels.rows import pack, place, twin, unpack
from pipelines.kernels.simd import BYTES, from_left, from_right, lanes, load, store
from pipelines.kernels.stencil import FIXED, OPEN, PERIODIC, Stencil

BEHIND = 2  # rows from one step to the next: what was just stored is not read at once
KEPT = 3  # rows of a step that the next one reads
# Chosen by measurement, on cores with 48 KiB of L1: see benchmarks/RESULTS.md.
NARROW = 40  # vectors of a row that is interleaved as a whole, at most
NARROW_DEPTH = 5  # steps in one pass
DEPTH = 8
STRIP = 16  # vectors of a strip, its margins not counted


class End(NamedTuple):
    """An end of a strip's rows, at the left or right edge of the plate.

    strip
        Which one; -1 if no row ends there, because the plate goes on periodically.
    kind
        FIXED, OPEN or PERIODIC.
    edge, edge_twin, ghost, ghost_twin, inner, opposite
        Where the edge node is, the node beyond, the one inside, and the node at the other edge:
        see `rows.place` and `rows.twin`.
    gain
        Where that of row 0 is in the work array; the loss is 2 `Layout.rows` numbers behind it.
    """

    strip: int
    kind: int
    edge: int
    edge_twin: int
    ghost: int
    ghost_twin: int
    inner: int
    opposite: int
    gain: int


class Layout(NamedTuple):
    """Where things stand in the work array of one call; indices count its numbers.

    rows, columns
        Of the plate.
    strips, bands
        How many pieces it is cut into, across and along: strip k begins at column
        k columns // strips, band b at row b rows // bands.
    vectors, stride, margin
        Of a strip's row: see `rows.py`; columns of a margin.
    depth
        Steps in one pass, at most.
    bottom, top
        Kinds of these edges.
    wraps
        Whether left and right are periodic.
    varies, heats
        Whether faces differ, and whether there is a source.
    left_strip, ... right_gain
        Ends of the rows: see `End`. (numba hands no tuple in a tuple to its threads.)
    mixing
        What `conduct_uniform` takes.
    north, east, source, gains
        Rows of strip 0: of `Stencil`, and four rows, gain of bottom and top, loss of bottom and
        top. Those of the other strips follow, `rows` or 4 rows each.
    plates
        Two interleaved plates of a narrow one.
    scratch, scratch_size
        Of the first worker: rows of each step, a ghost, a result and room to interleave.
    size
        Of the whole array.
    """

    rows: int
    columns: int
    strips: int
    bands: int
    vectors: int
    stride: int
    margin: int
    depth: int
    bottom: int
    top: int
    wraps: bool
    varies: bool
    heats: bool
    left_strip: int
    left_kind: int
    left_edge: int
    left_edge_twin: int
    left_ghost: int
    left_ghost_twin: int
    left_inner: int
    left_opposite: int
    left_gain: int
    right_strip: int
    right_kind: int
    right_edge: int
    right_edge_twin: int
    right_ghost: int
    right_ghost_twin: int
    right_inner: int
    right_opposite: int
    right_gain: int
    mixing: int
    north: int
    east: int
    source: int
    gains: int
    plates: int
    scratch: int
    scratch_size: int
    size: int


class Pass(NamedTuple):
    """A pass over one band of a strip: `steps` steps, of rows first to last - 1.

    origin and target are the first rows of interleaved plates; -1 where rows come from one that is
    not interleaved, and go to another. scratch is the worker's.
    """

    strip: int
    first: int
    last: int
    steps: int
    origin: int
    target: int
    scratch: int


def make_layout(plate: np.ndarray, stencil: Stencil, workers: int) -> Layout:
    """Return where things will stand; of `Stencils`, for each of the runs."""
    rows, columns = plate.shape
    n = BYTES // plate.itemsize
    is_narrow = columns <= NARROW * n
    if is_narrow:
        depth, strips, margin = min(NARROW_DEPTH, rows), 1, 0
        bands = max(1, min(workers, rows // (2 * depth)))
    else:
        depth = margin = min(DEPTH, rows)
        strips = -(-columns // (STRIP * n))
        bands = max(1, min(4 * workers // strips, rows // (8 * depth)))
    vectors = max(2, -(-(-(-columns // strips) + 2 * margin) // n))
    stride = (vectors + 2) * n
    bottom, top, left, right = (int(kind) for kind in stencil.edges)
    sizes = {
        "mixing": n,
        "sides": -(-4 * rows // n) * n,
        "": n,  # a row has a vector before its first
        "north": stride * rows * strips if stencil.north.size else 0,
        "east": stride * rows * strips if stencil.east.size else 0,
        "source": stride * rows * strips if stencil.source.size else 0,
        "gains": 4 * strips * stride,
        "plates": 2 * rows * stride if is_narrow else 0,
        "scratch": workers * (depth * KEPT + 3) * stride,
    }
    ends = np.cumsum(list(sizes.values())).tolist()
    starts = dict(zip(sizes, [0, *ends], strict=False))
    sides, size = starts.pop("sides"), ends[-1]
    del starts[""]
    last = strips - 1
    right_edge = margin + columns - last * columns // strips - 1
    ends_here = left != PERIODIC or margin == 0
    at_left = End(
        0 if ends_here else -1, left, *places(n, vectors, margin, -1),
        place(n, vectors, right_edge), sides,
    )  # fmt: skip
    at_right = End(
        last if ends_here else -1, right, *places(n, vectors, right_edge, 1),
        place(n, vectors, margin), sides + rows,
    )  # fmt: skip
    return Layout(
        rows=rows, columns=columns, strips=strips, bands=bands, vectors=vectors, stride=stride,
        margin=margin, depth=depth, bottom=bottom, top=top, wraps=left == PERIODIC,
        varies=stencil.east.size > 0, heats=stencil.source.size > 0,
        **{f"left_{name}": value for name, value in at_left._asdict().items()},
        **{f"right_{name}": value for name, value in at_right._asdict().items()},
        scratch_size=(depth * KEPT + 3) * stride, size=size, **starts,
    )  # fmt: skip


def places(n: int, vectors: int, edge: int, out: int) -> tuple[int, int, int, int, int]:
    """Return where an edge node and its ghost are, each twice, and the node inside."""
    return (
        place(n, vectors, edge),
        twin(n, vectors, edge),
        place(n, vectors, edge + out),
        twin(n, vectors, edge + out),
        place(n, vectors, edge - out),
    )


@njit(nogil=True, cache=True)
def left_end(layout: Layout) -> End:
    """Return the ends at the left edge."""
    return End(
        layout.left_strip,
        layout.left_kind,
        layout.left_edge,
        layout.left_edge_twin,
        layout.left_ghost,
        layout.left_ghost_twin,
        layout.left_inner,
        layout.left_opposite,
        layout.left_gain,
    )


@njit(nogil=True, cache=True)
def right_end(layout: Layout) -> End:
    """Return the ends at the right edge."""
    return End(
        layout.right_strip,
        layout.right_kind,
        layout.right_edge,
        layout.right_edge_twin,
        layout.right_ghost,
        layout.right_ghost_twin,
        layout.right_inner,
        layout.right_opposite,
        layout.right_gain,
    )


@njit(nogil=True, cache=True)
def first_column(layout: Layout, k: int) -> int:
    """Return the first column of strip k."""
    return int(k * layout.columns // layout.strips)


@njit(nogil=True, cache=True)
def lay_out(w: np.ndarray, layout: Layout, task: Pass, stencil: Stencil) -> None:
    """Interleave what does not change from step to step, of a band of a strip."""
    gains = layout.gains + task.strip * 4 * layout.stride
    table = task.strip * layout.rows * layout.stride
    for which in range(5):
        at, numbers, first, last = gains, stencil.gain_y, 0, 2
        if which == 1:
            at, numbers = gains + 2 * layout.stride, stencil.loss_y
        elif which > 1:
            first, last = task.first, task.last
            at, numbers = layout.north + table, stencil.north
            if which == 3:
                at, numbers = layout.east + table, stencil.east
            elif which == 4:
                at, numbers = layout.source + table, stencil.source
        for i in range(first, min(last, numbers.shape[0])):
            interleave(w, layout, task, at + i * layout.stride, numbers, i)


@njit(nogil=True, cache=True)
def lay_out_numbers(w: np.ndarray, layout: Layout, stencil: Stencil) -> None:
    """Write what `conduct_uniform` takes, and gains and losses of the left and right edges."""
    if not layout.varies:
        w[layout.mixing] = stencil.mixing_x
        w[layout.mixing + 1] = stencil.mixing_y / stencil.mixing_x
        w[layout.mixing + 2] = 1.0 - 2.0 * (stencil.mixing_x + stencil.mixing_y)
    for i in range(layout.rows):
        w[layout.left_gain + i] = stencil.gain_x[0, i]
        w[layout.right_gain + i] = stencil.gain_x[1, i]
        w[layout.left_gain + 2 * layout.rows + i] = stencil.loss_x[0, i]
        w[layout.right_gain + 2 * layout.rows + i] = stencil.loss_x[1, i]


@njit(nogil=True, cache=True)
def interleave(
    w: np.ndarray, layout: Layout, task: Pass, row: int, numbers: np.ndarray, i: int
) -> None:
    """Interleave numbers[i] of a strip, with its margins."""
    start = first_column(layout, task.strip) - layout.margin
    room = task.scratch + (layout.depth * KEPT + 2) * layout.stride
    pack(w, row, layout.vectors, numbers, i, start, layout.wraps, room)


@njit(nogil=True, cache=True)
def take_in(w: np.ndarray, layout: Layout, task: Pass, row: int, plate: np.ndarray, i: int) -> None:
    """Interleave row i of a plate (y, x), with what is beyond its edges."""
    interleave(w, layout, task, row, plate, i)
    if layout.left_strip == task.strip:
        add_ghost(w, row, i, layout.rows, left_end(layout))
    if layout.right_strip == task.strip:
        add_ghost(w, row, i, layout.rows, right_end(layout))


@njit(nogil=True, cache=True)
def deliver(
    w: np.ndarray, layout: Layout, task: Pass, row: int, result: np.ndarray, i: int
) -> None:
    """Write row i of a strip, without its margins, into a plate (y, x)."""
    start = first_column(layout, task.strip)
    count = first_column(layout, task.strip + 1) - start
    room = task.scratch + (layout.depth * KEPT + 2) * layout.stride
    unpack(w, row, layout.vectors, layout.margin, result, i, start, count, room)


@njit(nogil=True, cache=True)
def add_ghost(w: np.ndarray, row: int, i: int, rows: int, end: End) -> None:
    """Write the node beyond an edge of row i: T_ghost = T_inner + gain - loss T_edge."""
    ghost = w[row + end.opposite]
    if end.kind == OPEN:
        added = w[row + end.inner] + w[end.gain + i]
        ghost = added - w[end.gain + 2 * rows + i] * w[row + end.edge]
    w[row + end.ghost] = ghost
    w[row + end.ghost_twin] = ghost


@njit(nogil=True, cache=True)
def finish(w: np.ndarray, new: int, old: int, i: int, rows: int, end: End) -> None:
    """Complete an end of row i after its update."""
    if end.kind == FIXED:
        w[new + end.edge] = w[old + end.edge]
        w[new + end.edge_twin] = w[old + end.edge]
    else:
        add_ghost(w, new, i, rows, end)


@njit(nogil=True, cache=True)
def row_at(layout: Layout, task: Pass, s: int, r: int, i: int) -> int:
    """Return where row r is after s steps; i is r within the plate."""
    if s == 0 and task.origin >= 0:
        return task.origin + i * layout.stride
    if s == task.steps:
        if task.origin >= 0:
            return task.target + i * layout.stride
        return task.scratch + (layout.depth * KEPT + 1) * layout.stride
    turn = (r + KEPT * layout.depth) % KEPT  # r may be negative
    return task.scratch + (s * KEPT + turn) * layout.stride


@njit(nogil=True, cache=True)
def within(r: int, rows: int) -> int:
    """Return row r of a plate that goes on periodically, by one plate at most."""
    if r < 0:
        return r + rows
    return r - rows if r >= rows else r


@njit(nogil=True, cache=True)
def update_row(w: np.ndarray, layout: Layout, task: Pass, s: int, r: int) -> int:
    """Take row r from step s - 1 to step s, and return where it is."""
    rows, step, vectors = layout.rows, layout.stride, layout.vectors
    i = within(r, rows)
    new, old = row_at(layout, task, s, r, i), row_at(layout, task, s - 1, r, i)
    if (i == 0 and layout.bottom == FIXED) or (i == rows - 1 and layout.top == FIXED):
        copy_row(w, new, old, vectors)
        return new
    below = row_at(layout, task, s - 1, r - 1, within(r - 1, rows))
    above = row_at(layout, task, s - 1, r + 1, within(r + 1, rows))
    table = task.strip * rows * step
    north, south = table + i * step, table + within(i - 1, rows) * step
    ghost = task.scratch + layout.depth * KEPT * step
    gains = layout.gains + task.strip * 4 * step
    if i == 0 and layout.bottom == OPEN:
        reflect(w, ghost, above, old, gains, gains + 2 * step, vectors)
        below, south = ghost, north
    elif i == rows - 1 and layout.top == OPEN:
        reflect(w, ghost, below, old, gains + step, gains + 3 * step, vectors)
        above = ghost
    if layout.varies:
        faces = layout.north + south, layout.north + north, layout.east + north
        conduct_varying(w, new, below, old, above, vectors, *faces)
    else:
        conduct_uniform(w, new, below, old, above, vectors, layout.mixing)
    if layout.heats:
        heat_up(w, new, layout.source + north, vectors)
    n, count = lanes(w), vectors * lanes(w)
    store(w, new - n, from_left(load(w, new + count - n)))
    store(w, new + count, from_right(load(w, new)))
    if layout.left_strip == task.strip:
        finish(w, new, old, i, rows, left_end(layout))
    if layout.right_strip == task.strip:
        finish(w, new, old, i, rows, right_end(layout))
    return new


@njit(nogil=True, cache=True)
def sweep(w: np.ndarray, layout: Layout, task: Pass, plate: np.ndarray, result: np.ndarray) -> None:
    """Carry out a pass: the last step goes first, each one `BEHIND` rows behind the one before it.

    plate and result (y, x) are where rows come from and go to if they are not interleaved.
    """
    rows, steps = layout.rows, task.steps
    lowest, highest = 0, rows
    if layout.bottom == PERIODIC:
        lowest, highest = -steps, rows + steps
    start, stop = max(task.first - steps + 1, lowest), min(task.last + steps - 1, highest)
    fetched = max(start - 1, lowest)  # rows before it are interleaved
    for t in range(start, stop + BEHIND * (steps - 1)):
        while task.origin < 0 and fetched < min(t + 2, stop + 1, highest):
            i = within(fetched, rows)
            take_in(w, layout, task, row_at(layout, task, 0, fetched, i), plate, i)
            fetched += 1
        for s in range(steps, 0, -1):
            r, ahead = t - BEHIND * (s - 1), steps - s
            if max(task.first - ahead, lowest) <= r < min(task.last + ahead, highest):
                new = update_row(w, layout, task, s, r)
                if s == steps and task.origin < 0:
                    deliver(w, layout, task, new, result, r)


def make_passes(kept: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of each pass, at most `depth`, and the frame that each one ends at.

    kept are the frames' instants, in steps. A frame of -1 is none. Of the frames there is one more
    than passes: the last one is 0 if frame 0 is the plate at the start, else -1.
    """
    intervals = np.diff(kept, prepend=0)
    counts = -(-intervals // depth)  # passes of each interval
    ends = np.cumsum(counts)
    frame = np.full(ends[-1] + 1, -1, np.int64)
    frame[ends - 1] = np.arange(kept.size)  # of one at 0 steps: the last of all
    which = np.repeat(np.arange(kept.size), counts)
    place = np.arange(ends[-1]) - (ends - counts)[which]
    least, more = intervals // np.maximum(counts, 1), intervals % np.maximum(counts, 1)
    return least[which] + (place < more[which]), frame
