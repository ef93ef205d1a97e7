"""Where the numbers of a plate stand on its way, and into what pieces it is cut.

All numbers of a plate on its way are in one work array `w`, and its LAYOUT says where: to count
references to arrays of their own would take longer than a row of a narrow plate does.
"""

import numpy as np

from pipelines.kernels.rows import place, twin
from pipelines.kernels.simd import BYTES
from pipelines.kernels.stencil import PERIODIC, Stencil

# Chosen by measurement, on cores with 48 KiB of first-level and 1 or 2 MiB of second-level cache.
NARROW = 256  # vectors of a row that is interleaved as a whole, at most
FIRST_LEVEL, SECOND_LEVEL = 32 * 1024, 1536 * 1024  # bytes that rows at work take there
FEWEST_ROWS, MOST_ROWS = 4, 16  # of a tile
FEWEST_STEPS, MOST_STEPS = 4, 32  # in one pass over a narrow plate
DEPTH = 50  # steps in one pass over a wide plate, at most
STRIP = 64  # vectors of a strip, its margins not counted
LARGE = 64 * 2**20  # bytes of a plate that no cache holds


def _integers(*names: str) -> list[tuple[str, type[np.int64]]]:
    return [(name, np.int64) for name in names]


# Structures of integers, of which numba passes the address: an end of a strip's rows, at the left
# or right edge of the plate.
#   strip: which one; -1 if no row ends there, because the plate goes on periodically
#   kind: FIXED, OPEN or PERIODIC
#   edge, edge_twin, ghost, ghost_twin, inner, opposite: where the edge node is, the node beyond,
#       the one inside, and the node at the other edge (see `rows.place` and `rows.twin`)
#   gain: where that of row 0 is in the work array; its loss is 2 rows numbers behind it
END = np.dtype(
    _integers(
        *("strip", "kind", "edge", "edge_twin", "ghost", "ghost_twin", "inner", "opposite"), "gain"
    )
)
# Where things stand in the work array of one plate; indices count its numbers.
#   rows, columns: of the plate
#   strips, bands: how many pieces it is cut into, across and along; strip k begins at column
#       k columns // strips, band b at row b rows // bands
#   vectors, stride, margin: of a strip's row (see `rows.py`); columns of a margin
#   depth: steps in one pass, at most
#   bottom, top: kinds of these edges
#   wraps: whether left and right are periodic
#   is_large: whether what a pass writes is out of the caches when the next one reads it
#   varies, heats: whether faces differ, and whether there is a source
#   left, right: ends of the rows
#   mixing: what `conduct_uniform` takes
#   north, east, source, gains: rows of strip 0, of `Stencil`, and four rows: gain of bottom and
#       top, loss of bottom and top; those of the other strips follow, `rows` or 4 rows each
#   plates: two interleaved plates of a narrow one
#   tile, ring: rows of a tile, and of the ring
#   scratch, scratch_size: of the first worker: the ring, a ghost row, and room for a row
#   length: of the whole array
LAYOUT = np.dtype(
    (
        np.record,
        [
            *_integers("rows", "columns", "strips", "bands", "vectors", "stride", "margin"),
            *_integers("depth", "bottom", "top", "wraps", "is_large", "varies", "heats"),
            ("left", END),
            ("right", END),
            *_integers("mixing", "north", "east", "source", "gains", "plates"),
            *_integers("tile", "ring", "scratch", "scratch_size", "length"),
        ],
    )
)


def make_layout(plate: np.ndarray, stencil: Stencil, steps: int, workers: int) -> np.ndarray:
    """Return where things will stand for so many steps: an array of one LAYOUT."""
    rows, columns = plate.shape
    n = BYTES // plate.itemsize
    is_narrow = columns <= NARROW * n
    if is_narrow:
        strips, margin = 1, 0
        depth = min(
            steps_at_once(-(-columns // n) * BYTES), max(FEWEST_STEPS, rows // (4 * workers))
        )
        depth = min(depth, rows)
        bands = max(1, min(workers, rows // (2 * depth)))
    else:
        there_and_back = max(1, -(-steps // (2 * min(DEPTH, rows))))
        depth = margin = max(1, -(-steps // (2 * there_and_back)))
        strips = -(-columns // (STRIP * n))
        bands = max(1, min(4 * workers // strips, rows // (4 * depth)))
    vectors = max(2, -(-(-(-columns // strips) + 2 * margin) // n))
    stride = (vectors + 2) * n
    tile = rows_at_once(stride * plate.itemsize)
    ring = 2 * depth + tile
    bottom, top, left, right = (int(kind) for kind in stencil.edges)
    sizes = {
        "mixing": n,
        "sides": -(-4 * rows // n) * n,
        "before": n,  # a row has a vector before its first
        "north": stride * rows * strips if stencil.north.size else 0,
        "east": stride * rows * strips if stencil.east.size else 0,
        "source": stride * rows * strips if stencil.source.size else 0,
        "gains": 4 * strips * stride,
        "plates": 2 * rows * stride if is_narrow else 0,
        "scratch": workers * (ring + 2) * stride,
    }
    ends = np.cumsum(list(sizes.values())).tolist()
    starts = dict(zip(sizes, [0, *ends], strict=False))
    sides = starts.pop("sides")
    del starts["before"]
    last = strips - 1
    right_edge = margin + columns - last * columns // strips - 1
    ends_here = left != PERIODIC or margin == 0
    at_left = (
        0 if ends_here else -1, left, *places(n, vectors, margin, -1),
        place(n, vectors, right_edge), sides,
    )  # fmt: skip
    at_right = (
        last if ends_here else -1, right, *places(n, vectors, right_edge, 1),
        place(n, vectors, margin), sides + rows,
    )  # fmt: skip
    numbers = {
        "rows": rows, "columns": columns, "strips": strips, "bands": bands, "vectors": vectors,
        "stride": stride, "margin": margin, "depth": depth, "bottom": bottom, "top": top,
        "wraps": left == PERIODIC, "is_large": not is_narrow and plate.nbytes >= LARGE,
        "varies": stencil.east.size > 0, "heats": stencil.source.size > 0,
        "left": at_left, "right": at_right,
        "tile": tile, "ring": ring, "scratch_size": (ring + 2) * stride, "length": ends[-1],
        **starts,
    }  # fmt: skip
    return np.array([tuple(numbers[name] for name in LAYOUT.names or ())], LAYOUT)


def rows_at_once(row: int) -> int:
    """Return how many rows of so many bytes a tile has: whole fours, that fit with two more."""
    return max(FEWEST_ROWS, min(MOST_ROWS, (FIRST_LEVEL // row - 2) // 4 * 4))


def steps_at_once(row: int) -> int:
    """Return how many steps a pass over a narrow plate takes, whose rows have so many bytes."""
    return max(FEWEST_STEPS, min(MOST_STEPS, SECOND_LEVEL // (2 * row)))


def places(n: int, vectors: int, edge: int, out: int) -> tuple[int, int, int, int, int]:
    """Return where an edge node and its ghost are, each twice, and the node inside."""
    return (
        place(n, vectors, edge),
        twin(n, vectors, edge),
        place(n, vectors, edge + out),
        twin(n, vectors, edge + out),
        place(n, vectors, edge - out),
    )
