"""All checks, in the order in which a job meets what they look at."""

import sys
from pathlib import Path

from slurm.environment.check import Check
from slurm.environment.folder import check_home, check_place, check_store
from slurm.environment.launcher import check_launcher
from slurm.environment.partition import check_slurm
from slurm.environment.rehearsal import Rehearsal, rehearse
from slurm.job import DASK, MPI
from slurm.site import Site
from sweep.errors import counted


def checks(site: Site, store: Path, needs_gpus: bool, via: str) -> list[Check]:
    """Look at what a sweep needs of a site, from the machine that would submit it.

    Parameters
    ----------
    site
        Where it would be submitted.
    store
        Its store, which need not be there yet.
    needs_gpus
        Whether its points need GPUs.
    via
        One of `slurm.job.WAYS`.
    """
    found = check_slurm(site, needs_gpus, via)
    rehearsal = rehearse(site)
    found += _before_python(site, rehearsal)
    if via == MPI:
        found += check_launcher(site, rehearsal.environment)
    found += check_store(store)
    if via == DASK:
        found.append(check_home())
    scratch = site.scratch or "/tmp"
    return [
        *found,
        Check("scratch", True, f"{scratch} of each node; cannot be looked at from here"),
    ]


def _before_python(site: Site, rehearsal: Rehearsal) -> list[Check]:
    """Return what became of modules and setup, and of Python if it was reached."""
    count = len(site.modules) + len(site.setup)
    fine = f"{counted(count, 'line')} of {site.file}, tried here" if count else "there are none"
    text = f"{site.file}: {rehearsal.lines}" if rehearsal.lines else fine
    before = Check("modules, setup", not rehearsal.lines, text)
    if rehearsal.python:
        text = f"{sys.executable} does not start with sweep in it: {rehearsal.python}"
        return [before, Check("python", False, text)]
    if rehearsal.environment is None:
        return [before]
    return [before, check_place("python", f"{sys.executable} has sweep", Path(sys.prefix))]
