"""A block's computation: its points, their outputs, their times, and those that fail."""

import asyncio
import re
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
import xarray as xr

from sweep import Axis, Coord, Pipeline, Var
from sweep.plan import Grid
from sweep.study import Study
from sweep.task import Computed, Evaluator
from sweep.template import DONE, FAILED


def compute(pipeline: Pipeline) -> Computed:
    shape = tuple(pipeline.dims.values())
    return Evaluator(pipeline).compute(Grid(shape, shape).block(0))


def one_value(function: Any, **values: Any) -> Computed:
    return compute(Pipeline(function).with_values(**values))


class TestPoints:
    def test_get_plain_python_numbers_and_texts(self) -> None:
        seen = []

        def f(a: float, n: int, word: str) -> Annotated[float, Var(())]:
            seen.append((type(a), type(n), type(word)))
            return a

        compute(Pipeline(f, axes=[Axis("a", [1, 2]), Axis("n", [3]), Axis("word", ["x"])]))
        assert set(seen) == {(float, int, str)}

    def test_are_computed_from_their_own_values(self, everything: Study) -> None:
        computed = compute(everything.pipeline)
        shapes, slopes, sizes = ["line", "square"], [1.5, -2.0, 2.5], [3, 5]
        for (i, j, k), status in np.ndenumerate(computed.status):
            fails = shapes[i] == "square" and slopes[j] > 2 and sizes[k] == 5
            assert status == (FAILED if fails else DONE)
            if not fails:
                assert computed.arrays["steps"][i, j, k] == sizes[k] * [1, 2, 1][j]
                assert computed.arrays["rising"][i, j, k] == (slopes[j] > 0)
                profile = computed.arrays["profile"][i, j, k]
                assert profile[sizes[k] - 1] - profile[0] == pytest.approx(slopes[j])
                assert np.isnan(profile[sizes[k] :]).all()

    def test_take_a_time_of_their_own(self, everything: Study) -> None:
        assert (compute(everything.pipeline).arrays["point_seconds"] > 0).all()


class TestFailures:
    def test_leave_fill_and_cost_no_other_point(self, everything: Study) -> None:
        computed = compute(everything.pipeline)
        assert (computed.status == FAILED).sum() == 1
        assert computed.status[1, 2, 1] == FAILED
        assert np.isnan(computed.arrays["total"][1, 2, 1])
        assert np.isfinite(computed.arrays["total"]).sum() == 11

    def test_are_on_record_with_type_text_and_place(self, everything: Study) -> None:
        (event,) = compute(everything.pipeline).events
        assert event["place"] == {"shape": 1, "pair": 2, "n": 1}
        assert event["error_type"] == "ValueError"
        assert event["error"].startswith("too steep: 2.5 [")
        assert "everything.py:" in event["error"]

    def test_keep_a_long_text_to_two_thousand_characters(self) -> None:
        def f(a: float) -> Annotated[float, Var(())]:
            raise ValueError("x" * 10_000)

        (event,) = one_value(f, a=1).events
        assert len(event["error"]) == 2000

    def test_include_an_exit_of_the_users_code(self) -> None:
        def f(a: float) -> Annotated[float, Var(())]:
            raise SystemExit(3)

        computed = one_value(f, a=1)
        assert computed.status == FAILED
        assert computed.events[0]["error_type"] == "SystemExit"

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            (np.zeros(4), r"shape \(4,\); the pipeline declares x=3"),
            (np.zeros((3, 1)), r"shape \(3, 1\)"),
            (None, "'f' as a NoneType; a stage returns numbers"),
            (["a", "b", "c"], "as text, which does not fit the float64"),
            (np.array([1, 2, 3j]), "as complex128"),
            (np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]), "masked values"),
            (np.array([1, None, 2]), "as object"),
        ],
    )
    def test_say_which_output_was_wrong(self, answer: Any, text: str) -> None:
        def f(a: float) -> Annotated[np.ndarray, Var(("x",))]:
            return answer

        pipeline = Pipeline(f, axes=[Axis("a", [1.5])], coords=[Coord("x", [1, 2, 3])])
        computed = compute(pipeline)
        (event,) = computed.events
        assert event["error_type"] == "OutputError"
        assert "f() returned 'f'" in event["error"]
        assert event["error"].endswith("At a=1.5.")
        assert re.search(text, event["error"])
        assert np.isnan(computed.arrays["f"]).all()

    @pytest.mark.parametrize(
        ("dtype", "value"), [("int8", 300), ("uint8", -1), ("float32", 1e300), ("int64", 0.5)]
    )
    def test_include_values_that_the_stored_type_cannot_hold(
        self, dtype: str, value: float
    ) -> None:
        def f(a: float) -> Annotated[float, Var((), dtype=dtype)]:
            return value

        computed = one_value(f, a=1)
        assert computed.status == FAILED
        assert "does not fit" in computed.events[0]["error"]

    def test_include_an_answer_without_the_declared_fields(self) -> None:
        class Two(NamedTuple):
            one: Annotated[float, Var(())]
            two: Annotated[float, Var(())]

        def f(a: float) -> Two:
            return (1.0, 2.0)  # type: ignore[return-value]

        (event,) = one_value(f, a=1).events
        assert "f() returned tuple; it declares a NamedTuple with one, two" in event["error"]


class _Untold(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (_Untold(), "_Untold", "(its text cannot be had: RuntimeError)"),
        (ValueError("half \ud800 a pair"), "ValueError", "half ? a pair"),
        (asyncio.CancelledError("late"), "CancelledError", "late"),
        (KeyboardInterrupt("model"), "KeyboardInterrupt", "model"),
        (GeneratorExit("odd"), "GeneratorExit", "odd"),
    ],
)
def test_whatever_a_point_raises_is_taken_down(error: BaseException, kind: str, told: str) -> None:
    def f(a: float) -> Annotated[float, Var(())]:
        raise error

    (event,) = one_value(f, a=1).events
    assert event["error_type"] == kind
    assert event["error"].startswith(told)
    event["error"].encode()


def test_a_small_type_takes_pythons_whole_numbers() -> None:
    def f(a: int) -> Annotated[int, Var((), dtype="uint8")]:
        return a

    computed = compute(Pipeline(f, axes=[Axis("a", [0, 255, 256, -1])]))
    assert computed.status.tolist() == [DONE, DONE, FAILED, FAILED]
    assert computed.arrays["f"][:2].tolist() == [0, 255]


def test_what_compilers_take_is_no_time_of_a_point() -> None:
    clock = iter([10.0, 10.5, 20.0, 20.25])

    def f(a: float) -> Annotated[float, Var(())]:
        return a

    pipeline = Pipeline(f, axes=[Axis("a", [1.0, 2.0])])
    computed = Evaluator(pipeline, lambda: next(clock)).compute(Grid((2,), (2,)).block(0))
    assert computed.arrays["point_seconds"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**53 + 1, "as int64, which does not fit the float64"),
        (xr.DataArray(np.zeros((2, 3)), dims=("x", "y")), r"dims \('x', 'y'\).*transpose"),
    ],
)
def test_what_would_be_stored_as_something_else_is_refused(value: Any, text: str) -> None:
    dims = ("y", "x") if isinstance(value, xr.DataArray) else ()

    def f(a: float) -> Annotated[np.ndarray, Var(dims)]:
        return value  # type: ignore[no-any-return]

    coords = [Coord("y", range(3)), Coord("x", range(2))]
    (event,) = compute(Pipeline(f, axes=[Axis("a", [1.0])], coords=coords)).events
    assert re.search(text, event["error"])
    assert event["error"].endswith("At a=1.0.")


def test_where_nothing_is_swept_no_place_is_told() -> None:
    def f() -> Annotated[float, Var(())]:
        return "much"  # type: ignore[return-value]

    (event,) = compute(Pipeline(f)).events
    assert event["error"].endswith("the pipeline declares.")
