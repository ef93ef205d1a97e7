"""The studies on a GPU, or in numba's simulator of one: `kernels/test_cuda.py` runs them there."""

import numpy as np
import pytest
from numba import cuda

from pipelines.heat_flow import heat_flow
from pipelines.kernels.cuda_device import IS_SIMULATED
from pipelines.nbody import diagnose, evolve, initial_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not cuda.is_available(),
        reason="needs a CUDA device: pytest -m gpu where there is one (test_cuda.py simulates it)",
    ),
    pytest.mark.filterwarnings("ignore:Grid size"),
]


@pytest.mark.parametrize(("precision", "error"), [("float64", 1e-11), ("float32", 1e-3)])
def test_a_plate_is_the_same_on_both_devices(precision, error):
    settings = {"nx": 6, "ny": 5, "steps": 9, "frames": 3, "top": "convective", "mixing": 0.2}

    on_gpu = heat_flow(**settings, precision=precision, device="cuda")
    on_cpu = heat_flow(**settings, precision=precision)

    for one, other in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=error)


@pytest.mark.parametrize(("precision", "error"), [("float64", 1e-12), ("float32", 1e-4)])
@pytest.mark.parametrize("integrator", ["leapfrog", "yoshida"])
def test_bodies_go_the_same_way_on_both_devices(integrator, precision, error):
    bodies = initial_state(n=5 if IS_SIMULATED else 500)
    settings = {"precision": precision, "integrator": integrator}

    results = {}
    for device in ("cuda", "cpu"):
        orbits = evolve(bodies, steps=4, frames=3, **settings, device=device)
        histories = orbits.position_history, orbits.velocity_history
        results[device] = *orbits, *diagnose(*histories, orbits.mass, **settings, device=device)

    for one, other in zip(results["cuda"], results["cpu"], strict=True):
        assert np.asarray(one).dtype == np.float64
        np.testing.assert_allclose(one, other, rtol=0, atol=error)


@pytest.mark.parametrize("speed", [0.0, 1e3])
def test_float32_on_a_gpu_is_as_good_far_from_0(speed):
    bodies = initial_state(n=4 if IS_SIMULATED else 100)
    far = bodies._replace(
        initial_position=bodies.initial_position + 1e4,
        initial_velocity=bodies.initial_velocity + speed,
    )

    single, double = (
        evolve(far, steps=2, frames=2, precision=precision, device=device)
        for precision, device in (("float32", "cuda"), ("float64", "cpu"))
    )

    np.testing.assert_allclose(single.position, double.position, rtol=0, atol=1e-5)
    np.testing.assert_allclose(single.position_history, double.position_history, atol=1e-5)
    np.testing.assert_allclose(single.velocity, double.velocity, rtol=0, atol=1e-5)
