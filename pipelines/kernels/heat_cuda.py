"""Heat conduction on a GPU: the explicit update of `stencil`, as `heat` does it on the CPU.

Two kernels, because memory is what bounds the update (16 bytes a node and step in float64 against
9 operations: an H100 moves 3.0 TB/s and computes 34 Tflop/s, so that 187 Gnode/s is all that a
kernel of one step a pass can reach):

* `tiled`, for large plates: a block of threads brings a tile of TILE x TILE nodes into shared
  memory, does STEPS steps there, and writes the nodes that are as many nodes away from the tile's
  rim, which alone are right then (overlapped tiling; Holewinski et al. 2012,
  doi:10.1145/2304576.2304619; Matsumura et al. 2020, doi:10.1145/3368826.3377904). Of 64 x 64
  nodes, 4 steps leave 56 x 56: 77 % of the work counts, and memory moves 4.6 bytes a node and step,
  a bound of 650 Gnode/s, and so does shared memory (29 TB/s; 4.25 accesses a node, as a thread has
  eight rows of a column). Eight steps would take 2.0 bytes, but leave 56 % of the work useful: 480.
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
ROWS = 3 if IS_SIMULATED else 8  # of a tile, that a thread takes: 512 threads a tile
ROWS_AND_1 = ROWS + 1
# What lets a multiprocessor start 512 threads: it has 65,536 registers.
LIMITS = {} if IS_SIMULATED else {"max_registers": 128}
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
    inner, kernel = TILE - 2 * STEPS, TILED[stencils.north.size == 0]
    for first in range(0, steps, STEPS):
        for run in range(0, runs, MOST_RUNS):
            grid = (-(-nx // inner), -(-ny // inner), min(MOST_RUNS, runs - run))
            count = min(STEPS, steps - first)
            kernel[grid, (TILE, TILE // ROWS)](here, other, stencils, run, count)
        here, other = other, here
    return here, other


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
            neighbours = (
                both[old + below],
                both[old + before],
                both[old + at],
                both[old + after],
                both[old + above],
            )
            both[new + at] = after_a_step(neighbours, stencils, run, i, j, ny, nx)
            i, j = next_node(i + rows_on, j + columns_on, nx)
        cuda.syncthreads()
        old, new = new, old
    i, j = first_i, first_j
    for at in range(thread, ny * nx, threads):
        plates[run, i, j] = both[old + at]
        i, j = next_node(i + rows_on, j + columns_on, nx)


@cuda.jit(device=True)
def within(i: int, count: int) -> int:
    """Return the number in [0, count) that is nearest."""
    if i < 0:
        return 0
    return i if i < count else count - 1


@cuda.jit(device=True)
def around(i: int, count: int, kind: int) -> int:
    """Return the row or column that a number means, when its edges are of a kind."""
    return i % count if kind == PERIODIC else i


@cuda.jit(device=True)
def before(i: int, count: int, kind: int) -> int:
    """Return the row or column of the faces before a node's, when its edges are of a kind."""
    return count - 1 if i == 0 and kind == PERIODIC else within(i - 1, count)


@cuda.jit(device=True)
def y_face(stencils: Stencils, run: int, i: int, j: int) -> float:
    """Return the coefficient of the face above a node."""
    face: float = stencils.mixing_y[run] if stencils.north.size == 0 else stencils.north[run, i, j]
    return face


@cuda.jit(device=True)
def x_face(stencils: Stencils, run: int, i: int, j: int) -> float:
    """Return the coefficient of the face to the right of a node."""
    face: float = stencils.mixing_x[run] if stencils.east.size == 0 else stencils.east[run, i, j]
    return face


@cuda.jit(device=True)
def next_node(i: int, j: int, nx: int) -> tuple[int, int]:
    """Return the node of a row and a column that may be one row's length too far."""
    return (i, j) if j < nx else (i + 1, j - nx)


@cuda.jit(device=True)
def after_a_step(
    neighbours: tuple[float, ...], stencils: Stencils, run: int, i: int, j: int, ny: int, nx: int
) -> float:
    """Return the temperature of node i, j one update later.

    neighbours is the temperatures below, to the left, here, to the right and above; those beyond an
    open edge are not looked at.
    """
    below, left, here, right, above = neighbours
    bottom_kind, top_kind, left_kind, right_kind = stencils.edges
    if i == 0:
        if bottom_kind == FIXED:
            return here
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
        if left_kind == OPEN:
            left = right + stencils.gain_x[run, 0, i] - stencils.loss_x[run, 0, i] * here
    elif j == nx - 1:
        if right_kind == FIXED:
            return here
        if right_kind == OPEN:
            right = left + stencils.gain_x[run, 1, i] - stencils.loss_x[run, 1, i] * here
    south_i, west_j = before(i, ny, bottom_kind), before(j, nx, left_kind)
    along_y = y_face(stencils, run, i, j) * (above - here)
    along_y -= y_face(stencils, run, south_i, j) * (here - below)
    along_x = x_face(stencils, run, i, j) * (right - here)
    along_x -= x_face(stencils, run, i, west_j) * (here - left)
    change: float = along_y + along_x
    if stencils.source.size > 0:
        change += stencils.source[run, i, j]
    return here + change


def made(is_uniform: bool) -> Any:
    """Return the kernel for large plates; for those of one mixing it needs fewer registers."""

    @cuda.jit(cache=True, **LIMITS)
    def tiled(
        old: np.ndarray, new: np.ndarray, stencils: Stencils, first_run: int, steps: int
    ) -> None:
        """Advance the plates (run, y, x) `old` by at most STEPS updates into `new`.

        A block advances a tile. Nothing is asked of a node in a step but whether it is free: what
        differs from node to node is brought into registers before, and ghosts are nodes, too.
        """
        tile = cuda.shared.array(AREA, old.dtype)
        here, updated = cuda.local.array(ROWS, old.dtype), cuda.local.array(ROWS, old.dtype)
        # The faces above the nodes of this thread, after the one below the first of them.
        north, source = cuda.local.array(ROWS_AND_1, old.dtype), cuda.local.array(ROWS, old.dtype)
        east, west = cuda.local.array(ROWS, old.dtype), cuda.local.array(ROWS, old.dtype)
        ny, nx = old.shape[1], old.shape[2]
        bottom, top, left, right = stencils.edges
        run = first_run + cuda.blockIdx.z
        y_mixing, x_mixing = stencils.mixing_y[run], stencils.mixing_x[run]

        # This thread's column, and the first of its rows, in the tile; where the tile begins; and
        # which node of the plate that is: the halo of a periodic plate goes around.
        column, row = cuda.threadIdx.x, cuda.threadIdx.y * ROWS
        tile_i = cuda.blockIdx.y * (TILE - 2 * STEPS) - STEPS
        tile_j = cuda.blockIdx.x * (TILE - 2 * STEPS) - STEPS
        node_i = around(tile_i + row, ny, bottom)
        node_j = around(tile_j + column, nx, left)
        j, west_j = within(node_j, nx), before(node_j, nx, left)
        is_free_column = j == node_j and 0 < column < TILE - 1
        is_free_column = is_free_column and not (j == 0 and left == FIXED)
        is_free_column = is_free_column and not (j == nx - 1 and right == FIXED)
        free = 0  # bit r: of row r
        if not is_uniform:
            north[0] = stencils.north[run, before(node_i, ny, bottom), j]
        for r in range(ROWS):
            i = within(node_i, ny)
            here[r] = old[run, i, j]
            tile[(row + r) * TILE + column] = here[r]
            if not is_uniform:
                north[r + 1] = stencils.north[run, i, j]
                east[r], west[r] = stencils.east[run, i, j], stencils.east[run, i, west_j]
            source[r] = stencils.source[run, i, j] if stencils.source.size > 0 else 0
            is_held = (i == 0 and bottom == FIXED) or (i == ny - 1 and top == FIXED)
            if is_free_column and i == node_i and not is_held and 0 < row + r < TILE - 1:
                free |= 1 << r
            node_i = 0 if bottom == PERIODIC and node_i == ny - 1 else node_i + 1
        to_left, to_right = -1 if column > 0 else 0, 1 if column < TILE - 1 else 0
        to_below, to_above = -TILE if row > 0 else 0, TILE if row + ROWS < TILE else 0

        # The first four rows of threads make the ghosts of a side each, if it has any in the tile.
        side = cuda.threadIdx.y
        ghost, inwards = -1, 0
        gain, loss = y_mixing, y_mixing
        if side < 2:
            ghosts = -1 - tile_i if side == 0 else ny - tile_i
            if 0 <= ghosts < TILE and (bottom if side == 0 else top) == OPEN:
                ghost, inwards = ghosts * TILE + column, TILE if side == 0 else -TILE
                gain, loss = stencils.gain_y[run, side, j], stencils.loss_y[run, side, j]
        elif side < 4:
            ghosts = -1 - tile_j if side == 2 else nx - tile_j
            if 0 <= ghosts < TILE and (left if side == 2 else right) == OPEN:
                ghost, inwards = column * TILE + ghosts, 1 if side == 2 else -1
                i = within(around(tile_i + column, ny, bottom), ny)
                gain, loss = stencils.gain_x[run, side - 2, i], stencils.loss_x[run, side - 2, i]
        is_at_an_edge = tile_i < 0 or tile_j < 0 or tile_i + TILE > ny or tile_j + TILE > nx
        cuda.syncthreads()

        for _ in range(steps):
            if is_at_an_edge:
                if ghost >= 0:
                    edge, inner = tile[ghost + inwards], tile[ghost + 2 * inwards]
                    tile[ghost] = inner + gain - loss * edge
                cuda.syncthreads()
            for r in range(ROWS):
                at = (row + r) * TILE + column
                here[r] = tile[at]
                below, above = (
                    tile[at + (to_below if r == 0 else -TILE)],
                    tile[at + (to_above if r == ROWS - 1 else TILE)],
                )
                south_face = y_mixing if is_uniform else north[r]
                north_face = y_mixing if is_uniform else north[r + 1]
                west_face = x_mixing if is_uniform else west[r]
                east_face = x_mixing if is_uniform else east[r]
                along_y = north_face * (above - here[r]) - south_face * (here[r] - below)
                along_x = east_face * (tile[at + to_right] - here[r])
                along_x -= west_face * (here[r] - tile[at + to_left])
                is_free = (free >> r) & 1
                updated[r] = here[r] + (along_y + along_x + source[r]) if is_free else here[r]
            cuda.syncthreads()
            for r in range(ROWS):
                tile[(row + r) * TILE + column] = updated[r]
            cuda.syncthreads()
        for r in range(ROWS):
            is_inner = STEPS <= row + r < TILE - STEPS and STEPS <= column < TILE - STEPS
            if is_inner and tile_i + row + r < ny and tile_j + column < nx:
                new[run, tile_i + row + r, tile_j + column] = tile[(row + r) * TILE + column]

    return tiled


TILED = {is_uniform: made(is_uniform) for is_uniform in (False, True)}
