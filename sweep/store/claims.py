"""Claims: who is at which block, so that several processes share a sweep without a master.

A claim is a file that one process alone can create, ``.sweep/claims/NN/BLOCK``; NN spreads them
over folders. It names its claimant, a process that hands out blocks, whose own file
``.sweep/claimants/NAME`` is renewed and tells whether it is at work still (see ``holder.py``).
The claims of the dead are void: whoever wants such a block takes it, and inherits what is known
of points at which workers died.

Correctness never rests on a claim: what two compute is committed once. It spares work.
"""

import json
import os
import secrets
import shutil
import socket
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sweep.durable import encode_json, file_system_time, make_folders
from sweep.errors import StoreBusy, counted, short_path
from sweep.marks import read_marks
from sweep.plan import Block
from sweep.store import Store
from sweep.store.holder import HOLD_SECONDS, Holder, JobEnded, is_at_work, nobody_knows, renewing

FOLDERS = 64  # that claims are spread over
ONLY_BLOCK = "-"  # the file of a block whose name is empty
TRUST_SECONDS = 5.0  # that a look at another claimant holds good


@dataclass(frozen=True)
class Claim:
    """What stands in a claim: whose it is, and what came before it in the same run.

    `attempts` counts those at the block, `deaths` the processes that died at each of its
    points, counted in C order, when all of their claimant died.
    """

    claimant: str
    run: int
    attempts: int = 0
    deaths: Counter[int] = field(default_factory=Counter)

    @classmethod
    def read(cls, path: Path) -> "Claim | None":
        """Return the claim in a file; None if it is not written yet, or damaged.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
            deaths = Counter({int(point): int(n) for point, n in found.pop("deaths").items()})
            return cls(**found, deaths=deaths)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


class Claims:
    """The claims of this process on the blocks of a store.

    Parameters
    ----------
    store
        That exists.
    run
        Number of the run that blocks are computed in.
    has_ended
        Tells what is known of batch jobs.
    """

    def __init__(self, store: Store, run: int, has_ended: JobEnded = nobody_knows) -> None:
        self.store, self.run = store, run
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._has_ended = has_ended
        self._held: set[str] = set()
        self._known: dict[str, tuple[float, bool]] = {}  # claimants: when seen, whether at work

    @contextmanager
    def open(self) -> Iterator["Claims"]:
        """Be a claimant meanwhile; in the end all that is held is let go of."""
        make_folders(self.mark_folder)
        make_folders(self._file.parent)
        (self.store.private / "claims").mkdir(exist_ok=True)
        now = file_system_time(self._file.parent)
        _create(self._file, encode_json(asdict(Holder.here(now, self.name))))
        try:
            with renewing(self._renew):
                yield self
        finally:
            for name in list(self._held):
                self._release(name)
            shutil.rmtree(self.mark_folder, ignore_errors=True)
            with suppress(OSError):  # it is dead without, too
                self._file.unlink()

    @property
    def mark_folder(self) -> Path:
        """The folder of the marks of this claimant's workers."""
        return self.store.mark_folder / self.name

    @property
    def _file(self) -> Path:
        return self.store.private / "claimants" / self.name

    def _renew(self) -> None:
        with suppress(OSError):  # a disk that fails shows where it matters
            os.utime(self._file)

    def take(self, block: Block) -> Claim | None:
        """Claim a block; None if another process that is at work has it.

        Raises
        ------
        OSError
            If nothing can be written.
        """
        claim = Claim(self.name, self.run)
        path = _path(self.store, block.name)
        if self._create(path, block, claim):
            return claim
        try:
            found = Claim.read(path)
            if not self._is_void(path, found):
                return None
        except FileNotFoundError:  # it was let go of just now
            found = None
        if found and found.run == self.run:
            claim = self._heir_of(found, block)
        path.unlink(missing_ok=True)
        return claim if self._create(path, block, claim) else None

    def release(self, block: Block) -> None:
        """Let go of a block, which is committed or given up."""
        self._release(block.name)

    def taken(self) -> set[str]:
        """Return the names of all blocks that have a claim, whosever, and void or not."""
        return {"" if path.name == ONLY_BLOCK else path.name for path in _claims(self.store)}

    def _create(self, path: Path, block: Block, claim: Claim) -> bool:
        try:
            _create(path, encode_json(asdict(claim)))
        except FileExistsError:
            return False
        self._held.add(block.name)
        return True

    def _release(self, name: str) -> None:
        self._held.discard(name)
        with suppress(OSError):  # it is void when this process has ended
            _path(self.store, name).unlink()

    def _is_void(self, path: Path, claim: Claim | None) -> bool:
        """Tell whether nobody is at work on a claim, as far as that can be known."""
        if claim is None:  # being written, or what a full disk left of it
            now = file_system_time(self._file.parent)
            return not is_at_work(None, path.stat().st_mtime, now)
        seen, known = self._known.get(claim.claimant, (0.0, True))
        if time.monotonic() > seen + TRUST_SECONDS or not seen:
            file = self._file.with_name(claim.claimant)
            known = _claimant_is_at_work(file, file_system_time(file.parent), self._has_ended)
            self._known[claim.claimant] = time.monotonic(), known
        return not known

    def _heir_of(self, dead: Claim, block: Block) -> Claim:
        """Return a claim of this process that knows what happened to the one before."""
        attempts, deaths = dead.attempts + 1, Counter(dead.deaths)
        for mark in read_marks(self.store.mark_folder / dead.claimant):
            if (mark.run, mark.block) == (self.run, block.number):
                attempts = max(attempts, mark.attempt)
                if mark.point >= 0:
                    deaths[mark.point] += 1
        return Claim(self.name, self.run, attempts, deaths)


def claimants(store: Store, has_ended: JobEnded = nobody_knows) -> dict[str, Holder | None]:
    """Return the claimants of a store that are at work, by their names."""
    return {name: holder for name, holder, works in _all_claimants(store, has_ended) if works}


def refuse_while_claimed(store: Store) -> None:
    """Refuse what changes the blocks of a store while processes are at work on them.

    Raises
    ------
    StoreBusy
        With who they are.
    """
    found = claimants(store)
    if found:
        first = next((holder.text for holder in found.values() if holder), "an unknown one")
        raise StoreBusy(
            f"{counted(len(found), 'process')} at work on {short_path(store.path)} ({first}). "
            "Wait for the end, or stop it: for batch jobs, sweep cancel. What shows no sign of "
            f"life counts as ended after {HOLD_SECONDS / 60:.0f} minutes."
        )


def clear_the_dead(store: Store, has_ended: JobEnded = nobody_knows) -> None:
    """Remove claimants that are not at work any more, their marks, and claims without a claimant.

    For who holds the store's lease, between two runs: nobody inherits from them then.
    """
    for name, _, works in _all_claimants(store, has_ended):
        if not works:
            shutil.rmtree(store.mark_folder / name, ignore_errors=True)
            (store.private / "claimants" / name).unlink(missing_ok=True)
    now = None
    for path in _claims(store):
        with suppress(FileNotFoundError):
            claim = Claim.read(path)
            if claim:
                is_void = not (store.private / "claimants" / claim.claimant).exists()
            else:
                now = now or file_system_time(store.private)
                is_void = not is_at_work(None, path.stat().st_mtime, now)
            if is_void:
                path.unlink()


def _all_claimants(store: Store, has_ended: JobEnded) -> Iterator[tuple[str, Holder | None, bool]]:
    folder = store.private / "claimants"
    if not folder.is_dir():
        return
    now = None
    with suppress(OSError):  # a store that one may only read
        now = file_system_time(store.private)
    for file in folder.iterdir():
        if not file.name.startswith("."):
            with suppress(FileNotFoundError):
                holder = Holder.read(file)
                yield file.name, holder, is_at_work(holder, file.stat().st_mtime, now, has_ended)


def _claimant_is_at_work(file: Path, now: float, has_ended: JobEnded) -> bool:
    try:
        return is_at_work(Holder.read(file), file.stat().st_mtime, now, has_ended)
    except FileNotFoundError:
        return False


def _claims(store: Store) -> Iterator[Path]:
    for folder in (store.private / "claims").glob("*"):
        with suppress(OSError):
            yield from folder.iterdir()


def _path(store: Store, name: str) -> Path:
    """Return the file of the claim on a block."""
    folder = zlib.crc32(name.encode()) % FOLDERS
    return store.private / "claims" / f"{folder:02d}" / (name or ONLY_BLOCK)


def _create(path: Path, data: bytes) -> None:
    """Create a file that need not survive a power cut.

    Raises
    ------
    FileExistsError
        If it is there.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        os.write(handle, data)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
