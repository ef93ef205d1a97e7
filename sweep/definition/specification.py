"""What makes two sweeps the same, as JSON; and in words what makes them differ."""

import hashlib
import json
from typing import Any

import numpy as np

from sweep.definition.constants import digest, plain, told_text
from sweep.definition.output import Inner
from sweep.definition.pipeline import Pipeline

Specification = dict[str, Any]


def specification(pipeline: Pipeline) -> Specification:
    """Return what makes two sweeps the same, JSON-able; values of axes as their SHA-256."""
    pipeline.check_complete()
    return {
        "stages": stages_of(pipeline),
        "dims": list(pipeline.dims),  # a list keeps its order in canonical JSON
        "axes": {
            name: {
                "dim": axis.dim,
                "size": len(axis),
                "units": pipeline.parameters[name].units,
                "values": digest(column),
            }
            for axis in pipeline.axes
            for name, column in zip(axis.names, axis.columns, strict=True)
        },
        "constants": {name: plain(value) for name, value in sorted(pipeline.fixed.items())},
        "coords": {
            name: {
                "size": inner.size,
                "units": inner.coord.units,
                "values": digest(_values(inner)),
            }
            for name, inner in pipeline.inner.items()
        },
        "outputs": {
            name: {"dims": list(var.dims), "units": var.units, "dtype": var.dtype}
            for name, var in pipeline.outputs.items()
        },
        "entropy": str(pipeline.entropy),
    }


def stages_of(pipeline: Pipeline) -> dict[str, Any]:
    """Return the part of a specification that tells the stages."""
    return {
        stage.name: {"vectorized": stage.vectorized, "parameters": sorted(stage.parameters)}
        for stage in pipeline.stages
    }


def canonical_json(value: Any) -> str:
    """Return `value` as the one JSON text that stands for it: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def specification_hash(spec: Specification) -> str:
    """Return the SHA-256 of a specification's canonical JSON."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def differences(old: Specification, new: Specification) -> list[str]:
    """Return in words what differs between the sweep in a store and the one asked for."""
    found = []
    if list(old["dims"]) != list(new["dims"]):
        found.append(f"the swept dims were ({_join(old['dims'])}), now ({_join(new['dims'])})")
    for kind, word in (
        ("stages", "stage"),
        ("axes", "axis"),
        ("constants", "constant"),
        ("coords", "coordinate"),
        ("outputs", "output"),
    ):
        found += differences_of(word, old[kind], new[kind])
    if old["entropy"] != new["entropy"]:
        found.append(f"entropy was {old['entropy']}, now {new['entropy']}")
    return found


def differences_of(word: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return in words what differs between two tables of named things, each a `word`."""
    found = [f"{word} '{name}' is gone" for name in before if name not in after]
    found += [f"{word} '{name}' is new" for name in after if name not in before]
    return found + [
        _changed(f"{word} '{name}'", before[name], after[name])
        for name in before
        if name in after and before[name] != after[name]
    ]


def _changed(what: str, before: Any, after: Any) -> str:
    if what.startswith("constant "):
        return f"{what} was {told_text(before)}, now {told_text(after)}"
    if not isinstance(before, dict) or not isinstance(after, dict):
        return f"{what} was {before!r}, now {after!r}"
    if before.get("size") != after.get("size"):
        return f"{what} had {before.get('size')} values, now {after.get('size')}"
    keys = [key for key in before if before[key] != after.get(key)]
    if keys == ["values"]:
        return f"{what} has as many values, but other ones"
    return f"{what}: " + ", ".join(
        f"{key} was {before[key]!r}, now {after.get(key)!r}" for key in keys if key != "values"
    )


def _values(inner: Inner) -> np.ndarray:
    values = inner.at if inner.values is None else inner.values
    assert values is not None
    return values


def _join(names: Any) -> str:
    return ", ".join(names)
