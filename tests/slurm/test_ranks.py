"""MPI ranks that srun starts on several nodes."""

import subprocess
import sys

from slurm.throwaway import Throwaway

# Addresses are followed by what lies behind them in memory: here by what cannot be made shorter.
NOISE_THEN_MPI = """
import ctypes, os
from sweep.engines.mpi.post import Post

memory = ctypes.CDLL(None)
memory.malloc.restype, memory.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
memory.free.argtypes = [ctypes.c_void_p]
places = []
for size in range(1200, 64, -16):
    for _ in range(2000):
        places.append(memory.malloc(size))
        ctypes.memmove(places[-1], os.urandom(size), size)
for place in places[::2]:
    memory.free(place)
post = Post()
print(post.rank, post.size)
"""


def test_ranks_on_two_nodes_find_each_other_whatever_lies_in_memory(cluster: Throwaway) -> None:
    srun = ["srun", "--mpi=pmi2", "--kill-on-bad-exit=1", "--nodes=2", "--ntasks=3"]

    done = subprocess.run(
        [*srun, sys.executable, "-P", "-c", NOISE_THEN_MPI],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert sorted(done.stdout.splitlines()) == ["0 3", "1 3", "2 3"], done.stderr
