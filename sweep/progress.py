"""What a person at a terminal sees while a sweep runs: points done, failed, left, rate, time."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sweep.drive import Tally

LINE_SECONDS = 30.0


class Reporter(Protocol):
    """Shows how a run is getting on."""

    def say(self, text: str) -> None:
        """Show a line of text."""

    def watching(self, tally: Tally) -> Any:
        """Return a context manager around a run that starts from `tally`."""

    def update(self, tally: Tally) -> None:
        """Show how far the run is."""


class Quiet:
    """Shows nothing but what has to be said."""

    def say(self, text: str) -> None:
        """Show a line of text on stderr."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def watching(self, tally: Tally) -> Iterator[None]:
        """Do nothing around a run."""
        yield

    def update(self, tally: Tally) -> None:
        """Do nothing."""


class Lines(Quiet):
    """A plain line on stderr now and then: for batch jobs, whose output is a file."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def update(self, tally: Tally) -> None:
        """Show a line if the last is half a minute old."""
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS:
            self._said = now
            self.say(line(tally, now - self._began))


def line(tally: Tally, seconds: float) -> str:
    """Return one line that says how far a run is after `seconds`."""
    rate = tally.computed / max(seconds, 1e-9)
    left = clock_text(tally.left / rate) if rate else "unknown"
    return (
        f"{tally.done} of {tally.points} points done, {tally.failed} failed, {tally.left} left, "
        f"{rate:.3g} points/s, {left} to go"
    )


def clock_text(seconds: float) -> str:
    """Return a duration as a person would say it: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


class Progress(Quiet):
    """A live bar on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            TextColumn("to go"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("starting", total=None)

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    @contextmanager
    def watching(self, tally: Tally) -> Iterator[None]:
        """Show the bar around a run."""
        self._began = time.monotonic()
        self._bar.update(self._task, total=tally.points)
        with self._bar:
            yield

    def update(self, tally: Tally) -> None:
        """Move the bar."""
        rate = tally.computed / max(time.monotonic() - self._began, 1e-9)
        counts = f"{tally.done} done, {tally.failed} failed, {tally.left} left"
        self._bar.update(
            self._task,
            completed=tally.points - tally.left,
            description=f"{counts}, {rate:.3g} points/s" if rate else counts,
        )


def make_reporter() -> Reporter:
    """Return a live bar where there is a terminal, else lines now and then."""
    return Progress() if sys.stderr.isatty() else Lines()
