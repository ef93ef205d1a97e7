"""The machine's limits, measured by a small C program, and what they allow our kernels.

Heat: a cell takes five floating-point operations: two additions and three multiply-adds as we do
it, ``here + mixing * ((left + right) + ratio * (up + down) + drain * here)``. The machine does as
many of them in a second as multiply-adds, whatever they are: half of its peak in flops. So
cells a second = peak / 2 / 5. (Loads are not in it. With the left and right neighbours loaded
across lines of the cache it is five sixths of that on a core with two ports for each.)

Gravity: two bodies that pull each other are two pairs, as in the plain double loop, but computed
once. Both together take 21 operations beside the approximate reciprocal root, here in float64:
three differences, three multiply-adds for the square of the distance, five to refine the root (its
square and its error, three for the series in the error), two products for the weight, and for each
of the bodies a product with the other's mass and three multiply-adds to the sums. The root, an
instruction (vrsqrt14pd of 512 bits), keeps the ports busy for as many more as are done in its time,
r = peak / 2 / the measured rate of roots, but for three at most: that is what Intel's cores make of
it, which start fewer than these ports would take. So pairs a second = the smaller of 2 peak / 2 /
(21 + r) and twice the rate of roots. In float32 one term of the series is enough, which is two
operations fewer: 2 peak / 2 / (19 + r), again with the rate of roots above it. A machine that has
no such instruction is held against the same bound, r = 3, which then is beyond its reach.
"""

import ctypes
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from kernel_yardsticks import aligned, library, pointer

HEAT_OPERATIONS = 5
GRAVITY_OPERATIONS = {"float64": 21, "float32": 19}  # of two pairs, without the root
ROOT_OPERATIONS = 3  # that it takes the place of, at most
KINDS = {"float64": "double", "float32": "float"}  # ours, and C's
REPETITIONS = 7
# Rounds of twelve vectors, and bytes: some hundredths of a second each. The amount is fixed, since
# a time that something else has stretched cannot tell how much would be enough.
MULTIPLY_ADDS, ROOTS, TRIAD_BYTES = 10_000_000, 3_000_000, 6e9
# Bytes of the three arrays: of each thread, and of all together in DRAM.
TRIADS = {"L1": 30e3, "L2": 1e6, "DRAM": 768e6}


class Limits(NamedTuple):
    """What all threads do in a second at most: multiply-adds, reciprocal roots, bytes of triads."""

    multiply_adds: dict[str, float]
    roots: dict[str, float]
    triads: dict[str, float]

    def bounds(self) -> dict[str, float]:
        """Return the cells and pairs a second that the module's docstring derives.

        "heat" is one name, the kinds of the gravity's arrays are the others.
        """
        found = {"heat": self.multiply_adds["float64"] / HEAT_OPERATIONS}
        for kind, operations in GRAVITY_OPERATIONS.items():
            ports, roots = self.multiply_adds[kind], self.roots[kind]
            root = min(ROOT_OPERATIONS, ports / roots) if roots else ROOT_OPERATIONS
            by_ports = 2 * ports / (operations + root)
            found[kind] = min(by_ports, 2 * roots or by_ports)
        return found

    def or_better(self, later: "Limits") -> "Limits":
        """Return the larger of each: what else ran meanwhile makes a limit look lower."""
        pairs = zip(self, later, strict=True)
        return Limits(*({name: max(a[name], b[name]) for name in a} for a, b in pairs))


def measure_limits(threads: int) -> Limits:
    """Measure them, which takes some seconds."""
    made = library("kernel_limits.c")
    roots = {kind: _rate(made, f"reciprocal_root_{c}", ROOTS, threads) for kind, c in KINDS.items()}
    multiply_adds = {
        kind: _rate(made, f"multiply_add_{c}", MULTIPLY_ADDS, threads) for kind, c in KINDS.items()
    }
    triads = {place: _triad_rate(made, place, threads) for place in TRIADS}
    return Limits(multiply_adds, roots, triads)


def _rate(made: ctypes.CDLL, name: str, rounds: int, threads: int) -> float:
    """Return how many results the function makes in a second; 0 if it makes none."""
    function = made[name]
    function.restype = ctypes.c_double
    return _best_rate(lambda: function(ctypes.c_long(rounds), ctypes.c_int(threads)))


def _triad_rate(made: ctypes.CDLL, place: str, threads: int) -> float:
    """Return bytes a second, 24 for an element."""
    size = TRIADS[place] * (1 if place == "DRAM" else threads)
    a, b, c = (aligned(np.ones(int(size / 24))) for _ in range(3))
    arrays = (pointer(a), pointer(b), pointer(c), ctypes.c_long(a.size))
    rounds = ctypes.c_long(max(1, int(TRIAD_BYTES / size)))
    made.triad.restype = ctypes.c_double
    return _best_rate(lambda: made.triad(*arrays, rounds, ctypes.c_int(threads)))


def _best_rate(function: Callable[[], float]) -> float:
    """Return how much it does in a second, at its best: it is a limit."""
    rates = []
    for _ in range(REPETITIONS):
        begun = time.perf_counter()
        count = function()
        rates.append(count / (time.perf_counter() - begun))
    return max(rates)
