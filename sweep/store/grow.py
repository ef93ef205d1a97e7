"""Growing a store in place: chunks are added, none that a reader may know is changed.

Two renames switch from the old sweep to the longer one: that of ``.sweep/header.json`` for the
engine, then that of the root's metadata for readers. What a growth that was cut short before
the first has left is never looked at; what is missing after it, the next fold does.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sweep.definition import Axis
from sweep.definition.specification import Specification, specification_hash
from sweep.durable import replace_file, sync_folder
from sweep.store import PRIVATE, Header, Store
from sweep.store.chunks import chunk_name, encode_chunk
from sweep.store.create import encode_axes
from sweep.store.metadata import fit_arrays, read_attributes, read_chunk_shape
from sweep.store.tables import Tables
from sweep.template import Array


def append_in_place(
    store: Store, spec: Specification, axes: Sequence[Axis], coordinates: Sequence[Array]
) -> Store:
    """Make a sweep longer at the far end of one axis or several, and return its store.

    Every block that there is must be full along the dims that grow: then only new chunks are
    written, and readers with an older handle see what they saw.

    Parameters
    ----------
    store
        Nobody else may write to it.
    spec
        The longer sweep's specification.
    axes
        Its axes; along each the old values come first.
    coordinates
        The swept parameters on the axes that grow, each with all values, old and new.

    Raises
    ------
    OSError
        If it cannot be written; doing it again then, or resuming, comes to a right end.
    """
    for array in coordinates:
        _append_values(store.path / array.name, array, store.header.sizes[array.dims[0]])
    header = replace(
        store.header,
        specification=spec,
        shape=tuple(len(axis) for axis in axes),
        axes_file=_next_axes_file(store.header),
    )
    private = store.path / PRIVATE
    replace_file(private / header.axes_file, encode_axes(axes))
    sync_folder(private)
    fit_arrays(store.path, header.sizes)
    replace_file(private / "header.json", header.encode())
    sync_folder(private)
    grown = Store(store.path)
    Tables(grown).fold()
    return grown


def publish(store: Store) -> None:
    """Show readers the sweep as the header has it, where a growth was cut short before that."""
    told = read_attributes(store.path).get("sweep_spec_hash")
    if told != specification_hash(store.header.specification):
        Tables(store).fold()


def _next_axes_file(header: Header) -> str:
    numbers = re.findall(r"\d+", header.axes_file)
    return f"axes-{int(numbers[-1]) + 1}.npz"


def _append_values(folder: Path, array: Array, old: int) -> None:
    """Write the values of a 1-D coordinate from place `old` on; those before stay as they are."""
    (length,) = read_chunk_shape(folder)
    assert array.data is not None
    for number in range(old // length, -(-array.shape[0] // length)):
        values = array.data[number * length : (number + 1) * length]
        raw = encode_chunk(values, (length,), array.fill)
        replace_file(folder / chunk_name((number,), 0), raw)
    sync_folder(folder)
