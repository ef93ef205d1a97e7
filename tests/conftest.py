"""Where the tests find their studies, and how hypothesis goes about its work.

On a shared machine a test's time says nothing, so there are no deadlines. Continuous integration
draws the same examples every time; elsewhere they are new ones.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from sweep.study import Study, load_study

settings.register_profile("ours", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ours")


@pytest.fixture
def studies() -> Path:
    return Path(__file__).parent / "studies"


@pytest.fixture
def everything(studies: Path) -> Study:
    return load_study(str(studies / "everything.py"))


@pytest.fixture
def throw(studies: Path) -> Study:
    return load_study(str(studies / "throw.py"))
