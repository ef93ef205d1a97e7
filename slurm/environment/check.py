"""Check: what was looked at, and what was found."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it is as it should be, and what was found."""

    what: str
    ok: bool
    text: str


def checks_text(checks: Iterable[Check]) -> dict[str, str]:
    """Return the rows of the table, each of one line: what was looked at, and what was found."""
    return {
        check.what: f"{'ok' if check.ok else 'NOT OK'}: {' '.join(check.text.split())}"
        for check in checks
    }
