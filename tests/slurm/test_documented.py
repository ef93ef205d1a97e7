"""The commands for a cluster that the two READMEs show run as they stand."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from slurm.throwaway import Throwaway, until

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
PATIENCE = 120.0  # s


def test_the_commands_of_the_readme_take_a_study_through_the_cluster(
    cluster: Throwaway, tmp_path: Path
) -> None:
    text = (ROOT / "README.md").read_text()
    (tmp_path / "slurm" / "sites").mkdir(parents=True)
    study = re.search(r"<!-- file: cooling.py -->\n```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "cooling.py").write_text(study[1])

    run_all(sweep_lines(BLOCK.search(text)[1]), cluster, tmp_path)

    assert not is_queued(cluster, tmp_path)
    assert (xr.open_zarr(tmp_path / "runs" / "cooling.zarr").status == 1).all()


@pytest.mark.slow
def test_the_worked_example_leads_from_login_to_a_dataset(
    cluster: Throwaway, tmp_path: Path
) -> None:
    text = (ROOT / "slurm" / "README.md").read_text()
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    (tmp_path / "slurm" / "sites").mkdir(parents=True)
    small = "nx=20 steps=300 t_top=100,200 diffusivity=33.9e-6"
    lines = [
        line.replace("--site", f"{small} --site") for line in sweep_lines(BLOCK.search(text)[1])
    ]

    run_all(lines, cluster, tmp_path)

    until(lambda: not is_queued(cluster, tmp_path), PATIENCE)
    assert (xr.open_zarr(tmp_path / "runs" / "heat.zarr").status == 1).all()


def sweep_lines(block: str) -> list[str]:
    lines = [line.partition("#")[0].strip() for line in block.splitlines()]
    return [line for line in lines if line.startswith("sweep ")]


def run_all(lines: list[str], cluster: Throwaway, folder: Path) -> None:
    assert lines
    for line in lines:
        done = subprocess.run(
            [sys.executable, "-m", *line.split()],
            cwd=folder,
            env=cluster.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        # what is asked of a sweep that is not complete is answered by 3
        assert done.returncode in ((0, 3) if "status" in line else (0,)), (line, done.stderr)


def is_queued(cluster: Throwaway, folder: Path) -> bool:
    return str(folder) in cluster.run("squeue", "--noheader", "--format=%Z")


pytestmark = pytest.mark.slurm
