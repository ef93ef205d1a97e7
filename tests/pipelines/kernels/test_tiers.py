"""Run as a script with a file's path, this saves the results of all kernels there."""

import sys

import numpy as np
import pytest
from elsewhere import lines_of

from pipelines.kernels import gravity, heat, heat_implicit, simd
from pipelines.kernels.stencil import convective, heated, held, insulated, stacked, stencil
from pipelines.kernels.wavefront import NARROW

NAMES = ["accelerations", "potentials", "accelerations_and_jerks"]


def results():
    """Results of all kernels, serial and threaded, in float64; and of the serial in float32."""
    rng = np.random.default_rng(5)
    position, velocity, mass = rng.normal(size=(75, 3)), rng.normal(size=(75, 3)), rng.random(75)
    found = {}
    for kind in ("float64", "float32"):
        x, v, m = (array.astype(kind) for array in (position, velocity, mass))
        threaded = [f"{name}_parallel" for name in NAMES if kind == "float64"]
        for name in [*NAMES, *threaded]:  # in both kinds threads run what is run without them
            kernel = getattr(gravity, name)
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
    found |= plates()
    return found | {"has_rsqrt": np.array(simd.HAS_RSQRT)}


def plates():
    """Results of the heat kernels, of a narrow plate and of a wide one."""
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
        both = np.stack([plate, plate])
        heat.advance_many(both, stacked([update, update]), 20)
        end32 = plate.astype(np.float32)
        heat.advance(end32, update32, 20)
        found |= {f"many_{nx}": both, f"heat_{nx}_float32": end32}
        for kernels in (heat, heat_implicit):
            for name in ("advance", "advance_parallel"):
                end = plate.copy()
                getattr(kernels, name)(end, update, 20)
                found[f"{kernels.__name__}_{name}_{nx}"] = end
    return found


def results_with(tmp_path, **settings):
    file = str(tmp_path / "results.npz")
    lines_of(__file__, file, **settings)
    with np.load(file) as arrays:
        return dict(arrays)


@pytest.mark.skipif(not simd.HAS_RSQRT, reason="this machine has the portable tier only")
def test_without_avx_512_the_kernels_give_the_same_but_for_rounding(tmp_path):
    portable = results_with(tmp_path, NUMBA_CPU_FEATURES="-avx512f")

    assert not portable.pop("has_rsqrt")
    for name, expected in results().items():
        if name != "has_rsqrt":
            error = 1e-6 if "float32" in name else 1e-14
            np.testing.assert_allclose(
                portable[name], expected, rtol=0, atol=error * np.abs(expected).max(), err_msg=name
            )


def test_the_simplest_threading_layer_gives_the_same_bits(tmp_path):
    simple = results_with(tmp_path, NUMBA_THREADING_LAYER="workqueue")

    for name, expected in results().items():
        np.testing.assert_array_equal(simple[name], expected, err_msg=name)


if __name__ == "__main__":
    np.savez(sys.argv[1], **results())
