"""Run as a script with a family, threads and a path, this saves their results there."""

import sys

import numpy as np
import pytest
from elsewhere import lines_of

from pipelines.kernels import gravity, heat, heat_implicit, simd
from pipelines.kernels.layout import NARROW
from pipelines.kernels.stencil import convective, heated, held, insulated, stacked, stencil

NAMES = ["accelerations", "potentials", "accelerations_and_jerks"]


def pulls(threads):
    """Results of the direct sums."""
    rng = np.random.default_rng(5)
    n = 300  # in more blocks than one
    position, velocity, mass = rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), rng.random(n)
    found = {}
    for kind in ["float64"] if threads == "all" else ["float64", "float32"]:
        x, v, m = (array.astype(kind) for array in (position, velocity, mass))
        for name in NAMES:
            kernel = getattr(gravity, name + SUFFIX[threads])
            if "potentials" in name:
                out = (np.empty_like(m),)
                kernel(x, m, 0.01, 1.1, *out)
            elif "jerks" in name:
                out = np.empty_like(x), np.empty_like(x)
                kernel(x, v, m, 0.01, 1.1, *out)
            else:
                out = (np.empty_like(x),)
                kernel(x, m, 0.01, 1.1, *out)
            found |= {f"{name}_{kind}_{k}": array for k, array in enumerate(out)}
    return found


def plates_of(kernels, threads):
    """A narrow plate and a wide one."""
    found = {}
    for nx in (50, 16 * NARROW + 9):
        rng = np.random.default_rng(6)
        edges = (held(), insulated(), heated(0.3), convective(0.4, 2.0))
        plate = rng.random((45, nx))
        k = rng.uniform(0.5, 1.0, plate.shape) if nx == 50 else 1.0
        update, update32 = (
            stencil(plate.shape, (1.0, 1.0), 0.2, k, 1.0, edges, 0.01, kind)
            for kind in (np.float64, np.float32)
        )
        history = getattr(kernels, "history" + SUFFIX[threads])
        frames = np.zeros(2 * plate.size + 1)[1:].reshape(2, *plate.shape)  # not at a cache line
        history(plate, update, np.array([7, 20]), frames)
        found |= {f"{nx}": plate, f"{nx}_frames": frames}
        if kernels is heat and threads == "all":
            found[f"many_{nx}"] = np.stack([plate, plate])
            heat.advance_many(found[f"many_{nx}"], stacked([update, update]), 20)
        elif kernels is heat:
            found[f"{nx}_float32"] = plate.astype(np.float32)
            heat.advance(found[f"{nx}_float32"], update32, 20)
    return found


SUFFIX = {"one": "", "all": "_parallel"}  # threads
# What is computed in a process of its own: three, so that they can run side by side.
FAMILIES = {
    "gravity": pulls,
    "heat": lambda threads: plates_of(heat, threads),
    "implicit heat": lambda threads: plates_of(heat_implicit, threads),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def results(family, threads):
    """Results of a family of kernels, on one thread in both kinds, or on all in float64."""
    return FAMILIES[family](threads) | {"has_rsqrt": np.array(simd.HAS_RSQRT)}


def results_with(family, threads, tmp_path, **settings):
    file = str(tmp_path / "results.npz")
    lines_of(__file__, family, threads, file, **settings)
    with np.load(file) as arrays:
        return dict(arrays)


@pytest.mark.thorough
@pytest.mark.skipif(not simd.HAS_RSQRT, reason="this machine has the portable tier only")
# Threads run what is run without them; to compile it for both takes a minute.
@every_family
@pytest.mark.parametrize("threads", ["one", pytest.param("all", marks=pytest.mark.slow)])
def test_without_avx_512_the_kernels_give_the_same_but_for_rounding(family, threads, tmp_path):
    portable = results_with(family, threads, tmp_path, NUMBA_CPU_FEATURES="-avx512f")

    assert not portable.pop("has_rsqrt")
    for name, expected in results(family, threads).items():
        if name != "has_rsqrt":
            error = 1e-6 if "float32" in name else 1e-14
            np.testing.assert_allclose(
                portable[name], expected, rtol=0, atol=error * np.abs(expected).max(), err_msg=name
            )


@every_family
def test_the_simplest_threading_layer_gives_the_same_bits(family, tmp_path):
    simple = results_with(family, "all", tmp_path, NUMBA_THREADING_LAYER="workqueue")

    for name, expected in results(family, "all").items():
        np.testing.assert_array_equal(simple[name], expected, err_msg=name)


if __name__ == "__main__":
    np.savez(sys.argv[3], **results(*sys.argv[1:3]))
