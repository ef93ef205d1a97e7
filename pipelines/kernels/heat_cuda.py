"""Heat conduction on a GPU: the explicit update of `stencil`, as `heat` does it on the CPU.

Two kernels, because memory is what bounds the update (16 bytes a node and step in float64 against
9 operations: an H100 moves 3.0 TB/s and computes 34 Tflop/s, so that 187 Gnode/s is all that a
kernel of one step a pass can reach):

* `tiled`, for large plates: a block of threads brings a tile of TILE x TILE nodes into shared
  memory, does STEPS steps there, and writes the nodes that are as many nodes away from the tile's
  rim, which alone are right then (overlapped tiling; Holewinski et al. 2012,
  doi:10.1145/2304576.2304619; Matsumura et al. 2020, doi:10.1145/3368826.3377904). Of 64 x 64
  nodes, 4 steps leave 56 x 56: 77 % of the work counts, and memory moves 4.6 bytes a node and step,
  a bound of 650 Gnode/s, where shared memory (29 TB/s; 3.25 accesses a node, as a thread has the
  nodes of 8 rows of a column in registers) bounds the same tile by 860. Eight steps would take 2.0
  bytes, but leave 56 % of the work useful, a bound of 630 by shared memory.
* `whole`, for many small plates: a block a run, the plate before and after a step in shared memory
  from the first step to the last. 48 KiB, what any GPU gives without being asked, hold 55 x 55
  nodes in float64 and 78 x 78 in float32; larger plates go through `tiled`.

All this is design: the kernels were checked in the simulator and compiled for an H100, but they
have not been timed on a GPU.
"""

from typing import Any

import numpy as np
from numba import cuda

from pipelines.kernels.cuda_device import IS_SIMULATED, require_gpu
from pipelines.kernels.stencil import FIXED, OPEN, PERIODIC, Stencil, Stencils

TILE = 12 if IS_SIMULATED else 64  # nodes along each side of a tile, and threads along x
AREA = TILE * TILE
STEPS = 3 if IS_SIMULATED else 4  # in one pass over the plate
ROWS = 4 if IS_SIMULATED else 8  # of a tile, that a thread takes: 512 threads a tile
NODES = 8  # of a whole plate, that a thread takes, or a few less
SHARED_BYTES = 48 * 1024
MOST_RUNS = 65_535  # in one launch: the largest grid along z


def advance(plate: np.ndarray, stencil: Stencil, steps: int) -> None:
    """Advance a plate by some updates.

    Parameters
    ----------
    plate
        Temperatures (y, x), float64 or float32, any unit; changed in place.
    stencil
        Of one update, of the plate's shape and kind; stable (`stencil.largest_stable_step`). Not
        checked.
    steps
        Number of updates, at least 0.

    Raises
    ------
    RuntimeError
        Without a GPU; so do the others.
    """
    history(plate, stencil, np.array([steps]), np.empty((1, *plate.shape), plate.dtype))


def history(plate: np.ndarray, stencil: Stencil, kept: np.ndarray, frames: np.ndarray) -> None:
    """Advance a plate and keep what it is like on the way.

    Parameters
    ----------
    plate
        As in `advance`; at the end, the plate after kept[-1] updates.
    stencil
        As in `advance`.
    kept
        Numbers of updates (frame,), rising, after which to keep a frame.
    frames
        (frame, y, x), overwritten.
    """
    require_gpu()
    update = sent(alone(stencil), plate.dtype)
    here, other = cuda.to_device(plate[None]), cuda.device_array((1, *plate.shape), plate.dtype)
    done = 0
    for frame, steps in zip(frames, kept, strict=True):
        here, other = advanced_by_tiles(here, other, update, int(steps) - done)
        frame[...] = here.copy_to_host()[0]
        done = int(steps)
    plate[...] = frames[-1] if len(frames) else plate


def advance_many(plates: np.ndarray, stencils: Stencils, steps: int) -> None:
    """Advance many plates (run, y, x), each by its own update, in place."""
    require_gpu()
    runs, ny, nx = plates.shape
    if runs == 0:
        return
    update, on_device = sent(stencils, plates.dtype), cuda.to_device(plates)
    shared_bytes = 2 * ny * nx * plates.dtype.itemsize
    if shared_bytes <= SHARED_BYTES:
        whole[runs, threads_for(ny * nx), 0, shared_bytes](on_device, update, steps)
    else:
        other = cuda.device_array(plates.shape, plates.dtype)
        on_device, _ = advanced_by_tiles(on_device, other, update, steps)
    plates[...] = on_device.copy_to_host()


def threads_for(nodes: int) -> int:
    """Return how many threads take a whole plate: about NODES nodes each, in whole warps."""
    warps = -(-nodes // (32 * NODES))
    return 32 * warps


def alone(stencil: Stencil) -> Stencils:
    """Return one run's update as that of many runs."""
    columns = {name: np.asarray(getattr(stencil, name))[None] for name in Stencil._fields}
    return Stencils(**(columns | {"edges": stencil.edges}))


def sent(stencils: Stencils, dtype: np.dtype) -> Stencils:
    """Return the updates with their arrays on the device, and the kinds of edges as numbers."""
    columns = {
        name: cuda.to_device(np.ascontiguousarray(getattr(stencils, name), dtype))
        for name in Stencils._fields
    }
    return Stencils(**(columns | {"edges": tuple(int(kind) for kind in stencils.edges)}))


def advanced_by_tiles(here: Any, other: Any, stencils: Stencils, steps: int) -> tuple[Any, Any]:
    """Return the plates after some updates, and room for as many; both are overwritten."""
    runs, ny, nx = here.shape
    inner = TILE - 2 * STEPS
    for first in range(0, steps, STEPS):
        for run in range(0, runs, MOST_RUNS):
            grid = (-(-nx // inner), -(-ny // inner), min(MOST_RUNS, runs - run))
            count = min(STEPS, steps - first)
            tiled[grid, (TILE, TILE // ROWS)](here, other, stencils, run, count)
        here, other = other, here
    return here, other


@cuda.jit(cache=True)
def tiled(old: np.ndarray, new: np.ndarray, stencils: Stencils, first_run: int, steps: int) -> None:
    """Advance the plates (run, y, x) `old` by at most STEPS updates into `new`, a tile a block."""
    tile = cuda.shared.array(AREA, old.dtype)
    here, updated = cuda.local.array(ROWS, old.dtype), cuda.local.array(ROWS, old.dtype)
    ny, nx = old.shape[1], old.shape[2]
    bottom, _, left, _ = stencils.edges
    run = first_run + cuda.blockIdx.z
    # This thread's column, and the first of its rows: in the tile, and on the plate.
    column, row = cuda.threadIdx.x, cuda.threadIdx.y * ROWS
    j = cuda.blockIdx.x * (TILE - 2 * STEPS) - STEPS + column
    i = cuda.blockIdx.y * (TILE - 2 * STEPS) - STEPS + row
    # Which node of the plate that is, if there is one: the halo of a periodic plate goes around.
    first_i, node_j = i % ny if bottom == PERIODIC else i, j % nx if left == PERIODIC else j
    is_column = 0 <= node_j < nx
    node_i = first_i
    for r in range(ROWS):
        if is_column and 0 <= node_i < ny:
            here[r] = old[run, node_i, node_j]
            tile[(row + r) * TILE + column] = here[r]
        node_i = row_after(node_i, ny, bottom)
    cuda.syncthreads()
    is_column = is_column and 0 < column < TILE - 1
    for _ in range(steps):
        node_i = first_i
        for r in range(ROWS):
            at = (row + r) * TILE + column
            updated[r] = here[r]
            if is_column and 0 <= node_i < ny and 0 < row + r < TILE - 1:
                below = here[r - 1] if r > 0 else tile[at - TILE]
                above = here[r + 1] if r < ROWS - 1 else tile[at + TILE]
                around = below, tile[at - 1], here[r], tile[at + 1], above
                updated[r] = after_a_step(around, stencils, run, node_i, node_j, ny, nx)
            node_i = row_after(node_i, ny, bottom)
        cuda.syncthreads()
        for r in range(ROWS):
            here[r] = updated[r]
            tile[(row + r) * TILE + column] = here[r]
        cuda.syncthreads()
    for r in range(ROWS):
        is_inner = STEPS <= row + r < TILE - STEPS and STEPS <= column < TILE - STEPS
        if is_inner and i + r < ny and j < nx:
            new[run, i + r, j] = here[r]


@cuda.jit(cache=True)
def whole(plates: np.ndarray, stencils: Stencils, steps: int) -> None:
    """Advance the plates (run, y, x) in place, a run a block, its plate in shared memory."""
    both = cuda.shared.array(0, plates.dtype)  # the plate before and after a step
    ny, nx = plates.shape[1], plates.shape[2]
    run, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    first_i, first_j = thread // nx, thread % nx
    rows_on, columns_on = threads // nx, threads % nx  # to a thread's next node
    i, j = first_i, first_j
    for at in range(thread, ny * nx, threads):
        both[at] = plates[run, i, j]
        i, j = next_node(i + rows_on, j + columns_on, nx)
    cuda.syncthreads()
    old, new = 0, ny * nx
    for _ in range(steps):
        i, j = first_i, first_j
        for at in range(thread, ny * nx, threads):
            # Over the rim comes the opposite one; held and open edges do not look at it.
            below = at - nx if i > 0 else at + (ny - 1) * nx
            above = at + nx if i < ny - 1 else at - (ny - 1) * nx
            before = at - 1 if j > 0 else at + nx - 1
            after = at + 1 if j < nx - 1 else at - nx + 1
            around = (
                both[old + below],
                both[old + before],
                both[old + at],
                both[old + after],
                both[old + above],
            )
            both[new + at] = after_a_step(around, stencils, run, i, j, ny, nx)
            i, j = next_node(i + rows_on, j + columns_on, nx)
        cuda.syncthreads()
        old, new = new, old
    i, j = first_i, first_j
    for at in range(thread, ny * nx, threads):
        plates[run, i, j] = both[old + at]
        i, j = next_node(i + rows_on, j + columns_on, nx)


@cuda.jit(device=True)
def row_after(i: int, ny: int, kind: int) -> int:
    """Return the row above a row; above the last one comes the first if the edge is periodic."""
    return 0 if kind == PERIODIC and i == ny - 1 else i + 1


@cuda.jit(device=True)
def next_node(i: int, j: int, nx: int) -> tuple[int, int]:
    """Return the node of a row and a column that may be one row's length too far."""
    return (i, j) if j < nx else (i + 1, j - nx)


@cuda.jit(device=True)
def after_a_step(
    around: tuple[float, ...], stencils: Stencils, run: int, i: int, j: int, ny: int, nx: int
) -> float:
    """Return the temperature of node i, j one update later.

    around is the temperatures below, to the left, here, to the right and above; those beyond an
    open edge are not looked at.
    """
    below, left, here, right, above = around
    bottom_kind, top_kind, left_kind, right_kind = stencils.edges
    south_i, west_j = i - 1, j - 1  # of the faces below and to the left
    if i == 0:
        if bottom_kind == FIXED:
            return here
        south_i = ny - 1 if bottom_kind == PERIODIC else 0
        if bottom_kind == OPEN:
            below = above + stencils.gain_y[run, 0, j] - stencils.loss_y[run, 0, j] * here
    elif i == ny - 1:
        if top_kind == FIXED:
            return here
        if top_kind == OPEN:
            above = below + stencils.gain_y[run, 1, j] - stencils.loss_y[run, 1, j] * here
    if j == 0:
        if left_kind == FIXED:
            return here
        west_j = nx - 1 if left_kind == PERIODIC else 0
        if left_kind == OPEN:
            left = right + stencils.gain_x[run, 0, i] - stencils.loss_x[run, 0, i] * here
    elif j == nx - 1:
        if right_kind == FIXED:
            return here
        if right_kind == OPEN:
            right = left + stencils.gain_x[run, 1, i] - stencils.loss_x[run, 1, i] * here
    if stencils.north.size == 0:
        along_y = stencils.mixing_y[run] * ((above - here) - (here - below))
        along_x = stencils.mixing_x[run] * ((right - here) - (here - left))
    else:
        along_y = stencils.north[run, i, j] * (above - here)
        along_y -= stencils.north[run, south_i, j] * (here - below)
        along_x = stencils.east[run, i, j] * (right - here)
        along_x -= stencils.east[run, i, west_j] * (here - left)
    change = along_y + along_x
    if stencils.source.size > 0:
        change += stencils.source[run, i, j]
    new: float = here + change
    return new
