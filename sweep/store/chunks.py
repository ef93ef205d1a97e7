"""Chunk <-> bytes, as the Zarr v3 specification lays them down.

All writing is whole chunks in one encoding, and needs no more of Zarr than this page and the
next (``metadata.py``): it saves the import (0.5 s in each worker) and an event loop (4 ms
against 0.1 ms a block of three variables), and the bytes are at hand for a checksum and an
fsync. The chain is bytes (little endian) or vlen-utf8, blosc (lz4, level 5, byte shuffle),
crc32c. Zarr writes the same bytes for the same data, which a test holds us to.
"""

import struct
from functools import cache
from typing import Any

import google_crc32c
import numpy as np

LARGEST_CHUNK_BYTES = 2_000_000_000  # blosc holds less than 2 GiB


@cache
def _blosc() -> Any:
    from numcodecs.blosc import Blosc  # takes 0.1 s to import

    return Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE)


@cache
def _vlen_utf8() -> Any:
    from numcodecs.vlen import VLenUTF8

    return VLenUTF8()


class DamagedChunkError(ValueError):
    """The bytes of a chunk do not match their checksum."""


def chunk_name(index: tuple[int, ...], inner_dims: int) -> str:
    """Return the file name of the chunk at `index` on the swept dims, whole along the others.

    The separator is "." because "/" would make a folder for every chunk.
    """
    return ".".join(["c", *map(str, index), *["0"] * inner_dims])


def encode_chunk(data: np.ndarray, shape: tuple[int, ...], fill: Any) -> bytes:
    """Return the bytes of a chunk of `shape`; at an edge `data` is smaller and padded by fill."""
    is_text = data.dtype.kind in "UO"
    data = data.astype(object) if is_text else data
    if data.shape != shape:
        whole = np.full(shape, fill, data.dtype)
        whole[tuple(map(slice, data.shape))] = data
        data = whole
    plain = (
        _vlen_utf8().encode(data.ravel())
        if is_text
        else np.ascontiguousarray(data, data.dtype.newbyteorder("<"))
    )
    packed: bytes = _blosc().encode(plain)
    return packed + struct.pack("<I", google_crc32c.value(packed))


def decode_chunk(raw: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return the array of `shape` in the bytes of a chunk; texts as objects.

    Raises
    ------
    DamagedChunkError
        If the checksum is wrong, or right but of something else than a chunk of this shape.
    """
    check_chunk(raw)
    try:
        plain = _blosc().decode(raw[:-4])
        if dtype.kind == "U":
            texts: np.ndarray = _vlen_utf8().decode(plain)
            return texts.reshape(shape)
        return np.frombuffer(plain, dtype.newbyteorder("<")).reshape(shape)
    except (RuntimeError, ValueError) as error:
        raise DamagedChunkError(f"{len(raw)} bytes that are no chunk: {error}") from None


def check_chunk(raw: bytes) -> None:
    """Refuse the bytes of a chunk that do not match their checksum.

    Raises
    ------
    DamagedChunkError
        If they do not.
    """
    if struct.pack("<I", google_crc32c.value(raw[:-4])) != raw[-4:]:
        raise DamagedChunkError(f"{len(raw)} bytes with a wrong checksum")


def checksum_of(raw: bytes) -> int:
    """Return the crc32c that an encoded chunk ends in."""
    return int(struct.unpack("<I", raw[-4:])[0])
