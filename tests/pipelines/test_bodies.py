import numpy as np
import pytest
import zarr
from scipy import stats

from pipelines.bodies import DRAWN, KNOWN, number_of_bodies, read
from pipelines.nbody import diagnose, evolve, initial_state


def arrays(n=5):
    rng = np.random.default_rng(1)
    return {
        "mass": rng.random(n),
        "position": rng.normal(size=(n, 3)),
        "velocity": rng.normal(size=(n, 3)),
    }


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        group = zarr.open_group(path, mode="w")
        for name, array in arrays.items():
            group.create_array(name, data=array)
    return str(path)


suffixes = pytest.mark.parametrize("suffix", [".npz", ".zarr"])


@pytest.mark.parametrize("profile", ["plummer", "cold-sphere", "disk"])
def test_drawn_bodies_have_mass_one_and_their_centre_at_rest(profile):
    mass, position, velocity = initial_state(n=500, seed=4, profile=profile)

    assert mass.sum() == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(mass @ position, 0, atol=1e-14)
    np.testing.assert_allclose(mass @ velocity, 0, atol=1e-14)


def test_a_cold_sphere_is_uniform_and_at_rest():
    bodies = initial_state(n=5000, seed=1, profile="cold-sphere")
    radius = np.linalg.norm(bodies.initial_position, axis=1)

    assert stats.kstest(radius**3, "uniform").pvalue > 0.01
    assert radius.max() == pytest.approx(1, abs=0.05)
    assert not bodies.initial_velocity.any()


def test_a_disk_turns_as_its_mass_asks_and_stays_as_it_is():
    bodies = initial_state(n=300, seed=1, profile="disk")

    orbits = evolve(bodies, softening=0.02, dt=1 / 32, steps=128)
    found = diagnose(orbits.position_history, orbits.velocity_history, orbits.mass, 0.02)

    assert (orbits.position[:, 2] == 0).all()
    assert (found.angular_momentum[:, 2] > 0.1).all()
    np.testing.assert_allclose(found.virial_ratio, 1, atol=0.05)


def test_a_disk_encloses_the_mass_of_kuzmins_law():
    bodies = initial_state(n=5000, seed=2, profile="disk")
    radius = np.linalg.norm((bodies.initial_position - bodies.initial_position[0])[1:], axis=1)

    def enclosed(r):
        inner, outer, here = ((at**2 + 1) ** -0.5 for at in (1 / 4, 10, r))
        return (inner - here) / (inner - outer)

    assert stats.kstest(radius, enclosed).pvalue > 0.01


@pytest.mark.parametrize(
    ("profile", "period"),
    [("two-body", 2 * np.pi), ("figure-eight", 6.32591398)],
)
@pytest.mark.parametrize("g", [1.0, 4.0])
def test_known_orbits_close_after_one_period(profile, period, g):
    bodies = initial_state(profile=profile, g=g, eccentricity=0.9)
    span = period / np.sqrt(g)

    orbits = evolve(
        bodies, softening=0, g=g, dt=span, steps=1, frames=2, integrator="hermite", eta=1e-4
    )

    np.testing.assert_allclose(orbits.position, bodies.initial_position, atol=1e-6)
    np.testing.assert_allclose(orbits.velocity, bodies.initial_velocity, atol=1e-5)


def test_two_bodies_have_the_energy_and_spin_of_their_ellipse():
    bodies = initial_state(profile="two-body", eccentricity=0.6)

    orbits = evolve(bodies, softening=0, steps=0, frames=1)
    found = diagnose(orbits.position_history, orbits.velocity_history, orbits.mass, 0.0)

    assert found.total_energy == pytest.approx(-0.25 / 2)  # -m M / 2 a
    assert found.angular_momentum[0, 2] == pytest.approx(0.25 * np.sqrt(1 - 0.6**2))


def test_the_pythagorean_problem_throws_out_its_lightest_body():
    # Szebehely & Peters 1967: after some 60 time units and many close encounters, the body of mass
    # 3 leaves, and those of 4 and 5 stay a pair. The energy tells how well it was followed.
    bodies = initial_state(profile="pythagorean")

    orbits = evolve(bodies, softening=0, dt=1, steps=70, frames=71, integrator="hermite", eta=3e-5)

    found = diagnose(orbits.position_history, orbits.velocity_history, orbits.mass, 0.0)
    light, *pair = orbits.position
    assert found.total_energy[0] == pytest.approx(-(3 * 4 / 5 + 3 * 5 / 4 + 4 * 5 / 3))
    assert found.energy_drift.max() < 1e-6
    assert found.momentum_drift.max() < 1e-10
    assert np.linalg.norm(pair[0] - pair[1]) < 3
    assert np.linalg.norm(light - np.average(pair, axis=0, weights=[4, 5])) > 15
    centre = np.average(orbits.velocity[1:], axis=0, weights=[4, 5])
    away = np.linalg.norm(light - np.average(pair, axis=0, weights=[4, 5]))
    assert np.sum((orbits.velocity[0] - centre) ** 2) / 2 > 12 / away  # faster than to come back


@suffixes
def test_bodies_of_a_file_are_taken_as_they_are(tmp_path, suffix):
    expected = arrays()
    path = write(tmp_path / f"bodies{suffix}", expected)

    bodies = initial_state(profile=path, g=7.0)

    for array, name in zip(bodies, ("mass", "position", "velocity"), strict=True):
        np.testing.assert_array_equal(array, expected[name])
    assert number_of_bodies(None, path) == number_of_bodies(5, path) == 5


@suffixes
def test_whole_numbers_and_float32_in_a_file_become_float64(tmp_path, suffix):
    wanted = arrays() | {"mass": np.arange(5), "velocity": np.ones((5, 3), np.float32)}

    bodies = read(write(tmp_path / f"bodies{suffix}", wanted))

    assert {array.dtype for array in bodies} == {np.dtype(np.float64)}
    assert bodies.initial_mass.tolist() == [0, 1, 2, 3, 4]


WITHOUT = {name: array for name, array in arrays().items() if name != "velocity"}
HOLE = arrays()["position"]
HOLE[3, 1] = np.nan


@suffixes
@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (WITHOUT, r"has no array 'velocity': it must hold mass \(body,\), position \(body, xyz\)"),
        (arrays() | {"position": np.ones((5, 2))}, r"shape \(5, 2\): it must be \(5, 3\)"),
        (arrays() | {"velocity": np.ones((4, 3))}, r"shape \(4, 3\): it must be \(5, 3\)"),
        (arrays() | {"mass": np.ones((5, 1))}, r"shape \(5, 1\): it must be \(bodies,\)"),
        (arrays() | {"position": HOLE}, r"position of body 3 in .* it must be finite"),
        (arrays() | {"mass": np.array([1.0, 1, -2, 1, 1])}, r"mass of body 2 .* must be 0 or more"),
        (arrays() | {"mass": np.ones(5, complex)}, r"complex128: it must be of real numbers"),
        (arrays(1), r"holds 1 bodies: at least 2 are needed"),
    ],
)
def test_a_file_that_holds_no_bodies_is_refused_with_the_reason(tmp_path, suffix, wrong, remedy):
    path = write(tmp_path / f"bodies{suffix}", wrong)

    with pytest.raises(ValueError, match=remedy):
        initial_state(profile=path)


def test_numbers_beyond_float64_are_refused(tmp_path):
    if np.finfo(np.longdouble).max == np.finfo(np.float64).max:
        pytest.skip("long double is float64 here")
    beyond = np.full((5, 3), np.longdouble("1e4000"))
    path = write(tmp_path / "bodies.npz", arrays() | {"position": beyond})

    with pytest.raises(ValueError, match=r"position of body 0 in .* it must be finite, in float64"):
        read(path)


def test_a_file_is_never_unpickled(tmp_path):
    path = write(tmp_path / "bodies.npz", arrays() | {"mass": np.array([{}] * 5, dtype=object)})

    with pytest.raises(ValueError, match=r"cannot be read as a \.npz file of numbers: .*pickle"):
        read(path)


@suffixes
def test_a_file_of_another_kind_is_refused(tmp_path, suffix):
    path = tmp_path / f"bodies{suffix}"
    path.write_text("x y z\n")

    with pytest.raises(ValueError, match=rf"cannot be read as a \{suffix}"):
        read(str(path))


@suffixes
def test_a_file_that_is_not_there_says_where_it_was_looked_for(suffix):
    with pytest.raises(FileNotFoundError, match=r"there is no such file \(in /"):
        initial_state(profile=f"nowhere/bodies{suffix}")


@pytest.mark.parametrize("profile", KNOWN)
def test_a_profile_that_knows_its_bodies_refuses_another_number(profile):
    count = number_of_bodies(None, profile)

    assert len(initial_state(n=count, profile=profile).initial_mass) == count
    with pytest.raises(ValueError, match=f"has {count} bodies: leave n out, or take {count}"):
        initial_state(n=count + 1, profile=profile)


@pytest.mark.parametrize("profile", DRAWN)
def test_a_drawn_profile_has_as_many_bodies_as_asked_for(profile):
    assert len(initial_state(profile=profile).initial_mass) == 200
    assert len(initial_state(n=7, profile=profile).initial_mass) == 7
