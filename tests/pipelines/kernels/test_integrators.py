import numpy as np
import pytest

from pipelines.kernels import forces, integrators

compositions = pytest.mark.parametrize(
    ("fractions", "order"), [(integrators.LEAPFROG, 2), (integrators.YOSHIDA, 4)]
)
composers = pytest.mark.parametrize("compose", [integrators.compose, integrators.compose_parallel])
hermites = pytest.mark.parametrize("hermite", [integrators.hermite, integrators.hermite_parallel])
ETA = 0.01


def random_bodies(n, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), rng.random(n)


def composed(
    bodies,
    dt,
    steps,
    fractions=integrators.LEAPFROG,
    softening=0.1,
    compose=integrators.compose,
    law=forces.Direct,
):
    """Positions and velocities at the end, and their histories; steps are those of all frames."""
    position, velocity, mass = (array.copy() for array in bodies)
    kept = np.atleast_1d(steps)
    histories = np.empty((len(kept), *position.shape)), np.empty((len(kept), *position.shape))
    compose(position, velocity, mass, law(softening, 1.0), dt, fractions, kept, *histories)
    return position, velocity, *histories


def hermited(bodies, dt, steps, eta=ETA, softening=0.1, hermite=integrators.hermite):
    """Positions and velocities at the end, and their histories; steps are those of all frames."""
    position, velocity, mass = (array.copy() for array in bodies)
    kept = np.atleast_1d(steps)
    histories = np.empty((len(kept), *position.shape)), np.empty((len(kept), *position.shape))
    assert hermite(position, velocity, mass, softening, 1.0, eta, dt, kept, *histories)
    return position, velocity, *histories


def ellipse(eccentricity):
    """Two masses of 1/2 at their least distance; semi-major axis 1, period 2 pi."""
    near, fast = 1 - eccentricity, np.sqrt((1 + eccentricity) / (1 - eccentricity))
    position = np.array([[near / 2, 0, 0], [-near / 2, 0, 0]])
    return position, np.array([[0, fast / 2, 0], [0, -fast / 2, 0]]), np.full(2, 0.5)


def kepler(eccentricity, time):
    """Place of body 0 of `ellipse`, by Kepler's equation E - e sin E = t and Newton's method."""
    anomaly = np.pi if eccentricity > 0.8 else time
    for _ in range(60):
        excess = anomaly - eccentricity * np.sin(anomaly) - time
        anomaly -= excess / (1 - eccentricity * np.cos(anomaly))
    assert abs(anomaly - eccentricity * np.sin(anomaly) - time) < 1e-14
    minor = np.sqrt(1 - eccentricity**2)
    return np.array([np.cos(anomaly) - eccentricity, minor * np.sin(anomaly), 0]) / 2


@pytest.mark.parametrize("time", [0.1, 1.0, 3.0, 5.5])
def test_an_orbit_of_eccentricity_0_9_follows_keplers_equation(time):
    bodies, expected = ellipse(0.9), kepler(0.9, time)

    by_leapfrog = composed(bodies, time / 40_000, 40_000, softening=0.0)[0][0]
    by_yoshida = composed(bodies, time / 10_000, 10_000, integrators.YOSHIDA, 0.0)[0][0]
    by_hermite = hermited(bodies, time / 7, 7, eta=1e-4, softening=0.0)[0][0]

    np.testing.assert_allclose(by_leapfrog, expected, atol=1e-3)
    np.testing.assert_allclose(by_yoshida, expected, atol=2e-5)
    np.testing.assert_allclose(by_hermite, expected, atol=2e-7)


@compositions
def test_halved_steps_show_the_order_of_a_composition(fractions, order):
    bodies, expected = ellipse(0.5), kepler(0.5, 2.0)

    errors = [
        np.linalg.norm(composed(bodies, 2 / n, n, fractions, 0.0)[0][0] - expected)
        for n in (100, 200, 400)
    ]

    np.testing.assert_allclose(-np.diff(np.log2(errors)), order, atol=0.1)


def test_hermite_at_fixed_steps_is_of_order_4():
    # So large an eta never asks for more than one step an interval.
    bodies, expected = ellipse(0.5), kepler(0.5, 2.0)

    errors = [
        np.linalg.norm(hermited(bodies, 2 / n, n, eta=1e9, softening=0.0)[0][0] - expected)
        for n in (100, 200, 400)
    ]

    np.testing.assert_allclose(-np.diff(np.log2(errors)), 4, atol=0.2)


def test_a_sixteenth_of_eta_halves_the_steps_of_hermite_twice():
    # Steps go with the root of eta, the error with their fourth power.
    bodies, expected = ellipse(0.5), kepler(0.5, 2.0)

    coarse, fine = (
        np.linalg.norm(hermited(bodies, 2.0, 1, eta, softening=0.0)[0][0] - expected)
        for eta in (1e-2, 1e-2 / 16)
    )

    assert 100 < coarse / fine < 600


def test_hermite_begins_with_steps_short_enough_for_bodies_at_rest():
    # Where nothing moves yet, the first derivatives do not tell how long a step may be.
    bodies = (*ellipse(0.0)[:1], np.zeros((2, 3)), np.full(2, 0.5))
    far = 2 * np.sqrt(bodies[0][0, 0] ** 3)  # time scale of the fall

    at_once = hermited(bodies, far, 1, eta=1e-4, softening=0.3)[0]

    in_steps = hermited(bodies, far / 64, 64, eta=1e-4, softening=0.3)[0]
    np.testing.assert_allclose(at_once, in_steps, atol=1e-7)


@compositions
@composers
def test_time_turned_back_leads_to_the_start(compose, fractions, order):
    bodies = random_bodies(20)

    there = composed(bodies, 0.01, 100, fractions, compose=compose)[:2]
    back = composed((*there, bodies[2]), -0.01, 100, fractions, compose=compose)

    assert np.abs(there[0] - bodies[0]).max() > 0.1
    np.testing.assert_allclose(back[0], bodies[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(back[1], bodies[1], rtol=0, atol=1e-10)


def momenta(position, velocity, mass):
    return mass @ velocity, mass @ np.cross(position, velocity)


@compositions
@composers
def test_compositions_keep_momentum_and_angular_momentum_to_rounding(compose, fractions, order):
    bodies = random_bodies(50)

    after = composed(bodies, 0.01, 100, fractions, compose=compose)[:2]

    for result, expected in zip(momenta(*after, bodies[2]), momenta(*bodies), strict=True):
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


@hermites
def test_hermite_keeps_momentum_to_rounding_and_angular_momentum_to_its_accuracy(hermite):
    bodies = random_bodies(50)

    after = hermited(bodies, 0.1, 5, hermite=hermite)[:2]

    momentum, spin = momenta(*bodies)
    new_momentum, new_spin = momenta(*after, bodies[2])
    np.testing.assert_allclose(new_momentum, momentum, rtol=0, atol=1e-12)
    np.testing.assert_allclose(new_spin, spin, rtol=0, atol=1e-6)


@composers
def test_frames_kept_on_the_way_change_nothing(compose):
    bodies = random_bodies(20)

    plain = composed(bodies, 0.01, 10, compose=compose)
    stopped = composed(bodies, 0.01, np.array([0, 3, 10]), compose=compose)

    np.testing.assert_array_equal(stopped[0], plain[0])
    np.testing.assert_array_equal(stopped[2][0], bodies[0])
    np.testing.assert_array_equal(stopped[2][1], composed(bodies, 0.01, 3)[0])
    np.testing.assert_array_equal(stopped[3][2], plain[1])


@hermites
def test_frames_that_hermite_keeps_change_nothing(hermite):
    bodies = random_bodies(20)

    plain = hermited(bodies, 0.05, 6, hermite=hermite)
    stopped = hermited(bodies, 0.05, np.array([0, 2, 6]), hermite=hermite)

    np.testing.assert_array_equal(stopped[0], plain[0])
    np.testing.assert_array_equal(stopped[2][1], hermited(bodies, 0.05, 2)[0])
    np.testing.assert_array_equal(stopped[3][2], plain[1])


@pytest.mark.parametrize(
    "followed",
    [
        lambda bodies: composed(bodies, 0.01, 20),
        lambda bodies: composed(bodies, 0.01, 20, integrators.YOSHIDA),
        lambda bodies: hermited(bodies, 0.02, 10),
    ],
    ids=["leapfrog", "yoshida", "hermite"],
)
def test_turned_and_renumbered_bodies_take_the_turned_orbits(followed):
    position, velocity, mass = random_bodies(15)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    order = np.random.default_rng(2).permutation(15)

    plain = followed((position, velocity, mass))
    turned = followed(
        (
            np.ascontiguousarray((position @ rotation)[order]),
            np.ascontiguousarray((velocity @ rotation)[order]),
            mass[order],
        )
    )

    np.testing.assert_allclose(turned[0], (plain[0] @ rotation)[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("hermite", [integrators.hermite, integrators.hermite_parallel])
def test_hermite_gives_up_where_bodies_meet_in_one_point(hermite):
    position, mass = np.array([[0.5, 0, 0], [-0.5, 0, 0]]), np.ones(2)
    velocity, kept = np.zeros((2, 3)), np.array([0, 1])
    histories = np.empty((2, 2, 3)), np.empty((2, 2, 3))

    arrived = hermite(position, velocity, mass, 0.0, 1.0, ETA, 2.0, kept, *histories)

    assert not arrived


def test_a_body_that_is_pulled_from_all_sides_alike_does_not_stop_hermite():
    angle = 2 * np.pi * np.arange(6) / 6
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    position, mass = np.concatenate([ring, np.zeros((1, 3))]), np.ones(7)
    velocity = np.cross([0, 0, 1.5], position)

    after, *_ = hermited((position, velocity, mass), 0.1, 10, softening=0.0)

    np.testing.assert_allclose(after[6], 0, atol=1e-8)


def test_a_tight_pair_beside_heavy_bodies_is_not_torn_apart():
    # A trial of the whole interval throws the pair out to where next to nothing pulls it.
    apart, speed = 1e-6, np.sqrt(2)
    position = np.array([[0.0, 0, 0], [1, 0, 0], [-3 + apart / 2, 0, 0], [-3 - apart / 2, 0, 0]])
    velocity = np.array([[0.0, 0, 0], [0, 1, 0], [0, speed / 2, 0], [0, -speed / 2, 0]])
    bodies = position, velocity, np.array([1.0, 1e-3, 1e-6, 1e-6])

    after = hermited(bodies, 0.05, 1, softening=0.0)[0]

    assert np.linalg.norm(after[2] - after[3]) == pytest.approx(apart, rel=0.02)


@pytest.mark.parametrize("softening", [0.0, 0.1])
def test_an_interval_of_many_orbits_is_no_meeting(softening):
    # 1592 orbits, which the first trial takes in one step.
    after = hermited(ellipse(0.5), 1e4, 1, softening=softening)[0]

    assert np.abs(after).max() < 1


@pytest.mark.parametrize("beyond", [np.inf, np.nan])
def test_a_trial_beyond_the_range_of_numbers_is_much_too_long(beyond):
    state, found = tuple(np.ones((4, 2, 3))), np.array([[1.0, 0, 0], [beyond, 0, 0]])

    assert integrators.longest_step(state, 1.0, found, np.ones((2, 3)), ETA) == 0


def test_forces_in_float32_lead_to_nearly_the_same_place():
    bodies = random_bodies(20)

    double = composed(bodies, 0.01, 50)[0]
    single = composed(bodies, 0.01, 50, law=forces.DirectFloat32)[0]

    assert 0 < np.abs(single - double).max() < 1e-4
