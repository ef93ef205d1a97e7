"""docs/format.md says enough: its reader, which knows nothing of ours, reads what we write."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from sweep.journal import journals, read_from
from sweep.options import Options
from sweep.plan import Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute
from sweep.store import Store
from sweep.study import Study

PAGE = (Path(__file__).parents[1] / "docs" / "format.md").read_text()


@pytest.fixture
def reader() -> Any:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"__name__": "reader"}
    exec(text, names)
    return SimpleNamespace(**names)


@pytest.fixture
def store(everything: Study, tmp_path: Path) -> Store:
    """A store whose blocks do not fit the axes: those at the edges are padded."""
    store = create_with(
        everything.pipeline, everything, tmp_path / "s.zarr", Grid((2, 3, 2), (1, 2, 2))
    )
    execute(everything.pipeline, everything, store.path, Options("serial"), Quiet())
    return store


def test_its_reader_finds_every_value_and_status(reader: Any, store: Store) -> None:
    dataset = xr.open_zarr(store.path).load()
    points = 0
    for corner, status, values in reader.read_blocks(store.path):
        where = tuple(slice(c, c + n) for c, n in zip(corner, status.shape, strict=True))
        np.testing.assert_array_equal(status, dataset.status.values[where])
        assert set(values) == set(store.header.specification["outputs"])
        for name, found in values.items():
            np.testing.assert_array_equal(found, dataset[name].values[where])
        points += status.size
    assert points == store.grid.points


def test_its_reader_finds_the_lines_of_the_journals_and_no_torn_one(
    reader: Any, store: Store
) -> None:
    (path,) = journals(store.journal_folder)
    ours = [record for record, _ in read_from(path, 0)]
    with path.open("ab") as file:
        file.write(b"00000000 {}\n1234")
    assert list(reader.read_journals(store.path)) == ours
    assert len(ours) == store.grid.blocks


def test_it_names_every_file_of_the_private_folder_and_every_key_of_a_record(store: Store) -> None:
    files = {re.sub(r"\d+", "N", path.name) for path in store.private.iterdir()}
    for name in files:
        assert f"`{name}" in PAGE, name
    (path,) = journals(store.journal_folder)
    record = next(iter(read_from(path, 0)))[0]
    for key in record:
        assert f"`{key}`" in PAGE or key.endswith("_seconds"), key
