"""Run as a script with NUMBA_... set, this prints digests of the pull of the nearest bodies."""

import hashlib
import os
import sys

import numba
import numpy as np
import pytest
from elsewhere import lines_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial import cKDTree

from pipelines.kernels import gravity, neighbours

searches = pytest.mark.parametrize("nearest", [neighbours.nearest, neighbours.nearest_parallel])
forces = pytest.mark.parametrize(
    "accelerations", [neighbours.accelerations, neighbours.accelerations_parallel]
)
few_places = arrays.arrays(
    float,
    st.tuples(st.integers(1, 70), st.just(3)),
    elements=st.integers(-2, 2).map(float),
    fill=st.nothing(),
)


def gaussian(n, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.random(n)


def found(nearest, position, k):
    out = np.full((len(position), k), 99)
    nearest(position, k, out)
    return out


def accelerated(accelerations, position, mass, k, softening=0.1, g=1.0):
    out = np.full(position.shape, np.nan)
    accelerations(position, mass, softening, g, k, out)
    return out


def by_sorting(position, k):
    square = ((position[:, None] - position) ** 2).sum(axis=2)
    np.fill_diagonal(square, np.inf)
    return np.argsort(square, axis=1, kind="stable")[:, : min(k, len(position) - 1)]


@searches
@pytest.mark.parametrize(("n", "k"), [(40, 1), (40, 16), (333, 7), (3000, 16), (3000, 60)])
def test_the_nearest_are_those_that_scipy_finds(nearest, n, k):
    position, _ = gaussian(n)
    expected = cKDTree(position).query(position, k + 1)[1][:, 1:]

    np.testing.assert_array_equal(found(nearest, position, k), expected)


@searches
@example(np.zeros((50, 3)), 5)
@given(few_places, st.integers(1, 20))
@settings(max_examples=60)
def test_of_bodies_at_one_distance_the_smaller_number_comes_first(nearest, position, k):
    expected = by_sorting(position, k)

    result = found(nearest, position, k)

    np.testing.assert_array_equal(result[:, : expected.shape[1]], expected)


@searches
@pytest.mark.parametrize("n", [1, 2, 5])
def test_rows_are_filled_up_where_there_are_fewer_others(nearest, n):
    position, _ = gaussian(n)

    result = found(nearest, position, 6)

    np.testing.assert_array_equal(result[:, : n - 1], by_sorting(position, n))
    np.testing.assert_array_equal(result[:, n - 1 :], -1)


@searches
def test_a_body_that_is_nowhere_is_not_found(nearest):
    position, _ = gaussian(100)
    position[7, 2], position[50, 0] = np.nan, np.inf
    rest = np.delete(np.arange(100), [7, 50])

    result = found(nearest, position, 4)

    np.testing.assert_array_equal(result[[7, 50]], -1)
    np.testing.assert_array_equal(result[rest], rest[by_sorting(position[rest], 4)])


@forces
@pytest.mark.parametrize("softening", [0.0, 0.1])
@pytest.mark.parametrize("n", [30, 500, 5000])
def test_accelerations_are_the_sum_over_the_nearest(accelerations, softening, n):
    position, mass = gaussian(n)
    index = cKDTree(position).query(position, 17)[1][:, 1:]
    d = position[index] - position[:, None]
    square = (d**2).sum(axis=2) + softening**2
    expected = 2.5 * (mass[index][..., None] * d / square[..., None] ** 1.5).sum(axis=1)

    result = accelerated(accelerations, position, mass, 16, softening, g=2.5)

    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@forces
@pytest.mark.parametrize("k", [39, 40, 1000])
def test_all_others_count_where_there_are_no_more_than_k(accelerations, k):
    position, mass = gaussian(40)
    expected = np.empty((40, 3))
    gravity.accelerations(position, mass, 0.1, 1.0, expected)

    result = accelerated(accelerations, position, mass, k)

    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@forces
@pytest.mark.parametrize(("n", "k"), [(0, 3), (1, 3), (9, 0)])
def test_without_neighbours_there_is_no_force(accelerations, n, k):
    position, mass = gaussian(n)

    np.testing.assert_array_equal(accelerated(accelerations, position, mass, k), np.zeros((n, 3)))


@forces
@pytest.mark.parametrize("softening", [0.0, 0.1])
def test_bodies_in_one_place_do_not_pull_each_other(accelerations, softening):
    position, mass = np.full((500, 3), 0.1), np.ones(500)

    np.testing.assert_array_equal(accelerated(accelerations, position, mass, 16, softening), 0)


@forces
def test_a_place_that_is_not_a_number_spoils_the_result_of_its_body(accelerations):
    position, mass = gaussian(100)
    position[7, 2] = np.nan

    result = accelerated(accelerations, position, mass, 4)

    np.testing.assert_array_equal(np.isnan(result).any(axis=1), np.arange(100) == 7)


@forces
@given(st.permutations(range(40)), st.integers(0, 2**32))
@settings(max_examples=30)
def test_renumbered_bodies_are_pulled_the_same(accelerations, order, seed):
    position, mass = gaussian(40, seed)

    plain = accelerated(accelerations, position, mass, 5)
    renumbered = accelerated(accelerations, position[order], mass[order], 5)

    np.testing.assert_array_equal(renumbered, plain[order])


@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_any_number_of_threads_gives_the_bits_of_one(layer):
    if layer == "omp" and sys.platform != "linux":
        pytest.skip("numba's omp layer is sure to be there on Linux only")

    single, *threaded = lines_of(__file__, NUMBA_NUM_THREADS="5", NUMBA_THREADING_LAYER=layer)

    assert threaded == [single] * 5


@pytest.mark.thorough
def test_processors_without_vectors_of_64_bytes_give_the_same_bits():
    assert lines_of(__file__, NUMBA_CPU_FEATURES="-avx512f") == lines_of(__file__)


def print_digests():
    position, mass = gaussian(5003)
    print(digest(accelerated(neighbours.accelerations, position, mass, 16)))
    if "NUMBA_NUM_THREADS" in os.environ:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            print(digest(accelerated(neighbours.accelerations_parallel, position, mass, 16)))


def digest(result):
    return hashlib.sha256(result.tobytes()).hexdigest()


if __name__ == "__main__":
    print_digests()
