import numpy as np
import pytest
from random_plates import Case, case, cases, reference_update, updated
from scipy.linalg import expm

from pipelines.kernels.heat_implicit import advance, advance_parallel
from pipelines.kernels.stencil import OPEN, held, insulated, periodic, stencil

both_versions = pytest.mark.parametrize("advance", [advance, advance_parallel])
every_case = pytest.mark.parametrize("case", cases(), ids=repr)


def advanced(plate, stencil, steps, advance=advance):
    result = plate.copy()
    advance(result, stencil, steps)
    return result


def change_of(stencil, shape):
    """L (node, node) and f (node,) of an explicit step's change, L T + f."""
    nothing = np.zeros(shape)
    added = reference_update(nothing, stencil).ravel()
    units = np.eye(nothing.size).reshape(-1, *shape)
    columns = [(reference_update(unit, stencil) - unit).ravel() - added for unit in units]
    return np.array(columns).T, added


def along(stencil, axis):
    """The stencil without what goes across an axis."""
    if axis == 0:
        return stencil._replace(mixing_x=0.0, east=0 * stencil.east)
    return stencil._replace(mixing_y=0.0, north=0 * stencil.north)


def shapes_and_lengths():
    return [
        one
        for shape in ((3, 4), (7, 11), (10, 19))
        for of_stable in (0.1, 30.0)
        for one in cases(shape=shape, of_stable=of_stable)
    ]


def test_a_step_is_the_formula_of_peaceman_and_rachford():
    for one in shapes_and_lengths():
        shape, plate = one.plate.shape, one.plate.ravel()
        (in_y, _), (in_x, _) = (change_of(along(one.stencil, axis), shape) for axis in (0, 1))
        added, unit = change_of(one.stencil, shape)[1], np.eye(plate.size)
        between = np.linalg.solve(unit - in_x / 2, plate + in_y @ plate / 2 + added / 2)
        expected = np.linalg.solve(unit - in_y / 2, between + in_x @ between / 2 + added / 2)

        result = advanced(one.plate, one.stencil, 1)

        np.testing.assert_allclose(
            result.ravel(), expected, rtol=0, atol=1e-12, err_msg=f"{one}, {shape}"
        )


@every_case
def test_a_short_step_is_the_explicit_update(case: Case):
    short = case_like(case, of_stable=1e-5)
    explicit = updated(short.plate, short.stencil) - short.plate

    change = advanced(short.plate, short.stencil, 1) - short.plate

    np.testing.assert_allclose(change, explicit, rtol=0, atol=2e-5 * np.abs(explicit).max())


def case_like(case, of_stable, dtype=np.float64, shape=(7, 11)):
    return next(one for one in cases(dtype, shape, of_stable) if one.name == case.name)


@every_case
def test_the_error_falls_with_the_square_of_the_step(case: Case):
    whole = case_like(case, of_stable=0.4).stencil
    change, added = change_of(whole, case.plate.shape)
    # What is added is as the change by one more node, which stays at 1.
    system = np.block([[change, added[:, None]], [np.zeros((1, added.size + 1))]])
    exact = expm(system) @ np.append(case.plate.ravel(), 1.0)

    errors = []
    for steps in (4, 8, 16):
        short = case_like(case, of_stable=0.4 / steps).stencil
        errors.append(np.abs(advanced(case.plate, short, steps).ravel() - exact[:-1]).max())

    np.testing.assert_allclose(-np.diff(np.log2(errors)), 2, atol=0.1)


@both_versions
def test_a_sine_mode_decays_as_it_should_to_second_order_in_step_and_spacing(advance):
    errors = []
    for intervals in (16, 32, 64):
        y, x = np.linspace(0, np.pi, intervals + 1), np.linspace(0, np.pi, 2 * intervals + 1)
        mode = np.outer(np.sin(y), np.sin(2 * x))
        spacing = np.pi / intervals, np.pi / intervals / 2
        update = stencil(mode.shape, spacing, 0.4 / intervals, 0.5)

        result = advanced(mode, update, intervals, advance)

        errors.append(np.abs(result - np.exp(-5 * 0.5 * 0.4) * mode).max())
    np.testing.assert_allclose(-np.diff(np.log2(errors)), 2, atol=0.1)


@pytest.mark.thorough
@both_versions
def test_a_plate_of_varying_conductivity_settles_as_manufactured_to_second_order(advance):
    errors = []
    for intervals in (8, 16, 32):
        y, x = np.meshgrid(
            np.linspace(0, 1, intervals + 1), np.linspace(0, 2, intervals + 1), indexing="ij"
        )
        exact = np.sin(2 * x + y)  # T
        conductivity = 1 + x * y / 2  # k; q = -d/dx (k dT/dx) - d/dy (k dT/dy)
        source = 5 * conductivity * exact - (y + x / 2) * np.cos(2 * x + y)
        spacing, edges = (1 / intervals, 2 / intervals), [held()] * 4
        update = stencil(exact.shape, spacing, 0.05, conductivity, 1.0, edges, source)
        start = exact.copy()
        start[1:-1, 1:-1] = 0

        errors.append(np.abs(advanced(start, update, 600, advance) - exact).max())

    np.testing.assert_allclose(-np.diff(np.log2(errors)), 2, atol=0.15)


@every_case
def test_steps_of_a_thousand_times_the_explicit_limit_lead_to_the_steady_plate(case: Case):
    huge = case_like(case, of_stable=1000.0)
    if case.name.startswith(("insulated", "periodic")):  # with a source they get ever warmer
        update = huge.stencil._replace(source=np.zeros((0, 0)))
        mean = heat(case.plate, update) / heat(1.0, update)
        steady = np.full(case.plate.shape, mean)
    else:
        update = huge.stencil
        steady = settled(case.plate, update)

    plate, distances = case.plate.copy(), [np.abs(case.plate - steady).max()]
    for _ in range(20):
        advance(plate, update, 1000)
        distances.append(np.abs(plate - steady).max())

    assert max(distances) == distances[0]
    assert distances[-1] < 1e-9


def settled(plate, stencil):
    """The plate with L T + f = 0 at all nodes but the held ones."""
    change, added = change_of(stencil, plate.shape)
    free = np.any(change, axis=1)
    result = plate.ravel().copy()
    right = -added[free] - change[np.ix_(free, ~free)] @ result[~free]
    result[free] = np.linalg.solve(change[np.ix_(free, free)], right)
    return result.reshape(plate.shape)


def heat(plate, stencil):
    """The heat of a plate, were its heat capacity 1: nodes of open edges count half."""
    ny, nx = stencil.gain_x.shape[1], stencil.gain_y.shape[1]
    weights = np.ones((ny, nx))
    for side, kind in zip(
        (weights[0], weights[-1], weights[:, 0], weights[:, -1]), stencil.edges, strict=True
    ):
        side *= 0.5 if kind == OPEN else 1.0
    return float((weights * plate).sum())


@both_versions
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "edges", [[insulated()] * 4, [periodic()] * 4, [insulated()] * 2 + [periodic()] * 2]
)
def test_heat_is_kept_to_rounding_however_large_the_step(advance, edges, dtype):
    conductivity = np.random.default_rng(1).uniform(0.1, 1.5, (20, 33))
    large = case("insulated", (20, 33), edges, conductivity, of_stable=1000.0, dtype=dtype)
    warm = large.plate + dtype(300)

    result = advanced(warm, large.stencil, 500, advance)

    assert np.abs(result - warm).max() > 0.5
    kept = heat(warm.astype(float), large.stencil)
    rounding = 10 * float(np.finfo(dtype).eps)
    assert heat(result.astype(float), large.stencil) == pytest.approx(kept, rel=rounding)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_steady_plate_keeps_its_bits(dtype):
    plate = np.add.outer(np.arange(9), 2 * np.arange(14)).astype(dtype)
    update = stencil(plate.shape, (1.0, 1.0), 1e4, 1.0, dtype=dtype)

    np.testing.assert_array_equal(advanced(plate, update, 3), plate)


@every_case
def test_float32_gives_what_float64_gives_to_its_rounding(case: Case):
    exact = advanced(case.plate, case_like(case, of_stable=20.0).stencil, 5)
    single = case_like(case, of_stable=20.0, dtype=np.float32)

    result = advanced(single.plate, single.stencil, 5)

    assert result.dtype == np.float32
    np.testing.assert_allclose(result, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(3, 3), (7, 11), (40, 75), (150, 9)])
def test_threads_do_not_change_the_bits(shape, dtype):
    for one in cases(dtype, shape, of_stable=50.0):
        single = advanced(one.plate, one.stencil, 4)
        threaded = advanced(one.plate, one.stencil, 4, advance_parallel)

        np.testing.assert_array_equal(threaded, single, err_msg=one.name)


@every_case
def test_stopping_on_the_way_changes_nothing(case: Case):
    large = case_like(case, of_stable=10.0)

    in_two = advanced(advanced(case.plate, large.stencil, 2), large.stencil, 5)

    np.testing.assert_array_equal(in_two, advanced(case.plate, large.stencil, 7))
