"""Run as a script with NUMBA_... set, this writes forces of the tree to the file that it is given.

The settings are numba's: how many threads, by which library, for which processor.
"""

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

from pipelines.kernels import boxes, gravity, tree

forces = pytest.mark.parametrize("accelerations", [tree.accelerations, tree.accelerations_parallel])
wells = pytest.mark.parametrize("potentials", [tree.potentials, tree.potentials_parallel])
softenings = pytest.mark.parametrize("softening", [0.0, 0.1])


def gaussian(n, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.random(n)


def plummer(n, seed=4):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    return direction / np.sqrt(rng.random(n) ** (-2 / 3) - 1)[:, None], np.full(n, 1 / n)


def accelerated(accelerations, position, mass, theta, softening=0.02, g=1.0):
    out = np.full_like(position, np.nan)
    accelerations(position, mass, softening, g, theta, out)
    return out


def sunk(potentials, position, mass, theta, softening=0.02, g=1.0):
    out = np.full(len(mass), np.nan)
    potentials(position, mass, softening, g, theta, out)
    return out


def summed(position, mass, softening=0.02, g=1.0):
    acceleration, potential = np.empty(position.shape), np.empty(len(mass))
    gravity.accelerations(position, mass, softening, g, acceleration)
    gravity.potentials(position, mass, softening, g, potential)
    return acceleration, potential


def relative_errors(result, expected):
    return np.linalg.norm(result - expected, axis=1) / np.linalg.norm(expected, axis=1)


def root_mean_square(errors):
    return np.sqrt(np.mean(errors**2))


@forces
@softenings
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 16, 17, 49, 500])
def test_nothing_is_lumped_together_at_angle_zero(accelerations, softening, n):
    position, mass = gaussian(n)
    expected, _ = summed(position, mass, softening, g=2.5)

    result = accelerated(accelerations, position, mass, 0.0, softening, g=2.5)

    np.testing.assert_allclose(
        result, expected, rtol=0, atol=3e-14 * np.abs(expected).max(initial=0)
    )


@wells
@softenings
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 16, 17, 49, 500])
def test_no_potential_is_lumped_together_at_angle_zero(potentials, softening, n):
    position, mass = gaussian(n)
    _, expected = summed(position, mass, softening, g=2.5)

    result = sunk(potentials, position, mass, 0.0, softening, g=2.5)

    np.testing.assert_allclose(result, expected, rtol=2e-14)


@pytest.mark.parametrize("bodies", [gaussian, plummer])
@pytest.mark.parametrize(
    ("theta", "rms", "largest"), [(1.0, 2e-2, 0.3), (0.7, 3e-3, 5e-2), (0.4, 3e-4, 1e-2)]
)
def test_errors_of_the_acceleration_are_as_small_as_stated(bodies, theta, rms, largest):
    position, mass = bodies(4000)
    expected, _ = summed(position, mass)

    errors = relative_errors(accelerated(tree.accelerations, position, mass, theta), expected)

    assert root_mean_square(errors) < rms
    assert errors.max() < largest


@pytest.mark.parametrize("bodies", [gaussian, plummer])
def test_errors_fall_with_the_angle_as_its_third_power_or_faster(bodies):
    position, mass = bodies(4000)
    acceleration, potential = summed(position, mass)
    angles = np.array([1.0, 0.7, 0.5, 0.35])

    of_pull, of_depth = [], []
    for theta in angles:
        result = accelerated(tree.accelerations, position, mass, theta)
        of_pull.append(root_mean_square(relative_errors(result, acceleration)))
        depth = sunk(tree.potentials, position, mass, theta)
        of_depth.append(root_mean_square(depth / potential - 1))

    assert np.polyfit(np.log(angles), np.log(of_pull), 1)[0] > 3
    assert np.polyfit(np.log(angles), np.log(of_depth), 1)[0] > 3
    assert of_depth[1] < 1e-3


def test_an_angle_above_one_acts_as_one():
    position, mass = gaussian(1000)

    result = accelerated(tree.accelerations, position, mass, 5.0)

    np.testing.assert_array_equal(result, accelerated(tree.accelerations, position, mass, 1.0))


def test_the_quadrupole_follows_the_softened_law():
    # Lumps as wide as a quarter of the softening, 13 apart: what is left is their octupoles'.
    rng = np.random.default_rng(5)
    position = rng.random((96, 3))
    position[48:] += np.array([12.0, 3.0, -5.0])
    mass = rng.random(96)
    expected, potential = summed(position, mass, softening=4.0)

    pull = accelerated(tree.accelerations, position, mass, 0.5, softening=4.0)
    depth = sunk(tree.potentials, position, mass, 0.5, softening=4.0)

    assert 0 < relative_errors(pull, expected).max() < 1e-4
    assert 0 < np.abs(depth / potential - 1).max() < 2e-6


@forces
def test_momentum_is_kept_within_the_error_of_the_forces(accelerations):
    position, mass = plummer(4000)

    pull = mass[:, None] * accelerated(accelerations, position, mass, 0.7)

    assert np.linalg.norm(pull.sum(axis=0)) < 3e-4 * np.linalg.norm(pull, axis=1).sum()


def test_renumbered_bodies_are_pulled_the_same_within_the_error_of_the_tree():
    position, mass = plummer(3000)
    order = np.random.default_rng(6).permutation(3000)

    plain = accelerated(tree.accelerations, position, mass, 0.5)
    renumbered = accelerated(tree.accelerations, position[order], mass[order], 0.5)

    assert relative_errors(renumbered, plain[order]).max() < 1e-2
    assert root_mean_square(relative_errors(renumbered, plain[order])) < 1e-3


def test_turned_bodies_are_pulled_in_the_turned_direction_within_the_error_of_the_tree():
    rotation = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))[0]
    position, mass = gaussian(3000)

    plain = accelerated(tree.accelerations, position, mass, 0.5)
    turned = accelerated(tree.accelerations, np.ascontiguousarray(position @ rotation), mass, 0.5)

    assert root_mean_square(relative_errors(turned, plain @ rotation)) < 1e-3


def test_numbers_of_single_precision_are_summed_in_double():
    position, mass = (array.astype(np.float32) for array in gaussian(300))
    expected = accelerated(tree.accelerations, position.astype(float), mass.astype(float), 0.5)

    result = accelerated(tree.accelerations, position, mass, 0.5)

    np.testing.assert_array_equal(result, expected.astype(np.float32))


def on_a_line(n):
    return np.linspace(0, 1, n)[:, None] ** 3 * [1.0, 2.0, 0.0]


def in_a_plane(n):
    return np.random.default_rng(8).random((n, 3)) * [1.0, 0.0, 1.0]


def on_a_lattice(n):
    return np.stack(np.unravel_index(np.arange(n), (10, 10, n // 100)), axis=1) * 0.1


def in_pairs(n):
    return np.repeat(np.random.default_rng(9).normal(size=(n // 2, 3)), 2, axis=0)


def near_and_far(n):
    scale = np.geomspace(1e-12, 1e12, n)
    return np.random.default_rng(10).normal(size=(n, 3)) * scale[:, None]


@forces
@wells
@pytest.mark.parametrize(
    "arrangement", [on_a_line, in_a_plane, on_a_lattice, in_pairs, near_and_far]
)
def test_bodies_may_stand_anywhere(accelerations, potentials, arrangement):
    position, mass = arrangement(600), np.random.default_rng(11).random(600)
    softening = 0.02 * np.abs(position).mean()
    expected, potential = summed(position, mass, softening)

    pull = accelerated(accelerations, position, mass, 0.4, softening)
    depth = sunk(potentials, position, mass, 0.4, softening)

    assert np.abs(pull - expected).max() < 3e-3 * np.abs(expected).max()
    np.testing.assert_allclose(depth, potential, rtol=3e-3)


@forces
@softenings
def test_bodies_in_one_place_do_not_pull_each_other(accelerations, softening):
    position, mass = np.full((3000, 3), 0.1), np.random.default_rng(12).random(3000)

    result = accelerated(accelerations, position, mass, 0.7, softening)

    np.testing.assert_array_equal(result, 0)


def test_bodies_in_one_place_sink_as_deep_as_their_softening_allows():
    position, mass = np.full((3000, 3), 0.1), np.random.default_rng(12).random(3000)

    result = sunk(tree.potentials, position, mass, 0.7, softening=0.5)

    np.testing.assert_allclose(result, -(mass.sum() - mass) / 0.5, rtol=1e-12)


@forces
def test_masses_may_differ_without_end_and_be_zero(accelerations):
    position, _ = gaussian(1500)
    mass = np.geomspace(1e-60, 1e60, 1500)
    mass[::3] = 0
    expected, _ = summed(position, mass)

    result = accelerated(accelerations, position, mass, 0.5)

    assert root_mean_square(relative_errors(result, expected)) < 1e-3


@forces
@wells
def test_without_masses_there_is_no_force(accelerations, potentials):
    position, _ = gaussian(1000)

    np.testing.assert_array_equal(accelerated(accelerations, position, np.zeros(1000), 0.7), 0)
    np.testing.assert_array_equal(sunk(potentials, position, np.zeros(1000), 0.7), 0)


@forces
@wells
@pytest.mark.parametrize("wrong", [0, 77, 999])
def test_a_place_that_is_not_a_number_spoils_all_results(accelerations, potentials, wrong):
    position, mass = gaussian(1000)
    position[wrong, 1] = np.nan

    pull = accelerated(accelerations, position, mass, 0.7)
    depth = sunk(potentials, position, mass, 0.7)

    assert np.isnan(pull).any(axis=1).all()
    assert np.isnan(depth).all()


@example(np.zeros((40, 3)), 0.0)
@given(
    arrays.arrays(
        float,
        st.tuples(st.integers(1, 120), st.just(3)),
        elements=st.integers(-3, 3).map(float),
        fill=st.nothing(),
    ),
    st.sampled_from([0.0, 0.3, 0.6]),
)
@settings(max_examples=60)
def test_bodies_on_few_places_are_pulled_as_by_direct_summation(position, theta):
    mass = np.arange(1.0, len(position) + 1)
    expected, potential = summed(position, mass, softening=0.3)

    pull = accelerated(tree.accelerations, position, mass, theta, softening=0.3)
    depth = sunk(tree.potentials, position, mass, theta, softening=0.3)

    bound = 1e-13 if theta == 0 else 1e-2
    assert np.abs(pull - expected).max() <= bound * mass.sum() / 0.3**2
    np.testing.assert_allclose(depth, potential, rtol=bound)


@pytest.mark.parametrize("bodies", [gaussian, plummer])
def test_threads_build_the_same_tree(bodies):
    n = boxes.BLOCK * boxes.ALONE + 1003
    position, mass = bodies(n)
    one, many = boxes.sow(position), boxes.sow(position)

    root, same = boxes.build(mass, 0.5, one), boxes.build_parallel(mass, 0.5, many)

    assert root == same
    np.testing.assert_array_equal(one.order, many.order)
    np.testing.assert_array_equal(np.sort(one.order), np.arange(n))
    for group in tree.find_groups(one, root):
        np.testing.assert_array_equal(one.box[group], many.box[group])
        np.testing.assert_array_equal(one.lump[group], many.lump[group])


def test_every_body_belongs_to_one_group_and_lies_within_its_box():
    position, mass = plummer(5000)
    grown = boxes.sow(position)
    root = boxes.build(mass, 0.7, grown)

    met = []
    for group in tree.find_groups(grown, root):
        first, last = boxes.BLOCK * grown.span[group]
        bodies = grown.order[first:last]
        assert 0 < len(bodies) <= boxes.BLOCK * tree.GROUP
        np.testing.assert_array_equal(position[bodies].min(axis=0), grown.box[group, :3])
        np.testing.assert_array_equal(position[bodies].max(axis=0), grown.box[group, 3:])
        met.extend(bodies)

    assert sorted(met) == list(range(5000))
    np.testing.assert_allclose(grown.lump[root, :3], mass @ position, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_any_number_of_threads_gives_the_bits_of_one(tmp_path, layer):
    if layer == "omp" and sys.platform != "linux":
        pytest.skip("numba's omp layer is sure to be there on Linux only")

    file, layer = str(tmp_path / "forces.npz"), {"NUMBA_THREADING_LAYER": layer}

    single, *threaded = lines_of(__file__, file, NUMBA_NUM_THREADS="5", **layer)

    assert threaded == [single] * 5


@pytest.mark.thorough
def test_processors_without_vectors_of_64_bytes_give_the_same_to_rounding(tmp_path):
    files = str(tmp_path / "here.npz"), str(tmp_path / "there.npz")

    lines_of(__file__, files[0])
    lines_of(__file__, files[1], NUMBA_CPU_FEATURES="-avx512f")

    with np.load(files[0]) as here, np.load(files[1]) as there:
        np.testing.assert_allclose(there["pull"], here["pull"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(there["depth"], here["depth"], rtol=1e-13)


def write_forces(path):
    n = boxes.BLOCK * boxes.ALONE + 9
    position, mass = gaussian(n)
    mass /= n
    pull = accelerated(tree.accelerations, position, mass, 0.6)
    depth = sunk(tree.potentials, position, mass, 0.6)
    np.savez(path, pull=pull, depth=depth)
    print(digest(pull, depth))
    if "NUMBA_NUM_THREADS" in os.environ:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            pull = accelerated(tree.accelerations_parallel, position, mass, 0.6)
            depth = sunk(tree.potentials_parallel, position, mass, 0.6)
            print(digest(pull, depth))


def digest(*results):
    return hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()


if __name__ == "__main__":
    write_forces(sys.argv[1])
