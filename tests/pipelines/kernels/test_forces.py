import numpy as np
import pytest
from numba import njit

from pipelines.kernels import forces


@njit(nogil=True)
def pulled(law, position, mass, out):
    forces.accelerations(law, position, mass, out)


@njit(nogil=True)
def pulled_by_threads(law, position, mass, out):
    forces.accelerations_parallel(law, position, mass, out)


@pytest.mark.parametrize(
    ("law", "error"),
    [
        (forces.DirectFloat32(0.05, 1.2), 1e-5),
        (forces.Neighbours(0.05, 1.2, 299), 1e-12),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_law_gives_the_same_bits_on_threads_and_what_all_pairs_give(law, error):
    rng = np.random.default_rng(12)
    position, mass = rng.normal(size=(300, 3)) + 7, rng.random(300)
    exact, single, threaded = np.empty((3, 300, 3))
    pulled(forces.Direct(0.05, 1.2), position, mass, exact)

    pulled(law, position, mass, single)
    pulled_by_threads(law, position, mass, threaded)

    np.testing.assert_array_equal(threaded, single)
    off = np.linalg.norm(single - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert off.max() < error


def test_laws_are_for_compiled_code():
    for accelerations in (forces.accelerations, forces.accelerations_parallel):
        with pytest.raises(NotImplementedError, match="a function that numba compiles"):
            accelerations(forces.Direct(0.1, 1.0), np.ones((2, 3)), np.ones(2), np.ones((2, 3)))
