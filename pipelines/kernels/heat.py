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

from pipelines.kernels.layout import make_layout
from pipelines.kernels.simd import aligned, start_of
from pipelines.kernels.stencil import Stencil, Stencils
from pipelines.kernels.wavefront import (
    Pass,
    Schedule,
    deliver,
    first_column,
    lay_out,
    lay_out_numbers,
    make_schedule,
    sweep,
    take_in,
)
from pipelines.kernels.words import draw_word, let_others_run, read_word, take_word, write_word

# Looks at one's own pieces before the system may run others, and before others' are done, too.
PATIENCE, HELP = 300, 1000
WORD = 8  # distance of two atomic words: a cache line


@njit(nogil=True, cache=True)
def advance_piece(
    w: np.ndarray,
    layout: np.record,
    stencil: Stencil,
    schedule: Schedule,
    words: np.ndarray,
    piece: int,
    me: int,
    plate: np.ndarray,
    spare: np.ndarray,
    frames: np.ndarray,
) -> bool:
    """Take a piece through its next pass, if those around it are so far and nobody is at it.

    words holds two atomic words a piece: how many passes it has behind it, and whether somebody is
    at it. Before the first pass of the schedule comes one that lays the piece out, after the last
    one another that writes it into the plate.
    """
    strips, bands = layout.strips, layout.bands
    progress, busy = 2 * WORD * piece, 2 * WORD * piece + WORD
    number = read_word(words, progress)
    if number > schedule.ends.size + 1:
        return False
    band, k = piece // strips, piece % strips
    for b in range(band - 1, band + 2):
        for beside in range(k - 1, k + 2):
            other = (b + bands) % bands * strips + (beside + strips) % strips
            if read_word(words, 2 * WORD * other) < number:
                return False
    if not take_word(words, busy):
        return False
    is_mine = read_word(words, progress) == number  # or somebody was quicker
    if is_mine:
        carry_out(w, layout, stencil, schedule, number, piece, me, plate, spare, frames)
        write_word(words, progress, number + 1)
    write_word(words, busy, 0)
    return is_mine


@njit(nogil=True, cache=True)
def carry_out(
    w: np.ndarray,
    layout: np.record,
    stencil: Stencil,
    schedule: Schedule,
    number: int,
    piece: int,
    me: int,
    plate: np.ndarray,
    spare: np.ndarray,
    frames: np.ndarray,
) -> None:
    """Carry out pass `number` of a piece: 0 lays it out, the last one writes it into the plate."""
    band, k = piece // layout.strips, piece % layout.strips
    p, passes = number - 1, schedule.ends.size
    first, last = band * layout.rows // layout.bands, (band + 1) * layout.rows // layout.bands
    scratch, is_narrow = layout.scratch + me * layout.scratch_size, layout.margin == 0
    begun = steps = frame = 0
    if 0 <= p < passes:
        begun, frame = schedule.ends[p - 1] if p > 0 else 0, schedule.frames[p]
        steps = schedule.ends[p] - begun
    origin = target = -1
    if is_narrow:
        size = layout.rows * layout.stride
        origin, target = layout.plates + (1 - number % 2) * size, layout.plates + number % 2 * size
    task = Pass(k, first, last, begun, steps, frame, origin, target, scratch)
    start, stop = first_column(layout, k), first_column(layout, k + 1)
    if number == 0:
        lay_out(w, layout, task, stencil)
        if is_narrow:
            for i in range(first, last):
                take_in(w, layout, task, target + i * layout.stride, start_of(plate), i)
        if schedule.kept.size > 0 and schedule.kept[0] == 0:
            copy_piece(frames[0], plate, first, last, start, stop)
    elif p < passes:  # a wide plate goes to and fro
        before, after = (plate, spare) if p % 2 == 0 else (spare, plate)
        numbers = start_of(before), start_of(after)
        sweep(w, layout, task, *numbers, schedule.kept, start_of(frames))
    elif is_narrow:
        for i in range(first, last):
            row = origin + i * layout.stride
            deliver(w, layout, task, row, start_of(plate), i, layout.is_large)


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
    w: np.ndarray,
    layouts: np.ndarray,
    stencil: Stencil,
    schedule: Schedule,
    words: np.ndarray,
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
    numbers, layout = start_of(w), layouts[0]
    pieces, looks = layout.strips * layout.bands, 0
    mine, end = me * pieces // workers, (me + 1) * pieces // workers
    first, last = mine, end
    is_done = False
    while not is_done:
        is_done, has_moved = True, False
        for piece in range(first, last):
            if advance_piece(
                numbers, layout, stencil, schedule, words, piece, me, plate, spare, frames
            ):
                has_moved = True
            if mine <= piece < end and read_word(words, 2 * WORD * piece) <= schedule.ends.size + 1:
                is_done = False
        looks = 0 if has_moved else looks + 1
        first, last = mine, end
        if looks > PATIENCE:
            let_others_run()
        if looks > HELP:
            first, last = 0, pieces


@njit(nogil=True, cache=True, parallel=True)
def labour_parallel(
    w: np.ndarray,
    layouts: np.ndarray,
    stencil: Stencil,
    schedule: Schedule,
    words: np.ndarray,
    workers: int,
    plate: np.ndarray,
    spare: np.ndarray,
    frames: np.ndarray,
) -> None:
    """Share the pieces among so many threads."""
    for worker in prange(workers):
        me = np.int64(worker)  # not the unsigned one, for which all would be compiled again
        labour(w, layouts, stencil, schedule, words, me, workers, plate, spare, frames)


@njit(nogil=True, cache=True, parallel=True)
def labour_many(
    room: np.ndarray,
    layouts: np.ndarray,
    stencils: Stencils,
    schedule: Schedule,
    words: np.ndarray,
    drawn: np.ndarray,
    workers: int,
    plates: np.ndarray,
    spares: np.ndarray,
    frames: np.ndarray,
) -> None:
    """Draw runs on so many threads, and advance each on one."""
    for worker in prange(workers):
        me, first, alone = np.int64(worker), np.int64(0), np.int64(1)  # no literals: see above
        run = draw_word(drawn, 0)
        while run < plates.shape[0]:
            length = layouts[0].length
            w = room[me * length : (me + 1) * length]
            words[me] = 0
            one = one_of(stencils, run)
            lay_out_numbers(w, layouts[0], plates[run], one)
            labour(
                w,
                layouts,
                one,
                schedule,
                words[me],
                first,
                alone,
                plates[run],
                spares[me],
                frames,
            )
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


def history(plate: np.ndarray, stencil: Stencil, kept: np.ndarray, frames: np.ndarray) -> None:
    """Advance a plate and keep it on the way, on one thread.

    A frame costs what it takes to bring it in order and to write it to memory, as long as two to
    three steps: a tenth where each 25th step is kept, a sixth where each 16th is.

    Parameters
    ----------
    plate
        (y, x), changed in place; in the end as after kept[-1] updates.
    stencil
        The update.
    kept
        Updates done at each kept instant (frame,), int64, rising strictly, at least 0.
    frames
        (frame, y, x), of the plate's kind: filled with what it is then; fewer than kept instants,
        if those after the first ones need not be.
    """
    layouts = make_layout(plate, stencil, kept[-1], 1)
    layout = layouts[0]
    w, words, spare = aligned(layout.length, plate), _words(layout), _spare(layout, plate)
    schedule = make_schedule(kept[-1], layout, kept[: len(frames)])
    lay_out_numbers(w, layout, plate, stencil)
    labour(w, layouts, stencil, schedule, words, 0, 1, plate, spare, frames)


def history_parallel(
    plate: np.ndarray, stencil: Stencil, kept: np.ndarray, frames: np.ndarray
) -> None:
    """Advance a plate and keep it on the way, on as many threads as numba may use here."""
    workers = numba.get_num_threads()
    layouts = make_layout(plate, stencil, kept[-1], workers)
    layout = layouts[0]
    w, words, spare = aligned(layout.length, plate), _words(layout), _spare(layout, plate)
    schedule = make_schedule(kept[-1], layout, kept[: len(frames)])
    lay_out_numbers(w, layout, plate, stencil)
    labour_parallel(w, layouts, stencil, schedule, words, workers, plate, spare, frames)


def advance_many(plates: np.ndarray, stencils: Stencils, steps: int) -> None:
    """Advance many plates (run, y, x) in place, each on one thread, the threads across runs.

    No thread waits for another one: the way to compute more plates than there are cores.
    """
    if not len(plates):
        return
    workers = min(numba.get_num_threads(), len(plates))
    layouts = make_layout(plates[0], one_of(stencils, 0), steps, 1)
    layout = layouts[0]
    room = aligned(workers * layout.length, plates)
    words = np.stack([_words(layout)] * workers)
    spares = np.stack([_spare(layout, plates[0])] * workers)
    schedule = make_schedule(steps, layout, np.empty(0, np.int64))
    drawn, frames = np.zeros(1, np.int64), _no_frames(plates)
    labour_many(room, layouts, stencils, schedule, words, drawn, workers, plates, spares, frames)


def _no_frames(plate: np.ndarray) -> np.ndarray:
    return np.empty((0, 1, 1), plate.dtype)


def _words(layout: np.record) -> np.ndarray:
    return np.zeros(2 * WORD * layout.strips * layout.bands, np.int64)


def _spare(layout: np.record, plate: np.ndarray) -> np.ndarray:
    return np.empty(plate.shape if layout.margin else (0, 0), plate.dtype)
