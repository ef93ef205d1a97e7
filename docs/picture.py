"""Draw the picture of the README from the heat-flow sweep: python docs/picture.py STORE.

Needs matplotlib: pip install matplotlib.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

METALS = ["stainless steel", "carbon steel", "brass", "aluminium", "copper"]

ds = xr.open_zarr(sys.argv[1], chunks=None)
soon = ds.time.where(ds.centre_temperature >= 20).min("frame")

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1, 1.35))

ds.temperature.sel(t_top=400, diffusivity=117e-6).plot.contourf(
    ax=left, levels=20, cmap="inferno", cbar_kwargs={"label": "temperature at the end [degC]"}
)
left.set(title="copper, top edge at 400 degC", aspect="equal", xlabel="x [m]", ylabel="y [m]")

for metal, diffusivity in zip(METALS, ds.diffusivity, strict=True):
    soon.sel(diffusivity=diffusivity).plot.line("o-", ax=right, label=metal, markersize=4)
right.set(
    title="time until the centre reaches 20 degC",
    yscale="log",
    ylim=(2, 1000),
    xlabel="temperature of the top edge [degC]",
    ylabel="time [s]",
)
right.legend(frameon=False, ncols=2)
figure.tight_layout()
figure.savefig(Path(__file__).with_name("heat_flow.png"), dpi=110)
