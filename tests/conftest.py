"""Where the tests find their studies."""

from pathlib import Path

import pytest

from sweep.study import Study, load_study


@pytest.fixture
def studies() -> Path:
    return Path(__file__).parent / "studies"


@pytest.fixture
def everything(studies: Path) -> Study:
    return load_study(str(studies / "everything.py"))


@pytest.fixture
def throw(studies: Path) -> Study:
    return load_study(str(studies / "throw.py"))
