"""Whatever a function does: a defined outcome, a message that tells, and no harm to the next."""

import re
import warnings
from pathlib import Path

import pytest
import xarray as xr

from sweep.options import Options
from sweep.plan import Grid
from sweep.progress import Quiet
from sweep.run import create_with, execute
from sweep.study import load_study

STUDY = Path(__file__).parent / "studies" / "manners.py"

FAIL = {
    "exit": ("SystemExit", "3"),
    "interrupt": ("KeyboardInterrupt", ""),
    "raise": ("KeyError", "'missing'"),
    "stop": ("StopIteration", r"manners.py:\d+"),
    "wrong names": ("OutputError", "returned Other; it declares a NamedTuple with number, field"),
    "dict": ("OutputError", "returned dict; it declares a NamedTuple with number, field"),
    "none": ("OutputError", "returned NoneType; it declares a NamedTuple"),
    "shape": ("OutputError", r"'field' with shape \(4,\); the pipeline declares x=3"),
    "complex": ("OutputError", "'field' as complex128, which does not fit the float64"),
    "text": ("OutputError", "'number' as text, which does not fit the float64"),
    "generator": ("OutputError", "'field' as a generator; a stage returns numbers"),
    "objects": ("OutputError", "'field' as objects: a NoneType among them; .* of numbers"),
    "huge": ("OutputError", "'number' as a whole number of more than 64 bits"),
}
SAY = {
    "warn": ("warned", "RuntimeWarning", r"careful \[.*manners.py:\d+\]"),
    "warn again": ("warned", "RuntimeWarning", r"careful \[.*manners.py:\d+\]"),
    "log": ("logged", "WARNING", "model: step 3"),
}
PRINT = {"print": "hello", "print in C": "from far below"}


@pytest.fixture(scope="module", params=["serial", "processes", "dask"])
def swept(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, xr.Dataset, xr.Dataset]:
    """All deeds, in one block so that one follows the other in one process."""
    on: str = request.param
    study = load_study(str(STUDY))
    deeds = study.pipeline.axes[0].columns[0].tolist()
    if on == "serial":  # this process's own is not to be closed
        deeds = [deed for deed in deeds if not deed.startswith("close")]
    path = tmp_path_factory.mktemp("manners") / "s.zarr"
    bound = study.pipeline.with_values(deed=deeds)
    create_with(bound, study, path, Grid((len(deeds),), (len(deeds),)))
    workers = None if on == "serial" else 1
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as at a prompt; here they are errors
        summary = execute(bound, study, path, Options(on, workers), Quiet())
    assert summary.tally.left == 0
    events = xr.open_zarr(path, group="events").load()
    return on, xr.open_zarr(path).load().set_index(deed="deed"), events


Swept = tuple[str, xr.Dataset, xr.Dataset]


def test_each_point_is_done_or_failed_as_it_should(swept: Swept) -> None:
    _, dataset, _ = swept
    failed = dataset.deed.values[dataset.status.values == 2].tolist()
    assert sorted(failed) == sorted(FAIL)
    done = dataset.sel(deed=[d for d in dataset.deed.values if d not in FAIL and d != "nan"])
    assert (done.status == 1).all()
    assert (done.number == 1.0).all()
    assert (done.field == [0.0, 1.0, 2.0]).all()
    assert dataset.sel(deed="nan").number.isnull()
    assert dataset.sel(deed="nan").status == 1


def test_a_message_says_which_value_was_wrong_and_where(swept: Swept) -> None:
    _, dataset, events = swept
    for deed, (kind, text) in FAIL.items():
        (own,) = rows(dataset, events, deed, "failed")
        assert own[0] == kind
        assert re.search(text, own[1]), own[1]
        assert kind != "OutputError" or f"At deed='{deed}'" in own[1]


def test_warnings_and_log_lines_are_kept_with_each_point(swept: Swept) -> None:
    _, dataset, events = swept
    for deed, (kind, error_type, text) in SAY.items():
        (own,) = rows(dataset, events, deed, kind)
        assert own[0] == error_type
        assert re.fullmatch(text, own[1]), own[1]


def test_what_a_worker_prints_is_kept_with_its_point(swept: Swept) -> None:
    on, dataset, events = swept
    for deed, text in PRINT.items():
        expected = [] if on == "serial" else [("", text)]
        assert rows(dataset, events, deed, "printed") == expected


def rows(dataset: xr.Dataset, events: xr.Dataset, deed: str, kind: str) -> list[tuple[str, str]]:
    """Return type and text of the events of one kind at one deed."""
    place = dataset.deed.values.tolist().index(deed)
    chosen = events.isel(event=(events.index_deed == place) & (events.kind == kind))
    return list(zip(chosen.error_type.values.tolist(), chosen.error.values.tolist(), strict=True))
