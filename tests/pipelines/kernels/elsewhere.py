"""Runs a test's file as a script: numba's settings hold from its import to the end of a process."""

import os
import subprocess
import sys

# With sweep imported first, what other processes of the tests have compiled is loaded, and the
# other way around: numba's own cache, which a script would have without, starts empty.
START = """
import runpy, sys, sweep
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def lines_of(script: str, *words: str, **settings: str) -> list[str]:
    """What a script prints, with settings of numba's in its environment."""
    finished = subprocess.run(
        [sys.executable, "-c", START, script, *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | settings,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()
