import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.kernels import heat

both_versions = pytest.mark.parametrize("advance", [heat.advance, heat.advance_parallel])
plates = arrays(np.float64, (6, 9), elements=st.floats(-1e3, 1e3))
mixings = st.floats(0.01, 0.25)
step_counts = st.integers(0, 20)


def advanced(advance, plate, mixing, steps):
    result = plate.copy()
    advance(result, mixing, steps)
    return result


def sine_mode(intervals):
    side = np.linspace(0.0, np.pi, intervals + 1)
    return np.outer(np.sin(side), np.sin(side))


@both_versions
def test_one_update_is_the_five_point_formula(advance):
    plate = np.random.default_rng(1).normal(size=(5, 7))
    expected = plate.copy()
    for i in range(1, 4):
        for j in range(1, 6):
            around = plate[i + 1, j] + plate[i - 1, j] + plate[i, j - 1] + plate[i, j + 1]
            expected[i, j] = 0.15 * around + (1 - 4 * 0.15) * plate[i, j]

    np.testing.assert_allclose(advanced(advance, plate, 0.15, 1), expected, rtol=0, atol=1e-15)


@both_versions
def test_a_sine_mode_decays_by_the_factor_of_the_scheme(advance):
    factor = 1 - 8 * 0.2 * np.sin(np.pi / 2 / 24) ** 2

    result = advanced(advance, sine_mode(24), 0.2, 500)

    np.testing.assert_allclose(result, factor**500 * sine_mode(24), rtol=0, atol=1e-13)


@both_versions
def test_the_error_against_the_exact_solution_falls_with_the_square_of_the_spacing(advance):
    errors = []
    for intervals in (16, 32, 64):
        steps = intervals**2 // 8  # the same time for all
        time = 0.25 * steps * (np.pi / intervals) ** 2
        result = advanced(advance, sine_mode(intervals), 0.25, steps)
        errors.append(np.abs(result - np.exp(-2 * time) * sine_mode(intervals)).max())

    orders = -np.diff(np.log2(errors))

    assert ((orders > 1.9) & (orders < 2.1)).all()


@both_versions
@given(plates, plates, st.floats(-10, 10), mixings, step_counts)
def test_the_update_is_linear_in_the_temperatures(advance, one, other, factor, mixing, steps):
    together = advanced(advance, factor * one + other, mixing, steps)
    apart = factor * advanced(advance, one, mixing, steps) + advanced(advance, other, mixing, steps)

    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-12 * 1e4)


@both_versions
@given(plates, mixings, step_counts)
def test_no_node_gets_warmer_or_colder_than_all_were(advance, plate, mixing, steps):
    result = advanced(advance, plate, mixing, steps)

    rounding = 1e-14 * (steps + 1) * np.abs(plate).max()
    assert result.min() >= plate.min() - rounding
    assert result.max() <= plate.max() + rounding


@both_versions
@given(plates, mixings, step_counts)
def test_mirrored_and_transposed_plates_give_the_same_bits(advance, plate, mixing, steps):
    result = advanced(advance, plate, mixing, steps)

    for turned in (np.flipud, np.fliplr, np.transpose):
        image = advanced(advance, np.ascontiguousarray(turned(plate)), mixing, steps)
        np.testing.assert_array_equal(image, turned(result))


@both_versions
@given(plates, mixings, st.integers(0, 10), st.integers(0, 10))
def test_stopping_on_the_way_changes_nothing(advance, plate, mixing, first, second):
    at_once = advanced(advance, plate, mixing, first + second)
    in_two = advanced(advance, advanced(advance, plate, mixing, first), mixing, second)

    np.testing.assert_array_equal(in_two, at_once)
