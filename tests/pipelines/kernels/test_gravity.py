import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kernels import gravity

forces = pytest.mark.parametrize(
    "accelerations", [gravity.accelerations, gravity.accelerations_parallel]
)
integrators = pytest.mark.parametrize("advance", [gravity.advance, gravity.advance_parallel])
softenings = pytest.mark.parametrize("softening", [0.0, 0.1])


def random_bodies(n, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.random(n)


def accelerated(accelerations, position, mass, softening, g=1.0):
    out = np.full_like(position, np.nan)
    accelerations(position, mass, softening, g, out)
    return out


@forces
@softenings
def test_accelerations_are_the_sum_over_pairs(accelerations, softening):
    position, mass = random_bodies(40)
    expected = np.zeros((40, 3))
    for i in range(40):
        for j in range(40):
            if i != j:
                d = position[j] - position[i]
                expected[i] += 2.5 * mass[j] * d / (d @ d + softening**2) ** 1.5

    result = accelerated(accelerations, position, mass, softening, g=2.5)

    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("potentials", [gravity.potentials, gravity.potentials_parallel])
@softenings
def test_potentials_are_the_sum_over_pairs(potentials, softening):
    position, mass = random_bodies(40)
    distance = np.linalg.norm(position[:, None] - position, axis=2)
    np.fill_diagonal(distance, np.inf)
    expected = -2.5 * (mass / np.hypot(distance, softening)).sum(axis=1)
    result = np.empty(40)

    potentials(position, mass, softening, 2.5, result)

    np.testing.assert_allclose(result, expected, rtol=1e-12)


@softenings
def test_the_acceleration_is_the_downward_slope_of_the_potential(softening):
    position, mass = random_bodies(12)
    acceleration = accelerated(gravity.accelerations, position, mass, softening)
    above, below = np.empty(12), np.empty(12)

    for axis in range(3):
        shift = 1e-5 * np.eye(3)[axis] * (np.arange(12) == 5)[:, None]
        gravity.potentials(position + shift, mass, softening, 1.0, above)
        gravity.potentials(position - shift, mass, softening, 1.0, below)
        slope = (above[5] - below[5]) / 2e-5
        assert acceleration[5, axis] == pytest.approx(-slope, abs=1e-7)


@forces
@given(st.permutations(range(15)), st.integers(0, 2**32))
def test_renumbered_bodies_are_pulled_the_same(accelerations, order, seed):
    position, mass = random_bodies(15, seed)

    plain = accelerated(accelerations, position, mass, 0.1)
    renumbered = accelerated(accelerations, position[order], mass[order], 0.1)

    np.testing.assert_allclose(renumbered, plain[order], rtol=0, atol=1e-11)


@forces
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_turned_bodies_are_pulled_in_the_turned_direction(accelerations, turn, seed):
    rotation = np.linalg.qr(np.random.default_rng(turn).normal(size=(3, 3)))[0]
    position, mass = random_bodies(15, seed)

    plain = accelerated(accelerations, position, mass, 0.1)
    turned = accelerated(accelerations, np.ascontiguousarray(position @ rotation), mass, 0.1)

    np.testing.assert_allclose(turned, plain @ rotation, rtol=0, atol=1e-10)


@integrators
def test_momentum_and_angular_momentum_are_kept_to_rounding(advance):
    position, mass = random_bodies(50)
    velocity = np.random.default_rng(4).normal(size=(50, 3))
    momentum = mass @ velocity
    spin = mass @ np.cross(position, velocity)

    advance(position, velocity, mass, 0.1, 1.0, 0.01, 200)

    np.testing.assert_allclose(mass @ velocity, momentum, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mass @ np.cross(position, velocity), spin, rtol=0, atol=1e-12)


@integrators
def test_time_turned_back_leads_to_the_start(advance):
    position, mass = random_bodies(20)
    velocity = np.zeros((20, 3))
    start = position.copy()

    advance(position, velocity, mass, 0.1, 1.0, 0.01, 100)
    assert np.abs(position - start).max() > 0.1
    advance(position, velocity, mass, 0.1, 1.0, -0.01, 100)

    np.testing.assert_allclose(position, start, rtol=0, atol=1e-11)
    np.testing.assert_allclose(velocity, 0, rtol=0, atol=1e-11)


@integrators
def test_stopping_on_the_way_changes_nothing(advance):
    position, mass = random_bodies(20)
    velocity = np.zeros((20, 3))
    position_in_two, velocity_in_two = position.copy(), velocity.copy()

    advance(position, velocity, mass, 0.1, 1.0, 0.01, 10)
    advance(position_in_two, velocity_in_two, mass, 0.1, 1.0, 0.01, 3)
    advance(position_in_two, velocity_in_two, mass, 0.1, 1.0, 0.01, 7)

    np.testing.assert_array_equal(position_in_two, position)
    np.testing.assert_array_equal(velocity_in_two, velocity)
