import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from pipelines.kernels import simd

kinds = pytest.mark.parametrize("kind", [np.float64, np.float32])


@njit(nogil=True)
def ones(out):
    width = simd.lanes(out)
    for row in range(width + 2):
        simd.store(out, row * width, simd.one_in(out, row - 1))


@njit(nogil=True)
def sums(numbers, at, pitch, out):
    simd.store(out, 0, simd.sums_of_lanes(numbers, at, pitch))


@njit(nogil=True)
def add_products(a, b, c):
    zero = simd.splat(a, 0.0)
    parts = simd.load_each(b, 1, (zero, zero, zero))
    before = simd.load_each(c, 2, (zero, zero, zero))
    simd.store_each(c, 2, simd.fma_each(simd.load(a, 0), parts, before))


@njit(nogil=True)
def exchange(numbers, at, pitch, out):
    simd.transpose(numbers, at, pitch, out, 0, simd.lanes(out))


@njit(nogil=True)
def copy(numbers, out):
    simd.store(out, 0, simd.load(numbers, 0))


@njit(nogil=True)
def copy_past_caches(numbers, out):
    first = simd.before_aligned(out, 0)
    for j in range(first, out.size - simd.lanes(out) + 1, simd.lanes(out)):
        simd.store_past_caches(out, j, simd.load(numbers, j))
    simd.fence()
    return first


@njit(nogil=True)
def first_of(array):
    return simd.start_of(array)[0]


@kinds
def test_one_is_in_a_lane_if_there_is_one(kind):
    width = 64 // np.dtype(kind).itemsize
    out = np.full((width + 2, width), np.nan, kind)

    ones(out.reshape(-1))

    np.testing.assert_array_equal(out, np.eye(width + 2, width, -1))


@kinds
def test_lane_k_is_the_sum_of_the_lanes_of_vector_k(kind):
    width = 64 // np.dtype(kind).itemsize
    table = np.random.default_rng(1).integers(0, 99, (width, 3 * width)).astype(kind)
    out = np.empty(width, kind)

    sums(table.reshape(-1), 5, 3 * width, out)

    np.testing.assert_array_equal(out, table[:, 5 : 5 + width].sum(axis=1))


@kinds
def test_vectors_of_a_tuple_are_multiplied_added_and_written_wherever_they_are(kind):
    width = 64 // np.dtype(kind).itemsize
    a, b, c = np.random.default_rng(2).integers(0, 99, (3, 4 * width)).astype(kind)
    expected = c.copy()
    expected[2 : 2 + 3 * width] += np.tile(a[:width], 3) * b[1 : 1 + 3 * width]

    add_products(a, b, c)

    np.testing.assert_array_equal(c, expected)


@kinds
def test_rows_and_columns_of_a_square_are_exchanged(kind):
    width = 64 // np.dtype(kind).itemsize
    table = np.random.default_rng(3).random((width, 2 * width)).astype(kind)
    out = np.empty((width, width), kind)

    exchange(table.reshape(-1), 3, 2 * width, out.reshape(-1))

    np.testing.assert_array_equal(out, table[:, 3 : 3 + width].T)


def test_numbers_of_another_kind_are_not_written():
    with pytest.raises(TypingError, match="take an array of its kind"):
        copy(np.ones(16), np.empty(16, np.float32))


def test_what_is_not_contiguous_has_no_start():
    assert first_of(np.arange(6.0)[2:]) == 2
    for strided in (np.ones((4, 4))[::2], np.ones((4, 4)).T):
        with pytest.raises(TypingError, match="contiguous"):
            first_of(strided)


@kinds
def test_vectors_go_past_the_caches_from_the_first_aligned_place_on(kind):
    width = 64 // np.dtype(kind).itemsize
    room = simd.aligned(5 * width, np.empty(0, kind))

    for skip in range(width + 1):
        room[:] = -1
        out, numbers = room[skip : skip + 4 * width], np.arange(4 * width).astype(kind)
        first = copy_past_caches(numbers, out)

        assert first == -skip % width
        end = first + (out.size - first) // width * width
        np.testing.assert_array_equal(out[first:end], numbers[first:end])
        assert (out[:first] == -1).all()
        assert (out[end:] == -1).all()


@kinds
def test_numbers_between_the_places_of_numbers_have_no_aligned_one(kind):
    size = np.dtype(kind).itemsize
    room = np.zeros(41 * size, np.uint8)
    out = room[size // 2 : size // 2 + 40 * size].view(kind)

    first = copy_past_caches(np.ones(40, kind), out)

    assert first > out.size
    assert (out == 0).all()
