from typing import Annotated, Literal, NamedTuple

import numpy as np
import pytest

from sweep.definition import Axis, Coord, Pipeline, Var
from sweep.errors import DefinitionError
from sweep.template import STATUS_MEANINGS, Array, block_arrays, template


class Waves(NamedTuple):
    """A field, a small one, a count and a yes or no."""

    height: Annotated[np.ndarray, Var(("y", "x"), "m", "height of the water")]
    rough: Annotated[np.ndarray, Var(("x",), "m", dtype="float32")]
    crests: Annotated[int, Var(())]
    breaks: Annotated[bool, Var(())]


def waves(
    depth: float,
    nx: int = 4,
    model: Literal["linear", "full"] = "full",
    calm: bool = False,
    seed: int = 2**70,
    limit: float | None = None,
) -> Waves:
    return Waves(np.zeros((2, nx)), np.zeros(nx, "f4"), 1, calm)


def cells(nx: int) -> np.ndarray:
    return np.arange(nx) + 0.5


def sweep_of(*axes: Axis) -> Pipeline:
    return Pipeline(
        waves,
        axes=axes,
        coords=[Coord("x", cells, "m", "distance"), Coord("y", ["left", "right"])],
        units={"depth": "m"},
    )


def arrays_of(*axes: Axis) -> dict[str, Array]:
    return {array.name: array for array in template(sweep_of(*axes))}


DEPTHS = Axis("depth", [1.0, 2.0, 3.0])


def test_every_array_of_the_dataset_is_in_the_template_once():
    names = " ".join(array.name for array in template(sweep_of(DEPTHS)))

    assert names == ("depth nx model calm x y height rough crests breaks point_seconds run status")


def test_an_output_leads_with_the_swept_dims():
    height = arrays_of(DEPTHS, Axis("model", ["linear", "full"]))["height"]

    assert height.dims == ("depth", "model", "y", "x")
    assert height.shape == (3, 2, 2, 4)
    assert height.attrs == {"units": "m", "long_name": "height of the water"}


def test_outputs_have_their_own_types_and_fill():
    arrays = arrays_of(DEPTHS)

    assert [str(arrays[n].dtype) for n in ("height", "rough", "crests", "breaks")] == [
        "float64",
        "float32",
        "int64",
        "bool",
    ]
    assert np.isnan(arrays["rough"].fill)
    assert (arrays["crests"].fill, arrays["breaks"].fill) == (0, False)


def test_swept_parameters_and_constants_are_coordinates():
    arrays = arrays_of(DEPTHS)

    np.testing.assert_array_equal(arrays["depth"].data, [1.0, 2.0, 3.0])
    assert (arrays["depth"].dims, arrays["depth"].attrs) == (("depth",), {"units": "m"})
    assert (arrays["nx"].dims, arrays["nx"].data.item(), arrays["nx"].dtype) == ((), 4, np.int64)
    assert (arrays["model"].data.item(), arrays["model"].attrs) == ("full", {})
    assert (arrays["calm"].data.item(), arrays["calm"].attrs) == (False, {})


def test_constants_that_no_array_holds_are_left_out():
    assert not {"seed", "limit"} & set(arrays_of(DEPTHS))


def test_parameters_that_vary_together_are_coordinates_on_one_dim():
    arrays = arrays_of(Axis(("depth", "model"), [(1.0, "linear"), (2.0, "full")], dim="pair"))

    assert arrays["depth"].dims == arrays["model"].dims == ("pair",)
    assert arrays["model"].data.tolist() == ["linear", "full"]
    assert arrays["crests"].dims == ("pair",)
    assert "pair" not in arrays


def test_a_dimension_inside_outputs_has_its_values_as_an_index():
    arrays = arrays_of(DEPTHS)

    np.testing.assert_array_equal(arrays["x"].data, [0.5, 1.5, 2.5, 3.5])
    assert arrays["x"].attrs == {"units": "m", "long_name": "distance"}
    assert (arrays["y"].data.tolist(), arrays["y"].attrs) == (["left", "right"], {})


def test_a_swept_size_has_its_values_beside_it_along_both_dims():
    arrays = arrays_of(DEPTHS, Axis("nx", [2, 3]))

    assert "x" not in arrays
    assert arrays["x_at"].dims == ("nx", "x")
    np.testing.assert_array_equal(arrays["x_at"].data, [[0.5, 1.5, np.nan], [0.5, 1.5, 2.5]])
    assert arrays["height"].shape == (3, 2, 2, 3)


def test_each_point_has_a_status_with_its_meanings():
    status = arrays_of(DEPTHS)["status"]

    assert (status.dims, status.dtype, status.fill) == (("depth",), np.uint8, 0)
    assert status.attrs["flag_values"] == list(range(5))
    assert tuple(status.attrs["flag_meanings"].split()) == STATUS_MEANINGS


def test_blocks_write_outputs_and_points_and_status_last():
    names = [array.name for array in block_arrays(template(sweep_of(DEPTHS)))]

    assert set(names) == {"height", "rough", "crests", "breaks", "point_seconds", "run", "status"}
    assert names[-1] == "status"


def test_a_sweep_without_axes_has_outputs_of_one_point():
    arrays = {a.name: a for a in template(sweep_of().with_values(depth=1.0))}

    assert (arrays["status"].shape, arrays["height"].dims) == ((), ("y", "x"))


def test_a_parameter_without_a_value_is_refused():
    with pytest.raises(DefinitionError, match="Set it: depth=VALUE"):
        template(sweep_of())
