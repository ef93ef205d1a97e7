"""Many steps of a plate in one pass over its rows, so that all rows at work stay in the cache.

A wavefront (Wellein et al. 2009, doi:10.1109/COMPSAC.2009.82): step s + 1 of a row is done when
step s is two rows ahead. In one pass a band of rows, of one strip of columns, is taken up to
`Layout.depth` steps ahead; beyond the band, and beyond the strip, it is computed with a margin that
gets narrower by one node a step, because others compute the same there.

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
from pipelines.kernels.simd import from_left, from_right, lanes, load, not_inlined, store
from pipelines.kernels.stencil import FIXED, OPEN, PERIODIC, Stencil

BEHIND = 2  # rows from one step to the next: what was just stored is not read at once
KEPT = 3  # rows of a step that the next one reads
# Chosen by measurement, on cores with 48 KiB of L1: see benchmarks/RESULTS.md.
NARROW = 40  # vectors of a row that is interleaved as a whole, at most
NARROW_DEPTH = 5  # steps in one pass
DEPTH = 8
STRIP = 16  # vectors of a strip, its margins not counted


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
    north: int
    east: int
    source: int
    gains: int
    plates: int
    scratch: int
    scratch_size: int
    size: int


class Field(NamedTuple):
    """A plate and its stencil, laid out in the work array `w`.

    mixing (3,) is what `conduct_uniform` takes; ends (strip, 2, 7) says where the edge nodes and
    the ghosts of a row are: see `make_ends`.
    """

    w: np.ndarray
    layout: Layout
    stencil: Stencil
    mixing: np.ndarray
    ends: np.ndarray


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


@njit(nogil=True, cache=True)
def make_layout(plate: np.ndarray, stencil: Stencil, workers: int) -> Layout:
    """Return where things will stand."""
    not_inlined()
    rows, columns = plate.shape
    n = 64 // plate.itemsize
    is_narrow = columns <= NARROW * n
    if is_narrow:
        depth, strips, margin = min(NARROW_DEPTH, rows), 1, 0
        bands = max(1, min(workers, rows // (2 * depth)))
    else:
        depth = margin = min(DEPTH, rows)
        strips = (columns + STRIP * n - 1) // (STRIP * n)
        bands = max(1, min(4 * workers // strips, rows // (8 * depth)))
    widest = (columns + strips - 1) // strips + 2 * margin
    vectors = max(2, (widest + n - 1) // n)
    step = (vectors + 2) * n
    table = step * rows * strips
    north = n
    east = north + (table if stencil.north.size else 0)
    source = east + (table if stencil.east.size else 0)
    gains = source + (table if stencil.source.size else 0)
    plates = gains + 4 * strips * step
    scratch = plates + (2 * rows * step if is_narrow else 0)
    scratch_size = (depth * KEPT + 3) * step
    size = scratch + workers * scratch_size
    return Layout(
        rows, columns, strips, bands, vectors, step, margin, depth,
        north, east, source, gains, plates, scratch, scratch_size, size,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def first_column(layout: Layout, k: int) -> int:
    """Return the first column of strip k."""
    return int(k * layout.columns // layout.strips)


# What is at the two ends of a strip: columns of the table `ends` (strip, side, ...).
KIND, EDGE, EDGE_TWIN, GHOST, GHOST_TWIN, INNER, OPPOSITE = range(7)
NOTHING = -1  # an end inside of the plate, or one whose margin is the other side's columns


@njit(nogil=True, cache=True)
def make_ends(w: np.ndarray, layout: Layout, stencil: Stencil) -> np.ndarray:
    """Return where the edge nodes and the ghosts of each strip's rows are (strip, 2, 7)."""
    not_inlined()
    ends = np.full((layout.strips, 2, 7), NOTHING, np.int64)
    is_wide = layout.margin > 0
    for side in range(2):
        k = 0 if side == 0 else layout.strips - 1
        width = layout.columns - first_column(layout, k) if side == 1 else 0
        edge = layout.margin if side == 0 else layout.margin + width - 1
        out = -1 if side == 0 else 1
        kind = stencil.edges[2 + side]
        if kind == PERIODIC and is_wide:
            continue
        end = ends[k, side]
        end[KIND] = kind
        end[EDGE] = place(w, layout.vectors, edge)
        end[EDGE_TWIN] = twin(w, layout.vectors, edge)
        end[GHOST] = place(w, layout.vectors, edge + out)
        end[GHOST_TWIN] = twin(w, layout.vectors, edge + out)
        end[INNER] = place(w, layout.vectors, edge - out)
        opposite = layout.margin + layout.columns - 1 if side == 0 else layout.margin
        end[OPPOSITE] = place(w, layout.vectors, opposite) if not is_wide else NOTHING
    return ends


@njit(nogil=True, cache=True)
def lay_out(field: Field, task: Pass) -> None:
    """Interleave what does not change from step to step, of a band of a strip."""
    layout, stencil = field.layout, field.stencil
    table, step = task.strip * layout.rows * layout.stride, layout.stride
    gains = layout.gains + task.strip * 4 * step
    for i in range(task.first, task.last):
        row = table + i * step
        if stencil.north.size:
            lay_out_row(field, task, layout.north + row, stencil.north, i)
        if stencil.east.size:
            lay_out_row(field, task, layout.east + row, stencil.east, i)
        if stencil.source.size:
            lay_out_row(field, task, layout.source + row, stencil.source, i)
    for side in range(2):
        if (task.first, layout.rows - task.last)[side] == 0:
            lay_out_row(field, task, gains + side * step, stencil.gain_y, side)
            lay_out_row(field, task, gains + (2 + side) * step, stencil.loss_y, side)


@njit(nogil=True, inline="always")
def lay_out_row(field: Field, task: Pass, row: int, numbers: np.ndarray, i: int) -> None:
    """Interleave numbers[i] of a strip, with its margins."""
    layout = field.layout
    start = first_column(layout, task.strip) - layout.margin
    wraps = field.stencil.edges[2] == PERIODIC
    room = task.scratch + (layout.depth * KEPT + 2) * layout.stride
    pack(field.w, row, layout.vectors, numbers, i, start, wraps, room)


@njit(nogil=True, inline="always")
def close(
    w: np.ndarray, new: int, old: int, i: int, layout: Layout, stencil: Stencil, end: np.ndarray
) -> None:
    """Complete row i after its update: neighbours of the outer vectors, edge nodes, ghosts."""
    n, count = lanes(w), layout.vectors * lanes(w)
    store(w, new - n, from_left(load(w, new + count - n)))
    store(w, new + count, from_right(load(w, new)))
    for side in range(2):
        kind = end[side, KIND]
        if kind == FIXED:
            w[new + end[side, EDGE]] = w[old + end[side, EDGE]]
            w[new + end[side, EDGE_TWIN]] = w[old + end[side, EDGE]]
        elif kind != NOTHING:
            add_ghost(w, new, i, side, stencil, end)


@njit(nogil=True, cache=True)
def add_ghost(
    w: np.ndarray, row: int, i: int, side: int, stencil: Stencil, end: np.ndarray
) -> None:
    """Write the node beyond the left or right edge of row i."""
    ghost = w[row + end[side, OPPOSITE]]
    if end[side, KIND] == OPEN:
        added = w[row + end[side, INNER]] + stencil.gain_x[side, i]
        ghost = added - stencil.loss_x[side, i] * w[row + end[side, EDGE]]
    w[row + end[side, GHOST]] = ghost
    w[row + end[side, GHOST_TWIN]] = ghost


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


@njit(nogil=True, inline="always")
def update_row(field: Field, task: Pass, s: int, r: int) -> int:
    """Take row r from step s - 1 to step s, and return where it is."""
    w, layout, stencil = field.w, field.layout, field.stencil
    i, step, rows = within(r, layout.rows), layout.stride, layout.rows
    new, old = row_at(layout, task, s, r, i), row_at(layout, task, s - 1, r, i)
    bottom, top = stencil.edges[0], stencil.edges[1]
    if (i == 0 and bottom == FIXED) or (i == rows - 1 and top == FIXED):
        copy_row(w, new, old, layout.vectors)
        return new
    below = row_at(layout, task, s - 1, r - 1, within(r - 1, rows))
    above = row_at(layout, task, s - 1, r + 1, within(r + 1, rows))
    table = task.strip * rows * step
    north, south = table + i * step, table + within(i - 1, rows) * step
    ghost = task.scratch + layout.depth * KEPT * step
    gains = layout.gains + task.strip * 4 * step
    if i == 0 and bottom == OPEN:
        reflect(w, ghost, above, old, gains, gains + 2 * step, layout.vectors)
        below, south = ghost, north
    elif i == rows - 1 and top == OPEN:
        reflect(w, ghost, below, old, gains + step, gains + 3 * step, layout.vectors)
        above = ghost
    if stencil.east.size:
        faces = layout.north + south, layout.north + north, layout.east + north
        conduct_varying(w, new, below, old, above, layout.vectors, *faces)
    else:
        conduct_uniform(w, new, below, old, above, layout.vectors, field.mixing)
    if stencil.source.size:
        heat_up(w, new, layout.source + north, layout.vectors)
    close(w, new, old, i, layout, stencil, field.ends[task.strip])
    return new


@njit(nogil=True, cache=True)
def sweep(field: Field, task: Pass, plate: np.ndarray, result: np.ndarray) -> None:
    """Carry out a pass: the last step goes first, each one `BEHIND` rows behind the one before it.

    plate and result (y, x) are where rows come from and go to if they are not interleaved.
    """
    not_inlined()
    rows, steps = field.layout.rows, task.steps
    lowest, highest = 0, rows
    if field.stencil.edges[0] == PERIODIC:
        lowest, highest = -steps, rows + steps
    start, stop = max(task.first - steps + 1, lowest), min(task.last + steps - 1, highest)
    if task.origin < 0:
        for r in range(max(start - 1, lowest), start + 1):
            fetch(field, task, plate, r)
    for t in range(start, stop + BEHIND * (steps - 1)):
        if task.origin < 0 and t + 1 < min(stop + 1, highest):
            fetch(field, task, plate, t + 1)
        for s in range(steps, 0, -1):
            r, ahead = t - BEHIND * (s - 1), steps - s
            if max(task.first - ahead, lowest) <= r < min(task.last + ahead, highest):
                new = update_row(field, task, s, r)
                if s == steps and task.origin < 0:
                    deliver(field, task, new, result, r)


@njit(nogil=True, cache=True)
def fetch(field: Field, task: Pass, plate: np.ndarray, r: int) -> None:
    """Interleave row r of a plate (y, x), as it is before the first step."""
    i = within(r, field.layout.rows)
    take_in(field, task, row_at(field.layout, task, 0, r, i), plate, i)


@njit(nogil=True, cache=True)
def take_in(field: Field, task: Pass, row: int, plate: np.ndarray, i: int) -> None:
    """Interleave row i of a plate, with what is beyond its edges."""
    lay_out_row(field, task, row, plate, i)
    for side in range(2):
        if field.ends[task.strip, side, KIND] > FIXED:
            add_ghost(field.w, row, i, side, field.stencil, field.ends[task.strip])


@njit(nogil=True, cache=True)
def deliver(field: Field, task: Pass, row: int, result: np.ndarray, i: int) -> None:
    """Write row i of a strip, without its margins, into a plate (y, x)."""
    not_inlined()
    layout = field.layout
    start = first_column(layout, task.strip)
    count = first_column(layout, task.strip + 1) - start
    room = task.scratch + (layout.depth * KEPT + 2) * layout.stride
    unpack(field.w, row, layout.vectors, layout.margin, result, i, start, count, room)


@njit(nogil=True, cache=True)
def weights(stencil: Stencil, kind: np.ndarray) -> np.ndarray:
    """Return mixing_x, mixing_y / mixing_x, and what a node keeps, of an array's kind (3,)."""
    found = np.zeros(3, kind.dtype)
    if stencil.east.size == 0:
        found[0] = stencil.mixing_x
        found[1] = stencil.mixing_y / stencil.mixing_x
        found[2] = 1.0 - 2.0 * (stencil.mixing_x + stencil.mixing_y)
    return found


@njit(nogil=True, cache=True)
def make_passes(kept: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of each pass, at most `depth`, and the frame that each one ends at.

    kept are the frames' instants, in steps. A frame of -1 is none. Of the frames there is one more
    than passes: the last one is 0 if frame 0 is the plate at the start.
    """
    not_inlined()
    count, before = 0, 0
    for k in range(kept.size):
        count += (kept[k] - before + depth - 1) // depth
        before = kept[k]
    steps, frame = np.zeros(count, np.int64), np.full(count + 1, -1, np.int64)
    if kept.size and kept[0] == 0:
        frame[count] = 0
    at, before = 0, 0
    for k in range(kept.size):
        left = kept[k] - before
        for more in range((left + depth - 1) // depth, 0, -1):
            steps[at] = (left + more - 1) // more
            left -= steps[at]
            at += 1
        if at > 0:
            frame[at - 1] = k
        before = kept[k]
    return steps, frame
