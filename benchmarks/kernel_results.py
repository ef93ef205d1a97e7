"""What the comparison of kernels came to: its verdicts, its tables, and its section of RESULTS.md.

Nothing here measures: rows go in, text comes out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pairs import Ratio

THERE_IS_NONE = "-"


class Check(NamedTuple):
    """How far answers are off, and how far they may be. NaN is off."""

    errors: tuple[float, ...]
    limit: float

    @property
    def is_kept(self) -> bool:
        """Whether all are within the limit."""
        return all(error <= self.limit for error in self.errors)

    def __str__(self) -> str:
        """Return the errors beside their limit."""
        return f"{', '.join(f'{error:.1e}' for error in self.errors)} (at most {self.limit:.1e})"


class Marks(NamedTuple):
    """How many times as fast ours has to be, and how many times we want it to be."""

    least: float
    aim: float


class Measured(NamedTuple):
    """What the pairs came to: the ratio, and medians of units of work in a second."""

    ratio: Ratio
    ours: float
    other: float
    check: Check


class Row(NamedTuple):
    """One of our kernels against one alternative; `why` says why it was not measured."""

    case: str
    against: str
    unit: str
    scale: float  # how many units of work `unit` counts
    bound: str  # which of the machine's bounds ours is held against, if any
    marks: Marks
    measured: Measured | None
    why: str = ""
    note: str = ""
    is_ours_missing: bool = False

    @property
    def is_missed(self) -> bool:
        """Whether the mark is missed: by time, by a wrong answer, or because ours is not there.

        That an alternative is not there is no failure of ours.
        """
        if self.measured is None:
            return self.is_ours_missing
        return not (self.measured.check.is_kept and self.measured.ratio.median >= self.marks.least)

    @property
    def verdict(self) -> str:
        """What the row says in a word or two."""
        if self.measured is None:
            return self.why
        if not self.measured.check.is_kept:
            return "**answers disagree**"
        if self.is_missed:
            return "**missed**"
        return "aim" if self.measured.ratio.median >= self.marks.aim else "pass"


HEAD = ("kernel", "against", "ours", "the other", "ratio", "pass, aim", "", "of the bound", "error")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def cells(row: Row, bounds: dict[str, float]) -> tuple[str, ...]:
    """Return the row as text, under HEAD; bounds are units of work in a second, by their names."""
    marks = f"{row.marks.least:g}, {row.marks.aim:g}"
    against = f"{row.against}; {row.note}" if row.note else row.against
    found = row.measured
    if found is None:
        blank = (THERE_IS_NONE,) * 3
        return (row.case, against, *blank, marks, row.verdict, THERE_IS_NONE, THERE_IS_NONE)
    ratio = f"{found.ratio.median:.2f} ({found.ratio.low:.2f} to {found.ratio.high:.2f})"
    rates = (f"{rate / row.scale:.3g} {row.unit}" for rate in (found.ours, found.other))
    bound = bounds.get(row.bound)
    fraction = f"{100 * found.ours / bound:.0f} %" if bound else THERE_IS_NONE
    return (row.case, against, *rates, ratio, marks, row.verdict, fraction, str(found.check))


def summary(rows: list[Row]) -> str:
    """Return how many rows came to what, and what could not be compared, in a few lines."""
    measured = Counter(row.verdict.strip("*") for row in rows if row.measured)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in measured.items())
    lines = [f"{len(rows)} rows: {counts or 'none measured'}."]
    for why in dict.fromkeys(row.why for row in rows if not row.measured):
        names = "; ".join(f"{row.case} against {row.against}" for row in rows if row.why == why)
        lines.append(f"Not compared, {why}: {names}.")
    return "\n\n".join(lines)


def exit_code(rows: list[Row]) -> int:
    """Return 1 if any mark is missed."""
    return int(any(row.is_missed for row in rows))


def with_section(text: str, heading: str, section: str) -> str:
    """Return a file's text with the section of this heading replaced, or appended.

    A section begins with a heading of two marks and ends before the next; others stay as they are.
    """
    line = "\n"
    found = re.search(rf"^{re.escape(heading)}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    fresh = f"{heading}\n\n{section.strip(line)}\n"
    if found is None:
        return f"{text.rstrip()}\n\n{fresh}" if text.strip() else fresh
    rest = text[found.end() :]
    return f"{text[: found.start()]}{fresh}{line if rest else ''}{rest}"
