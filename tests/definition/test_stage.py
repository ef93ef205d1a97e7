"""Stages, how they are wired, what a point needs, and what each mistake is told."""

import functools
import inspect
import pickle
from typing import Annotated, NamedTuple

import cloudpickle
import numpy as np
import pytest

import sweep
from sweep.definition import Axis, Coord, Needs, Pipeline, Stage, Var
from sweep.definition.names import ARGUMENTS
from sweep.definition.stage import MISSING
from sweep.errors import DefinitionError

Number = Annotated[float, Var((), "K", "peak")]


def fade(diffusivity: float, radius: float = 0.01, nx: int = 8, flat: bool = False) -> Number:
    return diffusivity * radius * nx * flat


def sweep_of(*axes: Axis) -> Pipeline:
    return Pipeline(fade, axes=axes)


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


@pytest.mark.parametrize(
    ("made", "remedy"),
    [
        (functools.partial(fade, 1.0), "a function with a name.*Write one that calls it"),
        (max, r"The parameters of max\(\) cannot be known. Write a function that names them"),
        ("fade", "A stage is a function, not 'fade'"),
    ],
)
def test_what_is_no_function_with_named_parameters_is_told_to_be_wrapped(made, remedy):
    with pytest.raises(DefinitionError, match=remedy):
        Pipeline(made)


@pytest.mark.parametrize(
    ("more", "remedy"),
    [
        ({"needs": 4}, r"needs= takes Needs\(cores=..., memory=...\), not 4"),
        ({"units": ["m"]}, r"units= takes \{'length': 'm', ...\}, not \['m'\]"),
        ({"units": {"radius": 3}}, "units= takes"),
    ],
)
def test_the_mistakes_in_a_pipelines_arguments_are_told(more, remedy):
    with pytest.raises(DefinitionError, match=remedy):
        Pipeline(fade, **more)


def test_two_stages_may_share_an_array_as_default():
    weights = np.ones(3)

    def first(weights: np.ndarray = weights) -> float:
        return weights[0]

    def second(first: float, weights: np.ndarray = weights.copy()) -> Number:  # noqa: B008
        return first + weights[1]

    assert Pipeline([first, second]).fixed["weights"] is weights


def test_names_of_parameters_are_not_those_of_runs_arguments():
    calls = (sweep.run, sweep.submit)
    taken = {name for call in calls for name in inspect.signature(call).parameters} - {"values"}

    assert taken == ARGUMENTS
    for name in sorted(taken):
        function = eval(f"lambda {name}: 0.0")
        function.__name__, function.__annotations__ = "f", {"return": Number}
        with pytest.raises(DefinitionError, match=rf"'{name}' of f\(\) has the name of an arg"):
            Pipeline(function)
