import numpy as np
import pytest
from numba import cuda
from random_plates import Case, cases, updated

from pipelines.kernels import heat_cuda
from pipelines.kernels.cuda_device import IS_SIMULATED
from pipelines.kernels.stencil import stacked

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not cuda.is_available(),
        reason="needs a CUDA device: pytest -m gpu where there is one (test_cuda.py simulates it)",
    ),
    # What is tiny enough to test is too little for a GPU, as numba rightly says.
    pytest.mark.filterwarnings("ignore:Grid size"),
]

SHAPE = (5, 8) if IS_SIMULATED else (150, 201)  # of more than one tile
SMALL = (4, 7) if IS_SIMULATED else (48, 50)  # fits into shared memory
every_case = pytest.mark.parametrize("case", cases(shape=SHAPE), ids=repr)
ROUNDING = {np.float64: 1e-13, np.float32: 1e-5}


def same(result, expected, dtype=np.float64):
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=0, atol=ROUNDING[dtype])


@every_case
def test_a_plate_is_advanced_as_the_formula_says(case: Case):
    plate = case.plate.copy()

    heat_cuda.advance(plate, case.stencil, 4)

    same(plate, updated(case.plate, case.stencil, 4))


def test_a_plate_in_float32_is_advanced_in_float32():
    for case in cases(np.float32, SHAPE)[1::2]:
        plate = case.plate.copy()

        heat_cuda.advance(plate, case.stencil, 4)

        same(plate, updated(case.plate, case.stencil, 4), np.float32)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", range(14), ids=lambda case: cases()[case].name)
def test_many_small_plates_are_advanced_each_by_its_own_update(case, dtype):
    each = [cases(dtype, SMALL, of_stable)[case] for of_stable in (0.9, 0.4)]
    plates = np.stack([each[0].plate, 2 * each[1].plate])
    expected = [updated(p, c.stencil, 3) for p, c in zip(plates, each, strict=True)]

    heat_cuda.advance_many(plates, stacked([c.stencil for c in each]), 3)

    same(plates, expected, dtype)


@pytest.mark.parametrize("most_runs", [1, 65_535])
def test_many_large_plates_are_advanced_each_by_its_own_update(monkeypatch, most_runs):
    monkeypatch.setattr(heat_cuda, "SHARED_BYTES", 0)  # as if they were larger
    monkeypatch.setattr(heat_cuda, "MOST_RUNS", most_runs)
    each = [cases(shape=SMALL, of_stable=of_stable)[13] for of_stable in (0.9, 0.4)]
    plates = np.stack([each[0].plate, 2 * each[1].plate])
    expected = [updated(p, c.stencil, 4) for p, c in zip(plates, each, strict=True)]

    heat_cuda.advance_many(plates, stacked([c.stencil for c in each]), 4)

    same(plates, expected)


def test_frames_are_kept_on_the_way():
    case = cases(shape=SHAPE)[7]
    plate, frames = case.plate.copy(), np.empty((3, *SHAPE))

    heat_cuda.history(plate, case.stencil, np.array([0, 2, 7]), frames)

    same(frames, [updated(case.plate, case.stencil, steps) for steps in (0, 2, 7)])
    np.testing.assert_array_equal(frames[0], case.plate)
    np.testing.assert_array_equal(frames[-1], plate)


def test_stopping_on_the_way_changes_nothing():
    case = cases(shape=SHAPE)[7]
    at_once, in_two = case.plate.copy(), case.plate.copy()

    heat_cuda.advance(at_once, case.stencil, 7)
    heat_cuda.advance(in_two, case.stencil, 2)
    heat_cuda.advance(in_two, case.stencil, 5)

    np.testing.assert_array_equal(in_two, at_once)


def test_no_runs_are_advanced_to_no_runs():
    case = cases(shape=SMALL)[0]
    plates = np.empty((0, *SMALL))

    heat_cuda.advance_many(plates, stacked([case.stencil] * 2), 3)

    assert plates.shape == (0, *SMALL)
