"""What a block that is computed again is held against: the values that were done."""

from collections.abc import Mapping, Sequence

import numpy as np

from sweep.task import Computed
from sweep.template import DONE, STALE


def hold_against(
    status: np.ndarray,
    arrays: Mapping[str, np.ndarray],
    computed: Computed,
    dims: Sequence[str],
    start: Sequence[int],
) -> None:
    """Compare a block with what was done of it before, value for value (NaN equals NaN).

    A point that does not come out the same becomes stale: it keeps what was stored of it, and an
    event says so. Nothing that is done changes unnoticed.

    Parameters
    ----------
    status
        What the points were, of the block's shape.
    arrays
        What is stored of the block: the outputs, ``run`` and ``point_seconds``.
    computed
        The block computed again, with the same arrays; it is changed.
    dims, start
        The swept dims, and the place of the block's corner on them.
    """
    was_done = status == DONE
    outputs = [name for name in arrays if name not in ("run", "point_seconds")]
    same = (computed.status == DONE) & was_done
    for name in outputs:
        same &= equal_points(arrays[name], computed.arrays[name], status.ndim)
    other = was_done & ~same
    for name, values in arrays.items():
        computed.arrays[name][other] = values[other]
    computed.status[other] = STALE
    for here in np.argwhere(other).tolist():
        place = {dim: low + i for dim, low, i in zip(dims, start, here, strict=True)}
        computed.events[:] = [e for e in computed.events if e["place"] != place]
        computed.events.append({"place": place, **_NOT_SAME})


_NOT_SAME = {
    "kind": "stale",
    "error_type": "NotReproduced",
    "error": "Computed again, the point did not come out the same. Is the model random, or was its "
    "code or an input changed? The values of before are kept.",
}


def equal_points(old: np.ndarray, new: np.ndarray, dims: int) -> np.ndarray:
    """Tell which points are equal, value for value, in two arrays with `dims` leading dims."""
    equal = old == new
    if old.dtype.kind == "f":
        equal |= np.isnan(old) & np.isnan(new)
    result: np.ndarray = equal.reshape(*equal.shape[:dims], -1).all(axis=-1)
    return result
