"""What killed processes leave behind, in a store and beside it: temporary files, half-made stores.

Nothing reads them. What is young may still be at work; what is old is swept away.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sweep.durable import file_system_time

OLD_SECONDS = 3600.0  # a chunk is written in seconds, on a slow disk in minutes


def sweep_leftovers(path: Path) -> int:
    """Remove what is left over for an hour in and beside the store at `path`; return how much.

    What cannot be removed stays. A file is as old as the file system's own clock says.
    """
    path = path.absolute()
    try:
        limit = file_system_time(path) - OLD_SECONDS
    except OSError:  # a store that one may only read
        return 0
    partials = sum(_remove_file(file, limit) for file in _partials(path))
    return partials + sum(_remove(found, limit) for found in _half_made(path))


def _partials(path: Path) -> Iterator[Path]:
    """Yield the temporary files in a store; links are not followed."""
    for folder, _, names in os.walk(path):
        for name in names:
            if name.endswith(".partial") and name.startswith("."):
                yield Path(folder, name)


def _half_made(path: Path) -> list[Path]:
    """Return what was to become the store at `path`: ``.NAME.TOKEN.creating`` beside it.

    A token has no dots: the ones of NAME.zarr are none of NAME.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[^.]+\.creating")
    with suppress(OSError):
        return [found for found in path.parent.iterdir() if pattern.fullmatch(found.name)]
    return []


def _remove(path: Path, limit: float) -> bool:
    """Remove a file or a folder, with all that is in it, if all was left alone since `limit`."""
    if path.is_symlink() or not path.is_dir():
        return _remove_file(path, limit)
    if _last_change(path) >= limit:
        return False
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def _last_change(path: Path) -> float:
    """Return when anything last came into, or out of, a folder and those inside."""
    found = 0.0
    for folder, _, _ in os.walk(path):
        with suppress(OSError):
            found = max(found, os.lstat(folder).st_mtime)
    return found


def _remove_file(path: Path, limit: float) -> bool:
    """Remove a plain file that was not written to since `limit`; tell whether that was done."""
    with suppress(OSError):  # it vanished, or it is not ours to remove
        facts = path.lstat()
        if stat.S_ISREG(facts.st_mode) and facts.st_mtime < limit:
            path.unlink()
            return True
    return False
