"""A real SLURM for the tests of this folder, one a process of tests."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import Desk

from slurm.throwaway import ProgramsMissing, Throwaway

HERE = Path(__file__).parent
LOG_LINES = 40


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slurm")


@pytest.fixture
def cluster_folder() -> Iterator[Path]:
    """A folder that is not there yet, where a SLURM can work: not under a folder of mode 0700."""
    with tempfile.TemporaryDirectory(prefix="sl.") as place:
        Path(place).chmod(0o755)
        yield Path(place) / "s"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Throwaway]:
    """Two nodes of four CPUs. Where SLURM is missing: skipped, or failed if it is required."""
    with tempfile.TemporaryDirectory(prefix="sl.") as place:
        Path(place).chmod(0o755)
        try:
            cluster = Throwaway.start(Path(place) / "s", nodes=2, cpus=4)
        except ProgramsMissing as error:
            if os.environ.get("SWEEP_REQUIRE_CLUSTER") == "1":
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield cluster
        cluster.stop()


@pytest.fixture
def desk(cluster: Throwaway, tmp_path: Path) -> Iterator[Desk]:
    """Where commands for the cluster are typed; no job and no process is left in the end."""
    desk = Desk(cluster, tmp_path)
    yield desk
    desk.tidy()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show how the logs of the cluster end, where a test of it fails."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(cluster, Throwaway):
        for log in sorted(cluster.logs.glob("slurm*.log")):
            report.sections.append((log.name, end_of(log)))
    desk = getattr(item, "funcargs", {}).get("desk")
    if report.failed and isinstance(desk, Desk):
        for log in sorted(desk.folder.rglob("*.log")):
            report.sections.append((log.name, end_of(log)))
    return report


def end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
