"""The calls of a pipeline's stages: wiring, whole blocks, random numbers, what they may change."""

from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest

from sweep import Axis, Coord, Pipeline, Stage, Var
from sweep.calls import stream
from sweep.plan import Grid
from sweep.study import Study
from sweep.task import Computed, Evaluator
from sweep.template import DONE, FAILED


def compute(pipeline: Pipeline) -> Computed:
    shape = tuple(pipeline.dims.values())
    return Evaluator(pipeline).compute(Grid(shape, shape).block(0))


class TestStages:
    def test_that_are_not_stored_run_once_for_each_of_their_arguments(self) -> None:
        calls = []

        def first(seed: int) -> np.ndarray:
            calls.append(seed)
            return np.full(3, float(seed))

        def second(first: np.ndarray, scale: float) -> Annotated[float, Var(())]:
            return float(first.sum() * scale)

        axes = [Axis("seed", [1, 2]), Axis("scale", [1.0, 2.0, 3.0])]
        computed = compute(Pipeline([first, second], axes=axes))
        assert calls == [1, 2]
        np.testing.assert_array_equal(computed.arrays["second"], [[3, 6, 9], [6, 12, 18]])

    def test_cannot_change_what_is_remembered(self) -> None:
        def first(seed: int) -> np.ndarray:
            return np.zeros(3)

        def second(first: np.ndarray, scale: float) -> Annotated[float, Var(())]:
            first += scale
            return float(first.sum())

        computed = compute(
            Pipeline([first, second], axes=[Axis("seed", [1]), Axis("scale", [1.0, 2.0])])
        )
        assert (computed.status == FAILED).all()
        assert "read-only" in computed.events[0]["error"]

    def test_cannot_reach_each_other_through_a_dict(self) -> None:
        def first(seed: int) -> dict[str, np.ndarray]:
            return {"x": np.zeros(1)}

        def second(first: dict[str, np.ndarray], k: float) -> Annotated[float, Var(())]:
            first["x"] += k
            return float(first["x"][0])

        axes = [Axis("seed", [1]), Axis("k", [1.0, 2.0, 3.0])]
        computed = compute(Pipeline([first, second], axes=axes))
        np.testing.assert_array_equal(computed.arrays["second"], [[1, 2, 3]])

    def test_take_fields_and_whole_answers_by_name(self) -> None:
        class Pair(NamedTuple):
            left: float
            right: float

        def pair(a: float) -> Pair:
            return Pair(a, 2 * a)

        def both(pair: Pair, right: float) -> Annotated[float, Var(())]:
            return pair.left + right

        assert one_value_of([pair, both], a=2.0) == 6.0

    def test_may_mix_points_and_whole_blocks(self) -> None:
        def one(a: float) -> float:
            return a + 1

        def many(one: np.ndarray, a: np.ndarray, k: float = 10) -> Any:
            assert one.shape == a.shape == (3,)
            return one * k

        def last(many: float, a: float) -> Annotated[float, Var(())]:
            return many + a

        pipeline = Pipeline(
            [one, Stage(many, vectorized=True), last], axes=[Axis("a", [1.0, 2.0, 3.0])]
        )
        np.testing.assert_array_equal(compute(pipeline).arrays["last"], [21, 32, 43])


def one_value_of(stages: list[Any], **values: Any) -> float:
    computed = compute(Pipeline(stages).with_values(**values))
    assert not computed.events
    return float(computed.arrays[stages[-1].__name__])


class TestVectorizedStages:
    def test_agree_with_one_point_at_a_time(self, throw: Study) -> None:
        from sweep.study import load_study

        whole = load_study(f"{throw.file}:vectorized").pipeline
        ours, theirs = compute(whole), compute(throw.pipeline)
        np.testing.assert_array_equal(ours.arrays["heights"], theirs.arrays["height"])
        np.testing.assert_array_equal(ours.status, theirs.status)
        assert len(ours.events) == len(theirs.events) == 4

    def test_are_called_once_for_a_block(self) -> None:
        calls = []

        def many(a: np.ndarray, b: np.ndarray, k: float = 2.0) -> Annotated[float, Var(())]:
            calls.append((a.tolist(), b.tolist(), k))
            return a + k * b  # type: ignore[return-value]

        axes = [Axis("a", [1.0, 2.0]), Axis("b", [0.0, 5.0, 7.0])]
        computed = compute(Pipeline(Stage(many, vectorized=True), axes=axes))
        assert calls == [([1, 1, 1, 2, 2, 2], [0, 5, 7, 0, 5, 7], 2.0)]
        np.testing.assert_array_equal(computed.arrays["many"], [[1, 11, 15], [2, 12, 16]])
        assert (computed.arrays["point_seconds"] > 0).all()

    def test_must_return_a_value_for_each_point(self) -> None:
        def f(a: np.ndarray) -> Annotated[float, Var(())]:
            return a[:1]

        computed = compute(Pipeline(Stage(f, vectorized=True), axes=[Axis("a", [1.0, 2.0])]))
        assert (computed.status == DONE).all()  # called point by point, each is right

        def g(a: np.ndarray) -> Annotated[float, Var(())]:
            return 3.0

        computed = compute(Pipeline(Stage(g, vectorized=True), axes=[Axis("a", [1.0, 2.0])]))
        assert "its first dimension is the points'" in computed.events[0]["error"]

    def test_get_a_generator_for_each_point(self) -> None:
        def many(a: np.ndarray, rng: list[np.random.Generator]) -> Annotated[float, Var(())]:
            return np.array([one.random() for one in rng])  # type: ignore[return-value]

        axes = [Axis("a", [1.0, 2.0, 3.0])]
        whole = compute(Pipeline(Stage(many, vectorized=True), axes=axes)).arrays["many"]
        expected = [stream(0, "many", {"a": a}).random() for a in (1.0, 2.0, 3.0)]
        np.testing.assert_array_equal(whole, expected)


class TestRandomNumbers:
    def test_are_the_same_whatever_is_added_to_the_sweep(self, everything: Study) -> None:
        small = everything.pipeline.with_values(shape="line", n=5)
        whole = compute(everything.pipeline)
        np.testing.assert_array_equal(
            compute(small).arrays["noise"], whole.arrays["noise"][0, :, 1]
        )

    def test_do_not_depend_on_blocks(self, everything: Study) -> None:
        evaluator = Evaluator(everything.pipeline)
        whole = compute(everything.pipeline).arrays["total"]
        grid = Grid((2, 3, 2), (1, 2, 1))
        for number in range(grid.blocks):
            block = grid.block(number)
            corner = tuple(
                slice(low, low + n) for low, n in zip(block.start, block.shape, strict=True)
            )
            np.testing.assert_array_equal(evaluator.compute(block).arrays["total"], whole[corner])

    def test_differ_from_point_to_point_and_stage_to_stage(self) -> None:
        draws = {
            stream(e, s, {"a": a}).random() for e in (0, 1) for s in ("f", "g") for a in (1, 2, 3)
        }
        assert len(draws) == 12

    def test_are_of_numpys_seed_sequence_as_documented(self) -> None:
        import hashlib

        digest = hashlib.blake2b(b'["f",{"a":1.5,"n":3}]', digest_size=16).digest()
        words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
        expected = np.random.default_rng(np.random.SeedSequence(7, spawn_key=words))
        assert stream(7, "f", {"n": 3, "a": 1.5}).random() == expected.random()


class TestStagesLeaveEachOtherAlone:
    def test_a_change_to_an_output_that_was_made_fails_the_point_and_leaves_fill(self) -> None:
        def made(a: float) -> Annotated[np.ndarray, Var(("x",))]:
            return np.array([a, 2 * a])

        def centred(made: np.ndarray) -> Annotated[float, Var(())]:
            made -= made.mean()
            return float(made[0])

        axes, coords = [Axis("a", [1.0, 2.0])], [Coord("x", [0, 1])]
        computed = compute(Pipeline([made, centred], axes=axes, coords=coords))
        assert (computed.status == FAILED).all()
        assert "read-only" in computed.events[0]["error"]
        assert np.isnan(computed.arrays["made"]).all()

    def test_a_field_is_read_only_also_within_the_whole_answer(self) -> None:
        class Bodies(NamedTuple):
            mass: Annotated[np.ndarray, Var(("x",))]

        def bodies(a: float) -> Bodies:
            return Bodies(np.array([a, a]))

        def total(bodies: Bodies) -> Annotated[float, Var(())]:
            bodies.mass[0] = 0
            return float(bodies.mass.sum())

        axes, coords = [Axis("a", [1.0])], [Coord("x", [0, 1])]
        computed = compute(Pipeline([bodies, total], axes=axes, coords=coords))
        assert "read-only" in computed.events[0]["error"]

    def test_a_column_of_a_block_is_read_only(self) -> None:
        def first(a: np.ndarray) -> Annotated[float, Var(())]:
            a *= 2
            return a

        stage = Stage(first, vectorized=True)
        computed = compute(Pipeline(stage, axes=[Axis("a", [1.0, 2.0])]))
        assert (computed.status == FAILED).all()
        assert "read-only" in computed.events[0]["error"]

    def test_a_mutable_default_is_fresh_at_each_point(self) -> None:
        def count(a: float, seen: list[float] = []) -> Annotated[int, Var(())]:  # noqa: B006
            seen.append(a)
            return len(seen)

        computed = compute(Pipeline(count, axes=[Axis("a", [1.0, 2.0, 3.0])]))
        assert computed.arrays["count"].tolist() == [1, 1, 1]

    def test_an_array_default_is_read_only(self) -> None:
        def scale(a: float, w: np.ndarray = np.ones(2)) -> Annotated[float, Var(())]:  # noqa: B008
            w *= a
            return float(w.sum())

        computed = compute(Pipeline(scale, axes=[Axis("a", [1.0, 2.0])]))
        assert (computed.status == FAILED).all()

    def test_a_buffer_that_a_function_uses_again_is_copied(self) -> None:
        buffer = np.zeros(2)

        def fill(a: float) -> Annotated[np.ndarray, Var(("x",))]:
            buffer[:] = a
            return buffer

        def sums(fill: np.ndarray) -> Annotated[float, Var(())]:
            return fill.sum(axis=1)  # type: ignore[no-any-return]

        axes, coords = [Axis("a", [1.0, 2.0, 3.0])], [Coord("x", [0, 1])]
        for last in (Stage(sums, vectorized=True), Stage(lambda fill: None)):
            computed = compute(Pipeline([fill, last], axes=axes, coords=coords))
            assert computed.arrays["fill"].tolist() == [[1, 1], [2, 2], [3, 3]]

    def test_a_view_that_is_remembered_is_copied(self) -> None:
        buffer = np.zeros(4)

        def start(seed: int) -> np.ndarray:
            buffer[:] = seed
            return buffer[:2]

        def total(start: np.ndarray, k: float) -> Annotated[float, Var(())]:
            return float(start.sum())

        axes = [Axis("k", [1.0, 2.0]), Axis("seed", [1, 2])]
        computed = compute(Pipeline([start, total], axes=axes))
        assert computed.arrays["total"].tolist() == [[2, 4], [2, 4]]


class TestBlocksOfVectorizedStages:
    def test_hold_points_of_different_sizes_beside_them(self) -> None:
        def square(a: np.ndarray) -> Annotated[float, Var(())]:
            return a**2  # type: ignore[return-value]

        def profile(square: float, nx: int) -> Annotated[np.ndarray, Var(("x",))]:
            return np.full(nx, square)

        computed = compute(
            Pipeline(
                [Stage(square, vectorized=True), profile],
                axes=[Axis("a", [1.0, 2.0]), Axis("nx", [2, 3])],
                coords=[Coord("x", lambda nx: range(nx))],
            )
        )
        assert (computed.status == DONE).all()
        nan = np.nan
        expected = [[[1, 1, nan], [1, 1, 1]], [[4, 4, nan], [4, 4, 4]]]
        np.testing.assert_array_equal(computed.arrays["profile"], expected)

    @pytest.mark.parametrize("kind", [np.ndarray, float])
    def test_have_columns_also_of_what_was_an_axis_and_is_fixed(self, kind: type) -> None:
        def square(a: Any, b: Any) -> Annotated[float, Var(())]:
            return np.asarray(a)[:] * b  # type: ignore[no-any-return]

        square.__annotations__ |= {"a": kind, "b": kind}
        stage = Stage(square, vectorized=True)
        pipeline = Pipeline(stage, axes=[Axis("a", [1.0, 2.0]), Axis("b", [3.0, 4.0])])
        computed = compute(pipeline.with_values(a=2.0, b=3.0))
        assert (computed.status.tolist(), computed.arrays["square"].tolist()) == (DONE, 6.0)

    def test_have_single_constants_beside_columns(self) -> None:
        def powers(a: np.ndarray, n: int = 2) -> Annotated[float, Var(())]:
            return sum(a**k for k in range(n))  # type: ignore[return-value]

        stage = Stage(powers, vectorized=True)
        computed = compute(Pipeline(stage, axes=[Axis("a", [1.0, 2.0])]).with_values(n=3))
        assert computed.arrays["powers"].tolist() == [3, 7]

    def test_never_take_an_array_without_a_point_dimension_for_a_column(self) -> None:
        def grid(n: int = 3) -> np.ndarray:
            return np.linspace(0, 1, n)

        def value(grid: float, a: float) -> Annotated[float, Var(())]:
            return grid * a

        stages = [Stage(grid, vectorized=True), value]
        computed = compute(Pipeline(stages, axes=[Axis("a", [1.0, 2.0, 3.0])]))
        assert (computed.status == FAILED).all()


def test_a_field_may_have_the_name_of_its_function() -> None:
    class Flight(NamedTuple):
        height: Annotated[float, Var(())]
        speed: Annotated[float, Var(())]

    def height(a: float) -> Flight:
        return Flight(a, 2 * a)

    computed = compute(Pipeline(height, axes=[Axis("a", [1.0, 2.0])]))
    assert computed.arrays["height"].tolist() == [1, 2]


def test_whole_numbers_draw_the_same_when_a_half_joins_their_axis() -> None:
    def noise(a, rng) -> Annotated[float, Var(())]:  # type: ignore[no-untyped-def]
        return float(rng.random())

    whole = compute(Pipeline(noise, axes=[Axis("a", [1, 2])])).arrays["noise"]
    joined = compute(Pipeline(noise, axes=[Axis("a", [1, 2, 2.5])])).arrays["noise"]
    assert joined[:2].tolist() == whole.tolist()
