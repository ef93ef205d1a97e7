"""The zarr.json files, as the Zarr v3 specification lays them down.

The root's holds the consolidated metadata of all below. Replacing it is the one switch that
shows readers anything new: until then they see the old shapes.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sweep.durable import replace_file, sync_folder
from sweep.store.chunks import chunk_name, decode_chunk
from sweep.template import POINT_NAMES, Array, Role

Attributes = dict[str, Any]


def array_metadata(array: Array, chunks: tuple[int, ...]) -> dict[str, Any]:
    """Return the metadata of an array in chunks of this shape, in our one encoding."""
    is_text = array.dtype.kind == "U"
    size = 1 if is_text else array.dtype.itemsize
    little = {"configuration": {"endian": "little"}} if size > 1 else {}
    blosc = {
        "typesize": size,
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "shuffle",
        "blocksize": 0,
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(array.shape),
        "data_type": "string" if is_text else array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": _fill(array),
        "codecs": [
            {"name": "vlen-utf8", "configuration": {}} if is_text else {"name": "bytes", **little},
            {"name": "blosc", "configuration": blosc},
            {"name": "crc32c"},
        ],
        "attributes": array.attrs,
        "dimension_names": list(array.dims),
        "storage_transformers": [],
    }


def _fill(array: Array) -> Any:
    if array.dtype.kind == "f":
        return "NaN" if np.isnan(array.fill) else float(array.fill)
    return array.fill


def write_array_metadata(folder: Path, array: Array, chunks: tuple[int, ...]) -> None:
    """Write an array's metadata into its folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder, array_metadata(array, chunks))


def fit_arrays(store: Path, sizes: Mapping[str, int]) -> None:
    """Give the arrays of a store these lengths along the dims that are named.

    A growth that was cut short may have left some of them longer than the sweep is.
    """
    for path in sorted(store.glob("*/zarr.json")):
        metadata = _read(path)
        if metadata["node_type"] == "array" and (fitted := _fitted(metadata, sizes)) != metadata:
            _replace(path.parent, fitted)


def read_arrays(
    store: Path, sizes: Mapping[str, int], outputs: Collection[str]
) -> tuple[Array, ...]:
    """Return the arrays of a store as they lie there, without values.

    Parameters
    ----------
    sizes
        The lengths of the swept dims.
    outputs
        Which of the arrays are outputs.
    """
    found = []
    for name, metadata in _arrays(store).items():
        other: Role = "point" if name in POINT_NAMES else "coordinate"
        role: Role = "output" if name in outputs else other
        found.append(_array(name, role, _fitted(metadata, sizes)))
    return tuple(found)


def _fitted(metadata: dict[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    lengths = zip(metadata["dimension_names"], metadata["shape"], strict=True)
    return {**metadata, "shape": [sizes.get(dim, n) for dim, n in lengths]}


def _array(name: str, role: Role, metadata: dict[str, Any]) -> Array:
    """Return the array of which this is the metadata: the inverse of `array_metadata`."""
    is_text = metadata["data_type"] == "string"
    dtype = np.dtype("U1" if is_text else metadata["data_type"])
    fill = np.nan if metadata["fill_value"] == "NaN" else metadata["fill_value"]
    dims, shape = tuple(metadata["dimension_names"]), tuple(metadata["shape"])
    return Array(name, role, dims, shape, dtype, fill, metadata["attributes"])


def read_chunk_shape(folder: Path) -> tuple[int, ...]:
    """Return the shape of an array's chunks."""
    return tuple(_read(folder / "zarr.json")["chunk_grid"]["configuration"]["chunk_shape"])


def with_values(store: Path, array: Array) -> Array:
    """Return an array with its values, read from its chunks, of which none may be missing.

    Raises
    ------
    DamagedChunkError
        If one is damaged.
    """
    folder, is_text = store / array.name, array.dtype.kind == "U"
    chunks = read_chunk_shape(folder)
    values = np.full(array.shape, array.fill, object if is_text else array.dtype)
    counts = (-(-n // length) for n, length in zip(array.shape, chunks, strict=True))
    for index in np.ndindex(*counts):
        chunk = decode_chunk((folder / chunk_name(index, 0)).read_bytes(), chunks, array.dtype)
        corner = tuple(i * length for i, length in zip(index, chunks, strict=True))
        reach = tuple(slice(low, low + n) for low, n in zip(corner, chunks, strict=True))
        part = values[reach or ...]  # "...": a view also where there are no dims
        part[...] = chunk[tuple(map(slice, part.shape))]
    return replace(array, data=values.astype(str) if is_text else values)


def read_attributes(store: Path) -> Attributes:
    """Return the root's attributes."""
    attributes: Attributes = _read(store / "zarr.json")["attributes"]
    return attributes


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of an array or group as they lie in its own folder."""
    return _read(folder / "zarr.json")


def read_consolidated(store: Path, node: str) -> dict[str, Any] | None:
    """Return the metadata that readers see of an array or group; None if they see none."""
    nodes = _read(store / "zarr.json")["consolidated_metadata"]["metadata"]
    found: dict[str, Any] | None = nodes.get(node)
    return found


def consolidate(
    store: Path, attributes: Attributes, groups: Mapping[str, Attributes] | None = None
) -> None:
    """Replace the root's zarr.json with these attributes and the metadata as it lies below.

    Each of `groups`, given with its attributes, gets consolidated metadata of its own, so that
    it opens alone.
    """
    nodes: dict[str, Any] = {}
    for name, own in (groups or {}).items():
        inside = _arrays(store / name)
        _replace(store / name, _group(own, inside))
        nodes[name] = _group(own, {})
        nodes |= {f"{name}/{array}": metadata for array, metadata in inside.items()}
    _replace(store, _group(attributes, _arrays(store) | nodes))


def _arrays(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.glob("*/zarr.json")):
        metadata = _read(path)
        if metadata["node_type"] == "array":
            found[path.parent.name] = metadata
    return found


def _group(attributes: Attributes, nodes: dict[str, Any]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": attributes,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": nodes},
    }


def _read(path: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(path.read_bytes())
    return metadata


def _replace(folder: Path, metadata: dict[str, Any]) -> None:
    text = json.dumps(metadata, ensure_ascii=False)
    replace_file(folder / "zarr.json", text.encode(errors="replace"))
    sync_folder(folder)
