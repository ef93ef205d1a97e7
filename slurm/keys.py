"""The values of a site file: each function takes what TOML had and returns what we go on with.

All raise ValueError with the end of a sentence that begins with the key and its value.
"""

import math
import re
import shlex
from collections.abc import Callable
from typing import Any

VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)  # $NAME or ${NAME}
_UNITS = {"": 1, "M": 1, "G": 1024, "T": 1024**2}  # SLURM's M is 2**20 bytes
_TIME = re.compile(
    r"(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::\d+)?)?"
    r"|(?P<h>\d+):(?P<hm>\d+):\d+|(?P<m>\d+)(?::\d+)?",
    re.ASCII,
)


def text(value: Any) -> str:
    """Return a text that fits on one line."""
    if not isinstance(value, str):
        raise ValueError('is no text. Write it in quotes: "...".')
    if has_control(value):
        raise ValueError("holds a line's end or another control character. Leave it out.")
    return value


def has_control(value: str) -> bool:
    """Tell whether a text holds a control character: it could end a line of a script."""
    return any(ord(letter) < 32 or ord(letter) == 127 for letter in value)


def texts(value: Any) -> tuple[str, ...]:
    """Return a list of texts, none of them empty."""
    if not isinstance(value, (list, tuple)):
        raise ValueError('is no list. Write ["...", "..."].')
    found = tuple(map(text, value))
    if "" in found:
        raise ValueError("has an empty text. Leave it out.")
    return found


def word(value: Any) -> str:
    """Return the name of a partition, an account or a qos, or several with commas."""
    if not re.fullmatch(r"(?![-,])[A-Za-z0-9._@:+,/-]*", text(value)):
        raise ValueError(
            "is no name that SLURM takes: letters, digits and . _ @ : + , / - only, and neither "
            "- nor , at the start."
        )
    return str(value)


def constraint(value: Any) -> str:
    """Return the features that nodes must have, as sbatch combines them."""
    if not re.fullmatch(r"(?!-)[A-Za-z0-9._@:+,&|*!()\[\]-]*", text(value)):
        raise ValueError('is no constraint that SLURM takes, as "haswell" or "a100|h100".')
    return str(value)


def count(value: Any) -> int:
    """Return a whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("is no whole number, at least 1.")
    return value


def rate(value: Any) -> float:
    """Return the price of an hour."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"has the price {value!r}. Give numbers, 0 or more.")
    return float(value)


def minutes(value: Any) -> int | None:
    """Return a time as SLURM writes it, in whole minutes [min]; None for no limit."""
    if isinstance(value, str) and value.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = _TIME.fullmatch(str(value))
    if isinstance(value, bool) or match is None:
        raise ValueError(
            'is no time. Write "1-00:00:00" (a day), "02:30:00" (hours) or 150 (minutes).'
        )
    part = {name: int(digits or 0) for name, digits in match.groupdict().items()}
    found = part["d"] * 1440 + (part["dh"] + part["h"]) * 60 + part["dm"] + part["hm"] + part["m"]
    if found < 1:
        raise ValueError("is less than a minute, which SLURM does not know.")
    return found


def megabytes(value: Any) -> int:
    """Return memory as SLURM writes it, in MiB: 192000, "190G"."""
    match = re.fullmatch(r"([0-9]+)(?:([MGT])B?)?", str(value).upper())
    if isinstance(value, bool) or match is None or int(match[1]) == 0:
        raise ValueError('is no memory. Write 192000 (megabytes) or "190G", as SLURM does.')
    return int(match[1]) * _UNITS[match[2] or ""]


def command(value: Any) -> tuple[str, ...]:
    """Return the words of a command: a list of them, or a text to split as a shell does."""
    if isinstance(value, str):
        try:
            value = shlex.split(text(value))
        except ValueError as error:
            raise ValueError(f"cannot be split into words: {error}") from None
    found = texts(value)
    if not found:
        raise ValueError('is empty. Write e.g. "srun --mpi=pmi2" or "mpiexec".')
    return found


def shell_lines(value: Any) -> tuple[str, ...]:
    """Return lines of shell, as they are; tabs are theirs."""
    if not isinstance(value, (list, tuple)):
        raise ValueError('is no list. Write ["first line", "second line"].')
    for line in value:
        text(line.replace("\t", " ") if isinstance(line, str) else line)
    return tuple(value)


def folder(value: Any) -> str:
    """Return a folder on a node, with $NAMES in it."""
    if "$" in VARIABLE.sub("", text(value)):
        raise ValueError(
            "has a $ that begins no name. $SLURM_TMPDIR and ${USER} are possible; what a shell "
            "has to compute stands in setup."
        )
    if value and not value.startswith(("/", "$")):
        raise ValueError('is not absolute. Write e.g. "/scratch/$USER".')
    return str(value)


def directive_name(directive: str) -> str:
    """Return the name of a directive: "--mem" of "--mem=4G"."""
    return directive.partition("=")[0]


def directives(value: Any) -> tuple[str, ...]:
    """Return directives for sbatch: ``--name`` or ``--name=value``."""
    found = texts(value)
    for one in found:
        if not re.fullmatch(r"--[a-z][a-z0-9-]*(=.*)?", one):
            raise ValueError(f"holds {one!r}, which is not of the form --name or --name=value.")
    return found


def directive_with(place: str) -> Callable[[Any], str]:
    """Return what checks a directive that has `place` to fill in; an empty one is left out."""

    def check(value: Any) -> str:
        if text(value) and place not in directives([value])[0]:
            raise ValueError(f'has no {place} to fill in. Write e.g. "--name={place}", or "".')
        return str(value)

    return check
