"""Where compiled code is kept: on a disk of this machine, in a folder of the user's alone.

Whoever can write there has this user run what they like. So a folder that is another's, or that
others may write to, is not used; and of each file that is read the owner is looked at again.
"""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

# Other than /tmp it outlives a reboot, and a batch job, whose TMPDIR often goes with it. Other than
# the home folder it is no file server's.
LASTING = Path("/var/tmp")


def cache_folder(wanted: str) -> Path | None:
    """Return the folder of compiled code, made if need be; None if there is none to trust.

    Parameters
    ----------
    wanted
        The folder to make it in: NUMBA_CACHE_DIR. It may be one that was filled before, and can
        only be read by now. Empty: a folder of this machine's.
    """
    parents = [Path(wanted)] if wanted else [LASTING, Path(tempfile.gettempdir())]
    needed = os.R_OK if wanted else os.W_OK
    for parent in parents:
        folder = parent.absolute() / f"sweep-{os.getuid()}-compiled"
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=bool(wanted), exist_ok=True)
            if is_ours_alone(folder.lstat()) and os.access(folder, needed | os.X_OK):
                return folder
    return None


def is_ours_alone(facts: os.stat_result) -> bool:
    """Tell whether a folder or a plain file is this user's, and nobody else may write to it."""
    is_plain = stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode)
    return is_plain and facts.st_uid == os.getuid() and not facts.st_mode & 0o022
