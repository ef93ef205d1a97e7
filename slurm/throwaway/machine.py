"""What a throw-away SLURM needs of the machine: programs, a user, an address, ports."""

import os
import pwd
import random
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from slurm.throwaway.errors import CannotStart, ProgramsMissing

INSTALL = "apt-get install --no-install-recommends slurm-wlm munge libpmix-dev"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "squeue", "sbatch", "srun", "scancel")
PORTS = range(12_000, 32_000)  # below those that Linux gives away


def need_programs(path: str) -> None:
    """Refuse to go on without the programs of SLURM.

    Raises
    ------
    ProgramsMissing
        Some are not in the folders of `path`.
    """
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if missing:
        raise ProgramsMissing(f"Not installed: {', '.join(missing)}. Install them: {INSTALL}")


def who_and_where() -> tuple[str, str, str]:
    """Return our user's name, this machine's, and the IPv4 address that the latter stands for.

    Raises
    ------
    CannotStart
        One of them is not known to the system.
    """
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise CannotStart(
            f"The user {os.getuid()} has no name here, and SLURM needs one: a line in /etc/passwd."
        ) from None
    name = socket.gethostname()
    try:
        return user, name.partition(".")[0], socket.gethostbyname(name)
    except OSError as error:
        raise CannotStart(
            f"The name of this machine, {name!r}, has no address ({error.strerror}), and SLURM"
            f" needs one: a line '127.0.1.1 {name}' in /etc/hosts."
        ) from None


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Find ports that nobody has, and keep others from them until the daemons have them.

    Raises
    ------
    CannotStart
        There are not so many.
    """
    held: list[socket.socket] = []
    try:
        for port in random.sample(PORTS, 1000):
            one = socket.socket()
            held.append(one)
            try:
                one.bind(("", port))  # to keep it only: nobody listens
            except OSError:
                held.pop().close()
                continue
            # SLURM sets this too: it may then bind this port as well, as nobody listens yet.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if len(held) == count:
                break
        else:
            raise CannotStart(f"There are no {count} free ports.")
        yield [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()
