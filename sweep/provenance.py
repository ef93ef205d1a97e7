"""Who, what code, which versions, which machine: the plain record of a run.

`gather` reads all of it once, in the time of a few calls of git; what can be decided without
looking at the machine are functions of texts.
"""

import getpass
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from sweep.engines import usable_cores

LONGEST_DIFF = 5_000_000  # characters
GIT_SECONDS = 20.0  # a large repository on a slow network disk
GPU_SECONDS = 5.0

# What can change a result or a time, and nothing that lets anybody in.
ENVIRONMENT = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|NUMBA|SLURM)_\w+"
    r"|CUDA_VISIBLE_DEVICES|CONDA_DEFAULT_ENV|VIRTUAL_ENV|PYTHONHASHSEED"
)
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|JWT", re.IGNORECASE)


def gather(study_file: Path | None, argv: Sequence[str]) -> dict[str, Any]:
    """Return the record of this process, JSON-able; the study's code is not of it.

    Parameters
    ----------
    study_file
        The file of the study; None for a pipeline that no file holds.
    argv
        The command line.
    """
    return {
        "user": _user(),
        "hostname": socket.gethostname(),
        "cwd": _cwd(),
        "argv": list(argv),
        **_machine(),
        "python": platform.python_version(),
        "packages": _packages(),
        "environment": allowed(os.environ),
        **_git(study_file),
    }


# --- the machine and its software --------------------------------------------------------


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for the user
        return str(os.getuid())


def _cwd() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return ""


def _machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cpu_model": cpu_model(_beginning(Path("/proc/cpuinfo"))) or platform.processor(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu(),
    }


def _beginning(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(4096).decode(errors="replace")
    except OSError:
        return ""


def cpu_model(cpuinfo: str) -> str:
    """Return the name of the processor that the text of ``/proc/cpuinfo`` gives, "" if none."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def _gpu() -> str:
    """Return the names of the GPUs and their driver, "" if there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return "; ".join((_output(query, GPU_SECONDS) or "").splitlines())


def _packages() -> dict[str, str]:
    """Return the version of each installed distribution, the first found of each name."""
    found: dict[str, str] = {}
    for one in distributions():
        found.setdefault(one.name or "?", one.version)
    return dict(sorted(found.items()))


def allowed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are worth keeping and no secret."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if ENVIRONMENT.fullmatch(name) and not SECRET.search(name)
    }


def _output(command: list[str], seconds: float) -> str | None:
    """Return what a command prints; None if it fails, is missing or takes too long."""
    places = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # of a hook, not of the study
    environment = {k: v for k, v in os.environ.items() if k not in places}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


# --- git ---------------------------------------------------------------------------------


def _git(study_file: Path | None) -> dict[str, Any]:
    """Return commit, branch and difference of the repository that holds the study."""
    commit = branch = diff = others = None
    if study_file is not None:
        git = ["git", "-C", str(study_file.parent)]
        commit = _output([*git, "rev-parse", "--verify", "HEAD"], GIT_SECONDS)
        branch = _output([*git, "branch", "--show-current"], GIT_SECONDS)
        others = _output([*git, "ls-files", "--others", "--", study_file.name], GIT_SECONDS)
    if commit is not None:
        options = ["--no-ext-diff", "--no-textconv", "--no-color"]
        diff = _output([*git, "diff", *options, "HEAD"], GIT_SECONDS)
    return {
        "git_commit": (commit or "").strip(),
        "git_branch": (branch or "").strip(),
        "git_dirty": bool(diff or others),
        "git_diff": capped(diff or ""),
        "git_study_untracked": bool(others),
    }


def capped(diff: str) -> str:
    """Return a diff that is not too long to keep."""
    if len(diff) <= LONGEST_DIFF:
        return diff
    return f"{diff[:LONGEST_DIFF]}\n[{len(diff) - LONGEST_DIFF} more characters]\n"
