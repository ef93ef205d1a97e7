"""What a name may be, and that no two things share one."""

import unicodedata
from collections.abc import Iterable
from typing import Any

from sweep.errors import DefinitionError

# Names that the dataset itself uses beside the outputs.
RESERVED = frozenset({"status", "run", "point_seconds", "sample", "tasks", "events", "runs"})
# Names that `sweep.run` and `sweep.submit` take beside the parameters.
ARGUMENTS = frozenset(
    {"pipeline", "store", "on", "workers", "tls_dir", "dashboard", "timeout", "retries"}
    | {"fail_fast", "retry_failed", "accept_changes", "join", "site", "via"}
)


def check_name(name: object, what: str, *, reserved: bool = True) -> None:
    """Refuse what is no identifier, and (if `reserved`) what the dataset itself uses."""
    if not isinstance(name, str) or not name.isidentifier():
        raise DefinitionError(
            f"{what} {name!r} is not a name: use letters, digits and '_', no digit first."
        )
    if reserved and name in RESERVED:
        raise DefinitionError(
            f"{what} '{name}' has a name that the dataset uses itself "
            f"({', '.join(sorted(RESERVED))}). Give it another."
        )


def normal(name: str) -> str:
    """Return a name as Python's own compiler reads it: the micro sign is a Greek mu."""
    return unicodedata.normalize("NFKC", name)


def is_text(value: object) -> bool:
    """Tell whether a value is a text that can be written to a file."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def first_duplicate(rows: list[Any]) -> Any:
    """Return the first value that stands in `rows` for the second time; None if there is none."""
    seen = set()
    for row in rows:
        if row in seen:
            return row
        seen.add(row)
    return None


def refuse_twice(names: Iterable[str], what: str, owners: str) -> None:
    """Refuse names of which one stands twice."""
    twice = first_duplicate(list(names))
    if twice is not None:
        raise DefinitionError(f"The {what} '{twice}' is used by {owners}. Give each its own.")
