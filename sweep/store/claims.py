"""Claims: who is at which block, so that several processes share a sweep without a master.

A claim is a file that one process alone can create, ``.sweep/claims/NN/BLOCK``; NN spreads them
over folders. It names its claimant, a process that hands out blocks, whose own file
``.sweep/claimants/NAME`` is renewed and tells whether it is at work still (see ``holder.py``).
The claims of the dead are void: whoever wants such a block takes it, and inherits what is known
of points at which workers died.

A void claim is not removed by its heir, since that might hit what somebody else has claimed
meanwhile: the heir creates the next one, ``BLOCK~1``, then ``BLOCK~2``, again as one alone can. The
highest counts. Who lets go of it removes the lowest first.

Correctness never rests on a claim: what two compute is committed once. It spares work.
"""

import json
import math
import os
import secrets
import shutil
import socket
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sweep.durable import encode_json, file_system_time, make_folders
from sweep.errors import StoreBusy, counted, short_path
from sweep.marks import read_marks
from sweep.plan import Block
from sweep.store import Store
from sweep.store.holder import (
    HOLD_SECONDS,
    Holder,
    JobEnded,
    is_at_work,
    known_at_work,
    nobody_knows,
    renewing,
)

FOLDERS = 64  # that claims are spread over
ONLY_BLOCK = "-"  # the file of a block whose name is empty
TRUST_SECONDS = 5.0  # that a look at another claimant holds good

State = Literal["no claim", "at work", "void"]  # void: nobody is at work, as far as can be known
NO_CLAIM: State = "no claim"
AT_WORK: State = "at work"
VOID: State = "void"


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

    def encode(self) -> bytes:
        """Return the claim as it stands in its file."""
        return encode_json({**vars(self), "deaths": dict(self.deaths)})

    @classmethod
    def read(cls, path: Path) -> "Claim | None":
        """Return the claim in a file; None if it is damaged.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        try:
            raw: dict[str, Any] = json.loads(path.read_bytes())
            deaths = Counter({int(point): int(n) for point, n in raw.pop("deaths").items()})
            found = cls(**raw, deaths=deaths)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        name = found.claimant
        is_name = isinstance(name, str) and name == Path(name).name and name[:1] not in ("", ".")
        is_sound = is_name and type(found.run) is int and type(found.attempts) is int
        return found if is_sound else None


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
        self._held: dict[str, list[Path]] = {}  # blocks: void claims on them, then the own one
        self._known: dict[str, tuple[float, bool]] = {}  # claimants: when seen, whether at work
        self._silent: set[str] = set()  # those of which nothing but their age speaks

    @contextmanager
    def open(self) -> Iterator["Claims"]:
        """Be a claimant meanwhile; in the end all that is held is let go of."""
        for folder in (self._file.parent, self.store.mark_folder, self.store.private / "claims"):
            make_folders(folder)
        try:
            self._enter()
            self.mark_folder.mkdir()
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
        return _claimant_file(self.store, self.name)

    def _enter(self) -> None:
        now = file_system_time(self._file.parent)
        _is_created(self._file, encode_json(asdict(Holder.here(now, self.name))))

    def _renew(self) -> None:
        with suppress(OSError):  # a disk that fails shows where it matters
            try:
                os.utime(self._file)
            except FileNotFoundError:  # somebody took this process for dead, after a long pause
                self.mark_folder.mkdir(exist_ok=True)
                self._enter()

    def take(self, block: Block, *, suspects: bool = True) -> Claim | None:
        """Claim a block; None if another process that is at work has it.

        Without `suspects`, none is taken at a point of which all of a process died.

        Raises
        ------
        OSError
            If nothing can be written.
        """
        claim = Claim(self.name, self.run)
        void: list[Path] = []
        for path in _files(self.store, block.name):
            found, state = self._look(path)
            if state == AT_WORK or (claim.deaths and not suspects):
                return None
            if state == VOID:
                void.append(path)
                if found and found.run == self.run:
                    claim = self._heir_of(found, block)
            elif _is_created(path, claim.encode()):
                if void and self._look(void[-1])[1] != VOID:  # another heir has come and gone
                    path.unlink()
                    return None
                self._held[block.name] = [*void, path]
                return claim
            else:  # somebody was quicker
                return None
        raise AssertionError("there is always another name")

    def release(self, block: Block) -> None:
        """Let go of a block, which is committed or given up."""
        self._release(block.name)

    def taken(self) -> set[str]:
        """Return the names of all blocks that have a claim, whosever, and void or not."""
        return claimed_names(self.store)

    def _release(self, name: str) -> None:
        paths = self._held.pop(name)
        with suppress(OSError):  # it is void when this process has ended
            if not _next_to(paths[-1]).exists():  # else this process was taken for dead
                _remove(*paths)

    def _look(self, path: Path) -> tuple[Claim | None, State]:
        return _look(path, self._is_at_work)

    def _is_at_work(self, claimant: str) -> bool:
        """Tell whether a claimant is at work, as far as that can be known, or was just now."""
        seen, known = self._known.get(claimant, (-math.inf, True))
        if time.monotonic() > seen + TRUST_SECONDS:
            known = self._look_at(self._file.with_name(claimant))
            self._known[claimant] = time.monotonic(), known
        return known

    def _look_at(self, claimant: Path) -> bool:
        try:
            holder, now = Holder.read(claimant), file_system_time(claimant.parent)
            known = known_at_work(holder, self._has_ended)
            if known is not None:
                return known
            self._silent.add(claimant.name)
            return is_at_work(holder, claimant.stat().st_mtime, now)
        except FileNotFoundError:
            return False

    def _heir_of(self, dead: Claim, block: Block) -> Claim:
        """Return a claim of this process that knows what happened to the one before.

        Of one that was only silent for long nobody knows that it has died: a disk that hung, say.
        """
        attempts, deaths = dead.attempts + 1, Counter(dead.deaths)
        marks = [
            mark
            for mark in read_marks(self.store.mark_folder / dead.claimant)
            if (mark.run, mark.block) == (self.run, block.number)
        ]
        if marks:  # those of earlier attempts are of workers that died alone
            last = max(marks, key=lambda mark: mark.attempt)
            attempts = max(attempts, last.attempt)
            deaths[last.point] += last.point >= 0 and dead.claimant not in self._silent
        return Claim(self.name, self.run, attempts, +deaths)


def claimants(store: Store, has_ended: JobEnded = nobody_knows) -> dict[str, Holder | None]:
    """Return the claimants of a store that are at work, by their names."""
    return {name: holder for name, holder, works in _all_claimants(store, has_ended) if works}


def claimed_names(store: Store) -> set[str]:
    """Return the names of all blocks that have a claim, whosever, and void or not."""
    return set(_all_claims(store))


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
            _claimant_file(store, name).unlink(missing_ok=True)
    for folder in store.mark_folder.glob("*"):
        if not _claimant_file(store, folder.name).exists():
            shutil.rmtree(folder, ignore_errors=True)
    for paths in _all_claims(store).values():
        _clear(paths, lambda name: _claimant_file(store, name).exists())


def _clear(paths: list[Path], works: Callable[[str], bool]) -> None:
    """Remove all claims on a block if they are void, as an heir would who lets go of it at once."""
    if all(_look(path, works)[1] == VOID for path in paths):
        last = _next_to(paths[-1])
        if _is_created(last, b""):  # for others, a claim that cannot be read and is young
            still = all(_look(path, works)[1] == VOID for path in paths)
            _remove(*(paths if still else ()), last)


def _look(path: Path, works: Callable[[str], bool]) -> tuple[Claim | None, State]:
    """Return a claim, None if it cannot be read, and what is known of it."""
    try:
        found = Claim.read(path)
        if found:
            return found, AT_WORK if works(found.claimant) else VOID
        now = file_system_time(path.parent)
        return None, AT_WORK if is_at_work(None, path.stat().st_mtime, now) else VOID
    except FileNotFoundError:
        return None, NO_CLAIM


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


def _claimant_file(store: Store, name: str) -> Path:
    return store.private / "claimants" / name


def _all_claims(store: Store) -> dict[str, list[Path]]:
    """Return the claims on each block that has any, by its name, the lowest first."""
    found: dict[str, list[Path]] = {}
    for folder in (store.private / "claims").glob("*"):
        with suppress(OSError):
            for path in folder.iterdir():
                if not path.name.startswith("."):  # NFS keeps so what is removed while it is read
                    name = path.name.partition("~")[0]
                    found.setdefault("" if name == ONLY_BLOCK else name, []).append(path)
    return {name: sorted(paths, key=_height) for name, paths in found.items()}


def _files(store: Store, name: str) -> Iterator[Path]:
    """Yield the files that may hold a claim on a block, the lowest first."""
    folder = zlib.crc32(name.encode()) % FOLDERS
    path = store.private / "claims" / f"{folder:02d}" / (name or ONLY_BLOCK)
    while True:
        yield path
        path = _next_to(path)


def _height(path: Path) -> int:
    """Return how many void claims there are below one."""
    number = path.name.partition("~")[2]
    return int(number) if number.isdecimal() else 0


def _next_to(path: Path) -> Path:
    return path.with_name(f"{path.name.partition('~')[0]}~{_height(path) + 1}")


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _is_created(path: Path, data: bytes) -> bool:
    """Create a file as one step, which need not survive a power cut; False if it is there.

    Raises
    ------
    OSError
        If that cannot be; nothing is left then.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(data)
        path.hardlink_to(partial)
    except FileExistsError:
        return path.exists() and path.samefile(partial)  # NFS: the first answer was lost
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        return _is_created(path, data)
    finally:
        partial.unlink(missing_ok=True)
    return True
