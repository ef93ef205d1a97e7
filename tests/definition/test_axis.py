"""What an axis may be, and what each mistake is told."""

import datetime
from typing import Annotated

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sweep.definition import Axis, Pipeline, Var
from sweep.errors import DefinitionError

Number = Annotated[float, Var((), "K", "peak")]


def fade(diffusivity: float, radius: float = 0.01, nx: int = 8, flat: bool = False) -> Number:
    return diffusivity * radius * nx * flat


def sweep_of(*axes: Axis) -> Pipeline:
    return Pipeline(fade, axes=axes)


def zipped() -> Axis:
    rows = [(1e-5, 0.01, 4), (1e-5, 0.02, 8), (1e-6, 0.01, 8)]
    return Axis(("diffusivity", "radius", "nx"), rows, ("m2 s-1", "m", ""), dim="pair")


def test_an_axis_holds_its_values_read_only_as_64_bit_numbers():
    axis = Axis("radius", np.array([1, 2], "float32"), "m")

    assert axis.columns[0].dtype == np.float64
    assert not axis.columns[0].flags.writeable
    assert (axis.names, axis.dim, axis.units, len(axis)) == (("radius",), "radius", ("m",), 2)


def test_axes_are_equal_by_value():
    assert Axis("radius", [1.0, 2.0], "m") == Axis("radius", np.array([1.0, 2.0]), "m")
    assert Axis("radius", [1.0, 2.0], "m") != Axis("radius", [1.0, 3.0], "m")
    assert Axis("radius", [1, 2]) != Axis("radius", [1.0, 2.0])


def test_the_axes_own_mistakes_are_named_with_a_remedy():
    for values, remedy in [
        ([], "no values. Give it at least one"),
        ([1.0, float("nan")], "has NaN at position 1. Take it out"),
        ([1, 2, 1], "has the value 1 twice. Take one out"),
        ([[1, 2], [3, 4]], r"takes a 1-D list. Parameters that vary together: Axis\(\('a', 'b'\)"),
        ([1, "a"], r"mixes kinds of values: \[1, 'a'\]"),
        ([True, 2], "mixes kinds of values"),
        (3.0, "needs a list, range or 1-D array of values, not 3.0"),
        ("abc", "needs a list, range or 1-D array of values, not 'abc'"),
        ([1j], "an axis holds numbers, texts or True/False"),
        ([None, 1], "an axis holds numbers, texts or True/False"),
        ([[1], [1, 2]], "values that make no column"),
        (np.array([2**63], "uint64"), "does not fit in 64-bit integers"),
    ]:
        with pytest.raises(DefinitionError, match=remedy):
            Axis("radius", values)


def test_a_name_that_is_no_identifier_is_refused():
    with pytest.raises(DefinitionError, match="Axis 'hot spot' is not a name: use letters"):
        Axis("hot spot", [1])


@pytest.mark.parametrize("name", ["status", "run", "point_seconds", "sample"])
def test_a_name_that_the_dataset_uses_itself_is_refused(name):
    with pytest.raises(DefinitionError, match=f"'{name}' has a name that the dataset uses.*Give"):
        Axis(name, [1])


def test_an_unknown_axis_is_told_the_nearest_parameter():
    remedy = r"Axis 'difusivity' is not a parameter of fade\(\). Did you mean 'diffusivity'\?"

    with pytest.raises(DefinitionError, match=remedy):
        sweep_of(Axis("difusivity", [1e-5]))


def test_a_name_like_no_parameter_is_told_all_of_them():
    with pytest.raises(DefinitionError, match="Known: diffusivity, radius, nx, flat"):
        sweep_of(Axis("temperature", [1.0]))


def test_a_parameter_is_on_one_axis_only():
    with pytest.raises(DefinitionError, match=r"The parameter 'radius' is used by two axes. Give"):
        sweep_of(Axis("radius", [1.0]), zipped())


@pytest.mark.parametrize("axes", [[("radius", [1])], Axis("radius", [1]), "radius"])
def test_axes_are_a_list_of_axes(axes):
    with pytest.raises(DefinitionError, match=r"axes= takes a list of Axis\(...\), not"):
        Pipeline(fade, axes=axes)


def test_parameters_that_vary_together_share_a_dimension():
    pipeline = sweep_of(zipped())

    assert pipeline.dims == {"pair": 3}
    assert pipeline.swept == ("diffusivity", "radius", "nx")
    assert pipeline.values_at({"pair": 2}) == {"diffusivity": 1e-6, "radius": 0.01, "nx": 8}


def test_a_zip_of_lists_makes_rows():
    assert len(Axis(("a", "b"), zip([1, 2], [3, 4], strict=True), dim="pair")) == 2


def test_a_sampled_axis_may_be_called_sample():
    assert Axis(("radius",), [(0.1,), (0.2,)], dim="sample").dim == "sample"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ((("a", "b"), [(1, 2)]), "name its dimension: dim='sample'"),
        ((("a", "a"), [(1, 2)], "", "pair"), "must name each of its parameters once"),
        (((), [()], "", "pair"), "must name each of its parameters once"),
        ((("a", "b"), [(1, 2)], "", "a"), "Give it another name, e.g. dim='sample'"),
        ((("a", "b"), [(1, 2)], "", "status"), "has a name that the dataset uses"),
        ((("a", "b"), [], "", "pair"), "has no values. Give it a list of rows"),
        ((("a", "b"), 5, "", "pair"), "has no values. Give it a list of rows"),
        ((("a", "b"), [(1, 2), (3,)], "", "pair"), r"Row 1 .* is \(3,\); it needs a value for"),
        ((("a", "b"), ["12"], "", "pair"), "Row 0 .* is '12'; it needs a value for each of a, b"),
        ((("a", "b"), [(1, 2), (1, 2)], "", "pair"), r"has the value \(1, 2\) twice"),
        ((("a", "b"), [(1, 2)], ("m",), "pair"), "give one text for each"),
        (("a", [1], "m", "b"), "carries one parameter, so its dimension is 'a'"),
    ],
)
def test_the_rules_of_zipped_axes_are_told(arguments, remedy):
    with pytest.raises(DefinitionError, match=remedy):
        Axis(*arguments)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ((None, [1]), r"Axis\(None, ...\): give the name of a parameter first"),
        ((3, [1]), r"Axis\(3, ...\): give the name"),
        (("a", [1], None), "has units None; give one text for each of a, '1' for what has none"),
        (("a", [1], 3), "has units 3"),
        (("a", [1], ["m", "s"]), "give one text for each of a"),
        (("a", range(10**9)), "has 1000000000 values, more than an axis holds"),
        (("a", range(10**30)), "more than an axis holds"),
        (("a", [datetime.date(2026, 1, 1)]), "Give numbers .* 'days since 2026-01-01'"),
        (("a", np.array(["2026-01-01"], "M8[D]")), "has dates. Give numbers"),
        (("a", ["\ud800"]), "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_an_axis_is_told(arguments, remedy):
    with pytest.raises(DefinitionError, match=remedy):
        Axis(*arguments)


def test_an_axis_takes_the_columns_of_pandas_and_xarray():
    assert Axis("a", pd.Series([1.0, 2.0])) == Axis("a", [1.0, 2.0])
    assert Axis("a", pd.Series(["x", "y"])) == Axis("a", ["x", "y"])
    assert Axis("a", xr.DataArray([1, 2])) == Axis("a", [1, 2])


def test_the_micro_sign_is_the_greek_letter_that_python_reads_it_as():
    def drag(µ: float) -> Number:
        return µ

    pipeline = Pipeline(drag, axes=[Axis("\u00b5", [1.0])], units={"\u00b5": "Pa s"})

    assert pipeline.dims == {"\u03bc": 1}
    assert pipeline.parameters["\u03bc"].units == "Pa s"
