"""An array, a Dask allocation and an MPI job each give what a local serial run gives."""

from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from desk import SOME_FAILED, Desk

import sweep

PIPELINES = Path(__file__).parents[2] / "pipelines"
# Six points each, of which those of one value fail.
HEAT: dict[str, Any] = {
    **{"diffusivity": [-1e-6, 17.7e-6, 117e-6], "t_top": [60.0, 300.0]},
    **{"nx": 12, "steps": 60, "frames": 5},
}
NBODY: dict[str, Any] = {
    **{"softening": [-1.0, 0.01, 0.1], "seed": [0, 1], "dt": 0.02},
    **{"steps": 12, "n": 8, "frames": 4},
}
WAYS = {"array": ("--elements", 2), "dask": ("--workers", 2), "mpi": ("--workers", 2)}
NOT_COMPARED = ("run", "point_seconds")


@pytest.mark.parametrize(
    ("name", "values"), [("heat_flow", HEAT), pytest.param("nbody", NBODY, marks=pytest.mark.slow)]
)
def test_a_sweep_by_an_array_by_dask_and_by_mpi_equals_the_local_one(
    desk: Desk, name: str, values: dict[str, Any]
) -> None:
    desk.write_site('directives = ["--spread-job"]\n')  # over both nodes
    study = PIPELINES / f"{name}.py"
    words = [
        f"{name}={','.join(map(str, v)) if isinstance(v, list) else v}"
        for name, v in values.items()
    ]

    for via, size in WAYS.items():
        job, *_ = desk.submit(f"{via}.zarr", *words, "--via", via, *size, study=study)
    with pytest.warns(UserWarning, match="2 of 6 points failed"):
        local = sweep.run(study, on="serial", **values).drop_vars(NOT_COMPARED)

    desk.wait(desk.is_quiet)
    nodes = desk.cluster.run("squeue", "-h", "-t", "all", "-o", "%N", "-j", job).strip()
    assert nodes == "n[1-2]"
    for via in WAYS:
        found = xr.open_zarr(desk.folder / f"{via}.zarr").load()
        xr.testing.assert_equal(found.drop_vars(NOT_COMPARED), local)
        assert (found.run == 1).all()
        assert desk.runs(f"{via}.zarr") == {1: "complete"}
        assert "6: 4 done, 2 failed" in desk.sweep("status", f"{via}.zarr", code=SOME_FAILED)
        tasks = xr.open_zarr(desk.folder / f"{via}.zarr", group="tasks").load()
        assert tasks.sizes["task"] == 6
        assert "" not in tasks.slurm_job_id.values
