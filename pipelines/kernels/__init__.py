"""Numerical kernels: arrays and numbers in and out; they import numpy, numba and each other only.

| file | what it computes |
|---|---|
| `stencil.py` | heat conduction in a plate, discretised: what all heat kernels take |
| `heat.py`, `heat_implicit.py`, `heat_cuda.py` | explicit steps, large implicit steps, on a GPU |
| `conduction.py`, `wavefront.py` | of the explicit steps: formulas, order |
| `layout.py`, `rows.py` | of the explicit steps: where a plate stands, and each of its rows |
| `gravity.py`, `gravity_cuda.py` | self-gravitating bodies: all pairs; on a GPU |
| `tree.py`, `neighbours.py` | the same with distant bodies in lumps; of the nearest only |
| `boxes.py` | boxes around bodies, which these two walk |
| `forces.py`, `integrators.py` | which of these bodies follow, and how they are followed |
| `simd.py`, `words.py` | what numba lacks: vectors; words that threads share |
| `cuda_device.py` | whether there is a GPU |

Every kernel has a single-thread and a threaded version, which are two functions on purpose: one
Python function compiled twice would share one entry of numba's disk cache. Both give the same bits
for any number of threads: what is added to what, and in which order, does not depend on them.
"""
