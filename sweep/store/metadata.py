"""The root's zarr.json: attributes and the consolidated metadata of all below, in one file.

Replacing it is the one switch that shows readers anything new: until then they see the old
shapes. Readers get everything from it in one read.
"""

import json
from pathlib import Path
from typing import Any

from sweep.durable import replace_file, sync_folder

Attributes = dict[str, Any]


def read_attributes(store: Path) -> Attributes:
    """Return the root's attributes."""
    attributes: Attributes = _read(store / "zarr.json")["attributes"]
    return attributes


def read_consolidated(store: Path, node: str) -> dict[str, Any] | None:
    """Return the metadata that readers see of an array or group; None if they see none."""
    nodes = _read(store / "zarr.json")["consolidated_metadata"]["metadata"]
    found: dict[str, Any] | None = nodes.get(node)
    return found


def consolidate(store: Path, attributes: Attributes, groups: tuple[str, ...] = ()) -> None:
    """Replace the root's zarr.json with these attributes and the metadata as it lies below.

    Each of `groups` gets consolidated metadata of its own, so that it opens alone.
    """
    nodes: dict[str, Any] = {}
    for name in groups:
        inside = _arrays(store / name)
        group = _group(_read(store / name / "zarr.json")["attributes"], inside)
        _replace(store / name, group)
        nodes[name] = _group(group["attributes"], {})
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
    replace_file(folder / "zarr.json", json.dumps(metadata, ensure_ascii=False).encode())
    sync_folder(folder)
