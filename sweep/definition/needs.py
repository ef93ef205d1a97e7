"""Needs: what one point asks of a machine."""

import math
import re
from dataclasses import dataclass

from sweep.errors import DefinitionError

_MEMORY = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MEMORY |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Needs:
    """What one point needs of a machine.

    Parameters
    ----------
    cores
        Kernel threads, at least 1.
    memory
        E.g. ``"500 MB"`` or ``"2 GiB"``.
    minutes
        The longest that a point takes; 0 if unknown.
    gpus
        GPUs, 0 or more.
    """

    cores: int = 1
    memory: str = "1 GB"
    minutes: float = 0.0
    gpus: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.cores, int) or self.cores < 1:
            raise DefinitionError(f"Needs(cores={self.cores!r}): give a whole number, at least 1.")
        if not isinstance(self.gpus, int) or self.gpus < 0:
            raise DefinitionError(f"Needs(gpus={self.gpus!r}): give a whole number, 0 or more.")
        if not isinstance(self.minutes, (int, float)) or not 0 <= self.minutes < math.inf:
            raise DefinitionError(f"Needs(minutes={self.minutes!r}): give a number, 0 or more.")
        if self.memory_bytes < 1:
            raise DefinitionError(f"Needs(memory={self.memory!r}): give more than nothing.")

    @property
    def memory_bytes(self) -> int:
        """The memory in bytes."""
        match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]+)\s*", str(self.memory))
        try:
            assert match
            return int(float(match[1]) * _MEMORY[match[2].upper()])
        except (AssertionError, ValueError, KeyError):
            raise DefinitionError(
                f"Needs(memory={self.memory!r}) is not an amount of memory. Write e.g. '500 MB' "
                "or '2 GB'."
            ) from None
