"""A real SLURM on one machine, to try batch jobs on and to throw away.

It runs as root or as any ordinary user, whose jobs then run as that user alone. It needs no
systemd, no database and nothing in /etc. All that it writes lies in one folder of its own; its
nodes are virtual: each is a slurmd with a port of its own, which may say that it has more CPUs
and memory than the machine. Nothing is enforced but the time limit.

>>> cluster = Throwaway.start(Path("/tmp/slurm"))  # doctest: +SKIP
>>> cluster.run("sbatch", "--parsable", "--wrap", "hostname")  # doctest: +SKIP
>>> cluster.stop(purge=True)  # doctest: +SKIP
"""

from slurm.throwaway.cluster import Throwaway as Throwaway
from slurm.throwaway.errors import CannotStart as CannotStart
from slurm.throwaway.errors import ProgramsMissing as ProgramsMissing
from slurm.throwaway.errors import ThrowawayError as ThrowawayError
from slurm.throwaway.processes import until as until
