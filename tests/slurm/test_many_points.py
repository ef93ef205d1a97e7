"""Sweeps of many points in a block on a real SLURM: what fits into a job, and what comes out."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from desk import INCOMPLETE, SOME_FAILED, Desk

POINTS = 4000
FAILING = (17, 800, 1600, 2400, 3900)  # in several blocks


def write_study(desk: Desk, body: str, needs: str = "") -> Path:
    """Write a study of `POINTS` quick points in few blocks."""
    study = desk.folder / "study.py"
    study.write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "from typing import Annotated\n"
        "from sweep import Axis, Needs, Pipeline, Var\n"
        f"def double(a: int) -> Annotated[float, Var(())]:\n    {body}\n    return 2.0 * a\n"
        f"pipeline = Pipeline(double, axes=[Axis('a', range({POINTS}))], needs=Needs({needs}))\n"
    )
    return study


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        ("time.sleep(0.0005)", "minutes=5"),
        pytest.param(
            "time.sleep(4 if a == 17 and 'SLURM_JOB_ID' in os.environ else 0.0005)",
            "",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_one_point_may_take_does_not_keep_a_block_from_beginning(
    desk: Desk, body: str, needs: str
) -> None:
    study = write_study(desk, body, needs)

    desk.submit("s.zarr", "--elements", 2, study=study)

    desk.wait_for_end("s.zarr")
    found = xr.open_zarr(desk.folder / "s.zarr").load()
    assert (found.status == 1).all()
    np.testing.assert_array_equal(found.double, 2.0 * np.arange(POINTS))
    assert len(list((desk.folder / "s.zarr" / "status").glob("c*"))) < POINTS / 10
    assert len(desk.store("s.zarr").read_run(1)["jobs"]) == 3, "nothing was submitted again"


def test_values_that_do_not_come_out_again_are_left_to_a_person(desk: Desk) -> None:
    study = write_study(
        desk,
        "if Path('again').exists():\n        return 2.0 * a + 0.5\n"
        f"    if a in {FAILING}:\n        raise ValueError('not yet')\n"
        "    time.sleep(0.0005)",
    )
    desk.sweep("run", study, "s.zarr", "--on", "serial", code=SOME_FAILED)
    before = xr.open_zarr(desk.folder / "s.zarr").load()
    (desk.folder / "again").touch()

    desk.submit("s.zarr", "--retry-failed", "--elements", 2, study=study)

    desk.wait(desk.is_quiet)
    assert desk.runs("s.zarr")[2] == "incomplete"
    found = xr.open_zarr(desk.folder / "s.zarr").load()
    was_done = (before.status == 1).values
    assert was_done.sum() == POINTS - len(FAILING)
    np.testing.assert_array_equal(found.double[was_done], before.double[was_done])
    assert set(found.status.values[was_done].tolist()) == {1, 4}
    logs = [log.read_text() for log in (desk.folder / "s.zarr.jobs/logs").iterdir()]
    assert len([log for log in logs if "points that were done did not come out the same" in log])
    assert len(desk.store("s.zarr").read_run(2)["jobs"]) == 3, "nothing was submitted again"
    assert "stale" in desk.sweep("status", "s.zarr", code=INCOMPLETE)

    desk.submit("s.zarr", "--elements", 1, study=study)  # a person's word

    desk.wait(desk.is_quiet)
    assert desk.runs("s.zarr")[3] == "complete"
    found = xr.open_zarr(desk.folder / "s.zarr").load()
    assert (found.status == 1).all()
    np.testing.assert_array_equal(found.double % 1 == 0.5, np.isin(found.run, (2, 3)))
    assert found.double[17] == 34.5
