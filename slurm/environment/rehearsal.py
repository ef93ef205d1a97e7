"""Rehearsal: what stands before Python in a batch script, run here to see whether it works."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slurm.script import quoted
from slurm.site import Site

PATIENCE_SECONDS = 60.0  # modules and Python may come from a busy disk

# Each line of the script tells its number to stderr before it runs, and its exit code if it fails;
# what a line calls or sources does not.
_TELLING = (
    r"""exec 3>&2; trap 'printf "\036%s\n" "$LINENO" >&3' DEBUG; """
    r"""trap 'c=$?; [ ${#BASH_SOURCE[@]} -gt 1 ] || printf "\036%s %s\n" "$LINENO" "$c" >&3' ERR"""
)
_TOLD = re.compile("\x1e([0-9]+)(?: ([0-9]+))?\n")

# The script's last line: Python has this package, and leaves the environment that it was given.
_LEAVE = (
    "import os, sys, sweep; file = open(sys.argv[1], 'wb'); "
    "file.write(b'\\0'.join(name + b'=' + value for name, value in os.environb.items()))"
)


@dataclass(frozen=True)
class Rehearsal:
    """How it went.

    Parameters
    ----------
    lines
        What is wrong with the modules and the lines of setup; empty if nothing.
    python
        What is wrong with Python; empty if it starts and has this package, or was not reached.
    environment
        In which Python, and the launcher, are started; None if Python was not reached or failed.
    """

    lines: str = ""
    python: str = ""
    environment: dict[str, str] | None = None


def rehearse(site: Site) -> Rehearsal:
    """Run the modules, the lines of setup and Python, as a batch script does."""
    try:
        unparsed = _unparsed(site.setup)
        return Rehearsal(f"setup is not bash: {unparsed}") if unparsed else _rehearse(site)
    except OSError as error:  # no bash, no room for temporary files
        return Rehearsal(f"modules and setup cannot be tried here: {error}")


def _rehearse(site: Site) -> Rehearsal:
    lines = [
        (f"modules: {name!r}", f"module load {quoted(name)} || exit 2") for name in site.modules
    ]
    lines += [(f"setup: {line!r}", line) for line in site.setup]
    with tempfile.TemporaryDirectory() as folder:
        script, left = Path(folder) / "script", Path(folder) / "environment"
        python = f"{quoted(sys.executable)} -P -c {quoted(_LEAVE)} {quoted(str(left))}"
        code = [_TELLING, *(line for _, line in lines), python, ""]
        script.write_bytes(os.fsencode("\n".join(code)))
        ending, told = _run(script)
        environment = _environment(left) if ending == 0 else None
        return _judged([name for name, _ in lines], ending, told, environment)


def _unparsed(setup: Sequence[str]) -> str:
    """Return what bash cannot parse, "" if it can."""
    text = "\n".join((*setup, ""))
    done = subprocess.run(
        ["bash", "-n"], input=text, capture_output=True, text=True, errors="replace"
    )
    return done.stderr.partition("\n")[0].removeprefix("bash: ") if done.returncode else ""


def _run(script: Path) -> tuple[int | None, str]:
    """Return how a script ended, None if it did not in time, and what it wrote to stderr."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            ["bash", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            ending = process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            ending = None
        finally:
            with suppress(ProcessLookupError):  # what it has started and did not wait for, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        told = errors.read().decode(errors="replace")
        return ending, re.sub(rf"^{re.escape(str(script))}: line \d+: ", "", told, flags=re.M)


def _environment(left: Path) -> dict[str, str] | None:
    """Return the environment that Python left, None if it never came to that."""
    if not left.exists():
        return None
    pairs = (os.fsdecode(pair).partition("=") for pair in left.read_bytes().split(b"\0"))
    return {name: value for name, _, value in pairs}


def _judged(
    lines: Sequence[str], ending: int | None, told: str, environment: dict[str, str] | None
) -> Rehearsal:
    """Return what a run says of each of the lines, and of Python after them."""
    said, failed, last = _heard(told)
    how = f"not over after {PATIENCE_SECONDS:g} s" if ending is None else f"exit code {ending}"
    if environment is None and last < len(lines):
        return Rehearsal(f"{lines[last]} ends the script here ({how}){said[last]}")
    problem = next(
        (
            f"{lines[number]} fails here (exit code {code}){said[number]}"
            for number, code in failed.items()
            if number < len(lines)
        ),
        "",
    )
    return Rehearsal(problem, f"{how}{said[last]}" if environment is None else "", environment)


def _heard(told: str) -> tuple[dict[int, str], dict[int, int], int]:
    """Return what lines wrote last, as the end of a sentence; those that failed; the last one.

    The first line after those that tell is number 0.
    """
    said: dict[int, str] = defaultdict(str)
    failed: dict[int, int] = {}
    number = 0
    _, *parts = _TOLD.split(told)
    for line, code, words in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        number = max(int(line) - 2, 0)
        if code is not None:
            failed.setdefault(number, int(code))
        if words.strip():
            said[number] = f": {words.strip().splitlines()[-1]}"
    return said, failed, number
