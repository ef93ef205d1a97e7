import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kernels import gravity

forces = pytest.mark.parametrize(
    "accelerations", [gravity.accelerations, gravity.accelerations_parallel]
)
jerks = pytest.mark.parametrize(
    "accelerations_and_jerks",
    [gravity.accelerations_and_jerks, gravity.accelerations_and_jerks_parallel],
)
softenings = pytest.mark.parametrize("softening", [0.0, 0.1])
# Largest relative error that rounding leaves of some hundred bodies.
kinds = pytest.mark.parametrize(("kind", "error"), [(np.float64, 1e-13), (np.float32, 5e-6)])
# A part of a vector, whole ones, and some blocks, the last one with a part of a tile.
numbers = pytest.mark.parametrize("n", [2, 3, 8, 16, 17, 33, 2 * gravity.CHUNK + 9])


def random_bodies(n, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.random(n)


def accelerated(accelerations, position, mass, softening, g=1.0):
    out = np.full_like(position, np.nan)
    accelerations(position, mass, softening, g, out)
    return out


def bodies_in_blocks(kind):
    """Bodies in blocks of more than one chunk, and the numbers of a hundred of them."""
    n = gravity.BLOCKS * gravity.CHUNK + gravity.CHUNK // 2
    position, mass = (array.astype(kind) for array in random_bodies(n))
    return position, mass, np.random.default_rng(4).choice(n, 100, replace=False)


def exact(position, mass, softening, g):
    """Accelerations and potentials, summed with 64 bits of mantissa."""
    position, mass = position.astype(np.longdouble), mass.astype(np.longdouble)
    d = position - position[:, None]
    square = (d**2).sum(axis=2) + np.longdouble(softening) ** 2
    np.fill_diagonal(square, np.inf)
    return g * ((mass / square**1.5)[:, :, None] * d).sum(axis=1), -g * (mass / square**0.5).sum(1)


@forces
@softenings
@kinds
@numbers
def test_accelerations_are_exact_but_for_rounding(accelerations, softening, kind, error, n):
    position, mass = (array.astype(kind) for array in random_bodies(n))
    expected, _ = exact(position, mass, softening, 2.5)

    result = accelerated(accelerations, position, mass, softening, g=2.5)

    assert result.dtype == kind
    off = np.linalg.norm((result - expected).astype(float), axis=1)
    assert np.max(off / np.linalg.norm(expected.astype(float), axis=1)) < error


@pytest.mark.parametrize("potentials", [gravity.potentials, gravity.potentials_parallel])
@softenings
@kinds
@numbers
def test_potentials_are_exact_but_for_rounding(potentials, softening, kind, error, n):
    position, mass = (array.astype(kind) for array in random_bodies(n))
    _, expected = exact(position, mass, softening, 2.5)
    result = np.empty(n, kind)

    potentials(position, mass, softening, 2.5, result)

    np.testing.assert_allclose(result, expected.astype(float), rtol=error)


@jerks
@softenings
@kinds
@numbers
def test_jerks_are_the_rate_at_which_accelerations_change(
    accelerations_and_jerks, softening, kind, error, n
):
    position, mass = (array.astype(kind) for array in random_bodies(n))
    velocity = np.random.default_rng(8).normal(size=(n, 3)).astype(kind)
    d = position.astype(float) - position.astype(float)[:, None]
    u = velocity.astype(float) - velocity.astype(float)[:, None]
    square = (d**2).sum(axis=2) + softening**2
    np.fill_diagonal(square, np.inf)
    turn = 3 * (d * u).sum(axis=2) / square
    expected = 2.5 * ((mass / square**1.5)[:, :, None] * (u - turn[:, :, None] * d)).sum(axis=1)
    acceleration, jerk = np.empty((n, 3), kind), np.empty((n, 3), kind)

    accelerations_and_jerks(position, velocity, mass, softening, 2.5, acceleration, jerk)

    plain = accelerated(gravity.accelerations, position, mass, softening, g=2.5)
    np.testing.assert_array_equal(acceleration, plain)
    off = np.linalg.norm(jerk - expected, axis=1)
    assert np.max(off / np.linalg.norm(expected, axis=1)) < 10 * error


def test_ten_thousand_bodies_in_float32_keep_five_digits():
    position, mass = random_bodies(10_000)
    near, light = position.astype(np.float32), mass.astype(np.float32)
    expected = accelerated(gravity.accelerations, near.astype(float), light.astype(float), 0.01)

    result = accelerated(gravity.accelerations, near, light, 0.01)

    off = np.linalg.norm(result - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert off.max() < 1e-5


@forces
@kinds
def test_bodies_without_softening_in_one_place_have_no_acceleration(accelerations, kind, error):
    position, mass = (array.astype(kind) for array in random_bodies(20))
    position[3] = position[17]

    result = accelerated(accelerations, position, mass, 0.0)

    lost = ~np.isfinite(result).all(axis=1)
    assert np.flatnonzero(lost).tolist() == [3, 17]


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


@forces
@kinds
def test_a_body_is_pulled_the_same_but_for_rounding_wherever_it_stands(accelerations, kind, error):
    # Bodies of no mass in front move all others to other lanes, tiles and blocks.
    position, mass = (array.astype(kind) for array in random_bodies(gravity.CHUNK))
    plain = accelerated(accelerations, position, mass, 0.1)

    for shift in [*range(1, 34), gravity.CHUNK]:
        away = np.full((shift, 3), 100, kind)
        moved = accelerated(
            accelerations,
            np.concatenate([away, position]),
            np.concatenate([np.zeros(shift, kind), mass]),
            0.1,
        )
        off = np.linalg.norm(moved[shift:] - plain, axis=1) / np.linalg.norm(plain, axis=1)
        assert off.max() < error


@forces
@kinds
def test_bodies_in_blocks_of_some_chunks_are_pulled_by_all_others(accelerations, kind, error):
    position, mass, some = bodies_in_blocks(kind)
    d = position.astype(np.longdouble) - position[some][:, None].astype(np.longdouble)
    square = (d**2).sum(axis=2) + np.longdouble(kind(0.1)) ** 2
    expected = ((mass / square**1.5)[:, :, None] * d).sum(axis=1).astype(float)

    result = accelerated(accelerations, position, mass, 0.1)[some]

    off = np.linalg.norm(result - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert off.max() < error


@pytest.mark.parametrize("potentials", [gravity.potentials, gravity.potentials_parallel])
@kinds
def test_bodies_in_blocks_of_some_chunks_have_the_potential_of_all_others(potentials, kind, error):
    position, mass, some = bodies_in_blocks(kind)
    out = np.empty_like(mass)
    d = (position - position[some][:, None]).astype(np.longdouble)
    square = (d**2).sum(axis=2) + np.longdouble(kind(0.1)) ** 2
    each = mass / np.sqrt(square)
    each[np.arange(some.size), some] = 0.0

    potentials(position, mass, 0.1, 1.0, out)

    np.testing.assert_allclose(out[some], -each.sum(axis=1).astype(float), rtol=error)


@jerks
@kinds
def test_bodies_in_blocks_of_some_chunks_have_the_jerk_of_the_formula(
    accelerations_and_jerks, kind, error
):
    position, mass, some = bodies_in_blocks(kind)
    velocity = np.random.default_rng(5).normal(size=position.shape).astype(kind)
    acceleration, jerk = np.empty_like(position), np.empty_like(position)
    d, v = ((array - array[some][:, None]).astype(np.longdouble) for array in (position, velocity))
    square = (d**2).sum(axis=2) + np.longdouble(kind(0.1)) ** 2
    pull = (mass / square**1.5)[:, :, None]
    turned = v - 3 * ((d * v).sum(axis=2) / square)[:, :, None] * d

    accelerations_and_jerks(position, velocity, mass, 0.1, 1.0, acceleration, jerk)

    for found, each in ((acceleration, pull * d), (jerk, pull * turned)):
        expected = each.sum(axis=1).astype(float)
        off = np.linalg.norm(found[some] - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert off.max() < 10 * error


@forces
def test_a_body_alone_is_not_pulled(accelerations):
    assert not accelerated(accelerations, np.ones((1, 3)), np.ones(1), 0.0).any()
    assert accelerated(accelerations, np.ones((0, 3)), np.ones(0), 0.0).shape == (0, 3)


@forces
def test_what_pulls_is_pulled_back(accelerations):
    for n in (2, 40, 3 * gravity.CHUNK + 5):
        position, mass = random_bodies(n)

        force = mass[:, None] * accelerated(accelerations, position, mass, 0.1)

        np.testing.assert_allclose(force.sum(axis=0), 0, atol=1e-14 * np.abs(force).sum())
