"""Outputs, the dimensions inside them, and what each mistake is told."""

import collections
import dataclasses
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest

from sweep.definition import Axis, Coord, Pipeline, Stage, Var
from sweep.errors import DefinitionError

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


def test_a_named_tuple_gives_its_fields_and_the_whole_answer():
    stage = Stage(heat)

    assert stage.fields == ("plate", "steps")
    assert list(stage.outputs) == ["heat", "plate", "steps"]
    assert list(plate_pipeline().outputs) == ["plate"]


def test_the_type_of_an_output_is_that_of_its_annotation():
    class Counts(NamedTuple):
        hits: Annotated[int, Var(())]
        full: Annotated[bool, Var(())]
        small: Annotated[np.ndarray, Var((), dtype="float32")]
        mean: Annotated[float, Var(())]

    def count() -> Counts:
        return Counts(1, True, np.float32(1), 1.0)

    dtypes = [var.dtype for var in Pipeline(count).outputs.values()]

    assert dtypes == ["int64", "bool", "float32", "float64"]


def test_a_dimension_that_no_coord_describes_is_refused():
    remedy = r"'plate' has dimension 'y', which no Coord describes. Add Coord\('y', values, units\)"

    with pytest.raises(DefinitionError, match=remedy):
        Pipeline(heat, coords=[Coord("x", nodes)])


def test_a_pipeline_without_outputs_is_told_how_to_declare_one():
    def silent(a: float) -> float:
        return a

    with pytest.raises(DefinitionError, match=r"silent\(\) declares no output. Annotate what it"):
        Pipeline(silent)
    with pytest.raises(DefinitionError, match="needs at least one function"):
        Pipeline([])


def test_an_output_is_no_text():
    def tell() -> Annotated[str, Var(())]:
        return "a"

    with pytest.raises(DefinitionError, match="stands at str; an output is a number, True/False"):
        Pipeline(tell)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("x",), r"the dimensions are a tuple, \('x',\) for one, \(\) for none"),
        ((("x", "x"),), "names a dimension twice"),
        (((), "m", "", "U5"), "cannot be stored; use a float, an integer or bool"),
        (((), "m", "", "flaot"), "cannot be stored; use a float, an integer or bool"),
    ],
)
def test_the_mistakes_in_a_var_are_told(arguments, remedy):
    with pytest.raises(DefinitionError, match=remedy):
        Var(*arguments)


@pytest.mark.parametrize("values", [[[1, 2]], [True], 3.0, [None]])
def test_a_coord_is_one_column_of_numbers_or_texts(values):
    with pytest.raises(DefinitionError, match="Coord 'x' needs 1-D numbers or texts, not"):
        Coord("x", values)


def test_a_coord_of_an_unknown_parameter_is_told_the_nearest():
    with pytest.raises(DefinitionError, match=r"is a function of 'lenght'.* you mean 'length'\?"):
        plate_pipeline_with(lambda lenght: np.arange(lenght))


def plate_pipeline_with(values: Any, padding: bool = False) -> Pipeline:
    coords = [Coord("x", values, padding=padding), Coord("y", nodes, padding=padding)]
    return Pipeline(heat, coords=coords, axes=[Axis("nx", [2, 3, 4, 5, 40])])


def test_a_coord_that_raises_is_told_with_its_arguments():
    def broken(nx: int) -> np.ndarray:
        return np.arange(nx) / [0, 1]

    with pytest.raises(DefinitionError, match=r"Coord 'x' could not .*broken\(nx=40\) raised Val"):
        _ = plate_pipeline_with(broken).with_values(nx=40).inner


def test_coords_are_a_list_of_coords():
    with pytest.raises(DefinitionError, match=r"coords= takes a list of Coord\(...\), not"):
        Pipeline(heat, coords=Coord("x", [1.0]))


def test_an_output_whose_size_is_swept_takes_the_largest_size():
    pipeline = plate_pipeline(axes=[Axis("nx", [4, 6])])

    x = pipeline.inner["x"]

    assert (x.size, x.values, x.over) == (6, None, ("nx",))
    assert [x.size_at({"nx": i}) for i in range(2)] == [4, 6]
    assert np.isnan(x.at[0, 4:]).all()
    np.testing.assert_array_equal(x.at[1], np.linspace(0, 1, 6))


def test_padding_over_four_times_the_data_is_refused_unless_asked_for():
    assert plate_pipeline(axes=[Axis("nx", [2, 4])]).inner["x"].size == 4
    with pytest.raises(
        DefinitionError, match=r"padded to \d.\d times.*Coord\('y', ..., padding=Tru"
    ):
        _ = plate_pipeline_with(nodes).inner
    assert plate_pipeline_with(nodes, padding=True).inner["x"].size == 40
    assert plate_pipeline_with(nodes).with_values(nx=4).inner["x"].size == 4


def test_two_things_never_share_a_name():
    def again() -> Annotated[float, Var(())]:
        return 1.0

    again.__name__ = "fade"
    with pytest.raises(DefinitionError, match=r"The name 'fade' is used by two stages. Give each"):
        Pipeline([fade, again])
    with pytest.raises(DefinitionError, match="The name 'x' is used by two Coords"):
        Pipeline(heat, coords=[Coord("x", nodes), Coord("x", nodes), Coord("y", nodes)])
    with pytest.raises(DefinitionError, match="The name 'nx' is used by two things"):
        Pipeline(fade, coords=[Coord("nx", [1.0])])
    with pytest.raises(DefinitionError, match="The name 'fade' is used by two things"):
        Pipeline(fade, axes=[Axis(("radius", "nx"), [(1, 2)], dim="fade")])


def test_a_parameter_with_a_reserved_name_is_refused():
    def go(run: int) -> Number:
        return run

    with pytest.raises(DefinitionError, match="Parameter 'run' has a name that the dataset uses"):
        Pipeline(go)


@pytest.mark.parametrize("units", [None, 5])
def test_units_are_texts(units):
    with pytest.raises(DefinitionError, match="units and long_name are texts, not"):
        Var((), units)
    with pytest.raises(DefinitionError, match="units and long_name are texts, not"):
        Coord("x", [1.0], units)


@pytest.mark.parametrize("dtype", [np.float32, "float32", ">f4", np.dtype("f4")])
def test_a_dtype_may_be_written_in_any_way_of_numpy(dtype):
    assert Var((), dtype=dtype).dtype == "float32"


@pytest.mark.parametrize("dtype", [np.longdouble, "complex64", None, 3])
def test_a_dtype_that_a_store_cannot_hold_is_refused(dtype):
    with pytest.raises(DefinitionError, match="cannot be stored; use a float, an integer or bool"):
        Var((), dtype=dtype)


def test_a_coord_without_values_is_told_where_they_came_from():
    pipeline = plate_pipeline().with_values(nx=0)

    with pytest.raises(DefinitionError, match=r"'x' has no values from nodes\(nx=0, length=1.0\)"):
        _ = pipeline.inner


def test_fields_without_annotations_are_no_outputs():
    pair = collections.namedtuple("pair", "left right")

    def split(a: float) -> pair:
        return pair(a, a)

    with pytest.raises(DefinitionError, match=r"split\(\) declares no output"):
        Pipeline(split)


def test_a_named_tuple_with_an_annotation_that_is_not_there_is_told():
    class Lost(NamedTuple):
        one: "Annotated[float, Missing(())]"  # noqa: F821

    def find(a: float) -> Lost:
        return Lost(a)

    with pytest.raises(DefinitionError, match=r"An annotation of what find\(\) returns cannot be"):
        Pipeline(find)


def test_a_dataclass_is_told_to_be_a_named_tuple():
    @dataclasses.dataclass
    class Answer:
        one: Annotated[float, Var(())]

    def find(a: float) -> Answer:
        return Answer(a)

    with pytest.raises(DefinitionError, match=r"returns a dataclass\. Make it a NamedTuple"):
        Pipeline(find)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(np.int64, "int64"), (np.bool_, "bool"), (np.float32, "float32")]
)
def test_a_type_of_numpy_is_the_type_of_the_output(kind, dtype):
    def f(a: float) -> Annotated[kind, Var(())]:
        return kind(a)

    assert Pipeline(f).outputs["f"].dtype == dtype


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.array([2**64 - 1], np.uint64), "does not fit in 64-bit integers"),
        ([[1, 2], [3]], "make no column"),
        (range, "cannot be known. Write one that names them"),
    ],
)
def test_what_cannot_be_a_coord_is_told(values, told):
    with pytest.raises(DefinitionError, match=told):
        Coord("x", values)
