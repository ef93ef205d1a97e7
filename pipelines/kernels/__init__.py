"""Numerical kernels: arrays and numbers in and out; they import numpy and numba only.

Every kernel has a single-thread and a threaded version, which are two functions on purpose: one
Python function compiled twice would share one entry of numba's disk cache. Both give the same bits
for any number of threads, because each row or body is computed by one thread, in a fixed order.
"""
