"""What surrounds a point: it leaves no trace in the process, and what it says is kept.

Before each point the worker's mark is put and the deadline is set; after it the working folder
is put back, a forked child is ended, and warnings, log lines and prints are taken down. Numpy's
error state, and all else that Python keeps in context variables, ends with the point.
"""

import errno
import io
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any, NamedTuple

from sweep.marks import NO_POINT, Marker

SLACK_SHARE, SLACK_SECONDS = 0.05, 1.0  # of a hard deadline
LONGEST_TEXT = 2000  # characters of what a point says that are kept


class Process(NamedTuple):
    """What this process is: `as_worker` says so once."""

    expendable: bool = False  # it may be killed, and is replaced
    output: int | None = None  # descriptor of the file that stdout and stderr are


_process = Process()


def as_worker(process: Process) -> None:
    """Say that this process is a worker."""
    global _process
    _process = process
    if process.output is not None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(write_through=True)  # what is printed is at once in the file


@contextmanager
def leaving_if_exhausted() -> Iterator[None]:
    """End this process if it is out of files or memory: another one in its place has some."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENOMEM) and _process.expendable:
            print(f"The worker is exhausted: {error}", file=sys.stderr)
            os._exit(1)
        raise


def hold_deadline() -> float:
    """Let no deadline pass for a while, and return what was left of it [s], 0 for none."""
    return signal.setitimer(signal.ITIMER_REAL, 0)[0] if _process.expendable else 0.0


def let_deadline_go_on(left: float) -> None:
    """Let what `hold_deadline` returned pass from now on."""
    if left:
        signal.setitimer(signal.ITIMER_REAL, left)


class Note(NamedTuple):
    """Something that a point said: kind ("warned", "logged", "printed"), its type, its text."""

    kind: str
    type: str
    text: str


class Watch:
    """Watches over the points of one worker.

    Parameters
    ----------
    marker
        Where to mark what is at work, if anywhere.
    """

    def __init__(self, marker: Marker | None = None) -> None:
        self.marker = marker
        self.hard_seconds: float | None = None  # a point that takes longer takes this process along
        self._notes: list[Note] = []
        self._rearm_at: float | None = None  # when the deadline has to be set anew, if at all
        self._filters: list[Any] = []  # of warnings
        self._pid = 0
        self._folder = -1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Watch over what is computed inside: a block."""
        keeper = _Keeper(self._notes)
        self._pid = os.getpid()
        self._folder = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # it need not be readable
        umask = os.umask(0o077)
        os.umask(umask)
        logging.getLogger().addHandler(keeper)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", append=True)  # not once a process: at each point
                warnings.showwarning = self._warned
                self._filters = list(warnings.filters)
                _take_output()  # of imports
                is_mortal = self.hard_seconds is not None and _process.expendable
                self._rearm_at = 0.0 if is_mortal else None
                yield
        finally:
            if self._rearm_at is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if self.marker:
                self.marker.put(NO_POINT)
            logging.getLogger().removeHandler(keeper)
            os.umask(umask)
            os.close(self._folder)

    def call(self, point: int, points: int, function: Callable[..., None], *arguments: Any) -> None:
        """Call what computes a point, or `points` points at once."""
        if self.marker:
            self.marker.put(point)
        if self._rearm_at is not None and (points > 1 or time.monotonic() > self._rearm_at):
            self._arm(points)
        try:
            copy_context().run(function, *arguments)
        finally:
            if os.getpid() != self._pid:  # a child that the function forked, and let return
                _leave()
            os.fchdir(self._folder)
            if warnings.filters != self._filters:
                self._put_back_filters()

    def _put_back_filters(self) -> None:
        warnings.resetwarnings()
        for one in reversed(self._filters):
            warnings.filters.insert(0, one)  # type: ignore[attr-defined]

    def _arm(self, points: int) -> None:
        """Set the deadline, with some slack, in which it need not be set for each point anew."""
        assert self.hard_seconds is not None
        slack = min(SLACK_SHARE * self.hard_seconds, SLACK_SECONDS)
        self._rearm_at = time.monotonic() + slack if points == 1 else 0.0
        signal.setitimer(signal.ITIMER_REAL, self.hard_seconds * points + slack)

    def notes(self) -> list[Note]:
        """Return what was said since the last time, one note a kind."""
        if printed := _take_output():
            self._notes.append(Note("printed", "", printed))
        if not self._notes:
            return []
        found: dict[str, Note] = {}
        for note in self._notes:
            before = found.get(note.kind)
            text = f"{before.text}\n{note.text}" if before else note.text
            found[note.kind] = Note(note.kind, before.type if before else note.type, text)
        self._notes.clear()
        return [note._replace(text=note.text[:LONGEST_TEXT]) for note in found.values()]

    def _warned(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: Any = None,
    ) -> None:
        if len(self._notes) < 100:
            self._notes.append(
                Note("warned", category.__name__, f"{message} [{filename}:{lineno}]")
            )


def _take_output() -> str:
    """Return what was printed since the last time, and forget it."""
    output = _process.output
    if output is None:
        return ""
    if sys.stdout.closed or sys.stderr.closed or not _is_open(1):
        _put_back_streams(output)
    if not os.lseek(output, 0, os.SEEK_END):
        return ""
    text = os.pread(output, LONGEST_TEXT, 0).decode(errors="replace").rstrip()
    os.ftruncate(output, 0)
    return text


def _is_open(descriptor: int) -> bool:
    try:
        os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def _put_back_streams(output: int) -> None:
    """Open stdout and stderr again, which a point has closed."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(output, descriptor)
        raw = open(descriptor, "w", buffering=1, closefd=False)  # noqa: SIM115
        raw.reconfigure(write_through=True)
        setattr(sys, name, raw)


class _Keeper(logging.Handler):
    """Keeps log records as notes."""

    def __init__(self, notes: list[Note]) -> None:
        super().__init__()
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        if len(self._notes) < 100:
            try:
                text = record.getMessage()
            except Exception:  # the arguments do not fit the message
                text = str(record.msg)
            self._notes.append(Note("logged", record.levelname, f"{record.name}: {text}"))


def _leave() -> None:
    """End this process at once, which is a copy of the worker."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)
