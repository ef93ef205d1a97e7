"""Heat conduction by large steps: the implicit scheme of Peaceman and Rachford, stable at any step.

Let Lx T and Ly T be what conduction along x and along y adds in one explicit step of dt, and f what
edges and sources add (all three: the formula in `stencil`). Half of the step is implicit in x, the
other half in y (Peaceman & Rachford 1955, J. SIAM 3, 28-41, doi:10.1137/0103003):

    (1 - Lx/2) T* = (1 + Ly/2) T  + f/2
    (1 - Ly/2) T' = (1 + Lx/2) T* + f/2

Without T*, this is an equation for the change (Douglas & Gunn 1964, doi:10.1007/BF01386093)

    (1 - Lx/2) (1 - Ly/2) (T' - T) = Lx T + Ly T + f

and so it is computed: the change of an explicit step, smoothed along each row, then along each
column. The change needs no more digits than it has, so held nodes keep their bits, heat is kept to
rounding and a steady plate stays steady, however large the step, in float32 too.

It is of second order in dt and in the spacing. It is stable at any dt, with all kinds of edges and
conductivities: where the nodes of open edges count half, Lx and Ly are symmetric and have no
positive eigenvalue, so that (1 + L/2) / (1 - L/2) is at most 1 in norm (Douglas & Gunn). It is not
monotone: what varies from node to node is damped by (1 - 2 m) / (1 + 2 m) a step, m the mixing,
which is near -1 where m is large, and then rings. Take dt by what should be resolved in time; with
m = 1000 it takes some 10,000 steps until an edge or a spot that was sharp is forgotten.

A line of nodes is a tridiagonal system, symmetric once its open ends are halved: it is factored
once, L D L^T (Golub & Van Loan, Matrix Computations, section 4.3.6). A periodic line is cut at the
face between its last and its first node, and the face is put back by the formula of Sherman and
Morrison (Press et al., Numerical Recipes, section 2.7). As many lines as a vector has lanes are
solved side by side; rows are transposed for it, a square at a time.

A step takes as long as 10 explicit ones of a plain loop on a plate of 200 x 200, as 5 on one of
1024 x 1024 (0.23 and 0.20 Gnode/s, float64, one thread of a busy machine; 1.6 to 2 times that in
float32, 0.5 to 0.8 times where conductivity varies). Factoring takes as long as 0.1 to 0.8 steps,
as 6 where conductivity varies.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from pipelines.kernels.simd import fma, lanes, load, splat, start_of, store, transpose
from pipelines.kernels.stencil import FIXED, OPEN, PERIODIC, Stencil


class Lines(NamedTuple):
    """1 - L/2 of all rows, or of all columns, factored; made by `factored`.

    Strips of lines stand one after the other, each (node along the line, lane), flat. There is only
    one strip where all lines are the same.
    """

    nodes: int  # along a line
    first: float  # 1/2 where the first node is at an open edge, else 1
    last: float  # the same of the last node
    ratio: np.ndarray  # of d[j+1] in d[j]
    pivot: np.ndarray  # of the right-hand side in d[j]
    bridge: np.ndarray  # what a jump from the last node to the first takes from each; or empty


@njit(nogil=True, cache=True)
def history(plate: np.ndarray, stencil: Stencil, kept: np.ndarray, frames: np.ndarray) -> None:
    """Advance a plate by implicit steps and keep it on the way, on one thread.

    Parameters
    ----------
    plate
        Temperatures (y, x), contiguous, float64 or float32, any unit; changed in place.
    stencil
        Of one step, of any length; of the plate's shape and kind. Not checked.
    kept
        Steps done at each kept instant (frame,), int64, rising strictly, at least 0.
    frames
        (frame, y, x), of the plate's kind: filled with what it is then; fewer than kept instants,
        if those after the first ones need not be.
    """
    rows, columns, change = prepared(plate, stencil)
    room = room_for(plate)
    done = 0
    for k in range(len(kept)):
        for _ in range(kept[k] - done):
            for strip in range(strips_of(plate, 0)):
                smooth_rows(plate, stencil, rows, strip, change, room)
            for strip in range(0, strips_of(plate, 1), side_by_side(plate)):
                smooth_columns(plate, columns, strip, change, room)
        done = kept[k]
        if k < len(frames):
            keep(plate, k, frames)


@njit(nogil=True, cache=True)
def history_parallel(
    plate: np.ndarray, stencil: Stencil, kept: np.ndarray, frames: np.ndarray
) -> None:
    """Advance a plate as `history` does, to the same bits, lines shared among threads."""
    rows, columns, change = prepared(plate, stencil)
    done = 0
    for k in range(len(kept)):
        for _ in range(kept[k] - done):
            smooth_all_rows(plate, stencil, rows, change)
            smooth_all_columns(plate, columns, change)
        done = kept[k]
        if k < len(frames):
            keep(plate, k, frames)


def advance(plate: np.ndarray, stencil: Stencil, steps: int) -> None:
    """Advance a plate (y, x) in place by `steps` (at least 0) implicit steps, on one thread."""
    history(plate, stencil, np.full(1, steps), np.empty((0, *plate.shape), plate.dtype))


def advance_parallel(plate: np.ndarray, stencil: Stencil, steps: int) -> None:
    """Advance a plate as `advance` does, to the same bits, lines shared among threads."""
    history_parallel(plate, stencil, np.full(1, steps), np.empty((0, *plate.shape), plate.dtype))


@njit(nogil=True, cache=True)
def keep(plate: np.ndarray, frame: int, frames: np.ndarray) -> None:
    """Write a plate into a frame: `frames[frame] = plate` compiles for seconds longer."""
    for i in range(plate.shape[0]):
        for j in range(plate.shape[1]):
            frames[frame, i, j] = plate[i, j]


# Each loop over threads in a function of its own: numba takes no named tuple into one otherwise.
@njit(nogil=True, cache=True, parallel=True)
def smooth_all_rows(plate: np.ndarray, stencil: Stencil, rows: Lines, change: np.ndarray) -> None:
    """Do `smooth_rows` for all strips, shared among threads."""
    for strip in prange(strips_of(plate, 0)):
        at = np.int64(strip)  # not the unsigned one, for which all would be compiled again
        smooth_rows(plate, stencil, rows, at, change, room_for(plate))


@njit(nogil=True, cache=True, parallel=True)
def smooth_all_columns(plate: np.ndarray, columns: Lines, change: np.ndarray) -> None:
    """Do `smooth_columns` for all strips, shared among threads."""
    group = side_by_side(plate)
    for part in prange(-(-strips_of(plate, 1) // group)):
        smooth_columns(plate, columns, np.int64(part) * group, change, room_for(plate))


@njit(nogil=True, cache=True)
def strips_of(plate: np.ndarray, axis: int) -> int:
    """Return how many vectors it takes to go once along an axis."""
    count: int = -(-plate.shape[axis] // lanes(plate))
    return count


@njit(nogil=True, cache=True)
def side_by_side(plate: np.ndarray) -> int:
    """Return how many strips of columns to copy at once: 8, but no more than 512 KiB."""
    count: int = max(1, min(8, 8192 // plate.shape[0]))
    return count


@njit(nogil=True, cache=True)
def prepared(plate: np.ndarray, stencil: Stencil) -> tuple[Lines, Lines, np.ndarray]:
    """Return the factors of rows and of columns, and room for the change, in whole vectors."""
    ny, nx = plate.shape
    bottom, top, left, right = stencil.edges
    y, x = np.int64(0), np.int64(1)  # not the literals, for each of which it would be compiled
    rows = factored(x, nx, stencil.mixing_x, stencil.east, left, right, stencil.loss_x)
    columns = factored(y, ny, stencil.mixing_y, stencil.north, bottom, top, stencil.loss_y)
    lane = lanes(plate)
    change = np.zeros(strips_of(plate, 0) * strips_of(plate, 1) * lane * lane, plate.dtype)
    return rows, columns, change


@njit(nogil=True, cache=True)
def room_for(plate: np.ndarray) -> np.ndarray:
    """Return room for a strip of rows in both orders, or for some strips of columns."""
    lane = lanes(plate)
    strip_of_rows, columns = strips_of(plate, 1) * lane * lane, plate.shape[0] * lane
    return np.empty(max(2 * strip_of_rows, side_by_side(plate) * columns), plate.dtype)


@njit(nogil=True, cache=True, error_model="numpy")
def factored(
    axis: int, nodes: int, mixing: float, faces: np.ndarray, first: int, last: int, loss: np.ndarray
) -> Lines:
    """Return 1 - L/2, factored, of all lines along an axis.

    faces is (y, x), or empty where all are `mixing`; loss is (2, line): at the first and the last
    node, where the edges are of the kinds `first` and `last`.
    """
    lane, count = lanes(loss), loss.shape[1]
    strips = 1 if faces.size == 0 and are_alike(loss) else -(-count // lane)
    ratio = np.zeros(strips * nodes * lane, loss.dtype)
    pivot = np.zeros(strips * nodes * lane, loss.dtype)
    bridge = np.zeros(ratio.size if first == PERIODIC else 0, loss.dtype)
    half, diagonal = np.zeros(nodes), np.ones(nodes)
    inverse, share, answer = np.zeros(nodes), np.zeros(nodes), np.zeros(nodes)
    for line in range(strips * lane):
        which = min(line, count - 1)  # the lanes that are over repeat the last line
        for j in range(nodes):
            face = mixing
            if faces.size > 0:
                face = faces[which, j] if axis else faces[j, which]
            half[j] = 0.5 * face
        for j in range(1, nodes - 1):
            diagonal[j] = 1 + half[j - 1] + half[j]
        joint = half[nodes - 1]
        diagonal[0] = end(first, half[0], loss[0, which])
        diagonal[nodes - 1] = end(last, half[nodes - 2], loss[1, which])
        half[0] *= first != FIXED  # a held node does not change
        half[nodes - 2] *= last != FIXED
        place = line // lane * nodes * lane + line % lane
        inverse[0] = 1 / diagonal[0]
        for j in range(nodes - 1):
            share[j] = half[j] * inverse[j]
            inverse[j + 1] = 1 / (diagonal[j + 1] - half[j] * share[j])
        for j in range(nodes):
            ratio[place + j * lane], pivot[place + j * lane] = share[j], inverse[j]
        if first == PERIODIC:
            for j in range(nodes):
                answer[j] = 0
            answer[0], answer[nodes - 1] = 1, -1
            for j in range(1, nodes):
                answer[j] += share[j - 1] * answer[j - 1]
            answer[nodes - 1] *= inverse[nodes - 1]
            for j in range(nodes - 2, -1, -1):
                answer[j] = inverse[j] * answer[j] + share[j] * answer[j + 1]
            joint /= 1 + joint * (answer[0] - answer[nodes - 1])
            for j in range(nodes):
                bridge[place + j * lane] = joint * answer[j]
    return Lines(nodes, weight(first), weight(last), ratio, pivot, bridge)


@njit(nogil=True, cache=True)
def are_alike(loss: np.ndarray) -> bool:
    """Return whether the edges (2, line) are the same for all lines."""
    for which in range(2):
        for line in range(loss.shape[1]):
            if loss[which, line] != loss[which, 0]:
                return False
    return True


@njit(nogil=True, cache=True)
def end(kind: int, half: float, loss: float) -> float:
    """Return the diagonal element of an end node; that of an open edge is halved."""
    if kind == OPEN:
        return 0.5 + half * (1 + 0.5 * loss)
    return 1.0 if kind == FIXED else 1.0 + half


@njit(nogil=True, cache=True)
def weight(kind: int) -> float:
    """Return by what the equation of an end node is multiplied, so that L is symmetric."""
    return 0.5 if kind == OPEN else 1.0


@njit(nogil=True, cache=True)
def solve(right: np.ndarray, at: int, lines: Lines, strip: int) -> None:
    """Solve (1 - L/2) d = right for the lines of a strip side by side; d takes right's place.

    right is flat, (node, lane) from `at` on.
    """
    lane, nodes = lanes(right), lines.nodes
    place = strip * nodes * lane if lines.ratio.size > nodes * lane else 0
    end = (nodes - 1) * lane
    ratio, pivot, bridge = lines.ratio, lines.pivot, lines.bridge
    store(right, at, load(right, at) * splat(right, lines.first))
    store(right, at + end, load(right, at + end) * splat(right, lines.last))
    d = load(right, at)
    for j in range(lane, end + lane, lane):
        d = fma(load(ratio, place + j - lane), d, load(right, at + j))
        store(right, at + j, d)
    d = load(pivot, place + end) * d
    store(right, at + end, d)
    for j in range(end - lane, -lane, -lane):
        d = fma(load(ratio, place + j), d, load(pivot, place + j) * load(right, at + j))
        store(right, at + j, d)
    if bridge.size > 0:
        jump = load(right, at) - load(right, at + end)
        for j in range(0, end + lane, lane):
            store(right, at + j, load(right, at + j) - load(bridge, place + j) * jump)


@njit(nogil=True, cache=True)
def smooth_rows(
    plate: np.ndarray,
    stencil: Stencil,
    rows: Lines,
    strip: int,
    change: np.ndarray,
    room: np.ndarray,
) -> None:
    """Write (1 - Lx/2)^-1 (Lx T + Ly T + f) of a strip of rows into change."""
    lane = lanes(plate)
    pitch = strips_of(plate, 1) * lane
    turned = lane * pitch  # where in `room` the transposed rows begin
    explicit_changes(plate, stencil, strip, room)
    for j in range(0, pitch, lane):
        transpose(room, j, pitch, room, turned + j * lane, lane)
    solve(room, turned, rows, strip)
    for j in range(0, pitch, lane):
        transpose(room, turned + j * lane, lane, change, strip * lane * pitch + j, pitch)


@njit(nogil=True, cache=True)
def smooth_columns(
    plate: np.ndarray, columns: Lines, strip: int, change: np.ndarray, room: np.ndarray
) -> None:
    """Add (1 - Ly/2)^-1 change to some strips of columns of the plate, from one strip on."""
    lane, (ny, nx) = lanes(plate), plate.shape
    pitch = strips_of(plate, 1) * lane
    temperature = start_of(plate)
    count = min(side_by_side(plate), strips_of(plate, 1) - strip)
    for i in range(ny):
        for k in range(count):
            store(room, (k * ny + i) * lane, load(change, i * pitch + (strip + k) * lane))
    for k in range(count):
        solve(room, k * ny * lane, columns, strip + k)
    for i in range(ny):
        for k in range(count):
            j, d = (strip + k) * lane, (k * ny + i) * lane
            if j + lane <= nx:
                at = i * nx + j
                store(temperature, at, load(temperature, at) + load(room, d))
            else:
                for rest in range(nx - j):
                    temperature[i * nx + j + rest] += room[d + rest]


@njit(nogil=True, cache=True)
def explicit_changes(plate: np.ndarray, stencil: Stencil, strip: int, out: np.ndarray) -> None:
    """Write what one explicit step adds to a strip of rows, Lx T + Ly T + f, into out, flat."""
    lane, (ny, nx) = lanes(plate), plate.shape
    pitch = strips_of(plate, 1) * lane
    bottom, top, left, right = stencil.edges
    for i in range(strip * lane, min(strip * lane + lane, ny)):
        at = (i - strip * lane) * pitch
        if (i == 0 and bottom == FIXED) or (i == ny - 1 and top == FIXED):
            for j in range(nx):
                out[at + j] = 0
            continue
        below, above, south = i - 1, i + 1, i - 1  # `south` is the row of the faces below
        if i == 0:
            below, south = (ny - 1, ny - 1) if bottom == PERIODIC else (1, 0)
        if i == ny - 1:
            above = 0 if top == PERIODIC else ny - 2
        changes_of_row(plate, stencil, i, below, above, south, out, at)
        if i == 0 and bottom == OPEN:
            add_ghosts(plate, stencil, i, stencil.gain_y[0], stencil.loss_y[0], out, at)
        if i == ny - 1 and top == OPEN:
            add_ghosts(plate, stencil, i, stencil.gain_y[1], stencil.loss_y[1], out, at)
        if left == FIXED:
            out[at] = 0
        if right == FIXED:
            out[at + nx - 1] = 0


# Functions that are called once a row, not once a node: handing over an array costs 10 ns.
@njit(nogil=True, cache=True)
def changes_of_row(
    plate: np.ndarray,
    stencil: Stencil,
    i: int,
    below: int,
    above: int,
    south: int,
    out: np.ndarray,
    at: int,
) -> None:
    """Write Lx T + Ly T + f of row i, but the ghosts below and above, into out[at:]."""
    lane, nx = lanes(plate), plate.shape[1]
    north, east, source = stencil.north, stencil.east, stencil.source
    temperature, flat_north, flat_east = start_of(plate), start_of(north), start_of(east)
    mixing_y, mixing_x = plate.dtype.type(stencil.mixing_y), plate.dtype.type(stencil.mixing_x)
    is_uniform = north.size == 0
    y, x = splat(plate, mixing_y), splat(plate, mixing_x)
    inner = nx - 2 if nx - 2 >= lane else 0  # nodes that vectors go over
    for start in range(1, 1 + inner, lane):
        j = min(start, nx - 1 - lane)  # the last vector begins where it ends with the row
        row = i * nx + j
        here = load(temperature, row)
        to_north = load(temperature, above * nx + j) - here
        from_south = here - load(temperature, below * nx + j)
        to_east = load(temperature, row + 1) - here
        from_west = here - load(temperature, row - 1)
        if is_uniform:
            change = y * (to_north - from_south) + x * (to_east - from_west)
        else:
            down = load(flat_north, south * nx + j) * from_south
            back = load(flat_east, row - 1) * from_west
            along_y = load(flat_north, row) * to_north - down
            change = along_y + (load(flat_east, row) * to_east - back)
        store(out, at + j, change)
    left, right = stencil.edges[2], stencil.edges[3]
    for j in range(0, nx, nx - 1 if inner else 1):
        before, after, west = j - 1, j + 1, j - 1
        if j == 0:
            before, west = (nx - 1, nx - 1) if left == PERIODIC else (1, 0)
        if j == nx - 1:
            after = 0 if right == PERIODIC else nx - 2
        here = plate[i, j]
        y_after, y_before = mixing_y, mixing_y
        x_after, x_before = mixing_x, mixing_x
        if not is_uniform:
            y_after, y_before = north[i, j], north[south, j]
            x_after, x_before = east[i, j], east[i, west]
        along_y = y_after * (plate[above, j] - here) - y_before * (here - plate[below, j])
        along_x = x_after * (plate[i, after] - here) - x_before * (here - plate[i, before])
        if j == 0 and left == OPEN:
            along_x += x_before * (stencil.gain_x[0, i] - stencil.loss_x[0, i] * here)
        if j == nx - 1 and right == OPEN:
            along_x += x_after * (stencil.gain_x[1, i] - stencil.loss_x[1, i] * here)
        out[at + j] = along_y + along_x
    if source.size > 0:
        for j in range(nx):
            out[at + j] += source[i, j]


@njit(nogil=True, cache=True)
def add_ghosts(
    plate: np.ndarray,
    stencil: Stencil,
    i: int,
    gain: np.ndarray,
    loss: np.ndarray,
    out: np.ndarray,
    at: int,
) -> None:
    """Add to out[at:] what the ghosts beyond the bottom or top row i add, over a mirrored edge."""
    mixing, north = plate.dtype.type(stencil.mixing_y), stencil.north
    for j in range(plate.shape[1]):
        face = mixing if north.size == 0 else north[i, j]
        out[at + j] += face * (gain[j] - loss[j] * plate[i, j])
