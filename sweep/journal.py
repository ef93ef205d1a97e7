"""One append-only record file per worker: what was done, when, by whom, with which checksums.

Each line is ``crc32 json``, the checksum of the JSON text in eight hexadecimal digits. A
worker appends only to its own file and never to one that it did not begin, so a line torn by
a kill is the last of its file and is ignored. A line is written before the block's status, so
that a committed block always has its record; a record without a status is an attempt.
"""

import json
import os
import secrets
import socket
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sweep.durable import append_to_file, encode_json

Record = dict[str, Any]


class Journal:
    """The record file of one worker process, begun with its first record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begin()

    def _begin(self) -> None:
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.path = self.folder / f"{self.worker}.jsonl"

    def append(self, record: Record) -> None:
        """Write one record and sync it.

        After a failure (a full disk) the file may end in half a line; the next record begins
        another file.
        """
        self.extend([record])

    def extend(self, records: Iterable[Record]) -> None:
        """Write several records, and sync them together."""
        try:
            append_to_file(self.path, b"".join(map(encode_line, records)))
        except OSError:
            self._begin()
            raise


def encode_line(record: Record) -> bytes:
    """Return the line that stands for a record."""
    text = encode_json(record, separators=(",", ":"))
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode_line(line: bytes) -> Record | None:
    """Return the record of a line; None if it is torn or damaged."""
    checksum, space, text = line.rstrip(b"\n").partition(b" ")
    if not space or checksum != b"%08x" % zlib.crc32(text):
        return None
    record: Record = json.loads(text)
    return record


def read_from(path: Path, offset: int) -> Iterator[tuple[Record, int]]:
    """Yield the whole records of a file from byte `offset` on, and where each ends."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    for line in data.splitlines(keepends=True):
        offset += len(line)
        if line.endswith(b"\n") and (record := decode_line(line)) is not None:
            yield record, offset


def order_of(record: Record) -> tuple[int, int]:
    """Return what the attempts at one block are ordered by; clocks jump, and differ."""
    return int(record["run"]), int(record["attempt"])


def is_carried(record: Record) -> bool:
    """Tell whether a record came from another store: its block, "", is none of this one.

    Where it was is told by "carried": the name of its block there.
    """
    return "carried" in record


def is_final(record: Record) -> bool:
    """Tell whether a record was true when it was written, whatever becomes of its block."""
    return is_carried(record) or record.get("status") == "copied"


def recent_records(folder: Path, bytes_each: int = 50_000) -> Iterator[Record]:
    """Yield the last records of computing in each file, if they are within so many bytes."""
    for path in journals(folder):
        for record, _ in read_from(path, max(0, path.stat().st_size - bytes_each)):
            if record.get("status") != "copied":
                yield record


def journals(folder: Path) -> Iterator[Path]:
    """Yield the record files of a store, in the order of their names."""
    yield from sorted(folder.glob("*.jsonl"))
