"""Values of parameters: their types, and how they are changed without editing the file."""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pytest

from sweep.definition import Axis, Pipeline, Var
from sweep.errors import DefinitionError

Number = Annotated[float, Var((), "K", "peak")]


def fade(diffusivity: float, radius: float = 0.01, nx: int = 8, flat: bool = False) -> Number:
    return diffusivity * radius * nx * flat


def method(
    scheme: Literal["euler", "rk4"] = "rk4", label: str = "a", cut: float | None = None
) -> Number:
    return len(scheme) + len(label) + (cut or 0.0)


def sweep_of(*axes: Axis) -> Pipeline:
    return Pipeline(fade, axes=axes)


def zipped() -> Axis:
    rows = [(1e-5, 0.01, 4), (1e-5, 0.02, 8), (1e-6, 0.01, 8)]
    return Axis(("diffusivity", "radius", "nx"), rows, ("m2 s-1", "m", ""), dim="pair")


def test_values_become_what_the_parameter_is_annotated_with():
    pipeline = sweep_of(Axis("radius", [1, 2]), Axis("nx", [4.0, 8.0]))

    assert pipeline.values_at({"radius": 0, "nx": 1}) == {"radius": 1.0, "nx": 8}
    assert [axis.columns[0].dtype.kind for axis in pipeline.axes] == ["f", "i"]


@pytest.mark.parametrize(
    ("axis", "remedy"),
    [
        (Axis("nx", [4.5]), r"'nx' of fade\(\) takes int, not 4.5 \(float\)"),
        (Axis("radius", ["small"]), r"'radius' of fade\(\) takes float, not 'small' \(str\)"),
        (Axis("radius", [True]), r"'radius' of fade\(\) takes float, not True \(bool\)"),
        (Axis("flat", [0, 1]), r"'flat' of fade\(\) takes bool, not 0 \(int\)"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(axis, remedy):
    with pytest.raises(DefinitionError, match=remedy):
        sweep_of(axis)


def test_a_value_that_is_no_choice_is_told_the_nearest_choice():
    with pytest.raises(
        DefinitionError, match=r"'scheme' of method.*is 'rk5'. Did you mean 'rk4'\?"
    ):
        Pipeline(method, axes=[Axis("scheme", ["euler", "rk5"])])


def test_an_optional_parameter_takes_none_and_its_type():
    pipeline = Pipeline(method)

    assert pipeline.with_values(cut=2).fixed["cut"] == 2.0
    assert pipeline.with_values(cut=2).with_values(cut=None).fixed["cut"] is None
    with pytest.raises(DefinitionError, match=r"takes float \| None, not 'far'"):
        pipeline.with_values(cut="far")


def test_a_whole_default_of_a_float_is_that_float():
    def throw(speed: float = 10) -> Number:
        return speed

    assert repr(Pipeline(throw).fixed["speed"]) == "10.0"


def test_nan_is_refused_as_a_constant():
    with pytest.raises(DefinitionError, match=r"'radius' of fade\(\) cannot be NaN"):
        sweep_of().with_values(radius=float("nan"))


def test_a_list_turns_a_constant_into_the_last_axis():
    pipeline = sweep_of(Axis("diffusivity", [1e-5, 1e-6])).with_values(nx=[4, 8, 16])

    assert pipeline.dims == {"diffusivity": 2, "nx": 3}
    assert "nx" not in pipeline.fixed


def test_one_value_turns_an_axis_into_a_constant_that_keeps_its_units():
    pipeline = sweep_of(Axis("diffusivity", [1e-5, 1e-6], "m2 s-1")).with_values(diffusivity=1e-4)

    assert pipeline.dims == {}
    assert pipeline.fixed["diffusivity"] == 1e-4
    assert pipeline.parameters["diffusivity"].units == "m2 s-1"


def test_a_list_replaces_an_axis_in_its_place():
    old = sweep_of(Axis("diffusivity", [1e-5]), Axis("radius", [0.1]))

    new = old.with_values(diffusivity=np.geomspace(1e-6, 1e-4, 5))

    assert new.dims == {"diffusivity": 5, "radius": 1}
    assert old.dims == {"diffusivity": 1, "radius": 1}


def test_an_unknown_name_is_told_the_nearest_parameter():
    with pytest.raises(DefinitionError, match=r"^'radios' is not .* Did you mean 'radius'\?"):
        sweep_of().with_values(radios=1)


def test_one_parameter_of_a_zipped_axis_can_be_fixed():
    pipeline = sweep_of(zipped()).with_values(radius=0.05)

    assert pipeline.swept == ("diffusivity", "nx")
    assert pipeline.dims == {"pair": 3}
    assert pipeline.fixed["radius"] == 0.05


def test_rows_that_become_the_same_are_one_point():
    assert sweep_of(zipped()).with_values(radius=0.05, nx=4).dims == {"pair": 2}


def test_all_parameters_of_a_zipped_axis_fixed_leave_no_axis():
    assert sweep_of(zipped()).with_values(radius=0.05, nx=4, diffusivity=1.0).dims == {}


def test_one_parameter_of_a_zipped_axis_cannot_vary_alone():
    with pytest.raises(DefinitionError, match="varies together with diffusivity, nx along 'pair'"):
        sweep_of(zipped()).with_values(radius=[1.0, 2.0])


@pytest.mark.parametrize(
    "names", [["radius", "nx", "diffusivity"], ["diffusivity", "nx", "radius"]]
)
def test_what_fixing_leaves_of_a_zipped_axis_may_vary_whatever_the_order(names):
    values = {"radius": 0.05, "nx": 4, "diffusivity": [1.0, 2.0, 3.0, 4.0]}

    pipeline = sweep_of(zipped()).with_values(**{name: values[name] for name in names})

    assert pipeline.dims == {"diffusivity": 4}


def test_a_list_is_one_value_of_a_parameter_that_takes_lists():
    def weigh(weights: list[float], scale: float = 1.0) -> Number:
        return sum(weights) * scale

    pipeline = Pipeline(weigh).with_values(weights=[1.0, 2.0])

    assert pipeline.fixed["weights"] == [1.0, 2.0]
    assert pipeline.dims == {}


def test_a_list_for_a_parameter_of_any_type_makes_an_axis():
    def weigh(weight: Any, scale) -> Number:
        return weight * scale

    assert Pipeline(weigh).with_values(weight=[1, 2], scale=[1, 2]).dims == {
        "weight": 2,
        "scale": 2,
    }


def test_a_parameter_without_a_value_is_missing_until_it_gets_one():
    pipeline = sweep_of()

    assert pipeline.missing == ("diffusivity",)
    with pytest.raises(DefinitionError, match=r"Set it: diffusivity=VALUE, or diffusivity=V1,V2"):
        pipeline.check_complete()
    pipeline.with_values(diffusivity=1e-5).check_complete()


@pytest.mark.parametrize(
    ("annotation", "default", "told"),
    [
        (int, 0.5, "takes int, not 0.5"),
        (int, "3", "takes int, not '3'"),
        (float, "x", "takes float, not 'x'"),
        (Literal["euler", "rk4"], "rk5", "Did you mean 'rk4'"),
        (bool, 1, "takes bool, not 1"),
    ],
)
def test_a_default_that_does_not_fit_is_told_at_once(annotation, default, told):
    def go(n=default) -> Number:
        return 0.0

    go.__annotations__["n"] = annotation
    with pytest.raises(DefinitionError, match=f"The default of 'n' does not fit. .*{told}"):
        Pipeline(go)


@pytest.mark.parametrize("default", [None, float("nan")])
def test_a_default_that_stands_for_nothing_is_let_be(default):
    def go(n: float = default) -> Number:
        return 0.0

    assert Pipeline(go).fixed["n"] is default


def test_a_long_axis_is_converted_as_a_whole():
    pipeline = Pipeline(fade, axes=[Axis("radius", range(1_000_000))])

    assert pipeline.axes[0].columns[0].dtype == np.float64
    assert len(pipeline.axes[0]) == 1_000_000


def test_a_text_that_no_file_can_hold_is_refused():
    with pytest.raises(DefinitionError, match="half of a surrogate pair"):
        Pipeline(method, constants={"label": "\udc80"})


def test_a_column_of_pandas_makes_an_axis():
    pipeline = Pipeline(fade).with_values(radius=pd.Series([1.0, 2.0]))

    assert pipeline.dims == {"radius": 2}
