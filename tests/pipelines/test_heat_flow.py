import re

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sweep
from pipelines.heat_flow import (
    FEWEST_NODES_FOR_THREADS,
    ensemble,
    heat_flow,
    heat_flows,
    nodes,
    pipeline,
)

edges = st.fixed_dictionaries(
    {name: st.floats(-100, 500) for name in ("t_top", "t_bottom", "t_left", "t_right", "t_initial")}
)


def fourier_plate(x, y, t_top):
    """Steady temperatures of the unit square, its top edge at t_top and the others at 0."""
    k = np.arange(1, 1200, 2)[:, None, None] * np.pi
    upward = np.exp(k * (y - 1)) * np.expm1(-2 * k * y) / np.expm1(-2 * k)
    return (4 * t_top / k * np.sin(k * x) * upward).sum(axis=0)


def test_the_teaching_example_agrees_with_the_update_written_in_numpy():
    plate = np.zeros((50, 50))
    plate[:, 0], plate[:, -1] = 0, 0
    plate[0, :], plate[-1, :] = 0, 100
    for _ in range(999):
        up, down = plate[2:, 1:-1], plate[:-2, 1:-1]
        left, right = plate[1:-1, :-2], plate[1:-1, 2:]
        plate[1:-1, 1:-1] = 0.25 * (up + down + left + right) + (1 - 4 * 0.25) * plate[1:-1, 1:-1]

    result = heat_flow(diffusivity=2.0, t_top=100, nx=50, length=50, steps=999, frames=10)

    np.testing.assert_allclose(result.temperature, plate, rtol=0, atol=1e-12)
    assert result.mean_temperature[-1] == pytest.approx(plate.mean(), rel=1e-12)
    assert result.centre_temperature[-1] == pytest.approx(plate[25, 25], rel=1e-12)


def test_the_plate_tends_to_the_fourier_series_of_the_steady_state():
    # The slowest mode is left with cos(pi / 40)^10_000 = 4e-14, so what remains is the error of
    # the grid. At the top corners the edges jump by t_top: there the solution is that of a wedge,
    # its fourth derivatives fall as distance^-4, and so the error as (dx / distance)^2. The factor
    # is 0.103 t_top on 21, on 41 and on 81 nodes.
    result = heat_flow(t_top=100.0, length=1.0, nx=41, steps=10_000, frames=2).temperature
    x, y = np.meshgrid(nodes(41, 1.0), nodes(41, 1.0))
    from_corner = np.hypot(np.minimum(x, 1 - x), 1 - y)

    error = np.abs(result - fourier_plate(x, y, 100.0))

    inner = (slice(1, -1), slice(1, -1))
    assert (error[inner] <= 0.11 * 100 * (1 / 40 / from_corner[inner]) ** 2).all()


def test_the_steady_error_away_from_the_corners_falls_with_the_square_of_the_spacing():
    exact = fourier_plate(0.5, 0.75, 100.0).item()
    errors = []
    for intervals in (12, 24, 48):
        plate = heat_flow(t_top=100.0, nx=intervals + 1, steps=8 * intervals**2, frames=2)
        errors.append(abs(plate.temperature[3 * intervals // 4, intervals // 2] - exact))

    orders = -np.diff(np.log2(errors))

    assert ((orders > 1.9) & (orders < 2.1)).all()


def test_the_centre_tends_to_the_mean_of_the_edges():
    result = heat_flow(t_top=100, t_bottom=10, t_left=-20, t_right=5, nx=21, steps=3000, frames=2)

    assert result.centre_temperature[-1] == pytest.approx((100 + 10 - 20 + 5) / 4, abs=1e-9)


@given(edges)
def test_no_temperature_leaves_the_range_of_edges_and_start(temperatures):
    result = heat_flow(nx=8, steps=40, frames=5, **temperatures)

    lowest, highest = min(temperatures.values()), max(temperatures.values())
    for recorded in (result.temperature, result.mean_temperature, result.centre_temperature):
        assert recorded.min() >= lowest - 1e-9
        assert recorded.max() <= highest + 1e-9


@given(edges, edges)
def test_sums_of_edges_give_sums_of_temperatures(one, other):
    both = {name: one[name] + other[name] for name in one}

    plates = [
        heat_flow(nx=8, steps=40, frames=2, **each).temperature for each in (one, other, both)
    ]

    np.testing.assert_allclose(plates[0] + plates[1], plates[2], rtol=0, atol=1e-9)


def test_left_and_right_exchanged_give_the_mirrored_plate():
    plate = heat_flow(nx=20, steps=300, frames=2, t_left=30.0, t_right=-5.0).temperature
    mirrored = heat_flow(nx=20, steps=300, frames=2, t_left=-5.0, t_right=30.0).temperature

    np.testing.assert_array_equal(mirrored, plate[:, ::-1])


def test_corners_belong_to_the_bottom_and_the_top():
    plate = heat_flow(nx=5, steps=0, frames=1, t_top=1, t_bottom=2, t_left=3, t_right=4).temperature

    assert plate[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [2, 2, 1, 1]
    assert plate[[2, 2], [0, -1]].tolist() == [3, 4]


def test_each_frame_is_what_a_run_of_that_many_steps_ends_with():
    result = heat_flow(nx=12, steps=50, frames=7, t_initial=3.0)

    for frame, steps in enumerate([0, 8, 17, 25, 33, 42, 50]):
        plate = heat_flow(nx=12, steps=steps, frames=min(2, steps + 1), t_initial=3.0).temperature
        assert result.mean_temperature[frame] == plate.mean()
        assert result.centre_temperature[frame] == plate[6, 6]


def test_the_time_step_follows_from_mixing_spacing_and_diffusivity():
    result = heat_flow(diffusivity=2.0, length=50.0, nx=51, mixing=0.2, steps=30, frames=4)

    np.testing.assert_allclose(result.time, [0, 1, 2, 3], rtol=1e-14)


def test_the_diffusivity_only_sets_the_clock():
    slow = heat_flow(diffusivity=1e-6, nx=20, steps=100, frames=5)
    fast = heat_flow(diffusivity=4e-6, nx=20, steps=100, frames=5)

    np.testing.assert_array_equal(slow.temperature, fast.temperature)
    np.testing.assert_array_equal(slow.time, 4 * fast.time)


def test_a_large_plate_does_not_depend_on_the_number_of_threads():
    threaded = heat_flow(nx=FEWEST_NODES_FOR_THREADS, steps=5, frames=2)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        single = heat_flow(nx=FEWEST_NODES_FOR_THREADS, steps=5, frames=2)
    finally:
        numba.set_num_threads(before)

    for one, other in zip(threaded, single, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (
            {"mixing": 0.26},
            r"mixing = 0.26 .* largest that is stable .* take mixing = 0.25 or less",
        ),
        ({"mixing": 0}, "mixing = 0: take a finite value above 0"),
        ({"mixing": float("nan")}, "mixing = nan: take a finite value above 0"),
        ({"diffusivity": -1.0}, "diffusivity = -1.0: take a finite value above 0"),
        ({"length": 0.0}, "length = 0.0: take a finite value above 0"),
        ({"nx": 2}, "nx = 2 leaves no node inside the plate: take 3 or more"),
        ({"steps": 10, "frames": 12}, "take 2 to 11 frames"),
        ({"ny": 2}, "ny = 2 leaves no node inside the plate: take 3 or more"),
        ({"height": -1.0}, "height = -1.0: take a finite value above 0"),
        ({"radius": 0.0, "initial": "spot"}, "radius = 0.0: take a finite value above 0"),
        ({"radius": 0.0, "inclusion": 2.0}, "radius = 0.0: take a finite value above 0"),
        ({"inclusion": 0.0}, "inclusion = 0.0: take a finite value above 0"),
        ({"conductivity": -2.0}, "conductivity = -2.0: take a finite value above 0"),
        ({"ny": 0}, "ny = 0 leaves no node inside the plate"),
        ({"height": 0}, "height = 0: take a finite value above 0"),
        ({"length": 1e200}, "length = 1e.200: take a finite value above 0, from 1e-60 to 1e.60"),
        ({"t_top": float("inf")}, "t_top = inf: take a finite value"),
        ({"t_top": 1e39, "precision": "float32"}, "precision = 'float32' cannot hold"),
        ({"scheme": "implict"}, "scheme = 'implict' is unknown: take one of explicit, implicit"),
        ({"top": "cold"}, "top = 'cold' is unknown: take one of held, heated, insulated"),
        ({"precision": "float16"}, "precision = 'float16' is unknown"),
        ({"device": "gpu"}, "device = 'gpu' is unknown: take one of cpu, cuda"),
        ({"left": "periodic"}, "Of left and right one is periodic and one is not: make both so"),
        ({"top": "convective", "transfer": -1.0}, "transfer = -1.0 at the top edge: .* at least 0"),
        (
            {"top": "convective", "transfer": 1e6, "nx": 50},
            r"mixing = 0.25 makes .* take mixing = 0.07\d* or less, or scheme = 'implicit'",
        ),
        ({"device": "cuda", "scheme": "implicit"}, "scheme = 'implicit' is not for a GPU"),
    ],
)
def test_a_refusal_says_what_to_take(wrong, remedy):
    with pytest.raises(ValueError, match=remedy):
        heat_flow(**wrong)


@given(st.floats(100.0, 1e5), st.integers(5, 60))
def test_the_mixing_that_is_called_stable_is_taken(transfer, nx):
    plate = {"nx": nx, "steps": 1, "frames": 2, "top": "convective", "transfer": transfer}
    with pytest.raises(ValueError, match="or less") as refusal:
        heat_flow(mixing=0.26, **plate)

    taken = re.search(r"take mixing = (\S+) or less", str(refusal.value))
    heat_flow(mixing=float(taken[1]), **plate)


def test_the_study_varies_the_metal_and_the_heated_edge():
    assert [axis.dim for axis in pipeline.axes] == ["diffusivity", "t_top"]


def test_a_plate_that_is_not_square_tends_to_the_exact_steady_state():
    # Heated from below, cooled by a fluid above, nothing through the sides: T falls linearly.
    flux, transfer, k = 5000.0, 250.0, 20.0
    result = heat_flow(
        **{"nx": 7, "ny": 15, "length": 0.02, "height": 0.01, "steps": 150_000, "frames": 2},
        **{"bottom": "heated", "top": "convective", "left": "insulated", "right": "insulated"},
        **{"flux": flux, "transfer": transfer, "conductivity": k, "t_top": 10.0, "mixing": 0.2},
    )

    y = np.linspace(0, 0.01, 15)
    exact = 10.0 + flux / transfer + flux / k * (0.01 - y)
    np.testing.assert_allclose(result.temperature, np.tile(exact[:, None], 7), rtol=0, atol=1e-6)


def test_a_source_warms_an_insulated_plate_at_its_rate():
    around = dict.fromkeys(("top", "bottom", "left", "right"), "insulated")

    result = heat_flow(nx=9, steps=50, frames=3, source=4e6, conductivity=20.0, **around)

    warming = 4e6 / (20.0 / 117e-6) * result.time
    np.testing.assert_allclose(result.mean_temperature, warming, rtol=1e-12)
    np.testing.assert_allclose(result.temperature, warming[-1], rtol=1e-12)


@pytest.mark.parametrize("scheme", ["explicit", "implicit"])
def test_a_sine_mode_of_a_periodic_strip_decays_as_it_should(scheme):
    settings = {"nx": 32, "ny": 41, "length": 0.1, "height": 0.05, "diffusivity": 1e-5}
    edges = {"left": "periodic", "right": "periodic", "t_top": 0.0}

    settings |= edges | {"initial": "sine"}

    result = heat_flow(steps=200, frames=2, mixing=0.2, scheme=scheme, **settings)

    # sin(pi x / length) is no mode of a periodic strip, but its mean over x decays as one.
    slowest = np.exp(-1e-5 * (np.pi / 0.05) ** 2 * result.time[-1])
    start = heat_flow(steps=0, frames=1, **settings).temperature
    np.testing.assert_allclose(
        result.temperature.mean(axis=1), slowest * start.mean(axis=1), rtol=0, atol=2e-2
    )


def test_large_implicit_steps_lead_to_the_same_steady_state():
    explicit = heat_flow(nx=21, steps=20_000, frames=2, inclusion=5.0, radius=0.02, mixing=0.04)
    implicit = heat_flow(
        nx=21, steps=400, frames=2, inclusion=5.0, radius=0.02, mixing=2.0, scheme="implicit"
    )

    np.testing.assert_allclose(implicit.temperature, explicit.temperature, rtol=0, atol=1e-4)


def test_float32_gives_what_float64_gives_to_its_rounding():
    double = heat_flow(nx=30, steps=500, frames=4)
    single = heat_flow(nx=30, steps=500, frames=4, precision="float32")

    assert single.temperature.dtype == np.float64
    np.testing.assert_allclose(single.temperature, double.temperature, rtol=0, atol=1e-3)
    np.testing.assert_allclose(single.mean_temperature, double.mean_temperature, atol=1e-3)


def test_a_spot_is_in_the_middle_and_does_not_touch_held_edges():
    plate = heat_flow(nx=21, steps=0, frames=1, initial="spot", radius=0.02, t_top=0.0).temperature

    assert plate.argmax() == 10 * 21 + 10
    assert plate.max() == pytest.approx(100.0)
    np.testing.assert_array_equal(plate, plate.T)
    assert not plate[[0, -1]].any()


def test_all_plates_at_once_are_what_each_is_alone():
    metals, tops = np.array([1e-6, 4e-5, 1e-4]), np.array([50.0, 80.0, 400.0])

    together = heat_flows(metals, tops, nx=20, steps=60, frames=4)

    for k, (diffusivity, t_top) in enumerate(zip(metals, tops, strict=True)):
        alone = heat_flow(diffusivity=diffusivity, t_top=t_top, nx=20, steps=60, frames=4)
        np.testing.assert_array_equal(together.temperature[k], alone.temperature)
        np.testing.assert_array_equal(together.centre_temperature[k], alone.centre_temperature)
        np.testing.assert_allclose(together.mean_temperature[k], alone.mean_temperature, rtol=1e-14)
        np.testing.assert_allclose(together.time[k], alone.time, rtol=1e-14)


def test_the_ensemble_is_the_same_study():
    values = {"nx": 12, "steps": 30, "frames": 3}

    one = sweep.run(pipeline, on="serial", **values)
    other = sweep.run(ensemble, on="serial", **values)

    assert set(one.sizes) == set(other.sizes)
    for name in ("temperature", "centre_temperature", "time"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-14)
