"""What the tests of the engines have workers do; they import it by name."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class AwkwardError(Exception):
    """An exception that pickle can write but not read."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


def echo(value: Any) -> Any:
    return value


def scale(value: float, after: float = 0.0) -> float:
    time.sleep(after)
    return 10 * value


def fail(text: str) -> None:
    raise ValueError(text)


def fail_awkwardly() -> None:
    raise AwkwardError("rain", "the picnic")


def leave(code: int) -> None:
    sys.exit(code)


def not_json() -> object:
    return object()


def add_with_dask(count: int) -> int:
    from dask import delayed

    return delayed(sum)([delayed(int)(number) for number in range(count)]).compute()


def drop_dead(code: int) -> None:
    os._exit(code)


def hold(note: str) -> None:
    """Leave our pid in a file, then hold the GIL for ever."""
    leave_note(note, os.getpid())
    ctypes.PyDLL(None).sleep(1000)


def pid() -> int:
    return os.getpid()


def session() -> int:
    return os.getsid(0)


def variable(name: str) -> str | None:
    return os.environ.get(name)


def read_stdin() -> str:
    return sys.stdin.read()


def fork_and_die(note: str) -> None:
    """Leave a process behind that is in no group of ours and has all our files open."""
    child = os.fork()
    if child == 0:
        os.setsid()
        leave_note(note, os.getpid())
        while True:
            time.sleep(1)
    while not Path(note).exists():  # until then it is in our group, and would die with us
        time.sleep(0.01)
    os._exit(1)


def say(text: str) -> None:
    print(text)


def touch(file: str) -> None:
    Path(file).touch()


def stay(note: str) -> None:
    """Leave our pid in a file, then compute for ever."""
    leave_note(note, os.getpid())
    while True:
        time.sleep(0.01)


def stay_with_child(note: str) -> None:
    """Start a program that runs for ever, leave its pid in a file, and hold the GIL for ever."""
    child = subprocess.Popen(["sleep", "1000"])
    leave_note(note, child.pid)
    ctypes.PyDLL(None).sleep(1000)


def leave_note(note: str, number: int) -> None:
    written = Path(f"{note}.new")
    written.write_text(str(number))
    written.rename(note)
