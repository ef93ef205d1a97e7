"""Run as a script with NUMBA_NUM_THREADS set, this prints one line of digests per thread count."""

import hashlib

import numba
import numpy as np
from elsewhere import lines_of

from pipelines.kernels import forces, gravity, heat, integrators
from pipelines.kernels.layout import NARROW
from pipelines.kernels.stencil import stencil


def test_threaded_kernels_give_the_bits_of_the_single_thread_ones_for_any_thread_count():
    # A process of its own, because numba allows no more threads than it was started with.
    single, *threaded = lines_of(__file__, NUMBA_NUM_THREADS="5")

    assert threaded == [single] * 5


def digests(advance_heat, accelerations, potentials, compose, hermite):
    rng = np.random.default_rng(5)
    plate, position, velocity = rng.random((37, 41)), rng.random((53, 3)), rng.random((53, 3))
    mass, acceleration, potential = rng.random(53), np.empty((53, 3)), np.empty(53)
    wide = rng.random((400, 8 * NARROW + 9))  # in more than one band, from three threads on
    advance_heat(plate, stencil(plate.shape, (1.0, 1.0), 0.23, 1.0), 11)
    advance_heat(wide, stencil(wide.shape, (1.0, 1.0), 0.23, 1.0), 11)
    accelerations(position, mass, 0.01, 1.1, acceleration)
    potentials(position, mass, 0.01, 1.1, potential)
    many, masses, pulls = rng.random((1000, 3)), rng.random(1000), np.empty((1000, 3))
    accelerations(many, masses, 0.01, 1.1, pulls)  # of more blocks than there are threads
    kept, history = np.array([7]), np.empty((2, 1, 53, 3))
    law, step, histories = forces.Direct(0.01, 1.1), (0.01, integrators.YOSHIDA), (*history,)
    compose(position, velocity, mass, law, *step, kept, *histories)
    hermite(position, velocity, mass, 0.1, 1.1, 0.02, 0.03, kept // 3, *histories)
    results = (plate, wide, acceleration, potential, pulls, position, velocity, history)
    return [hashlib.sha256(result.tobytes()).hexdigest() for result in results]


if __name__ == "__main__":
    print(
        digests(
            heat.advance,
            gravity.accelerations,
            gravity.potentials,
            integrators.compose,
            integrators.hermite,
        )
    )
    for threads in range(1, 6):
        numba.set_num_threads(threads)
        print(
            digests(
                heat.advance_parallel,
                gravity.accelerations_parallel,
                gravity.potentials_parallel,
                integrators.compose_parallel,
                integrators.hermite_parallel,
            )
        )
