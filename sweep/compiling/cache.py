"""Compiled code on disk: a file for each function, signature and state of what it depends on.

A file's name is a hash of all of that, so nothing is ever changed in place: several processes may
save at once, and code of another state is not found. Files of states that are past stay until
there are too many bytes; those that were not used for longest go first.
"""

import hashlib
import os
import pickle
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FunctionType
from typing import Any

from sweep.compiling.clock import clock
from sweep.compiling.folder import cache_folder, is_ours_alone
from sweep.compiling.stamp import Stamp
from sweep.compiling.turn import PATIENCE_SECONDS, turn
from sweep.modules import is_of_study
from sweep.source import is_installed

MOST_BYTES = 2**28  # of all compiled code; a kernel's is some 50 kB
OLD_SECONDS = 3600.0  # nobody writes for so long
LONGEST_NAME = 80  # characters of a function's name in that of its files
# Of numba's settings, those that change what it makes of a function, and that its own key lacks.
SETTINGS = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUG")


class Entries:
    """The files of one function's compiled code: what numba calls an IndexDataCacheFile.

    Parameters
    ----------
    folder
        None: nothing is kept.
    name
        Of the function, for whoever looks into the folder.
    file
        That it stands in.
    stamp
        What it depends on.
    dumps
        Numba's own pickling.
    """

    def __init__(
        self,
        folder: Path | None,
        name: str,
        file: str,
        stamp: Stamp,
        dumps: Callable[[Any], bytes],
    ) -> None:
        self._folder, self._file, self._stamp, self._dumps = folder, file, stamp, dumps
        self._name = re.sub(r"[^\w.<>-]", "_", name)[:LONGEST_NAME]
        self._sought: dict[Any, Path] = {}  # by key: what is compiled is what was looked for

    def load(self, key: Any) -> Any:
        """Return what was saved under a key; None if nothing was."""
        if self._folder is None:
            return None
        entry = self._sought[key] = self._entry(self._folder, key)
        found = _read(entry, key)
        return _waited_for(entry, key) if found is None and clock.calls else found

    def save(self, key: Any, compiled: Any) -> None:
        """Keep what was compiled; without a word if there is no room."""
        if self._folder is None:
            return
        entry = self._sought.pop(key, None) or self._entry(self._folder, key)
        raw = self._dumps((_told(key), compiled))
        with suppress(OSError):
            _write(entry, hashlib.sha256(raw).digest() + raw)
            make_room(self._folder, MOST_BYTES)

    def flush(self) -> None:
        """Forget all that is kept of functions of this name."""
        if self._folder is not None:
            for entry in self._folder.glob("*.compiled"):
                if entry.name.rpartition("-")[0] == self._name:
                    entry.unlink(missing_ok=True)

    def _entry(self, folder: Path, key: Any) -> Path:
        """Return the file of a key, which has the signature and the processor in it."""
        words = [
            *_settings(),
            self._file,
            self._name,
            self._options(),
            self._stamp.now(),
            repr(_told(key)),
        ]
        digest = hashlib.sha256("\n".join(words).encode(errors="surrogatepass")).hexdigest()
        return folder / f"{self._name}-{digest[:32]}.compiled"

    def _options(self) -> str:
        """Return what the function's decorator asks for: fastmath, parallel."""
        if not clock.calls or clock.calls[-1].dispatcher.py_func is not self._stamp.function:
            return ""
        options = clock.calls[-1].dispatcher.targetoptions
        return re.sub(r" at 0x[0-9a-f]+", "", repr(sorted(options.items())))


def _told(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the signature and the processor of numba's key.

    The rest of it is the bytecode, which the stamp has, and the closure as a pickle, which differs
    from process to process where there is a compiled function in it.
    """
    return key[:2]


def _waited_for(entry: Path, key: Any) -> Any:
    """Return what another process compiles by now; None if it is for this one, which has a turn."""
    # Who is called by one that is compiled waits for nobody: two could wait for each other.
    patience = PATIENCE_SECONDS if len(clock.calls) == 1 else 0.0
    start = time.perf_counter()
    with ExitStack() as held:
        held.enter_context(turn(entry.with_suffix(".turn"), patience, entry.exists))
        found = _read(entry, key)
        if found is None:
            clock.calls[-1].held.enter_context(held.pop_all())
    clock.waited += time.perf_counter() - start
    return found


def _settings() -> list[str]:
    import llvmlite
    import numba

    versions = [numba.__version__, llvmlite.__version__, sys.version]
    return [*versions, *(f"{n}={getattr(numba.config, n, None)}" for n in SETTINGS)]


def _read(entry: Path, key: Any) -> Any:
    """Return what a file holds, if it is our own, whole, and of this very key."""
    try:
        with open(entry, "rb", opener=_open_ours) as file:
            checksum, raw = file.read(32), file.read()
        if hashlib.sha256(raw).digest() != checksum:
            return None
        found, compiled = pickle.loads(raw)
    except Exception:  # of a module that is gone, say: what cannot be read is compiled anew
        return None
    with suppress(OSError):  # of a disk that can only be read
        os.utime(entry)
    return compiled if found == _told(key) else None


def _open_ours(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NOFOLLOW)
    if is_ours_alone(os.fstat(handle)):
        return handle
    os.close(handle)
    raise PermissionError(f"{path} is not this user's alone.")


def _write(entry: Path, raw: bytes) -> None:
    entry.parent.mkdir(mode=0o700, exist_ok=True)
    partial = entry.with_suffix(f".{os.getpid()}-{time.monotonic_ns()}.partial")
    try:
        handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        partial.replace(entry)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def make_room(folder: Path, most: int) -> None:
    """Remove what was not used for longest, until no more than `most` bytes are left."""
    found = []
    for file in folder.iterdir():
        with suppress(OSError):  # another process is at the same
            facts = file.lstat()
            if file.suffix == ".compiled":
                found.append((facts.st_mtime, facts.st_size, file))
            elif time.time() - facts.st_mtime > OLD_SECONDS:
                file.unlink()
    left = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if left <= most:
            break
        with suppress(OSError):
            file.unlink()
        left -= size


class Locator:
    """Tells numba where compiled code of a function is kept, and what it depends on."""

    def __init__(self, function: FunctionType, file: str, wanted: str) -> None:
        self._py_file = file  # numba's own warnings name it
        self._stamp = Stamp(function)
        self.folder = cache_folder(wanted)
        if self.folder is None:
            where = wanted or "the folders for temporary files"
            warnings.warn(
                f"Compiled code is not kept: in {where} there is no sweep-{os.getuid()}-compiled "
                "that is yours alone, and none can be made. Remove what goes by that name, or set "
                "NUMBA_CACHE_DIR to a folder of your own.",
                stacklevel=2,
            )

    @classmethod
    def from_function(cls, function: FunctionType, file: str) -> "Locator | None":
        """Return the locator of a function of the user's; None leaves it to numba's own."""
        import numba

        path = Path(file)
        if path.suffix != ".py" or not path.is_file():
            return None
        if is_installed(path) and not is_of_study(function.__globals__):
            return None
        return cls(function, file, numba.config.CACHE_DIR)

    def ensure_cache_path(self) -> None:
        """Do nothing: the folder was made."""

    def get_cache_path(self) -> str:
        """Return the folder; empty if there is none."""
        return str(self.folder or "")

    def get_source_stamp(self) -> Stamp:
        """Return what the function depends on."""
        return self._stamp

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name apart."""
        return str(self._stamp.function.__code__.co_firstlineno)


def entries_or(original: type, dumps: Callable[[Any], bytes]) -> Callable[..., Any]:
    """Return what makes numba's cache files: ours for a function that our locator found."""

    def make(cache_path: str, filename_base: str, source_stamp: Any) -> Any:
        if not isinstance(source_stamp, Stamp):
            return original(cache_path, filename_base, source_stamp)
        folder = Path(cache_path) if cache_path else None
        file = source_stamp.function.__code__.co_filename
        return Entries(folder, filename_base, file, source_stamp, dumps)

    return make
