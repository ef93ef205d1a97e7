import numpy as np
import pytest
from numba import cuda

from pipelines.kernels import gravity_cuda
from pipelines.kernels.cuda_device import IS_SIMULATED

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not cuda.is_available(),
        reason="needs a CUDA device: pytest -m gpu where there is one (test_cuda.py simulates it)",
    ),
    # What is tiny enough to test is too little for a GPU, as numba rightly says.
    pytest.mark.filterwarnings("ignore:Grid size"),
]

# One body; less than a tile; several tiles, blocks and parts, the last ones not full.
COUNTS = [1, 3, 19] if IS_SIMULATED else [1, 100, 5000]
FEW = 6 if IS_SIMULATED else 300
YOSHIDA = np.array([1.0, -(2 ** (1 / 3)), 1.0]) / (2 - 2 ** (1 / 3))
ROUNDING = {np.float64: 1e-12, np.float32: 1e-5}

all_kinds = pytest.mark.parametrize("dtype", [np.float64, np.float32])
softenings = pytest.mark.parametrize("softening", [0.0, 0.1])


def random_bodies(n, dtype=np.float64):
    rng = np.random.default_rng(3)
    position, velocity = rng.normal(size=(2, n, 3)).astype(dtype)
    return position, velocity, rng.random(n).astype(dtype)


def pulls(position, mass, softening, g):
    """The accelerations in float64, in plain numpy."""
    d = position[None].astype(float) - position[:, None]
    s = (d**2).sum(axis=2) + softening**2
    np.fill_diagonal(s, np.inf)
    return g * np.einsum("j,ijc,ij->ic", mass, d, s**-1.5)


def followed(position, velocity, mass, softening, g, dt, fractions, intervals):
    """The bodies some intervals later, in plain numpy."""
    position, velocity = position.copy(), velocity.copy()
    for fraction in [*fractions] * intervals:
        velocity += fraction * dt / 2 * pulls(position, mass, softening, g)
        position += fraction * dt * velocity
        velocity += fraction * dt / 2 * pulls(position, mass, softening, g)
    return position, velocity


@all_kinds
@softenings
@pytest.mark.parametrize("n", COUNTS)
def test_accelerations_are_the_sum_over_pairs(n, softening, dtype):
    position, _, mass = random_bodies(n, dtype)
    expected, result = pulls(position, mass, softening, 2.5), np.empty_like(position)

    gravity_cuda.accelerations(position, mass, softening, 2.5, result)

    largest = np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(result, expected, rtol=0, atol=ROUNDING[dtype] * largest)


@all_kinds
@softenings
@pytest.mark.parametrize("n", COUNTS)
def test_potentials_are_the_sum_over_pairs(n, softening, dtype):
    position, _, mass = random_bodies(n, dtype)
    s = ((position[None].astype(float) - position[:, None]) ** 2).sum(axis=2) + softening**2
    np.fill_diagonal(s, np.inf)
    result = np.empty_like(mass)

    gravity_cuda.potentials(position, mass, softening, 2.5, result)

    np.testing.assert_allclose(result, -2.5 * (mass * s**-0.5).sum(axis=1), rtol=ROUNDING[dtype])


@all_kinds
def test_bodies_are_advanced_by_leapfrog(dtype):
    position, velocity, mass = random_bodies(FEW, dtype)
    exact = followed(position.astype(float), velocity.astype(float), mass, 0.1, 1.5, 0.01, [1], 3)

    gravity_cuda.advance(position, velocity, mass, 0.1, 1.5, 0.01, 3)

    assert position.dtype == velocity.dtype == dtype
    np.testing.assert_allclose(position, exact[0], rtol=0, atol=ROUNDING[dtype])
    np.testing.assert_allclose(velocity, exact[1], rtol=0, atol=20 * ROUNDING[dtype])


def test_frames_are_kept_on_the_way_through_the_steps_of_yoshida():
    position, velocity, mass = random_bodies(FEW)
    frames, speeds = np.empty((2, 2, FEW, 3))
    start = position.copy(), velocity.copy()

    gravity_cuda.history(
        position, velocity, mass, 0.1, 1.5, 0.01, YOSHIDA, np.array([0, 2]), frames, speeds
    )

    exact = followed(*start, mass, 0.1, 1.5, 0.01, YOSHIDA, 2)
    np.testing.assert_array_equal((frames[0], speeds[0]), start)
    np.testing.assert_allclose((frames[1], speeds[1]), exact, rtol=0, atol=1e-11)
    np.testing.assert_array_equal((position, velocity), (frames[1], speeds[1]))


def test_stopping_on_the_way_changes_nothing():
    position, velocity, mass = random_bodies(FEW)
    position_in_two, velocity_in_two = position.copy(), velocity.copy()

    gravity_cuda.advance(position, velocity, mass, 0.1, 1.0, 0.01, 5)
    gravity_cuda.advance(position_in_two, velocity_in_two, mass, 0.1, 1.0, 0.01, 2)
    gravity_cuda.advance(position_in_two, velocity_in_two, mass, 0.1, 1.0, 0.01, 3)

    np.testing.assert_array_equal(position_in_two, position)
    np.testing.assert_array_equal(velocity_in_two, velocity)


def test_time_turned_back_leads_to_the_start():
    position, velocity, mass = random_bodies(FEW)
    start = position.copy()

    gravity_cuda.advance(position, velocity, mass, 0.1, 1.0, 0.01, 5)
    assert np.abs(position - start).max() > 0.01
    gravity_cuda.advance(position, velocity, mass, 0.1, 1.0, -0.01, 5)

    np.testing.assert_allclose(position, start, rtol=0, atol=1e-12)


def test_no_bodies_stay_no_bodies():
    nothing = np.empty((0, 3))

    gravity_cuda.accelerations(nothing, np.empty(0), 0.1, 1.0, nothing)
    gravity_cuda.advance(nothing, nothing.copy(), np.empty(0), 0.1, 1.0, 0.01, 2)
