"""What makes two sweeps the same, and in words what makes them differ."""

import enum
import json
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.definition import Axis, Coord, Pipeline, Var
from sweep.definition.constants import is_whole, plain, restored
from sweep.definition.specification import (
    canonical_json,
    differences,
    specification,
    specification_hash,
)

Number = Annotated[float, Var((), "K", "peak")]


def fade(diffusivity: float, radius: float = 0.01, nx: int = 8, flat: bool = False) -> Number:
    return diffusivity * radius * nx * flat


class Plate(NamedTuple):
    """One stored output, one that is only passed on."""

    plate: Annotated[np.ndarray, Var(("y", "x"), "K")]
    steps: int


def heat(nx: int, length: float = 1.0) -> Plate:
    return Plate(np.full((nx, nx), length), nx)


def nodes(nx: int, length: float) -> np.ndarray:
    return np.linspace(0.0, length, nx)


def plate_pipeline(**more: Any) -> Pipeline:
    return Pipeline(heat, coords=[Coord("x", nodes, "m"), Coord("y", nodes, "m")], **more)


def sweep_of(*axes: Axis) -> Pipeline:
    return Pipeline(fade, axes=axes)


def full(**values: Any) -> Pipeline:
    return sweep_of(Axis("diffusivity", [1e-5, 1e-6], "m2 s-1")).with_values(**values)


def test_equal_pipelines_have_the_same_specification():
    assert specification(full(nx=8)) == specification(full())
    assert specification_hash(specification(full())) == specification_hash(specification(full()))


def test_a_specification_survives_json():
    spec = specification(plate_pipeline(axes=[Axis("nx", [4, 6])]))

    assert json.loads(canonical_json(spec)) == spec
    assert differences(json.loads(canonical_json(spec)), spec) == []


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (full(diffusivity=[1e-5, 1e-6, 1e-7]), "axis 'diffusivity' had 2 values, now 3"),
        (full(diffusivity=[1e-5, 1e-7]), "axis 'diffusivity' has as many values, but other ones"),
        (full(nx=16), "constant 'nx' was 8, now 16"),
        (full(nx=[16, 32]), "axis 'nx' is new"),
        (full(nx=[16, 32]), "constant 'nx' is gone"),
        (full(nx=[16, 32]), r"the swept dims were (diffusivity), now (diffusivity, nx)"),
        (Pipeline(fade, axes=[Axis("diffusivity", [1e-5, 1e-6], "cm2 s-1")]),
         "axis 'diffusivity': units was 'm2 s-1', now 'cm2 s-1'"),
        (Pipeline(fade, axes=full().axes, entropy=7), "entropy was 0, now 7"),
    ],
)  # fmt: skip
def test_what_differs_is_told_in_words(new, words):
    old, changed = specification(full()), specification(new)

    assert words in differences(old, changed)
    assert specification_hash(old) != specification_hash(changed)


def test_the_order_of_the_axes_is_part_of_the_specification():
    axes = [Axis("diffusivity", [1.0, 2.0]), Axis("radius", [1.0, 2.0])]
    one, other = specification(sweep_of(*axes)), specification(sweep_of(*reversed(axes)))

    assert specification_hash(one) != specification_hash(other)
    assert any("the swept dims were" in words for words in differences(one, other))


def test_a_changed_output_and_coordinate_are_told():
    old = specification(plate_pipeline(axes=[Axis("nx", [4, 6])]))
    new = json.loads(canonical_json(old))
    new["outputs"]["plate"]["dtype"] = "float32"
    new["coords"]["x"]["values"] = "f:0"

    assert differences(old, new) == [
        "coordinate 'x' has as many values, but other ones",
        "output 'plate': dtype was 'float64', now 'float32'",
    ]


def test_a_constant_that_json_cannot_hold_is_the_same_text_in_every_process():
    big = np.arange(5000.0)
    changed = big.copy()
    changed[2500] = 0

    assert " at 0x" not in json.dumps(plain(object()))
    assert plain(fade) == plain(fade)
    assert plain(float("nan")) == plain(float("nan"))
    assert plain(np.int64(3)) == 3
    assert plain((1, [np.float64(2.5)])) == {"tuple": [1, [2.5]]}
    assert plain(big) == plain(big.copy()) != plain(changed)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=8,
    )
)
def test_what_json_can_hold_is_kept_as_it_is(value):
    assert json.loads(canonical_json(plain(value))) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
        max_leaves=8,
    )
)
def test_lists_and_tuples_come_back_as_what_they_were(value):
    told = json.loads(canonical_json(plain(value)))

    assert is_whole(told)
    assert repr(restored(told)) == repr(value)


@pytest.mark.parametrize("value", [np.zeros(2), {"a": 1}, {1}, enum.IntEnum("E", "a").a, (1, {2})])
def test_what_json_cannot_hold_is_known_not_to_come_back(value):
    assert not is_whole(json.loads(canonical_json(plain(value))))
