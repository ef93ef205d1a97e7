"""Heat conduction in a plate, explicitly: many updates of `stencil.py`, on one thread or on all.

The formulas are in `conduction.py`; `wavefront.py` takes a piece of the plate some steps ahead.
Here pieces are handed to threads, which live over all steps and wait for the pieces around theirs
only, never for all threads.

All variants give the same bits, for any number of threads: each node is computed by the same
operations in the same order, whoever does it. A plate, mirrored or transposed (where it is
uniform and dx = dy), gives the mirrored or transposed bits.

Plates are (y, x), C-contiguous, float64 or float32, at least 3 x 3, any unit. Nothing is checked:
for whether a stencil is stable see `stencil.largest_stable_step`.
"""

import numba
import numpy as np
from numba import njit, prange

from pipelines.kernels.simd import (
    aligned,
    draw_word,
    let_others_run,
    not_inlined,
    read_word,
    take_word,
    write_word,
)
from pipelines.kernels.stencil import Stencil, Stencils
from pipelines.kernels.wavefront import (
    Field,
    Pass,
    deliver,
    first_column,
    lay_out,
    make_ends,
    make_layout,
    make_passes,
    sweep,
    take_in,
    weights,
)

PATIENCE = 20_000  # looks at one's own pieces before others' are done, too
WORD = 8  # distance of two atomic words: a cache line


@njit(nogil=True, inline="always")
def advance_piece(
    field: Field,
    steps: np.ndarray,
    frame: np.ndarray,
    progress: np.ndarray,
    busy: np.ndarray,
    piece: int,
    me: int,
    plate: np.ndarray,
    spare: np.ndarray,
    frames: np.ndarray,
) -> bool:
    """Take a piece through its next pass, if those around it are so far and nobody is at it.

    progress and busy hold an atomic word a piece: how many passes it has behind it, and whether
    somebody is at it. Before the first pass of `steps` comes one that lays the piece out, after
    the last one another that writes it into the plate.
    """
    layout = field.layout
    strips, bands = layout.strips, layout.bands
    number = read_word(progress, piece * WORD)
    if number > steps.size + 1:
        return False
    band, k = piece // strips, piece % strips
    for b in (band - 1 + bands) % bands, (band + 1) % bands, band:
        for beside in (k - 1 + strips) % strips, (k + 1) % strips, k:
            if read_word(progress, (b * strips + beside) * WORD) < number:
                return False
    if not take_word(busy, piece * WORD):
        return False
    mine = read_word(progress, piece * WORD) == number  # or somebody was quicker
    if mine:
        carry_out(field, steps, frame, number, band, k, me, plate, spare, frames)
        write_word(progress, piece * WORD, number + 1)
    write_word(busy, piece * WORD, 0)
    return mine


@njit(nogil=True, inline="always")
def carry_out(
    field: Field,
    steps: np.ndarray,
    frame: np.ndarray,
    number: int,
    band: int,
    k: int,
    me: int,
    plate: np.ndarray,
    spare: np.ndarray,
    frames: np.ndarray,
) -> None:
    """Carry out pass `number` of a piece: 0 lays it out, the last one writes it into the plate."""
    layout, p = field.layout, number - 1
    first, last = band * layout.rows // layout.bands, (band + 1) * layout.rows // layout.bands
    scratch, is_narrow = layout.scratch + me * layout.scratch_size, layout.margin == 0
    origin = target = -1
    if is_narrow:
        size = layout.rows * layout.stride
        origin, target = layout.plates + (1 - number % 2) * size, layout.plates + number % 2 * size
    task = Pass(k, first, last, steps[p] if 0 <= p < steps.size else 0, origin, target, scratch)
    start, stop = first_column(layout, k), first_column(layout, k + 1)
    if number == 0:
        lay_out(field, task)
        if is_narrow:
            for i in range(first, last):
                take_in(field, task, target + i * layout.stride, plate, i)
        if frames.shape[0] and frame[steps.size] == 0:
            copy_piece(frames[0], plate, first, last, start, stop)
    elif p < steps.size:
        before = plate if p == 0 else place_of_result(p - 1, frame, plate, spare, frames)
        result = place_of_result(p, frame, plate, spare, frames)
        sweep(field, task, before, result)
        if is_narrow and frames.shape[0] and frame[p] >= 0:
            for i in range(first, last):
                deliver(field, task, target + i * layout.stride, frames[frame[p]], i)
    elif is_narrow:
        for i in range(first, last):
            deliver(field, task, origin + i * layout.stride, plate, i)
    elif steps.size:
        result = place_of_result(steps.size - 1, frame, plate, spare, frames)
        copy_piece(plate, result, first, last, start, stop)


@njit(nogil=True, cache=True)
def place_of_result(
    p: int, frame: np.ndarray, plate: np.ndarray, spare: np.ndarray, frames: np.ndarray
) -> np.ndarray:
    """Return where pass p of a wide plate goes: to its frame, else to and fro."""
    if frames.shape[0] and frame[p] >= 0:
        return frames[frame[p]]
    return spare if p % 2 == 0 else plate


@njit(nogil=True, cache=True)
def copy_piece(
    to: np.ndarray, plate: np.ndarray, first: int, last: int, start: int, stop: int
) -> None:
    """Copy rows first to last - 1 and columns start to stop - 1."""
    for i in range(first, last):
        for j in range(start, stop):
            to[i, j] = plate[i, j]


@njit(nogil=True, cache=True)
def labour(
    field: Field,
    steps: np.ndarray,
    frame: np.ndarray,
    progress: np.ndarray,
    busy: np.ndarray,
    me: int,
    workers: int,
    plate: np.ndarray,
    spare: np.ndarray,
    frames: np.ndarray,
) -> None:
    """Take one's share of the pieces through all passes.

    If for a while nothing of one's own can go on, others' pieces are done: the system may have
    fewer threads for us than there are workers, or may have put one to sleep.
    """
    not_inlined()
    pieces, looks = field.layout.strips * field.layout.bands, 0
    first, last = me * pieces // workers, (me + 1) * pieces // workers
    is_done = False
    while not is_done:
        is_done, has_moved = True, False
        for piece in range(first, last):
            if advance_piece(field, steps, frame, progress, busy, piece, me, plate, spare, frames):
                has_moved = True
            if read_word(progress, piece * WORD) <= steps.size + 1:
                is_done = False
        looks = 0 if has_moved else looks + 1
        if looks > PATIENCE and not is_done:
            for piece in range(pieces):
                advance_piece(field, steps, frame, progress, busy, piece, me, plate, spare, frames)
            let_others_run()


@njit(nogil=True, cache=True)
def march(
    w: np.ndarray, plate: np.ndarray, stencil: Stencil, kept: np.ndarray, frames: np.ndarray
) -> None:
    """Advance a plate on one thread; w is as large as its layout says."""
    not_inlined()
    layout = make_layout(plate, stencil, 1)
    steps, frame = make_passes(kept, layout.depth)
    field = Field(w, layout, stencil, weights(stencil, plate), make_ends(w, layout, stencil))
    pieces = layout.strips * layout.bands * WORD
    progress, busy = np.zeros(pieces, np.int64), np.zeros(pieces, np.int64)
    spare = np.empty(plate.shape if layout.margin else (0, 0), plate.dtype)
    labour(field, steps, frame, progress, busy, 0, 1, plate, spare, frames)


@njit(nogil=True, cache=True, parallel=True)
def march_parallel(
    plate: np.ndarray, stencil: Stencil, kept: np.ndarray, frames: np.ndarray, workers: int
) -> None:
    """Advance a plate on so many threads."""
    layout = make_layout(plate, stencil, workers)
    w = aligned(layout.size, plate)
    steps, frame = make_passes(kept, layout.depth)
    mixing, ends = weights(stencil, plate), make_ends(w, layout, stencil)
    pieces = layout.strips * layout.bands * WORD
    progress, busy = np.zeros(pieces, np.int64), np.zeros(pieces, np.int64)
    spare = np.empty(plate.shape if layout.margin else (0, 0), plate.dtype)
    for me in prange(workers):
        field = Field(w, make_layout(plate, stencil, workers), stencil, mixing, ends)
        labour(field, steps, frame, progress, busy, me, workers, plate, spare, frames)


@njit(nogil=True, cache=True, parallel=True)
def march_many(plates: np.ndarray, stencils: Stencils, steps: int, workers: int) -> None:
    """Advance many plates, each on one thread."""
    size = make_layout(plates[0], one_of(stencils, 0), 1).size
    room = aligned(workers * size, plates)
    kept, none = np.full(1, steps), np.empty((0, 1, 1), plates.dtype)
    drawn = np.zeros(1, np.int64)
    for me in prange(workers):
        w = room[me * size : (me + 1) * size]
        run = draw_word(drawn, 0)
        while run < plates.shape[0]:
            march(w, plates[run], one_of(stencils, run), kept, none)
            run = draw_word(drawn, 0)


@njit(nogil=True, cache=True)
def one_of(stencils: Stencils, run: int) -> Stencil:
    """Return the stencil of one run."""
    return Stencil(
        stencils.mixing_y[run], stencils.mixing_x[run], stencils.north[run], stencils.east[run],
        stencils.source[run], stencils.edges, stencils.gain_y[run], stencils.loss_y[run],
        stencils.gain_x[run], stencils.loss_x[run],
    )  # fmt: skip


def advance(plate: np.ndarray, stencil: Stencil, steps: int) -> None:
    """Advance a plate (y, x) in place by `steps` (at least 0) updates, on one thread."""
    history(plate, stencil, np.full(1, steps), _no_frames(plate))


def advance_parallel(plate: np.ndarray, stencil: Stencil, steps: int) -> None:
    """Advance a plate (y, x) in place by `steps` (at least 0) updates, on all threads."""
    history_parallel(plate, stencil, np.full(1, steps), _no_frames(plate))


def _no_frames(plate: np.ndarray) -> np.ndarray:
    return np.empty((0, 1, 1), plate.dtype)


def history(plate: np.ndarray, stencil: Stencil, kept: np.ndarray, frames: np.ndarray) -> None:
    """Advance a plate and keep it on the way, on one thread.

    Parameters
    ----------
    plate
        (y, x), changed in place; in the end as after kept[-1] updates.
    stencil
        The update.
    kept
        Updates done at each kept instant (frame,), int64, rising strictly, at least 0.
    frames
        (frame, y, x), of the plate's kind: filled with what it is then.
    """
    w = aligned(make_layout(plate, stencil, 1).size, plate)
    march(w, plate, stencil, kept, frames)


def history_parallel(
    plate: np.ndarray, stencil: Stencil, kept: np.ndarray, frames: np.ndarray
) -> None:
    """Advance a plate and keep it on the way, on as many threads as numba may use here."""
    march_parallel(plate, stencil, kept, frames, numba.get_num_threads())


def advance_many(plates: np.ndarray, stencils: Stencils, steps: int) -> None:
    """Advance many plates (run, y, x) in place, each on one thread, the threads across runs.

    No thread waits for another one: the way to compute more plates than there are cores.
    """
    if len(plates):
        march_many(plates, stencils, steps, min(numba.get_num_threads(), len(plates)))
