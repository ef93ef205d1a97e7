"""One driver at a time on a store: its owner holds a lease, a file that it renews.

The files are ``.sweep/driver.N``; the highest N is the owner's, and N + 1 may be made only
where N is dead (see ``holder.py``).

Correctness never rests on a lease: blocks are committed as if there were none. It spares two
people the computing of the same points, and two processes the folding of the same tables.
"""

import os
import random
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sweep.durable import create_file, encode_json, file_system_time
from sweep.errors import StoreBusy, short_path
from sweep.store import Store
from sweep.store.holder import HOLD_SECONDS, Holder, is_at_work, renewing

MOST_TRIES = 100  # each fails only if somebody else came or went at that very moment
PAUSE_SECONDS = 0.05  # between two tries, at most

LEASE_NAME = re.compile(r"driver\.([0-9]+)")


@dataclass(frozen=True)
class Owner:
    """The driver that a store has now: "" and 0 where its lease cannot be read.

    `taken_seconds` and `renewed_seconds` are how long ago it took the store and was last
    seen; None if that is unknown, as in a store that one may only read.
    """

    host: str
    pid: int
    taken_seconds: float | None
    renewed_seconds: float | None

    @property
    def text(self) -> str:
        """Who it is, since when, and how long ago it was last seen."""
        who = f"pid {self.pid} on {self.host}" if self.pid else "an unknown process"
        since = f", since {_ago(self.taken_seconds)}" if self.taken_seconds is not None else ""
        return f"{who}{since}, last sign of life {_ago(self.renewed_seconds)}"


class Lease:
    """The hold that this process has on a store; as a context manager it lets go at the end."""

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self._token = token

    @classmethod
    def take(cls, store: Store, patience: float = 0.0) -> "Lease":
        """Become the one driver of a store, when it has none, within `patience` seconds.

        Raises
        ------
        StoreBusy
            If it has one: with host, pid and age of that, and what to do.
        """
        end = time.monotonic() + patience
        while True:
            try:
                return cls._take(store)
            except StoreBusy:
                if not time.monotonic() < end:
                    raise
                time.sleep(random.uniform(0.1, 0.5))

    @classmethod
    def _take(cls, store: Store) -> "Lease":
        for _ in range(MOST_TRIES):
            now = file_system_time(store.private)
            files = _lease_files(store.private)
            living = [file for file in files if _is_alive(file, now)]
            if living:
                raise StoreBusy(_refusal(store, _owner(living[-1], now)))
            number = 1 + max((file.number for file in files), default=0)
            lease = cls(store.private / f"driver.{number}", secrets.token_hex(8))
            if lease._settle(now):
                return lease
            time.sleep(random.uniform(0, PAUSE_SECONDS))
        raise StoreBusy(f"Several drivers start on {short_path(store.path)} at once. Try again.")

    def _settle(self, now: float) -> bool:
        """Write the file; give it up again if somebody else came meanwhile."""
        holder = Holder.here(now, self._token)
        try:
            with suppress(FileExistsError):  # the token tells whose it is
                create_file(self.path, encode_json(asdict(holder)))
            if self._is_alone():
                return True
        except BaseException:
            self.release()
            raise
        self.release()
        return False

    def _is_alone(self) -> bool:
        """Tell whether nobody else is alive, and if so clear the dead away.

        Somebody may have judged by what is long gone and made a file after ours, or before.
        """
        now = file_system_time(self.path.parent)
        others = [file for file in _lease_files(self.path.parent) if file.path != self.path]
        if not self.holds() or any(_is_alive(file, now) for file in others):
            return False
        for file in others:
            with suppress(OSError):  # not ours to remove; it is dead all the same
                file.path.unlink()
        return True

    def renew(self) -> None:
        """Show that this process is alive: to be called every `RENEW_SECONDS`."""
        with suppress(OSError):  # a disk that fails shows where it matters
            if self.holds():
                os.utime(self.path)

    def holds(self) -> bool:
        """Tell whether the store is still this process's: to be asked before its metadata change.

        After a long pause, somebody else may have taken it over.
        """
        files = _lease_files(self.path.parent)
        return bool(files) and files[-1].token == self._token

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Renew the lease again and again meanwhile, beside whatever else this process does."""
        with renewing(self.renew):
            yield

    def release(self) -> None:
        """Let go of the store; if somebody else has taken it over, nothing happens."""
        with suppress(OSError):  # it ends with this process in any case
            file = LeaseFile.read(self.path)
            if file and file.token == self._token:
                self.path.unlink()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def owner(store: Store) -> Owner | None:
    """Return the driver that a store has; None if it has none, or a dead one."""
    files = _lease_files(store.private)
    if not files:
        return None
    now = None
    with suppress(OSError):  # a store that one may only read
        now = file_system_time(store.private)
    living = [file for file in files if _is_alive(file, now)]
    return _owner(living[-1], now) if living else None


# --- what stands in the files ------------------------------------------------------------


@dataclass(frozen=True)
class LeaseFile:
    """A lease as it was found; `holder` is None if it is damaged."""

    path: Path
    number: int
    renewed: float
    holder: Holder | None

    @property
    def token(self) -> str:
        """What only its maker knows; "" if the file is damaged."""
        return self.holder.token if self.holder else ""

    @classmethod
    def read(cls, path: Path) -> "LeaseFile | None":
        """Return the lease at `path`; None if there is none."""
        name = LEASE_NAME.fullmatch(path.name)
        if name is None:
            return None
        try:
            holder = Holder.read(path)  # first: to open a file brings its age up to date on NFS
            return cls(path, int(name[1]), path.stat().st_mtime, holder)
        except FileNotFoundError:
            return None


def _lease_files(folder: Path) -> list[LeaseFile]:
    """Return the leases in a folder, the highest last."""
    found = (LeaseFile.read(path) for path in folder.glob("driver.*"))
    return sorted((file for file in found if file), key=lambda file: file.number)


def _is_alive(file: LeaseFile, now: float | None) -> bool:
    return is_at_work(file.holder, file.renewed, now)


# --- words -------------------------------------------------------------------------------


def _owner(file: LeaseFile, now: float | None) -> Owner:
    host, pid = (file.holder.host, file.holder.pid) if file.holder else ("", 0)
    taken = file.holder.taken if file.holder else None
    return Owner(host, pid, _since(taken, now), _since(file.renewed, now))


def _since(then: float | None, now: float | None) -> float | None:
    return None if then is None or now is None else max(0.0, now - then)


def _refusal(store: Store, found: Owner) -> str:
    stop = f" (kill {found.pid} on {found.host})" if found.pid else ""
    return (
        f"{short_path(store.path)} has a driver already: {found.text}. Wait for its end, stop "
        f"it{stop}, or join it with more workers: sweep run ... --join. If it is dead, "
        f"the store is free {HOLD_SECONDS / 60:.0f} minutes after its last sign of life."
    )


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "at a time that is unknown"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
