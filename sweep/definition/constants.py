"""Constants as JSON: what a specification compares, a store keeps and a message carries."""

import hashlib
import json
import math
import re
from types import NoneType
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a constant as JSON can hold it; what JSON cannot hold, as its text.

    The text is the same in every process: without addresses, and an array as its SHA-256.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubU":
        return {"array": list(value.shape), "values": digest(value)}
    if type(value) in (str, int, bool, NoneType):
        return value
    if type(value) is float and not math.isnan(value):  # which is unequal to itself
        return value
    if type(value) is list:
        return [plain(item) for item in value]
    if type(value) is tuple:
        return {"tuple": [plain(item) for item in value]}
    return {"repr": re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))}


def is_whole(told: Any) -> bool:
    """Tell whether what `plain` returned holds the constant itself, and not a text of it."""
    if isinstance(told, dict):
        return set(told) == {"tuple"} and is_whole(told["tuple"])
    return all(map(is_whole, told)) if isinstance(told, list) else True


def restored(told: Any) -> Any:
    """Return the constant that `plain` made `told` of; `is_whole` says whether that can be."""
    if isinstance(told, dict):
        return tuple(restored(item) for item in told["tuple"])
    return [restored(item) for item in told] if isinstance(told, list) else told


def told_text(told: Any) -> str:
    """Return what `plain` returned as a person would write it."""
    if is_whole(told):
        return repr(restored(told))
    if isinstance(told, dict) and "array" in told:
        return f"an array of shape {tuple(told['array'])} ({told['values'][2:10]})"
    return str(told["repr"]) if isinstance(told, dict) and "repr" in told else repr(told)


def digest(column: np.ndarray) -> str:
    """Return the kind and the SHA-256 of an array's values."""
    text = json.dumps(column.tolist(), ensure_ascii=False) if column.dtype.kind == "U" else None
    raw = np.ascontiguousarray(column).tobytes() if text is None else text.encode()
    return f"{column.dtype.kind}:{hashlib.sha256(raw).hexdigest()}"
