"""Read a finished store with xarray and zarr alone; every warning is an error."""

import sys

import numpy as np
import xarray as xr

dataset = xr.open_zarr(sys.argv[1])
print(dataset)
assert {"diffusivity", "t_top", "y", "x", "frame"} == set(dataset.sizes), dataset.sizes
assert (dataset.status == 1).all()
assert (dataset.point_seconds > 0).all()
assert np.isfinite(dataset.temperature).all()
for name, variable in dataset.variables.items():
    if variable.dtype.kind in "fiu" and "flag_values" not in variable.attrs:
        assert variable.attrs.get("units"), f"{name} has no units"
for group in ("tasks", "events", "runs"):
    xr.open_zarr(sys.argv[1], group=group).load()
print("1 passed, 0 failed")
