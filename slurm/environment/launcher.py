"""Launcher: whether what starts the ranks of an MPI job belongs to the MPI that Python has.

Where it does not, each rank believes to be alone. Measured with SLURM 22.05: Open MPI 5 knows
pmix and not pmi2, MPICH 5 pmi2 and not pmix, and ``srun --mpi=none`` connects nobody.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm.environment.check import Check
from slurm.site import Site
from sweep.engines.srun.commands import ask
from sweep.errors import EngineError

ANSWER_SECONDS = 30.0

# Asked of a process of its own, and without MPI_Init, which some sites forbid on a login node.
_LIBRARY = (
    "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; "
    "print(MPI.Get_library_version())"
)


def check_launcher(site: Site, environment: Mapping[str, str] | None) -> list[Check]:
    """Look at launcher and MPI in the environment that a job would have."""
    if environment is None:
        return [Check("launcher", False, "not looked at: what comes before it fails")]
    found, library = _library(environment)
    launcher = f"launcher = {' '.join(site.launcher)!r}"
    program = shutil.which(site.launcher[0], path=environment.get("PATH", ""))
    if program is None:
        problem = f"there is no {site.launcher[0]} here. Load the module that has it"
    elif Path(program).name == "srun":
        problem = _srun_problem(site.launcher, library, environment)
    else:
        problem = _mpiexec_problem(program, library, environment)
    text = f"{site.file}: {launcher}: {problem}" if problem else f"{launcher} ({program})"
    return [Check("launcher", not problem, text), found]


def _library(environment: Mapping[str, str]) -> tuple[Check, str]:
    """Return the name and version of Python's MPI, "" if it has none."""
    done = _run([sys.executable, "-P", "-c", _LIBRARY], environment)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        text = f"mpi4py finds no MPI: {words[0]}. Load the module of one before Python starts"
        return Check("MPI", False, text), ""
    library = " ".join(done.stdout.partition("\n")[0].partition(",")[0].split())
    return Check("MPI", True, f"mpi4py has found {library}"), library


def _srun_problem(launcher: Sequence[str], library: str, environment: Mapping[str, str]) -> str:
    """Return why srun does not connect the ranks of this MPI, and what does; "" if it may."""
    done = _run([launcher[0], "--mpi=list"], environment)
    listed = done.stdout + done.stderr  # one or the other, as the version has it
    if done.returncode != 0:
        words = listed.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return f"srun --mpi=list fails: {words[0]}"
    kinds = re.findall(r"^(?:srun:)?\s*(\w+)$", listed, re.M) + re.findall(r"\bpmix_v\d+", listed)
    try:
        kind = _kind(launcher) or environment.get("SLURM_MPI_TYPE") or _default_kind()
    except (EngineError, OSError) as error:
        return str(error)
    return srun_mismatch(kind, kinds, library)


def _kind(launcher: Sequence[str]) -> str:
    """Return X of ``--mpi=X`` or ``--mpi X``, "" if it is not there."""
    found = re.search(r"(?:^| )--mpi[= ](\S+)", " ".join(launcher))
    return found[1] if found else ""


def _default_kind() -> str:
    """Return what srun does where it is not told."""
    found = re.search(r"^MpiDefault\s*=\s*(\w+)", ask("scontrol", "show", "config"), re.M)
    return found[1] if found else "none"


def srun_mismatch(kind: str, kinds: Sequence[str], library: str) -> str:
    """Return why ``srun --mpi=KIND`` does not connect the ranks of a library; "" if it may.

    Parameters
    ----------
    kind
        How srun would connect them.
    kinds
        All that ``srun --mpi=list`` has.
    library
        As MPI names itself; of those that are neither MPICH nor Open MPI 5 nothing is known.
    """
    is_open_mpi = re.match(r"Open MPI v(?![0-4]\.)", library) is not None  # older: as it was built
    wanted = "pmix" if is_open_mpi else "pmi2" if library.startswith("MPICH ") else ""
    better = sorted(one for one in kinds if one.startswith(wanted or "pmi"))
    remedy = f'Write launcher = "{f"srun --mpi={better[0]}" if better else "mpiexec"}"'
    if kind not in kinds:
        return f"srun --mpi=list has {', '.join(kinds)}, and no {kind}. {remedy}"
    known = kind == "none" or kind.startswith(("pmix", "pmi2"))
    if not known or (kind != "none" and kind.startswith(wanted)):
        return ""
    return f"--mpi={kind} does not connect the ranks of {library or 'any MPI'}. {remedy}"


def _mpiexec_problem(program: str, library: str, environment: Mapping[str, str]) -> str:
    """Return that mpiexec is another MPI's than Python's; "" if it is its own, or unknown."""
    done = _run([program, "--version"], environment)
    said = done.stdout + done.stderr
    owner = "MPICH" if "HYDRA" in said else "Open MPI" if re.search(_OPEN_MPI, said) else ""
    if not owner or not library.startswith(("MPICH ", "Open MPI ")) or library.startswith(owner):
        return ""
    return (
        f"{program} is that of {owner}, and does not connect the ranks of {library}. Take the "
        "mpiexec that belongs to it"
    )


_OPEN_MPI = r"Open MPI|OpenRTE|(?i:prte)"


def _run(
    command: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a program that says something of itself; one that does not get to it has failed."""
    try:
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
