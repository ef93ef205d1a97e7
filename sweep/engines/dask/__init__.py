"""Dask: a cluster of our own on this machine, or one that runs already; TLS always.

Dask is the courier. Each call is pinned to one worker that has nothing else to do, so a worker
runs one call at a time, its death loses one call and no innocent one, and what waits, waits
here and not in a scheduler that may die.
"""

from sweep.engines.dask.local import LocalDaskEngine as LocalDaskEngine
from sweep.engines.dask.remote import RemoteDaskEngine as RemoteDaskEngine
