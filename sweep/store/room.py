"""Whether a disk has room for what a run will write: asked before it starts.

Quotas are unknown here, and so is how far the data can be compressed: only what is hopeless
is refused.
"""

import os
from pathlib import Path

from sweep.errors import DiskError, short_path

BEST_COMPRESSION = 4  # the most to hope for: only what hardly varies shrinks further

REMEDY = "Free some space, or give a STORE on another disk."


def check_room(path: Path, data_bytes: int, files: int) -> str | None:
    """Return a warning if the disk of a store may not hold what is left to do, else None.

    Parameters
    ----------
    path
        The store; where it does not exist yet, the nearest folder that does counts.
    data_bytes
        What is to be written, before compression.
    files
        How many files that will be.

    Raises
    ------
    DiskError
        If it can hardly fit.
    """
    folder = _nearest(path.absolute())
    facts = os.statvfs(folder)
    where = short_path(folder)
    if facts.f_files and files > facts.f_favail:
        raise DiskError(
            f"{files:,} files are to be written; the disk of {where} has room for "
            f"{facts.f_favail:,} more (inodes). {REMEDY}"
        )
    free = facts.f_bavail * facts.f_frsize
    if not facts.f_blocks or data_bytes <= free:
        return None
    text = (
        f"{size_text(data_bytes)} of data are to be written, before compression; the disk of "
        f"{where} has {size_text(free)} left."
    )
    if data_bytes > BEST_COMPRESSION * free:
        raise DiskError(f"{text} {REMEDY}")
    return f"{text} It may fit when compressed."


def _nearest(path: Path) -> Path:
    """Return the folder that is, or will hold, `path`."""
    return next(folder for folder in (path, *path.parents) if os.access(folder, os.F_OK))


def size_text(count: int) -> str:
    """Return a number of bytes as a person would say it."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} GB" if amount < 1000 else f"{amount / 1000:.3g} TB"
