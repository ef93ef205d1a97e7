"""Whether the code of a study is that which a store was computed with, and how it differs."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from difflib import unified_diff

from sweep.errors import StoreMismatch, short_path
from sweep.source import code_hash
from sweep.store import Store

MOST_LINES = 60  # of a difference that is shown


def refuse_changed_code(store: Store, source: Mapping[str, str]) -> None:
    """Refuse code that is not that of the last run, where that has left points that are done.

    Or where its jobs may leave some. Comments, docstrings and layout do not count.

    Raises
    ------
    StoreMismatch
        With the difference, and what to do.
    """
    number, before = _last_source(store)
    if not number or same_code(before, source):
        return
    if not store.count_points()["done"]:
        if store.has_jobs(number):
            raise StoreMismatch(
                f"The code has changed since run {number} of {short_path(store.path)} was "
                f"submitted:\n{_shown(before, source)}\nIts jobs, which may be at work still, "
                f"refuse the new code. End them: sweep cancel "
                f"{shlex.quote(short_path(store.path))}"
            )
        return
    raise StoreMismatch(
        f"The code has changed since run {number} of {short_path(store.path)}:\n"
        + _shown(before, source)
        + "\nIf the points that are done are still right, go on with --accept-changes (in Python: "
        "accept_changes=True); the dataset tells which run computed which point. If not, run the "
        "sweep into a new store."
    )


def refuse_other_code(store: Store, number: int, source: Mapping[str, str]) -> None:
    """Refuse code that is not what a run was submitted with: its record tells what computes it.

    Raises
    ------
    StoreMismatch
        With the difference, and what to do.
    """
    before = store.read_run(number).get("source")  # a merge has none
    if before and not same_code(before, source):
        path = shlex.quote(short_path(store.path))
        raise StoreMismatch(
            f"The code has changed since run {number} of {short_path(store.path)} was submitted:\n"
            + _shown(before, source)
            + "\nTake the change back, or submit what is left with the new code: sweep cancel "
            f"{path}, then sweep submit PIPELINE {path} --site FILE --accept-changes."
        )


def refuse_stores_of_other_code(stores: Sequence[Store]) -> None:
    """Refuse stores of which the last runs had different code.

    Raises
    ------
    StoreMismatch
        With the difference, and what to do.
    """
    first, *others = stores
    _, before = _last_source(first)
    for other in others:
        _, source = _last_source(other)
        if before and source and not same_code(before, source):
            raise StoreMismatch(
                f"{short_path(first.path)} and {short_path(other.path)} were computed by different "
                f"code:\n{_shown(before, source)}\nIf both are right, merge them with "
                "--accept-changes; the dataset tells which run computed which point."
            )


def _shown(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    lines = list(difference(before, now))
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"... and {len(lines) - MOST_LINES} lines more"]
    return "\n".join(lines)


def same_code(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Tell whether two studies have the same code, whatever their files are called."""
    return _hashes(before) == _hashes(now)


def _hashes(source: Mapping[str, str]) -> list[str]:
    return sorted(code_hash({"": text}) for text in source.values())


def _last_source(store: Store) -> tuple[int, Mapping[str, str]]:
    """Return the newest run whose code is on record, and that code; 0 if there is none."""
    for number in reversed(store.run_files()):
        record = store.read_run(number)
        if record.get("source"):
            return number, record["source"]
    return 0, {}


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a unified diff of the files whose code differs."""
    for name in sorted({*before, *now}):
        old, new = before.get(name, ""), now.get(name, "")
        if not same_code({name: old}, {name: new}):
            yield from unified_diff(
                old.splitlines(), new.splitlines(), f"then/{name}", f"now/{name}", "", "", 2, ""
            )
