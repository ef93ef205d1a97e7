"""Folder: what its file system does, tried out, and whether other machines see it."""

import mmap
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slurm.environment.check import Check
from sweep.durable import file_system_time, replace_file, sync_folder

MOUNTS = Path("/proc/self/mounts")
SHARED = re.compile(
    r"(fuse\.)?(nfs4?|lustre|gpfs|beegfs|ceph|glusterfs|panfs|wekafs|afs|orangefs)(_nodev|-fuse)?"
)
OF_ONE_MACHINE = ("tmpfs", "ramfs", "devtmpfs", "overlay")
TEMPORARY = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm")))  # each machine has its own
MOST_APART_SECONDS = 60.0


@dataclass(frozen=True)
class Mount:
    """Where a file system is mounted, and its kind: "nfs4", "lustre", "ext4"."""

    point: Path
    kind: str


def check_store(store: Path) -> list[Check]:
    """Look at the folder that a store is in, or will be."""
    folder = store
    try:
        folder = _nearest(store.absolute())
        cannot, ahead = _try_out(folder)
    except OSError as error:
        why = error.strerror or error
        text = f"nothing can be written in {folder}: {why}. Take another folder"
        return [Check("folder", False, text)]
    return [_able(folder, cannot), _clock(ahead)]


def _nearest(store: Path) -> Path:
    """Return the folder to try: the store's own for what is no data, or the nearest there is."""
    return next(one for one in (store / ".sweep", store, *store.parents) if one.is_dir())


def _able(folder: Path, cannot: dict[str, str]) -> Check:
    if not cannot:
        return check_place("folder", f"{folder} does what a store needs", folder)
    told = ", ".join(f"{what} ({why})" for what, why in cannot.items())
    text = f"{folder}: a store needs what does not work here: {told}. Take a folder on another disk"
    return Check("folder", False, text)


def _clock(ahead: float) -> Check:
    if abs(ahead) <= MOST_APART_SECONDS:
        return Check("clock", True, "files are dated as this machine would")
    how = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"
    text = f"the clock that dates files is {how} this machine's. Have them set right"
    return Check("clock", False, text)


def check_home() -> Check:
    """Look at the home folder: where a Dask cluster of several nodes has its keys."""
    try:
        home = Path.home()
        with tempfile.NamedTemporaryFile(dir=home, prefix=".check-") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except (OSError, RuntimeError) as error:
        return Check("home", False, f"it is no place for the keys of Dask: {error}")
    if mode & 0o077:
        text = f"{home} shows files of yours alone to others ({mode:o}): no place for keys of Dask"
        return Check("home", False, text)
    return check_place("home", f"{home} can be written", home)


def check_place(what: str, text: str, path: Path) -> Check:
    """Return a check that adds, to what is well with a path, whether other machines see it."""
    try:
        path = path.resolve()
        mount = mount_of(path, MOUNTS.read_text(errors="surrogateescape"))
    except OSError:  # no Linux
        mount = None
    kind = mount.kind if mount else "a file system of unknown kind"
    seen = seen_elsewhere(path, mount)
    if seen is None:
        return Check(what, True, f"{text}; on {kind}: whether nodes see it is for you to know")
    if seen:
        return Check(what, True, f"{text}; on {kind}, which nodes see")
    text += f", but is on {kind} of this machine: other nodes do not see it. Take one that they do"
    return Check(what, False, text)


def mount_of(path: Path, mounts: str) -> Mount | None:
    """Return what a path lies on: the longest that fits, of the text of ``/proc/self/mounts``."""
    found = None
    for line in filter(None, mounts.split("\n")):
        _, point, kind, *_ = line.split(" ")
        mount = Mount(Path(_unescaped(point)), kind)
        deeper = found is None or len(mount.point.parts) >= len(found.point.parts)
        if path.is_relative_to(mount.point) and deeper:  # of two on one point the later is seen
            found = mount
    return found


def _unescaped(point: str) -> str:
    r"""Return a path as it is; the kernel writes a space as ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)


def seen_elsewhere(path: Path, mount: Mount | None) -> bool | None:
    """Tell whether other machines see a path; None where its file system does not say."""
    if mount is not None and SHARED.fullmatch(mount.kind):
        return True
    if mount is not None and mount.kind in OF_ONE_MACHINE:
        return False
    return False if any(map(path.is_relative_to, TEMPORARY)) else None


# --- what a store does in a folder -------------------------------------------------------


def _try_out(folder: Path) -> tuple[dict[str, str], float]:
    """Do it, and leave nothing behind.

    Returns
    -------
    cannot
        What did not work, and why.
    ahead
        How far the clock that dates files is ahead of this machine's [s].

    Raises
    ------
    OSError
        If the folder cannot be written at all.
    """
    with tempfile.TemporaryDirectory(prefix=".check-", dir=folder) as name:
        place = Path(name)
        before = time.time()
        ahead = file_system_time(place) - (before + time.time()) / 2
        reasons = {what: _reason(place, probe) for what, probe in PROBES.items()}
    return {what: why for what, why in reasons.items() if why}, ahead


def _reason(place: Path, probe: Callable[[Path], bool]) -> str:
    """Return why a probe did not succeed, "" if it did."""
    try:
        return "" if probe(place) else "without an error, but wrongly"
    except OSError as error:
        return error.strerror or str(error)


def _creates_once(place: Path) -> bool:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(place / "once", flags))
    try:
        os.close(os.open(place / "once", flags))
    except FileExistsError:
        return True
    return False


def _renames(place: Path) -> bool:
    for content in (b"old", b"new"):
        replace_file(place / "renamed", content)
    return (place / "renamed").read_bytes() == b"new"


def _links_once(place: Path) -> bool:
    (place / "first").touch()
    (place / "second").hardlink_to(place / "first")
    try:
        (place / "second").hardlink_to(place / "first")
    except FileExistsError:
        return (place / "second").samefile(place / "first")
    return False


def _syncs(place: Path) -> bool:
    sync_folder(place)
    return True


def _maps(place: Path) -> bool:
    path = place / "mapped"
    path.write_bytes(b"old")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:] = b"new"
    return path.read_bytes() == b"new"


PROBES = {
    "creating a file that must not exist": _creates_once,
    "renaming over a file": _renames,
    "hard links": _links_once,
    "syncing a folder": _syncs,
    "memory maps": _maps,
}
