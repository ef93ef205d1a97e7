"""The README's promises: its code runs, its commands are those that are tested, its links lead
somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"(<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the README's study in it, and the store that it reads first."""
    folder = tmp_path_factory.mktemp("readme")
    for _, name, _, text in BLOCKS:
        if name:
            (folder / name).write_text(text)
    heat_flow = ROOT / "pipelines" / "heat_flow.py"
    values = ["t_top=100,400", "diffusivity=33.9e-6,117e-6", "nx=20", "steps=300"]
    run(folder, "run", str(heat_flow), *values, "--on", "serial")
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "sweep", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_code_and_commands_run_as_they_stand(folder: Path) -> None:
    for _, name, language, text in BLOCKS:
        if language == "python" and not name:
            subprocess.run(
                [sys.executable, "-W", "error", "-c", text], cwd=folder, check=True, timeout=120
            )
        elif language == "sh":
            for line in text.splitlines():
                words = line.partition("#")[0].split()
                if words and words[0] == "sweep":
                    run(folder, *words[1:])


def test_commands_that_set_up_are_those_of_the_continuous_integration() -> None:
    install = '.venv/bin/pip install -q -c constraints.txt -e ".[test]"'
    assert f"python3 -m venv .venv && {install} && .venv/bin/pytest -n 3\n" in README
    script = (ROOT / ".ci" / "run").read_text()
    assert install in script
    assert ".venv/bin/pytest -n 3\n" in script


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!https?:)[^)\s]+)\)", README))
def test_links_lead_to_files(link: str) -> None:
    assert (ROOT / link).exists()


def test_files_named_in_the_table_exist() -> None:
    table = README[README.index("| file | role |") : README.index("Reading path")]
    for path in re.findall(r"`([a-z_/]+(?:\.py|/))`", table):
        assert (ROOT / path).exists(), path


def test_constraints_hold_versions_and_no_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", pin) for pin in pins)
