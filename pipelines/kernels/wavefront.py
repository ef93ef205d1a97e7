"""Many steps of a plate in one pass over its rows, so that all rows at work stay in the cache.

A wavefront (Wellein et al. 2009, doi:10.1109/COMPSAC.2009.82): in one pass a band of rows, of one
strip of columns, is taken up to `depth` steps ahead; beyond the band, and beyond the strip,
it is computed with a margin that gets narrower by one node a step, because others compute the same
there.

A pass goes through the band tile by tile, some rows each. All steps of a tile are done before the
next one is begun, each of them a row further back than the step before it, as it needs the row
ahead: so rows are used again while they are in the first-level cache. A row after step s replaces
the one below it after step s - 1, which nothing needs any more. So row r after step s is in place
r - s of a ring, in which the rows of a tile and two of each step are kept; only the first step of
a pass reads elsewhere, and the last one writes elsewhere, if the plate is interleaved as a whole.

A narrow plate is one strip, interleaved (`rows.py`) as a whole from the first step to the last; of
a wide one, strips are interleaved row by row as a pass meets them, and come out of it as they were.

Where all this stands in the work array `w`, and how it is cut into strips and bands: `layout.py`.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.kernels.conduction import (
    conduct_four,
    conduct_uniform,
    conduct_varying,
    copy_row,
    heat_up,
    reflect,
)
from pipelines.kernels.rows import pack, unpack
from pipelines.kernels.simd import (
    fence,
    from_left,
    from_right,
    lanes,
    load,
    prefetch,
    start_of,
    store,
)
from pipelines.kernels.stencil import FIXED, OPEN, PERIODIC, Stencil


class Schedule(NamedTuple):
    """How the steps are shared among passes, and when the plate is kept.

    ends are the steps done after each pass, kept those done at each frame, and frames the first
    frame of each pass: after its first step, or later.
    """

    ends: np.ndarray
    frames: np.ndarray
    kept: np.ndarray


class Pass(NamedTuple):
    """A pass over one band of a strip: `steps` steps, of rows first to last - 1.

    begun are the steps done before, frame is the first one to be kept on the way. origin and target
    are the first rows of interleaved plates; -1 where rows come from one that is not interleaved,
    and go to another. scratch is the worker's.
    """

    strip: int
    first: int
    last: int
    begun: int
    steps: int
    frame: int
    origin: int
    target: int
    scratch: int


@njit(nogil=True, cache=True)
def first_column(layout: np.record, k: int) -> int:
    """Return the first column of strip k."""
    return int(k * layout.columns // layout.strips)


@njit(nogil=True, cache=True)
def lay_out(w: np.ndarray, layout: np.record, task: Pass, stencil: Stencil) -> None:
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
            interleave(w, layout, task, at + i * layout.stride, start_of(numbers), i)


@njit(nogil=True, cache=True)
def lay_out_numbers(w: np.ndarray, layout: np.record, plate: np.ndarray, stencil: Stencil) -> None:
    """Write what `conduct_uniform` takes, and of the left and right edges gains and losses.

    Where an edge is fixed, what it is fixed to stands for its gain.
    """
    if not layout.varies:
        w[layout.mixing] = stencil.mixing_x
        w[layout.mixing + 2] = -2.0 * (1.0 + stencil.mixing_y / stencil.mixing_x)
        w[layout.mixing + 1] = -0.5 * w[layout.mixing + 2] - 1.0
    for i in range(layout.rows):
        is_fixed = layout.left.kind == FIXED
        w[layout.left.gain + i] = plate[i, 0] if is_fixed else stencil.gain_x[0, i]
        is_fixed = layout.right.kind == FIXED
        w[layout.right.gain + i] = plate[i, -1] if is_fixed else stencil.gain_x[1, i]
        w[layout.left.gain + 2 * layout.rows + i] = stencil.loss_x[0, i]
        w[layout.right.gain + 2 * layout.rows + i] = stencil.loss_x[1, i]


@njit(nogil=True, cache=True)
def interleave(
    w: np.ndarray, layout: np.record, task: Pass, row: int, numbers: np.ndarray, i: int
) -> None:
    """Interleave row i of a table (y, x), given as 1-D: what a strip has of it, with margins."""
    start = first_column(layout, task.strip) - layout.margin
    room = task.scratch + (layout.ring + 1) * layout.stride
    pack(w, row, layout.vectors, numbers, layout.columns, i, start, layout.wraps, room)


@njit(nogil=True, cache=True)
def take_in(
    w: np.ndarray, layout: np.record, task: Pass, row: int, plate: np.ndarray, i: int
) -> None:
    """Interleave row i of a plate, given as 1-D, with what is beyond its edges."""
    interleave(w, layout, task, row, plate, i)
    if layout.left.strip == task.strip:
        add_ghost(w, row, i, layout.rows, layout.left)
    if layout.right.strip == task.strip:
        add_ghost(w, row, i, layout.rows, layout.right)


@njit(nogil=True, cache=True)
def foresee(w: np.ndarray, layout: np.record, task: Pass, numbers: np.ndarray, r: int) -> None:
    """Begin to bring what a strip has of row r of a table, given as 1-D, into the cache."""
    first = within(r, layout.rows) * layout.columns + first_column(layout, task.strip)
    for e in range(0, layout.vectors * lanes(w), lanes(w)):
        prefetch(numbers, first - layout.margin + e)


@njit(nogil=True, cache=True)
def deliver(
    w: np.ndarray,
    layout: np.record,
    task: Pass,
    row: int,
    result: np.ndarray,
    i: int,
    for_later: int,
) -> None:
    """Write row i of a strip, without its margins, into a plate, given as 1-D.

    What is for later does not get into the caches: a frame, or a large plate.
    """
    start = first_column(layout, task.strip)
    count = first_column(layout, task.strip + 1) - start
    room = task.scratch + (layout.ring + 1) * layout.stride
    to = i * layout.columns + start
    unpack(w, row, layout.vectors, layout.margin, result, to, count, room, for_later)


@njit(nogil=True, cache=True)
def add_ghost(w: np.ndarray, row: int, i: int, rows: int, end: np.record) -> None:
    """Write the node beyond an edge of row i: T_ghost = T_inner + gain - loss T_edge."""
    ghost = w[row + end.opposite]
    if end.kind == OPEN:
        added = w[row + end.inner] + w[end.gain + i]
        ghost = added - w[end.gain + 2 * rows + i] * w[row + end.edge]
    w[row + end.ghost] = ghost
    w[row + end.ghost_twin] = ghost


@njit(nogil=True, cache=True)
def within(r: int, rows: int) -> int:
    """Return row r of so many that go on periodically, if it is beyond by once their number."""
    if r < 0:
        return r + rows
    return r - rows if r >= rows else r


class Circle(NamedTuple):
    """Rows that follow each other in the work array, the first one after the last."""

    start: int
    rows: int


@njit(nogil=True, cache=True)
def rows_after(layout: np.record, task: Pass, s: int) -> Circle:
    """Return where rows are after s steps."""
    if task.origin >= 0 and s == 0:
        return Circle(task.origin, layout.rows)
    if task.origin >= 0 and s == task.steps:
        return Circle(task.target, layout.rows)
    return Circle(task.scratch, layout.ring)


@njit(nogil=True, cache=True)
def row_at(layout: np.record, task: Pass, turn: int, s: int, r: int) -> int:
    """Return where row r is after s steps, on the turn of the ring that begins with row `turn`."""
    start, rows = rows_after(layout, task, s)
    place = r - s - turn if start == task.scratch else r
    return start + within(place, rows) * layout.stride


@njit(nogil=True, cache=True)
def following(circle: Circle, stride: int, row: int) -> int:
    """Return where the row after that at w[row] is."""
    row += stride
    return circle.start if row == circle.start + circle.rows * stride else row


@njit(nogil=True, cache=True)
def update_rows(
    w: np.ndarray, layout: np.record, task: Pass, turn: int, s: int, first: int, last: int
) -> None:
    """Take rows first to last - 1 from step s - 1 to step s, four at once where they can."""
    stride = layout.stride
    source, target = rows_after(layout, task, s - 1), rows_after(layout, task, s)
    lowest, highest = first, first if layout.varies else last  # rows done so
    if layout.bottom != PERIODIC:
        lowest, highest = max(1, first), min(highest, layout.rows - 1)
    below = row_at(layout, task, turn, s - 1, first - 1)
    old, new = following(source, stride, below), row_at(layout, task, turn, s, first)
    r = first
    while r < last:
        above = following(source, stride, old)
        if lowest <= r < highest - 3:
            third = following(source, stride, above)
            fourth = following(source, stride, third)
            beyond = following(source, stride, fourth)
            new_2 = following(target, stride, new)
            new_3 = following(target, stride, new_2)
            new_4 = following(target, stride, new_3)
            olds, news = (below, old, above, third, fourth, beyond), (new, new_2, new_3, new_4)
            conduct_four(w, news, olds, layout.vectors, layout.mixing)
            below, old, new = fourth, beyond, following(target, stride, new_4)
            r += 4
        else:
            update_row(w, layout, task, r, new, below, old, above)
            below, old, new = old, above, following(target, stride, new)
            r += 1
    complete_rows(w, layout, task, turn, s, first, last)


@njit(nogil=True, cache=True)
def update_row(
    w: np.ndarray, layout: np.record, task: Pass, r: int, new: int, below: int, old: int, above: int
) -> None:
    """Take row r a step further."""
    i = within(r, layout.rows)
    if i == 0 or i == layout.rows - 1:
        kind = layout.bottom if i == 0 else layout.top
        if kind == FIXED:
            copy_row(w, new, old, layout.vectors)
            return
        if kind == OPEN:
            side, inner = (0, above) if i == 0 else (1, below)
            ghost = ghost_row(w, layout, task, side, inner, old)
            below, above = (ghost, above) if i == 0 else (below, ghost)
    if layout.varies:
        faces = faces_of(layout, task, i)
        conduct_varying(w, new, below, old, above, layout.vectors, *faces)
    else:
        conduct_uniform(w, new, below, old, above, layout.vectors, layout.mixing)


@njit(nogil=True, cache=True)
def complete_rows(
    w: np.ndarray, layout: np.record, task: Pass, turn: int, s: int, first: int, last: int
) -> None:
    """Add the source to rows, and write their ends and what is beyond them."""
    n, rows, stride, target = lanes(w), layout.rows, layout.stride, rows_after(layout, task, s)
    if layout.bottom == FIXED:
        first = max(first, 1)
    if layout.top == FIXED:
        last = min(last, rows - 1)
    begin, count = row_at(layout, task, turn, s, first), layout.vectors * n
    if layout.heats:
        row, source = begin, layout.source + task.strip * rows * stride
        for r in range(first, last):
            heat_up(w, row, source + within(r, rows) * stride, layout.vectors)
            row = following(target, stride, row)
    # What does not change from row to row is read once: this is a sixth of a narrow plate's time.
    left, right = layout.left, layout.right
    ends_left, ends_right = left.strip == task.strip, right.strip == task.strip
    holds_left, holds_right = ends_left and left.kind == FIXED, ends_right and right.kind == FIXED
    left_held, left_edge, left_twin = left.gain, left.edge, left.edge_twin
    right_held, right_edge, right_twin = right.gain, right.edge, right.edge_twin
    row, i = begin, within(first, rows)
    for _ in range(first, last):
        store(w, row - n, from_left(load(w, row + count - n)))
        store(w, row + count, from_right(load(w, row)))
        if holds_left:
            w[row + left_edge] = w[left_held + i]
            w[row + left_twin] = w[left_held + i]
        elif ends_left:
            add_ghost(w, row, i, rows, left)
        if holds_right:
            w[row + right_edge] = w[right_held + i]
            w[row + right_twin] = w[right_held + i]
        elif ends_right:
            add_ghost(w, row, i, rows, right)
        row, i = following(target, stride, row), within(i + 1, rows)


@njit(nogil=True, cache=True)
def ghost_row(
    w: np.ndarray, layout: np.record, task: Pass, side: int, inner: int, edge: int
) -> int:
    """Write the row beyond the bottom (side 0) or the top (1), and return where it is."""
    ghost = task.scratch + layout.ring * layout.stride
    gain = layout.gains + (task.strip * 4 + side) * layout.stride
    reflect(w, ghost, inner, edge, gain, gain + 2 * layout.stride, layout.vectors)
    return ghost


@njit(nogil=True, cache=True)
def faces_of(layout: np.record, task: Pass, i: int) -> tuple[int, int, int]:
    """Return the rows of the faces below, above and to the right of the nodes of row i."""
    below = i if i == 0 and layout.bottom == OPEN else within(i - 1, layout.rows)
    table = task.strip * layout.rows
    south, north = (table + below) * layout.stride, (table + i) * layout.stride
    return layout.north + south, layout.north + north, layout.east + north


@njit(nogil=True, cache=True)
def sweep(
    w: np.ndarray,
    layout: np.record,
    task: Pass,
    plate: np.ndarray,
    result: np.ndarray,
    kept: np.ndarray,
    frames: np.ndarray,
) -> None:
    """Carry out a pass, so many rows at a time: all steps of these, each a row behind the last.

    plate and result, given as 1-D, are where rows come from and go to if they are not interleaved;
    rows of frames, given as 1-D, are written as soon as they are so far.
    """
    rows, steps, tile = layout.rows, task.steps, layout.tile
    lowest, highest = 0, rows
    if layout.bottom == PERIODIC:
        lowest, highest = -steps, rows + steps
    first, last = max(task.first - steps, lowest), min(task.last + steps, highest)
    turn, is_wide = first, task.origin < 0
    zero, one = np.int64(0), np.int64(1)  # no literals, for which all would be compiled again
    for t in range(first, task.last + steps, tile):  # the first of the tile's rows after 0 steps
        if t >= turn + layout.ring:
            turn += layout.ring
        if is_wide:
            for r in range(t, min(t + tile, last)):
                take_in(
                    w, layout, task, row_at(layout, task, turn, zero, r), plate, within(r, rows)
                )
        frame = task.frame
        for s in range(1, steps + 1):
            margin = steps - s
            begin = max(t - s, task.first - margin, lowest)
            end = min(t - s + tile, task.last + margin, highest)
            update_rows(w, layout, task, turn, s, begin, end)
            if is_wide and s <= tile:
                foresee(w, layout, task, plate, t + tile + s - 1)
                if not layout.is_large:
                    foresee(w, layout, task, result, t - steps + tile + s - 1)
            if frame < kept.size and kept[frame] == task.begun + s:
                deliver_rows(w, layout, task, turn, s, t, frames, frame, one)
                frame += 1
        if is_wide:
            deliver_rows(w, layout, task, turn, steps, t, result, zero, layout.is_large)
    if layout.is_large or task.frame < kept.size:
        fence()


@njit(nogil=True, cache=True)
def deliver_rows(
    w: np.ndarray,
    layout: np.record,
    task: Pass,
    turn: int,
    s: int,
    t: int,
    plates: np.ndarray,
    which: int,
    for_later: int,
) -> None:
    """Write what a tile has after s steps, margins not counted, into one of the plates."""
    for r in range(max(t - s, task.first), min(t - s + layout.tile, task.last)):
        row = row_at(layout, task, turn, s, r)
        deliver(w, layout, task, row, plates, which * layout.rows + r, for_later)


def make_schedule(steps: int, layout: np.record, kept: np.ndarray) -> Schedule:
    """Share steps among passes of nearly the same length, an even number if the plate is wide.

    kept are the instants of the frames, in steps, rising strictly; one at 0 belongs to no pass.
    """
    passes = -(-steps // layout.depth)
    if layout.margin:
        passes += passes % 2  # there and back, between the plate and a spare one
    ends = np.arange(1, passes + 1) * steps // max(passes, 1)
    begun = np.concatenate([np.zeros(1, np.int64), ends])[:passes]
    return Schedule(ends, np.searchsorted(kept, begun, side="right"), kept)
