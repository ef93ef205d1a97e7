"""The folder of a throw-away SLURM: which one may serve, who works on it, and what is removed.

A folder is used only if it was made here, which a file in it of our own tells. It is removed
file by file of ours: what anybody else has put there stays, and so does then the folder.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from slurm.throwaway.errors import ThrowawayError
from slurm.throwaway.processes import until
from sweep.errors import disk_error

MARKER = ".throwaway-slurm"  # the lock, too
OURS = ("run", "log", "state", "spool", "tmp", "slurm.conf", "env.sh", "munge.key")
# Linux allows 107 bytes to a socket's path; slurmd adds /spool/NODE/NODE_JOB.STEP.
LONGEST = 70
PLAIN = re.compile(r"[A-Za-z0-9._/+@~-]+")  # means nothing to slurm.conf or a shell
ANOTHER = "Take another, /tmp/slurm say."
LOCK_SECONDS = 60.0


def check_path(folder: Path) -> None:
    """Refuse a folder whose path SLURM cannot take.

    Raises
    ------
    ThrowawayError
        It holds what means something to slurm.conf, or is too long.
    """
    path = str(folder)
    if not PLAIN.fullmatch(path):
        raise ThrowawayError(
            f"SLURM cannot work in {path!r}: a folder's path may hold A-Z a-z 0-9 . _ + @ ~ -"
            f" only. {ANOTHER}"
        )
    if len(path) > LONGEST:
        raise ThrowawayError(
            f"{path} has {len(path)} characters; sockets in it would have more than Linux allows,"
            f" and {LONGEST} is the most. {ANOTHER}"
        )


def check_ours(folder: Path) -> None:
    """Refuse a folder that was not made here; it need not be there.

    Raises
    ------
    ThrowawayError
        It was not, or by another user.
    DiskError
        It cannot be looked into.
    """
    if not os.path.lexists(folder):
        return
    with writing(folder):
        is_ours = until((folder / MARKER).is_file, 0.5)  # whoever makes it now marks it next
        owner = folder.stat().st_uid
    if not is_ours:
        raise ThrowawayError(
            f"{folder} was not made for a throw-away SLURM, so that it is left alone. Name a"
            " folder that is not there yet, /tmp/slurm say."
        )
    if os.getuid() not in (0, owner):
        raise ThrowawayError(f"{folder} belongs to another user. {ANOTHER}")


@contextmanager
def locked(folder: Path, *, make: bool) -> Iterator[None]:
    """Keep others from starting or stopping in a folder, which is made if it may be.

    Raises
    ------
    ThrowawayError
        Another works on it for long.
    DiskError
        It cannot be written.
    """
    with writing(folder):
        lock = until(lambda: _take(folder, make), LOCK_SECONDS)
    if lock is None:
        raise ThrowawayError(
            f"Another start or stop of {folder} takes longer than {LOCK_SECONDS:g} s."
        )
    with lock:
        yield


def _take(folder: Path, make: bool) -> IO[str] | None:
    """Return the lock, or None while another has it or removes it."""
    marker = folder / MARKER
    if make:
        with suppress(FileExistsError):
            folder.mkdir(parents=True, mode=0o700)
            folder.chmod(0o755)  # whatever the umask: munged refuses where others may write
            marker.touch(exist_ok=False)
    lock = None
    with suppress(BlockingIOError, FileNotFoundError):
        lock = marker.open("r+")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), marker.stat()):
            return lock
    if lock:
        lock.close()
    return None


def remove(folder: Path) -> None:
    """Remove what is ours, by the holder of the lock; the folder too, if nothing else is there.

    Raises
    ------
    ThrowawayError
        The folder is not ours.
    DiskError
        It cannot be written.
    """
    check_ours(folder)
    with writing(folder):
        for name in OURS:
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if {file.name for file in folder.iterdir()} == {MARKER}:
            (folder / MARKER).unlink()
            with suppress(OSError):  # somebody has just put something there
                folder.rmdir()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell in words what the disk refuses in a folder.

    Raises
    ------
    DiskError
        In the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, f"{folder} cannot be written", ANOTHER) from error
