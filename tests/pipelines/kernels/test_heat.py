import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numba.core.errors import TypingError
from random_plates import SPACING, Case, case, cases, updated

from pipelines.kernels import heat, heat_implicit, layout
from pipelines.kernels.layout import NARROW
from pipelines.kernels.stencil import (
    convective,
    heated,
    held,
    insulated,
    largest_stable_step,
    periodic,
    stacked,
    stencil,
)

both_versions = pytest.mark.parametrize("advance", [heat.advance, heat.advance_parallel])
every_case = pytest.mark.parametrize("case", cases(), ids=repr)
plates = arrays(np.float64, (6, 9), elements=st.floats(-1e3, 1e3))
mixings = st.floats(0.01, 0.25)
step_counts = st.integers(0, 20)
few = settings(max_examples=30)
WIDE = 16 * NARROW + 9  # too wide for one strip, in float32 too
# Of one row of vectors and less, of more; higher than wide; wide: computed in strips.
SHAPES = [(3, 3), (5, 64), (7, 11), (90, 30), (33, 200), (70, 700), (9, WIDE), (110, WIDE)]
ROUNDING = {np.float64: 1e-12, np.float32: 2e-5}


def square(mixing):
    """The update of a plate with held edges and dx = dy."""
    return stencil((6, 9), (1.0, 1.0), mixing, 1.0)


def advanced(advance, plate, update, steps):
    result = plate.copy()
    advance(result, update, steps)
    return result


def of_shape(plate, mixing):
    return stencil(plate.shape, (1.0, 1.0), mixing, 1.0)


def sine_mode(intervals):
    side = np.linspace(0.0, np.pi, intervals + 1)
    return np.outer(np.sin(side), np.sin(side))


@both_versions
@every_case
def test_a_plate_is_advanced_as_the_formula_says(advance, case: Case):
    result = advanced(advance, case.plate, case.stencil, 17)

    np.testing.assert_allclose(result, updated(case.plate, case.stencil, 17), rtol=0, atol=1e-12)


@both_versions
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_plates_of_all_shapes_are_advanced_as_the_formula_says(advance, shape, dtype):
    several = cases(dtype, shape)
    for one in [several[0], *several[1::3]]:  # uniform with held edges, and others
        result = advanced(advance, one.plate, one.stencil, 13)

        expected = updated(one.plate, one.stencil, 13)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected, rtol=0, atol=ROUNDING[dtype], err_msg=one.name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["uniform", "varying"])
def test_all_variants_give_the_same_bits(shape, kind):
    edges = (heated(1.0), convective(0.7, 2.0), held(), insulated())
    k = 0.3 if kind == "uniform" else np.random.default_rng(1).uniform(0.1, 1.5, shape)
    one = case(kind, shape, edges, k, 0.2)
    kept = np.array([0, 3, 14])
    frames, frames_parallel = np.empty((3, *shape)), np.empty((3, *shape))
    many = np.stack([one.plate, one.plate])

    single = advanced(heat.advance, one.plate, one.stencil, 14)
    threaded = advanced(heat.advance_parallel, one.plate, one.stencil, 14)
    heat.advance_many(many, stacked([one.stencil] * 2), 14)
    heat.history(one.plate.copy(), one.stencil, kept, frames)
    heat.history_parallel(one.plate.copy(), one.stencil, kept, frames_parallel)

    for other in (threaded, *many, frames[-1], frames_parallel[-1]):
        np.testing.assert_array_equal(other, single)
    np.testing.assert_array_equal(frames_parallel, frames)
    np.testing.assert_array_equal(frames[0], one.plate)
    np.testing.assert_array_equal(frames[1], advanced(heat.advance, one.plate, one.stencil, 3))


@pytest.mark.parametrize("history", [heat.history, heat.history_parallel])
@pytest.mark.parametrize("shape", [(3, 3), (70, 30), (200, WIDE)], ids=str)
@pytest.mark.parametrize("edges", [[periodic()] * 4, [held(), insulated(), held(), heated(1.0)]])
def test_a_plate_is_kept_at_any_instants_on_its_way(history, shape, edges):
    one = case("kept", shape, edges, 0.3)
    plate, kept = one.plate.copy(), np.array([0, 1, 2, 3, 7, 31, 32, 33, 90, 91])
    frames = np.full((kept.size, *shape), np.nan)

    history(plate, one.stencil, kept, frames)

    np.testing.assert_array_equal(frames[-1], plate)
    expected, done = one.plate.copy(), 0
    for frame, instant in zip(frames, kept, strict=True):
        heat.advance(expected, one.stencil, int(instant) - done)
        done = int(instant)
        np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("history", [heat.history, heat.history_parallel])
@pytest.mark.parametrize("is_large", [False, True])
def test_a_wide_plate_goes_there_and_back_however_many_steps(history, is_large, monkeypatch):
    monkeypatch.setattr(layout, "LARGE", 0 if is_large else np.inf)
    one = case("to and fro", (110, WIDE), (held(), heated(1.0), periodic(), periodic()), 0.3)
    assert layout.make_layout(one.plate, one.stencil, 1, 1)[0].is_large == is_large
    plate, done = one.plate.copy(), 0
    for steps in (0, 1, 2, 51, 101):
        updated_plate = updated(plate, one.stencil, steps)

        history(plate, one.stencil, np.array([steps]), np.empty((0, 1, 1)))

        done += steps
        np.testing.assert_allclose(plate, updated_plate, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(plate, advanced(heat.advance, one.plate, one.stencil, done))


@pytest.mark.parametrize("shape", [(20, 31), (60, WIDE)], ids=str)
def test_plates_and_frames_may_begin_anywhere_in_memory(shape, monkeypatch):
    monkeypatch.setattr(layout, "LARGE", 0)
    one = case("anywhere", shape, (held(), heated(1.0), insulated(), held()), 0.3)
    kept, cells = np.array([2, 4]), one.plate.size
    expected = updated(one.plate, one.stencil, 2), updated(one.plate, one.stencil, 4)
    for skip in (0, 4, 8, 20):  # bytes, also between the places of numbers
        room = np.zeros(3 * cells * 8 + 64, np.uint8)
        plates = room[skip : skip + 3 * cells * 8].view(float).reshape(3, *shape)
        plate, frames = plates[0], plates[1:]
        plate[:] = one.plate

        heat.history(plate, one.stencil, kept, frames)

        np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(plate, frames[1])
        assert not room[:skip].any()
        assert not room[skip + 3 * cells * 8 :].any()


@pytest.mark.parametrize("kernels", [heat, heat_implicit])
@pytest.mark.parametrize("suffix", ["", "_parallel"])
def test_a_plate_goes_on_after_the_last_frame(kernels, suffix):
    one, kept = cases()[0], np.array([0, 3, 5, 6])
    room = np.full((3, *one.plate.shape), np.nan)
    plate = one.plate.copy()

    getattr(kernels, "history" + suffix)(plate, one.stencil, kept, room[:2])

    np.testing.assert_array_equal(room[0], one.plate)
    np.testing.assert_array_equal(room[1], advanced(kernels.advance, one.plate, one.stencil, 3))
    assert np.isnan(room[2]).all()
    np.testing.assert_array_equal(plate, advanced(kernels.advance, one.plate, one.stencil, 6))


def test_frames_that_are_strided_or_of_another_kind_are_refused():
    plate, kept = np.ones((6, 9)), np.array([2, 4])

    for frames in (np.ones((4, 6, 9))[::2], np.ones((2, 6, 9), np.float32)):
        with pytest.raises(TypingError, match=r"contiguous|of its kind"):
            heat.history(plate, square(0.2), kept, frames)
        assert (frames == 1).all()


@pytest.mark.parametrize("shape", [(80, 30), (200, WIDE)], ids=str)
def test_pieces_of_threads_that_never_come_are_done_by_those_that_are_there(monkeypatch, shape):
    one = case("alone", shape, (held(), insulated(), periodic(), periodic()), 0.3)
    expected = advanced(heat.advance, one.plate, one.stencil, 40)
    before = numba.get_num_threads()
    numba.set_num_threads(1)  # which goes through the workers one after the other
    monkeypatch.setattr(heat.numba, "get_num_threads", lambda: 4)
    try:
        result = advanced(heat.advance_parallel, one.plate, one.stencil, 40)
    finally:
        numba.set_num_threads(before)

    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_updates_of_one_precision_are_of_one_type_so_that_kernels_are_compiled_once(dtype):
    assert len({numba.typeof(one.stencil) for one in cases(dtype)}) == 1


def test_many_plates_are_advanced_each_by_its_own_update():
    each = [cases(shape=(20, 31), of_stable=share)[13] for share in (0.9, 0.4, 0.1, 0.6, 0.7)]
    together = np.stack([k * one.plate for k, one in enumerate(each)])
    expected = [updated(p, one.stencil, 9) for p, one in zip(together, each, strict=True)]

    heat.advance_many(together, stacked([one.stencil for one in each]), 9)

    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-12)


def test_no_plates_are_advanced_to_no_plates():
    none = np.empty((0, 6, 9))

    heat.advance_many(none, stacked([square(0.2)]), 3)

    assert none.shape == (0, 6, 9)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (stencil((6, 9), (1.0, 1.0), 0.2, 1.0, 1.0, [insulated()] * 4), "edges of kinds"),
        (stencil((6, 8), (1.0, 1.0), 0.2, 1.0), r"gain_y of shapes \(2, 8\) and \(2, 9\)"),
        (stencil((6, 9), (1.0, 1.0), 0.2, np.full((6, 9), 0.5)), r"north of shapes \(6, 9\)"),
    ],
)
def test_plates_whose_updates_differ_in_kind_are_not_stacked(other, told):
    first = stencil((6, 9), (1.0, 1.0), 0.2, 1.0)

    with pytest.raises(ValueError, match=told + r".*take (one|the same) for all"):
        stacked([first, first, other])


@both_versions
def test_a_sine_mode_decays_by_the_factor_of_the_scheme(advance):
    factor = 1 - 8 * 0.2 * np.sin(np.pi / 2 / 24) ** 2
    mode = sine_mode(24)

    result = advanced(advance, mode, of_shape(mode, 0.2), 500)

    np.testing.assert_allclose(result, factor**500 * mode, rtol=0, atol=1e-13)


@both_versions
def test_the_error_against_the_exact_solution_falls_with_the_square_of_the_spacing(advance):
    errors = []
    for intervals in (16, 32, 64):
        steps, mode = intervals**2 // 8, sine_mode(intervals)  # the same time for all
        time = 0.25 * steps * (np.pi / intervals) ** 2
        result = advanced(advance, mode, of_shape(mode, 0.25), steps)
        errors.append(np.abs(result - np.exp(-2 * time) * mode).max())

    orders = -np.diff(np.log2(errors))

    assert ((orders > 1.9) & (orders < 2.1)).all()


def test_the_error_of_a_fixed_grid_falls_with_the_step():
    # Against the grid's own exact solution, which leaves the error of the time steps: order 1.
    mode, rate = sine_mode(20), 8 * np.sin(np.pi / 2 / 20) ** 2
    errors = []
    for steps in (100, 200, 400):
        result = advanced(heat.advance, mode, of_shape(mode, 20 / steps), steps)
        errors.append(np.abs(result - np.exp(-rate * 20) * mode).max())

    orders = -np.diff(np.log2(errors))

    assert ((orders > 0.95) & (orders < 1.05)).all()


def test_a_plate_heated_from_one_edge_warms_as_its_fourier_series_says():
    # Insulated left and right, held at 0 and 1: T = y + sum 2 (-1)^n / (n pi) sin(n pi y) exp(...).
    intervals, mixing, steps = 80, 0.2, 1000
    plate = np.zeros((intervals + 1, 5))
    plate[-1] = 1
    edges = (held(), held(), insulated(), insulated())
    update = stencil(plate.shape, (1.0, 1.0), mixing, 1.0, edges=edges)
    y, n = np.linspace(0, 1, intervals + 1), np.arange(1, 200)[:, None]
    decay = np.exp(-((n * np.pi) ** 2) * mixing * steps / intervals**2)
    series = y + (2 * (-1.0) ** n / (n * np.pi) * np.sin(n * np.pi * y) * decay).sum(axis=0)

    heat.advance(plate, update, steps)

    np.testing.assert_allclose(plate, np.tile(series[:, None], 5), rtol=0, atol=2e-4)


def manufactured(x, y):
    """A temperature, a conductivity, and the source that keeps the one steady with the other."""
    temperature = np.sin(1.3 * x + 0.4) * np.cos(0.9 * y)
    k = 1.5 + 0.5 * np.sin(x) * np.cos(2 * y)
    slope_x = 1.3 * np.cos(1.3 * x + 0.4) * np.cos(0.9 * y)
    slope_y = -0.9 * np.sin(1.3 * x + 0.4) * np.sin(0.9 * y)
    k_x, k_y = 0.5 * np.cos(x) * np.cos(2 * y), -np.sin(x) * np.sin(2 * y)
    curvature = -(1.3**2 + 0.9**2) * temperature
    return temperature, k, (slope_x, slope_y), -(k * curvature + k_x * slope_x + k_y * slope_y)


@both_versions
def test_a_manufactured_solution_is_met_to_second_order_with_all_kinds_of_edges(advance):
    errors = []
    for intervals in (10, 20, 40):
        y, x = np.meshgrid(
            np.linspace(0, 1.0, intervals + 1), np.linspace(0, 1.4, intervals + 1), indexing="ij"
        )
        exact, k, (slope_x, slope_y), source = manufactured(x, y)
        far = exact[-1] + k[-1] * slope_y[-1] / 0.8  # transfer (far - T) = k dT/dy
        edges = (
            heated(-(k * slope_y)[0]),
            convective(0.8, far),
            held(),
            heated((k * slope_x)[:, -1]),
        )
        grid = exact.shape, (1.0 / intervals, 1.4 / intervals)
        dt = largest_stable_step(stencil(*grid, 1.0, k, 1.0, edges, source))
        update = stencil(*grid, dt, k, 1.0, edges, source)
        steps = int(12 / dt)  # the slowest mode is left with some e^-20

        result = advanced(advance, exact, update, steps)

        errors.append(np.abs(result - exact).max())
    orders = -np.diff(np.log2(errors))

    assert ((orders > 1.8) & (orders < 2.2)).all(), errors


@both_versions
@pytest.mark.parametrize("sides", ["insulated", "periodic"])
def test_heat_is_kept_to_rounding(advance, sides):
    edges = [insulated() if sides == "insulated" else periodic()] * 4
    shape, rng = (40, 53), np.random.default_rng(4)
    one = case(sides, shape, edges, rng.uniform(0.1, 2.0, shape))
    weights = [np.ones(n) for n in shape]
    if sides == "insulated":
        for each in weights:
            each[[0, -1]] = 0.5

    result = advanced(advance, one.plate, one.stencil, 400)

    before, after = (weights[0] @ plate @ weights[1] for plate in (one.plate, result))
    assert np.abs(result - one.plate).max() > 0.5
    assert after == pytest.approx(before, abs=1e-12 * np.abs(one.plate).sum())


@both_versions
def test_a_uniform_plate_in_float32_gets_neither_warmer_nor_colder(advance):
    # Coefficients that do not add up to 1 would show: by 2e-3 after so many steps.
    rng = np.random.default_rng(4)
    plate = (293 + rng.random((40, 53))).astype(np.float32)
    update = stencil(plate.shape, (1.0, 1.0), 0.15, 1.0, edges=[periodic()] * 4, dtype=np.float32)

    result = advanced(advance, plate, update, 3000)

    assert result.std() < 0.1 * plate.std()
    assert result.mean(dtype=float) == pytest.approx(plate.mean(dtype=float), abs=5e-4)


@both_versions
@few
@given(plates, plates, st.floats(-10, 10), mixings, step_counts)
def test_the_update_is_linear_in_the_temperatures(advance, one, other, factor, mixing, steps):
    update = square(mixing)

    together = advanced(advance, factor * one + other, update, steps)
    apart = factor * advanced(advance, one, update, steps) + advanced(advance, other, update, steps)

    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-12 * 1e4)


@both_versions
@few
@given(plates, mixings, step_counts)
def test_no_node_gets_warmer_or_colder_than_all_were(advance, plate, mixing, steps):
    result = advanced(advance, plate, square(mixing), steps)

    rounding = 1e-14 * (steps + 1) * np.abs(plate).max()
    assert result.min() >= plate.min() - rounding
    assert result.max() <= plate.max() + rounding


@both_versions
@few
@given(plates, mixings, step_counts)
def test_mirrored_and_transposed_plates_give_the_same_bits(advance, plate, mixing, steps):
    result = advanced(advance, plate, square(mixing), steps)

    for turned in (np.flipud, np.fliplr, np.transpose):
        start = np.ascontiguousarray(turned(plate))
        image = advanced(advance, start, of_shape(start, mixing), steps)
        np.testing.assert_array_equal(image, turned(result))


def test_a_plate_of_all_kinds_of_edges_mirrored_gives_the_same_bits():
    rng = np.random.default_rng(3)
    shape = (30, 41)
    k, source = rng.uniform(0.1, 1.5, shape), rng.normal(size=shape)
    edges = [heated(rng.random(41)), held(), convective(0.7, rng.random(30)), insulated()]
    turned = [edges[0], edges[1], edges[3], edges[2]]
    along = [edges[0]._replace(flux=edges[0].flux[::-1]), *turned[1:]]
    one = case("plain", shape, edges, k, source)
    other = case("mirrored", shape, along, k[:, ::-1], source[:, ::-1])

    result = advanced(heat.advance, one.plate, one.stencil, 25)
    mirrored = np.ascontiguousarray(one.plate[:, ::-1])
    image = advanced(heat.advance, mirrored, other.stencil, 25)

    np.testing.assert_array_equal(image, result[:, ::-1])


@both_versions
@few
@given(plates, mixings, st.integers(0, 10), st.integers(0, 10))
def test_stopping_on_the_way_changes_nothing(advance, plate, mixing, first, second):
    update = square(mixing)

    at_once = advanced(advance, plate, update, first + second)
    in_two = advanced(advance, advanced(advance, plate, update, first), update, second)

    np.testing.assert_array_equal(in_two, at_once)


def test_longer_steps_than_the_largest_stable_one_blow_up():
    shape = (12, 15)
    unit = stencil(shape, SPACING, 1.0, 0.3)
    plate = np.random.default_rng(5).normal(size=shape)
    sizes = {}
    for share in (0.999, 1.1):
        update = stencil(shape, SPACING, share * largest_stable_step(unit), 0.3)
        sizes[share] = np.abs(advanced(heat.advance, plate, update, 300)).max()

    assert sizes[0.999] < np.abs(plate).max()
    assert sizes[1.1] > 1e6
