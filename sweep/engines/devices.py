"""Devices: which GPUs are ours, and which of them each worker has.

They go by the names that SLURM, a person or the driver has for them: an index, ``GPU-...``, or
``MIG-...`` for a part of one. Counting from 0 would take those of somebody else.
"""

import os
import re
import subprocess
from collections.abc import Sequence

from sweep.errors import EngineError

VARIABLE = "CUDA_VISIBLE_DEVICES"
Share = tuple[str, ...]  # the devices of one worker; empty: what there is, or none
PATIENCE_SECONDS = 60.0  # with a driver that wakes its devices


def usable_devices() -> list[str]:
    """Return the devices that this process may use, by name."""
    given = os.environ.get(VARIABLE)
    return _on_machine() if given is None else _given(given)


def _given(text: str) -> list[str]:
    """Return the devices of a list, up to the first that is none, as CUDA does; each once."""
    found = []
    for name in map(str.strip, text.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name):
            break
        found.append(name)
    return list(dict.fromkeys(found))


def _on_machine() -> list[str]:
    """Return the devices that the driver shows; of a GPU in parts, the parts."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=PATIENCE_SECONDS
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found: list[str] = []
    for name in re.findall(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)", listed):
        if name.startswith("MIG") and found and found[-1].startswith("GPU"):
            found.pop()  # the whole, of which this is the first part
        found.append(name)
    return found


def shares(devices: Sequence[str], gpus: int) -> list[Share]:
    """Divide devices among workers, `gpus` to each; what is left over is nobody's."""
    starts = range(0, len(devices) - gpus + 1, gpus)
    return [tuple(devices[start : start + gpus]) for start in starts]


def shares_here(gpus: int) -> list[Share]:
    """Return the shares of the workers that this process may start, one at least.

    Raises
    ------
    EngineError
        If there are too few devices for one, or they are parts of GPUs and it needs several.
    """
    devices = usable_devices()
    if gpus > 1 and any(name.startswith("MIG-") for name in devices):
        raise EngineError(
            f"A point needs gpus={gpus}, and this machine shows parts of GPUs, of which CUDA gives "
            f"a process one alone: {', '.join(devices)}. Ask for whole GPUs."
        )
    if found := shares(devices, gpus):
        return found
    given = os.environ.get(VARIABLE)
    source = "nvidia-smi --list-gpus" if given is None else f"{VARIABLE}={given!r}"
    raise EngineError(
        f"A point needs gpus={gpus}, and this machine shows {', '.join(devices) or 'none'} "
        f"({source}). Run where there are enough; in SLURM, in a job that asks for them."
    )


def share_of(number: int, gpus: int) -> Share:
    """Return the devices of the worker `number` (0, 1, ...) of those that are on this machine.

    They divide what they see in its order. If SLURM shows this one fewer devices than the job
    has here (``--gpus-per-task``), those are its own.

    Raises
    ------
    EngineError
        If none are left for it.
    """
    found = shares_here(gpus)
    if len(usable_devices()) < int(os.environ.get("SLURM_GPUS_ON_NODE", "0")):
        return found[0]
    if number >= len(found):
        raise EngineError(
            f"A point needs gpus={gpus}, and this machine shows {', '.join(usable_devices())}: "
            f"there are none for worker number {number + 1} here."
        )
    return found[number]
