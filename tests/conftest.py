"""Where the tests find their studies, and how hypothesis goes about its work.

On a shared machine a test's time says nothing, so there are no deadlines. Continuous integration
draws the same examples every time; elsewhere they are new ones.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sweep.study import Study, load_study

settings.register_profile("ours", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ours")


@pytest.fixture(scope="session", autouse=True)
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where Python is to leave no bytecode beside the sources, have it kept in a folder of ours.

    Tests start hundreds of interpreters. Else each of them compiles all of the project's files.
    """
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            base = tmp_path_factory.getbasetemp()
            shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(shared / "bytecode"))
        yield


@pytest.fixture
def studies() -> Path:
    return Path(__file__).parent / "studies"


@pytest.fixture
def everything(studies: Path) -> Study:
    return load_study(str(studies / "everything.py"))


@pytest.fixture
def throw(studies: Path) -> Study:
    return load_study(str(studies / "throw.py"))
