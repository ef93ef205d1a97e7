"""Self-gravitating bodies on a GPU: the direct sums and the leapfrog of `gravity`, tiled.

Each thread sums for TARGETS bodies at once; a block brings TILE sources after the other into shared
memory, where all its threads read the same ones (Nyland, Harris & Prins 2007, GPU Gems 3, chapter
31). One source read for four targets, because shared memory serves one warp a cycle, while a pair
takes 12 operations in float32, and some 22 in float64, of which an H100 does four, or two, warps a
cycle: its bound is 2.4e12 pairs/s in float32 and 0.67e12 in float64.

Few bodies would leave most of a GPU idle, so the sources are cut into parts, too, up to PARTS of
them, each with blocks of its own; the parts' sums are added in their order by a second kernel. How
many parts there are follows from the number of bodies alone. So a body's sum has one order,
whatever the GPU: within a tile, tile by tile, part by part, which is also what keeps float32 to
some 1e-6.

The reciprocal root is the hardware's. In float32 it is right to 2^-22.9 (PTX ISA, rsqrt.approx), so
that a Newton step would gain nothing; in float64 it is refined to the last bit but one (CUDA C++
Programming Guide, accuracy of rsqrt). A body is not pulled by itself: only the tiles in which a
thread meets its own bodies ask for that.

Checked in the simulator and compiled for an H100, but not timed on a GPU.

Shapes and units are those of `gravity`: positions, velocities, accelerations (body, xyz), masses
and potentials (body,), all float64 or float32, which decides the kind of the sums.
"""

from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import libdevice

from pipelines.kernels.cuda_device import IS_SIMULATED, require_gpu

TILE = 4 if IS_SIMULATED else 128  # sources in shared memory, and threads of a block
TARGETS = 2 if IS_SIMULATED else 4  # bodies that a thread sums for
PARTS = 3 if IS_SIMULATED else 64  # of the sources, at most
BLOCKS = 2048  # fill a GPU: there are more parts while there are fewer blocks
LEAPFROG = (1.0,)


def accelerations(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the accelerations (body, xyz) of all bodies into `out`.

    Raises
    ------
    RuntimeError
        Without a GPU; so do the others.
    """
    out[...] = summed("pull", position, mass, softening, g, 3)


def potentials(
    position: np.ndarray, mass: np.ndarray, softening: float, g: float, out: np.ndarray
) -> None:
    """Write the potential (body,) at every body into `out`."""
    out[...] = summed("depth", position, mass, softening, -g, 1)[:, 0]


def advance(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    dt: float,
    steps: int,
) -> None:
    """Advance all bodies by some steps of leapfrog, kick-drift-kick, without leaving the GPU.

    position and velocity are changed in place; dt [time] may be negative: the integrator is
    reversible. Source: Dehnen & Read 2011, section 5, doi:10.1140/epjp/i2011-11055-3.
    """
    room = np.empty((1, *position.shape), position.dtype)
    kept = np.array([steps])
    history(position, velocity, mass, softening, g, dt, LEAPFROG, kept, room, room.copy())


def history(
    position: np.ndarray,
    velocity: np.ndarray,
    mass: np.ndarray,
    softening: float,
    g: float,
    dt: float,
    fractions: Any,
    kept: np.ndarray,
    positions: np.ndarray,
    velocities: np.ndarray,
) -> None:
    """Advance all bodies, and keep where they are on the way.

    An interval of dt is a step of leapfrog for each of the `fractions` of dt: one of 1, or the
    three of Yoshida's integrator. After kept[k] intervals, rising, the bodies are written to row k
    of the histories (frame, body, xyz); position and velocity become the last row.
    """
    require_gpu()
    if mass.size == 0:
        return
    kind, (n, _) = position.dtype.type, position.shape
    bodies, speeds, masses = (
        cuda.to_device(position),
        cuda.to_device(velocity),
        cuda.to_device(mass),
    )
    sums = cuda.device_array((parts_for(n), n, 3), position.dtype)
    nothing, done, kick = kind(0), 0, kind(0)
    add_up(KERNELS["pull", position.dtype], bodies, masses, softening, sums)
    for frame, intervals in enumerate(kept):
        for fraction in [*fractions] * (int(intervals) - done):
            half, whole = kind(fraction * dt / 2), kind(fraction * dt)
            move[-(-n // TILE), TILE](sums, kind(g), bodies, speeds, kick, half, whole)
            add_up(KERNELS["pull", position.dtype], bodies, masses, softening, sums)
            kick = half
        move[-(-n // TILE), TILE](sums, kind(g), bodies, speeds, kick, nothing, nothing)
        done, kick = int(intervals), nothing
        positions[frame] = bodies.copy_to_host()
        velocities[frame] = speeds.copy_to_host()
    if len(kept):
        position[...], velocity[...] = positions[-1], velocities[-1]


def summed(
    which: str, position: np.ndarray, mass: np.ndarray, softening: float, factor: float, width: int
) -> np.ndarray:
    """Return a factor times the sums (body, width) over all pairs."""
    require_gpu()
    n = mass.size
    if n == 0:
        return np.zeros((0, width), position.dtype)
    sums = cuda.device_array((parts_for(n), n, width), position.dtype)
    result = cuda.device_array((n, width), position.dtype)
    bodies, masses = cuda.to_device(position), cuda.to_device(mass)
    add_up(KERNELS[which, position.dtype], bodies, masses, softening, sums)
    total[-(-n // TILE), TILE](sums, position.dtype.type(factor), result)
    answer: np.ndarray = result.copy_to_host()
    return answer


def parts_for(n: int) -> int:
    """Return into how many parts the sources are cut: it follows from the number of bodies."""
    blocks, tiles = -(-n // (TILE * TARGETS)), -(-n // TILE)
    return max(1, min(PARTS, tiles, BLOCKS // blocks))


def add_up(kernel: Any, position: Any, mass: Any, softening: float, sums: Any) -> None:
    """Write the sums (part, body, width) over the sources of each part, all on the device."""
    parts, n, _ = sums.shape
    tiles = -(-n // TILE)
    length = TILE * -(-tiles // parts)  # of a part
    least = sums.dtype.type(softening * softening)
    kernel[(-(-n // (TILE * TARGETS)), parts), TILE](position, mass, least, length, sums)


@cuda.jit(cache=True)
def total(sums: np.ndarray, factor: float, out: np.ndarray) -> None:
    """Write a factor times the sum of the parts' sums into out (body, width)."""
    i = cuda.grid(1)
    if i < out.shape[0]:
        for c in range(out.shape[1]):
            out[i, c] = factor * of_all_parts(sums, i, c)


@cuda.jit(cache=True)
def move(
    sums: np.ndarray,
    g: float,
    position: np.ndarray,
    velocity: np.ndarray,
    close: float,
    begin: float,
    drift: float,
) -> None:
    """End a step of leapfrog by the kick `close`, and begin the next by a kick and a drift."""
    i = cuda.grid(1)
    if i < position.shape[0]:
        for c in range(3):
            acceleration = g * of_all_parts(sums, i, c)
            velocity[i, c] += close * acceleration
            velocity[i, c] += begin * acceleration
            position[i, c] += drift * velocity[i, c]


@cuda.jit(device=True)
def lesser(a: int, b: int) -> int:
    """Return the smaller number: numba's own CUDA target, 0.68, fails to compile `min`."""
    return a if a < b else b


@cuda.jit(device=True)
def of_all_parts(sums: np.ndarray, i: int, c: int) -> float:
    """Return the sum of the parts' sums of body i, in the order of the parts."""
    result: float = sums[0, i, c]
    for part in range(1, sums.shape[0]):
        result += sums[part, i, c]
    return result


def made(which: str, kind: Any, root: Any) -> Any:
    """Return the kernel that sums pulls, or depths, of one kind of float by its reciprocal root."""
    nothing, one = kind(0), kind(1)

    @cuda.jit(device=True)
    def pull(sums: Any, dx: float, dy: float, dz: float, s: float, m: float) -> Any:
        """Add m d s^(-3/2)."""
        near = root(s)
        weight = m * near * (near * near)
        return sums[0] + weight * dx, sums[1] + weight * dy, sums[2] + weight * dz

    @cuda.jit(device=True)
    def depth(sums: Any, dx: float, dy: float, dz: float, s: float, m: float) -> Any:
        """Add m s^(-1/2); the other two sums stay 0."""
        return sums[0] + m * root(s), sums[1], sums[2]

    add = pull if which == "pull" else depth

    @cuda.jit(device=True)
    def meet(sums: Any, source: Any, m: float, target: Any, least: float) -> Any:
        """Add what a source of mass m does to a target."""
        dx, dy, dz = source[0] - target[0], source[1] - target[1], source[2] - target[2]
        return add(sums, dx, dy, dz, least + dx * dx + dy * dy + dz * dz, m)

    @cuda.jit(cache=True)
    def over_pairs(
        position: np.ndarray, mass: np.ndarray, least: float, length: int, sums: np.ndarray
    ) -> None:
        """Write the sums (part, body, width) of some bodies, over one part of the sources."""
        dtype = position.dtype
        tile = cuda.shared.array((4, TILE), dtype)  # x, y, z and mass of the sources
        x, y = cuda.local.array(TARGETS, dtype), cuda.local.array(TARGETS, dtype)
        z, sum_x = cuda.local.array(TARGETS, dtype), cuda.local.array(TARGETS, dtype)
        sum_y, sum_z = cuda.local.array(TARGETS, dtype), cuda.local.array(TARGETS, dtype)
        in_x, in_y = cuda.local.array(TARGETS, dtype), cuda.local.array(TARGETS, dtype)
        in_z = cuda.local.array(TARGETS, dtype)  # the sums over a tile
        n, thread, part = mass.size, cuda.threadIdx.x, cuda.blockIdx.y
        first = cuda.blockIdx.x * (TILE * TARGETS)  # of the block's targets
        for k in range(TARGETS):
            i = lesser(first + k * TILE + thread, n - 1)  # those over repeat the last body
            x[k], y[k], z[k] = position[i, 0], position[i, 1], position[i, 2]
            sum_x[k], sum_y[k], sum_z[k] = nothing, nothing, nothing
        last = lesser((part + 1) * length, n)
        for base in range(part * length, last, TILE):
            if base + thread < last:
                for c in range(3):
                    tile[c, thread] = position[base + thread, c]
                tile[3, thread] = mass[base + thread]
            cuda.syncthreads()
            count = lesser(TILE, last - base)
            for k in range(TARGETS):
                in_x[k], in_y[k], in_z[k] = nothing, nothing, nothing
            if first <= base < first + TILE * TARGETS:  # the targets' own tile for one of the k
                for j in range(count):
                    for k in range(TARGETS):
                        sums_k, target = (in_x[k], in_y[k], in_z[k]), (x[k], y[k], z[k])
                        source = tile[0, j], tile[1, j], tile[2, j]
                        m, raised = tile[3, j], least
                        if base + j == lesser(first + k * TILE + thread, n - 1):
                            m, raised = nothing, least + one
                        in_x[k], in_y[k], in_z[k] = meet(sums_k, source, m, target, raised)
            else:
                for j in range(count):
                    for k in range(TARGETS):
                        sums_k, target = (in_x[k], in_y[k], in_z[k]), (x[k], y[k], z[k])
                        source = tile[0, j], tile[1, j], tile[2, j]
                        in_x[k], in_y[k], in_z[k] = meet(sums_k, source, tile[3, j], target, least)
            for k in range(TARGETS):
                sum_x[k] += in_x[k]
                sum_y[k] += in_y[k]
                sum_z[k] += in_z[k]
            cuda.syncthreads()
        for k in range(TARGETS):
            i = first + k * TILE + thread
            if i < n:
                sums[part, i, 0] = sum_x[k]
                if sums.shape[2] == 3:
                    sums[part, i, 1], sums[part, i, 2] = sum_y[k], sum_z[k]

    return over_pairs


def plain_root(s: Any) -> Any:
    """Return s^(-1/2): for the simulator, which has no libdevice."""
    return 1 / np.sqrt(s)


ROOTS = {np.float64: libdevice.rsqrt, np.float32: libdevice.rsqrtf}
KERNELS = {
    (which, np.dtype(kind)): made(which, kind, plain_root if IS_SIMULATED else root)
    for which in ("pull", "depth")
    for kind, root in ROOTS.items()
}
