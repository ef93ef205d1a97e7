"""Run pytest on rank 0, with the other ranks serving it: what `mpiexec` starts in test_mpi.py."""

import sys

import pytest

from sweep.cli.ranks import on_ranks

sys.exit(on_ranks(lambda: int(pytest.main(sys.argv[1:]))))
