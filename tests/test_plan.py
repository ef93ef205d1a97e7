import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.plan import (
    COMMIT_SHARE,
    LARGEST_BLOCK_BYTES,
    MOST_FILES,
    OWN_BLOCK_BYTES,
    Block,
    Cost,
    Grid,
    Plan,
    block_shape,
    pilot_places,
    points_per_block,
)

shapes = st.lists(st.integers(1, 7), max_size=4).map(tuple)
grids = shapes.flatmap(
    lambda shape: st.builds(Grid, st.just(shape), st.tuples(*(st.integers(1, n) for n in shape)))
)
plans = grids.flatmap(
    lambda grid: st.builds(
        Plan,
        st.just(grid),
        st.lists(st.booleans(), min_size=grid.blocks, max_size=grid.blocks).map(
            lambda done: np.array(done, bool)
        ),
    )
)


def all_blocks(grid: Grid) -> list[Block]:
    return [grid.block(number) for number in range(grid.blocks)]


def cost(**known: float) -> Cost:
    usual = {
        "point_seconds": 1e-3,
        "point_bytes": 8,
        "all_bytes": 24,
        "variables": 4,
        "commit_seconds": 1e-4,
        "memory_bytes": 10**9,
    }
    return Cost(**{**usual, **known})


# --- blocks ------------------------------------------------------------------------------


@given(grids)
def test_every_point_is_in_exactly_one_block(grid):
    counts = np.zeros(grid.shape, int)

    for block in all_blocks(grid):
        for place in block.places():
            counts[place] += 1

    assert (counts == 1).all()


@given(grids)
def test_a_block_has_as_many_points_as_it_has_places(grid):
    for block in all_blocks(grid):
        assert block.points == len(list(block.places())) == math.prod(block.shape)
        assert all(1 <= n <= most for n, most in zip(block.shape, grid.block_shape, strict=True))


@given(grids)
def test_the_points_of_all_blocks_are_known_without_making_them(grid):
    assert grid.block_points().tolist() == [block.points for block in all_blocks(grid)]
    assert grid.block_points().sum() == grid.points


@given(grids)
def test_the_block_of_a_point_is_the_one_that_holds_it(grid):
    for block in all_blocks(grid):
        assert {grid.block_of(place) for place in block.places()} == {block.number}


def test_points_of_a_block_come_in_c_order():
    assert list(Grid((2, 4), (2, 2)).block(1).places()) == [(0, 2), (0, 3), (1, 2), (1, 3)]


def test_blocks_at_the_far_edge_are_smaller():
    assert Grid((5,), (2,)).block(2) == Block(2, (2,), (4,), (1,))


def test_a_sweep_without_axes_is_one_block_of_one_point():
    grid = Grid((), ())

    assert (grid.points, grid.blocks, grid.block_of(())) == (1, 1, 0)
    assert list(grid.block(0).places()) == [()]
    assert grid.block_points().tolist() == [1]
    assert block_shape((), 10) == ()


# --- what is left ------------------------------------------------------------------------


@given(plans)
def test_blocks_that_are_done_are_not_planned_again(plan):
    left = list(plan.remaining())

    assert [block.number for block in left] == np.flatnonzero(~plan.done).tolist()
    assert plan.blocks_left == len(left)
    assert plan.points_left == sum(block.points for block in left)


def test_blocks_are_made_when_they_are_asked_for():
    grid = Grid((1000, 1000, 10), (1, 1, 10))
    plan = Plan(grid, np.zeros(grid.blocks, bool))

    first = list(islice(plan.remaining(), 2))

    assert [block.start for block in first] == [(0, 0, 0), (0, 1, 0)]


# --- the size of a block -----------------------------------------------------------------


def test_a_block_computes_for_about_a_second():
    assert points_per_block(10**6, 1, cost(point_seconds=1e-3)) == 1000


def test_many_workers_get_longer_blocks_so_that_one_feeder_keeps_up() -> None:
    quick = cost(point_seconds=1e-2, variables=0)
    assert points_per_block(10**8, 100, quick) == 100
    assert points_per_block(10**8, 1000, quick) == 1000
    assert points_per_block(10**5, 1000, quick) == 12, "eight blocks each"


def test_no_worker_is_idle():
    assert points_per_block(1000, 10, cost(point_seconds=1e-3)) == 12


def test_a_slow_commit_makes_larger_blocks():
    slow = cost(commit_seconds=1.0)

    points = points_per_block(10**6, 1, slow)

    assert points * slow.point_seconds >= slow.commit_seconds / COMMIT_SHARE


def test_slow_points_are_blocks_of_their_own():
    assert points_per_block(10**6, 1, cost(point_seconds=60.0, variables=0)) == 1


def test_large_points_are_blocks_of_their_own():
    assert points_per_block(10**6, 1, cost(point_bytes=OWN_BLOCK_BYTES, point_seconds=1e-6)) == 1


@given(
    points=st.integers(1, 10**9),
    workers=st.integers(1, 10_000),
    point_seconds=st.floats(0, 1e5),
    point_bytes=st.integers(0, OWN_BLOCK_BYTES - 1),
    commit_seconds=st.floats(0, 10),
    memory_bytes=st.integers(10**6, 10**12),
)
def test_a_block_is_never_too_large_nor_are_there_too_many_files(
    points, workers, point_seconds, point_bytes, commit_seconds, memory_bytes
):
    asked = cost(
        point_seconds=point_seconds,
        point_bytes=point_bytes,
        all_bytes=2 * point_bytes + 13,
        commit_seconds=commit_seconds,
        memory_bytes=memory_bytes,
    )

    found = points_per_block(points, workers, asked)

    assert 1 <= found <= points
    assert found == 1 or found * point_bytes <= LARGEST_BLOCK_BYTES
    assert found == 1 or found * asked.all_bytes <= memory_bytes / 4
    fits = min(LARGEST_BLOCK_BYTES / max(point_bytes, 1), memory_bytes / 4 / asked.all_bytes)
    if found + 1 < min(points, fits):
        assert (found + 1) * MOST_FILES >= points * asked.variables


@given(shapes, st.integers(1, 3000))
def test_a_block_holds_at_most_the_points_asked_for(shape, points):
    found = block_shape(shape, points)

    assert len(found) == len(shape)
    assert all(1 <= b <= n for b, n in zip(found, shape, strict=True))
    assert math.prod(found) <= points


@given(shapes, st.integers(1, 3000))
def test_a_block_is_whole_fast_dims_a_part_of_one_and_1_along_the_rest(shape, points):
    lengths = [(b, n) for b, n in zip(block_shape(shape, points), shape, strict=True) if n > 1]

    slow_to_fast = ["1" if b == 1 else "whole" if b == n else "part" for b, n in lengths]

    assert slow_to_fast == sorted(slow_to_fast, key=["1", "part", "whole"].index)
    assert slow_to_fast.count("part") <= 1


@pytest.mark.parametrize(
    ("shape", "points", "expected"),
    [
        ((12,), 5, (4,)),  # 4 divides 12
        ((100,), 30, (25,)),
        ((13,), 6, (6,)),  # 13 is prime: 1 would be far too short
        ((6, 10), 35, (3, 10)),
        ((6, 10), 60, (6, 10)),
        ((6, 10), 9, (1, 5)),
        ((6, 10), 1, (1, 1)),
    ],
)
def test_a_length_that_divides_the_axis_is_preferred(shape, points, expected):
    assert block_shape(shape, points) == expected


# --- points to time ----------------------------------------------------------------------


@given(shapes)
def test_points_to_time_are_on_the_grid_and_different(shape):
    places = pilot_places(shape)

    assert places[0] == tuple(0 for _ in shape)
    assert tuple(n - 1 for n in shape) in places[:2]
    assert len(set(places)) == len(places) <= 6
    assert all(0 <= i < n for place in places for i, n in zip(place, shape, strict=True))
    assert places == pilot_places(shape)


# --- what bounds a block of quick points --------------------------------------------------


def test_a_block_of_quick_points_is_still_of_64_megabytes_at_most():
    quick = cost(point_seconds=1e-6, point_bytes=100_000, all_bytes=100_001, memory_bytes=10**12)

    assert points_per_block(10**9, 1, quick) == LARGEST_BLOCK_BYTES / 100_000 == 640


def test_a_block_takes_a_quarter_of_the_memory_at_most_with_all_its_variables():
    small = cost(point_seconds=1e-6, point_bytes=8, all_bytes=1000, memory_bytes=4_000_000)

    assert points_per_block(10**9, 1, small) == 1000


def test_a_sweep_of_many_points_is_of_twenty_thousand_files():
    assert points_per_block(10**9, 1, cost(point_seconds=1e-3)) * MOST_FILES == 10**9 * 4
