"""What a scientist may declare, and what each mistake is told."""

import json
import pickle
from typing import Annotated, Any, Literal, NamedTuple

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.definition import Axis, Coord, Needs, Pipeline, Stage, Var
from sweep.definition.specification import (
    canonical_json,
    differences,
    plain,
    specification,
    specification_hash,
)
from sweep.definition.stage import MISSING
from sweep.errors import DefinitionError

Number = Annotated[float, Var((), "K", "peak")]


def fade(diffusivity: float, radius: float = 0.01, nx: int = 8, flat: bool = False) -> Number:
    return diffusivity * radius * nx * flat


def method(
    scheme: Literal["euler", "rk4"] = "rk4", label: str = "a", cut: float | None = None
) -> Number:
    return len(scheme) + len(label) + (cut or 0.0)


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


def zipped() -> Axis:
    rows = [(1e-5, 0.01, 4), (1e-5, 0.02, 8), (1e-6, 0.01, 8)]
    return Axis(("diffusivity", "radius", "nx"), rows, ("m2 s-1", "m", ""), dim="pair")


# --- axes --------------------------------------------------------------------------------


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


# --- values and the annotations of their parameters --------------------------------------


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


# --- axes of several parameters ----------------------------------------------------------


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


# --- with_values: what is varied is changed without editing the file ---------------------


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


# --- outputs and what is inside them -----------------------------------------------------


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


@pytest.mark.parametrize("values", [[], [[1, 2]], [True], 3.0, [None]])
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


# --- stages ------------------------------------------------------------------------------


class Bodies(NamedTuple):
    """What is only passed on."""

    mass: float
    position: float


def initial(n: int, seed: int, rng: np.random.Generator) -> Bodies:
    return Bodies(n, rng.normal() + seed)


def orbit(mass: float, position: float, dt: float) -> Annotated[float, Var(())]:
    return mass * position * dt


def energy(orbit: float, initial: Bodies, g: float = 1.0) -> Annotated[float, Var(())]:
    return orbit * initial.mass * g


def test_stages_are_wired_by_name():
    pipeline = Pipeline([initial, orbit, energy])

    assert list(pipeline.parameters) == ["n", "seed", "dt", "g"]
    assert list(pipeline.outputs) == ["orbit", "energy"]


def test_a_stage_depends_on_what_its_inputs_were_made_of():
    pipeline = Pipeline([initial, orbit, energy])

    depends = {stage.name: pipeline.depends(stage) for stage in pipeline.stages}

    assert depends == {
        "initial": ("n", "seed"),
        "orbit": ("dt", "n", "seed"),
        "energy": ("dt", "g", "n", "seed"),
    }


def test_stages_in_the_wrong_order_are_refused():
    with pytest.raises(DefinitionError, match=r"orbit\(\) takes 'mass', which a later stage makes"):
        Pipeline([orbit, initial])


def test_a_stage_that_takes_what_it_makes_is_refused():
    def height(height: float) -> Number:
        return height

    with pytest.raises(DefinitionError, match=r"height\(\) takes 'height', which it makes itself"):
        Pipeline(height)


def test_two_stages_agree_on_a_default():
    def first(n: int = 1) -> Number:
        return n

    def second(n: int = 2) -> Number:
        return n

    with pytest.raises(DefinitionError, match=r"default 1 in first.. but 2 in second... Give both"):
        Pipeline([first, second])


@pytest.mark.parametrize("bad", [lambda *a: 1, lambda **a: 1, lambda a, /: 1])
def test_parameters_without_a_name_of_their_own_are_refused(bad):
    with pytest.raises(DefinitionError, match=r"each parameter needs a name of its own"):
        Stage(bad)


def test_a_stage_is_a_function():
    with pytest.raises(DefinitionError, match="A stage is a function, not 'fade'"):
        Stage("fade")


def test_an_annotation_that_cannot_be_understood_is_refused():
    def guess(a: "Missing") -> Number:  # noqa: F821
        return a

    with pytest.raises(DefinitionError, match=r"annotation of guess\(\) cannot be understood"):
        Pipeline(guess)


def test_a_vectorized_stage_has_outputs_of_one_size():
    def ramp(nx: int, slope: float) -> Annotated[np.ndarray, Var(("x",))]:
        return np.multiply.outer(slope, np.arange(nx))

    stage = Stage(ramp, vectorized=True)
    coords = [Coord("x", lambda nx: np.arange(nx))]

    assert Pipeline(stage, coords=coords, axes=[Axis("slope", [1.0, 2.0])]).dims == {"slope": 2}
    with pytest.raises(
        DefinitionError, match=r"ramp\(\) is vectorized.*Use a stage that takes one"
    ):
        Pipeline(stage, coords=coords, axes=[Axis("nx", [4, 8])])


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"cores": 0}, "whole number, at least 1"),
        ({"gpus": -1}, "whole number, 0 or more"),
        ({"minutes": float("inf")}, "give a number, 0 or more"),
        ({"memory": "much"}, "Write e.g. '500 MB' or '2 GB'"),
        ({"memory": "0 GB"}, "give more than nothing"),
    ],
)
def test_needs_that_make_no_sense_are_refused(arguments, remedy):
    with pytest.raises(DefinitionError, match=remedy):
        Needs(**arguments)


def test_memory_is_counted_in_bytes():
    assert Needs(memory="1.5 GB").memory_bytes == 1_500_000_000
    assert Needs(memory="2 GiB").memory_bytes == 2**31


def test_entropy_is_a_whole_number():
    with pytest.raises(DefinitionError, match="entropy=-1: give a whole number, 0 or more"):
        Pipeline(fade, entropy=-1)


def test_units_are_for_parameters():
    with pytest.raises(DefinitionError, match=r"In units=: 'radios' .* Did you mean 'radius'\?"):
        Pipeline(fade, units={"radios": "m"})


def test_a_pipeline_sent_by_value_still_knows_what_is_missing():
    pipeline = sweep_of(Axis("radius", [1.0]))
    assert pipeline.missing == ("diffusivity",)

    again = cloudpickle.loads(cloudpickle.dumps(pipeline))

    assert again.missing == ("diffusivity",)
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING


# --- the specification -------------------------------------------------------------------


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
