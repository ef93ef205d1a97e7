"""Where the tests find their studies, and how hypothesis goes about its work.

On a shared machine a test's time says nothing, so there are no deadlines. Continuous integration
draws the same examples every time; elsewhere they are new ones.
"""

import compileall
import os
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from sweep.study import Study, load_study

settings.register_profile("ours", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ours")

ROOT = Path(__file__).parents[1]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the project's bytecode once.

    Else, where Python is told to write none, each of the hundreds of processes of the tests does.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        for folder in ("sweep", "pipelines", "slurm", "benchmarks", "tests/studies"):
            compileall.compile_dir(ROOT / folder, quiet=2)


class ByFiles(LoadScopeScheduling):
    """Tests of one file of kernels or engines go to one worker, which compiles or starts them.

    No other waits for what one compiles. These files come first: what takes long is not begun last.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file.startswith(("tests/pipelines/", "tests/engines/")) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """Take the tests apart as above, unless the command line names another way than `load`."""
    return ByFiles(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture
def studies() -> Path:
    return Path(__file__).parent / "studies"


@pytest.fixture
def everything(studies: Path) -> Study:
    return load_study(str(studies / "everything.py"))


@pytest.fixture
def throw(studies: Path) -> Study:
    return load_study(str(studies / "throw.py"))
