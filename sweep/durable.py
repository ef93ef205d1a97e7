"""Bytes that survive a kill and a power cut: written beside, synced, then renamed.

A reader sees the old file or the new one, never a part. What a kill leaves behind is a file
that ends in ``.partial``, which nothing reads.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any


def encode_json(value: Any, **layout: Any) -> bytes:
    """Return a value as JSON; halves of surrogate pairs (odd file names) go as escapes."""
    return json.dumps(value, ensure_ascii=False, **layout).encode(errors="backslashreplace")


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` as one step; the folder itself is not synced (`sync_folder`)."""
    partial = _partial(path)
    try:
        _write(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def create_file(path: Path, data: bytes) -> None:
    """Create `path` with `data` as one step: nobody finds it there and empty.

    Raises
    ------
    FileExistsError
        If it is there already: of several that try, exactly one succeeds.
    """
    partial = _partial(path)
    try:
        _write(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, data)
        path.hardlink_to(partial)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def file_system_time(folder: Path) -> float:
    """Return the time now by the clock that dates the files in `folder` [s since 1970].

    That may be a server's; what this machine takes for the time is never asked.
    """
    probe = _partial(folder / "clock")
    try:
        probe.touch(exist_ok=False)
        os.utime(probe)  # a file server dates this itself, but not every creation
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def make_folders(path: Path) -> None:
    """Make a folder and those that it lies in, where they are not there, durably."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync_folder(folder.parent)


def append_to_file(path: Path, data: bytes) -> None:
    """Append `data` to `path`, which is created if need be, and sync it."""
    new = not path.exists()
    _write(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, data)
    if new:
        sync_folder(path.parent)


def _write(path: Path, flags: int, data: bytes) -> None:
    handle = os.open(path, flags, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Sync what another library wrote to `path`."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Make the names in a folder (new files, renames) durable."""
    sync_file(path)
