"""benchmarks/kernels.py: it times in turn, says what came out, and keeps to its section."""

import math
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep.modules import load_module

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = """# Results

## Faults

none

## Kernels

    old

| old |

## Kernels of others

theirs
"""


@pytest.fixture(scope="module")
def pairs() -> Any:
    return load_module(BENCHMARKS / "pairs.py")


@pytest.fixture(scope="module")
def results() -> Any:
    return load_module(BENCHMARKS / "kernel_results.py")


@pytest.fixture(scope="module")
def yardsticks() -> Any:
    module = load_module(BENCHMARKS / "kernel_yardsticks.py")
    try:
        module.compiler()
    except module.NotThereError as reason:
        pytest.skip(str(reason))
    return module


def row(results: Any, ratio: float = 2.0, errors: tuple[float, ...] = (1e-13,)) -> Any:
    measured = results.Measured(
        results.Ratio(ratio, ratio - 1, ratio + 1), 8e9, 4e9, results.Check(errors, 1e-12)
    )
    marks = results.Marks(1.5, 3.0)
    return results.Row("heat", "C", "Gcell/s", 1e9, "heat", marks, measured)


# --- timing in turn -----------------------------------------------------------------------


def test_both_are_measured_in_turn_and_by_the_unit_of_work(pairs: Any) -> None:
    order: list[str] = []
    seconds = count()  # a clock on which all that happens between two looks takes a second

    found = pairs.interleave(
        pairs.Timed(lambda: order.append("ours"), 1, 10.0),
        pairs.Timed(lambda: order.append("other"), 1, 5.0),
        count=3,
        pause=0.0,
        clock=lambda: float(next(seconds)),
    )

    assert order == ["ours", "other"] * 3
    assert found == [(0.1, 0.2)] * 3
    assert pairs.ratio_of(found) == (2.0, 2.0, 2.0)


def test_what_is_repeated_in_a_measurement_runs_once_before_the_clock(pairs: Any) -> None:
    ran: list[int] = []
    begun_at: list[int] = []

    def clock() -> float:
        begun_at.append(len(ran))
        return float(len(ran))

    found = pairs.interleave(
        *[pairs.Timed(lambda: ran.append(1), 4, 1.0)] * 2, count=1, pause=0.0, clock=clock
    )

    assert begun_at == [1, 5, 6, 10]
    assert found == [(1.0, 1.0)]


def test_the_ratio_is_the_median_of_the_pairs_and_has_their_range(pairs: Any) -> None:
    measured = [pairs.Pair(1.0, 3.0), pairs.Pair(2.0, 2.0), pairs.Pair(4.0, 20.0)]

    assert pairs.ratio_of(measured) == (3.0, 1.0, 5.0)
    assert pairs.median_of(measured) == (2.0, 3.0)


@pytest.mark.parametrize(("takes", "calls"), [(0.05, 4), (0.3, 1), (0.0, 200_000_000)])
def test_quick_runs_are_repeated_until_they_fill_a_measurement(
    pairs: Any, takes: float, calls: int
) -> None:
    times = iter([1.0, 1.0 + takes])

    assert pairs.calls_to_fill(0.2, lambda: None, lambda: next(times)) == pytest.approx(calls)


# --- what came out ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "verdict", "is_missed"),
    [
        (1.49, "**missed**", True),
        (1.5, "pass", False),
        (2.99, "pass", False),
        (3.0, "aim", False),
        (math.nan, "**missed**", True),
    ],
)
def test_a_row_says_whether_its_median_reaches_the_marks(
    results: Any, ratio: float, verdict: str, is_missed: bool
) -> None:
    found = row(results, ratio)

    assert (found.verdict, found.is_missed) == (verdict, is_missed)
    assert results.exit_code([row(results), found]) == is_missed
    assert verdict in results.cells(found, {})


@pytest.mark.parametrize("errors", [(2e-12,), (1e-13, 2e-12), (math.nan,)])
def test_a_wrong_answer_is_missed_however_fast_it_comes(
    results: Any, errors: tuple[float, ...]
) -> None:
    found = row(results, 100.0, errors)

    assert found.verdict == "**answers disagree**"
    assert results.exit_code([found]) == 1


def test_an_alternative_that_is_not_installed_is_listed_and_no_failure(results: Any) -> None:
    absent = row(results)._replace(measured=None, why="not installed")

    assert results.exit_code([absent]) == 0
    assert results.summary([row(results), absent]) == (
        "2 rows: 1 pass.\n\nNot compared, not installed: heat against C."
    )


def test_a_kernel_of_ours_that_is_not_there_is_a_failure(results: Any) -> None:
    absent = row(results)._replace(measured=None, why="not there", is_ours_missing=True)

    assert results.exit_code([absent]) == 1
    assert "not there" in results.cells(absent, {})


def test_a_row_shows_rates_range_error_and_the_fraction_of_its_bound(results: Any) -> None:
    shown = results.table(results.HEAD, [results.cells(row(results), {"heat": 32e9})])

    assert shown.splitlines()[-1] == (
        "| heat | C | 8 Gcell/s | 4 Gcell/s | 2.00 (1.00 to 3.00) | 1.5, 3 | pass | 25 % "
        "| 1.0e-13 (at most 1.0e-12) |"
    )


def test_bounds_follow_from_what_was_measured() -> None:
    limits = load_module(BENCHMARKS / "kernel_limits.py")
    ports = {"float64": 120e9, "float32": 220e9}

    slow_roots = limits.Limits(ports, {"float64": 4e9, "float32": 60e9}, {})
    no_roots = limits.Limits(ports, {"float64": 0.0, "float32": 0.0}, {})

    assert slow_roots.bounds() == {"heat": 24e9, "float64": 8e9, "float32": 20e9}
    quick_roots = limits.Limits(ports, ports, {})
    assert quick_roots.bounds() == {"heat": 24e9, "float64": 240e9 / 22, "float32": 22e9}
    assert no_roots.bounds() == {"heat": 24e9, "float64": 10e9, "float32": 20e9}
    assert slow_roots.or_better(no_roots) == slow_roots


# --- the section of RESULTS.md ------------------------------------------------------------


def test_its_own_section_is_replaced_and_no_other(results: Any) -> None:
    found = results.with_section(RESULTS, "## Kernels", "    new\n\n| new |")

    assert found == RESULTS.replace("old", "new")


def test_the_last_section_is_replaced_up_to_the_end(results: Any) -> None:
    found = results.with_section("# Results\n\n## Kernels\n\nold\n", "## Kernels", "new")

    assert found == "# Results\n\n## Kernels\n\nnew\n"


def test_a_section_that_is_not_there_is_appended(results: Any) -> None:
    others = RESULTS.replace("## Kernels\n", "## Growth\n")

    assert results.with_section(others, "## Kernels", "new") == f"{others}\n## Kernels\n\nnew\n"
    assert results.with_section("", "## Kernels", "new") == "## Kernels\n\nnew\n"


# --- the yardsticks compute what is asked -------------------------------------------------


def test_heat_in_c_and_in_frames_are_the_five_point_update(yardsticks: Any) -> None:
    alternatives = load_module(BENCHMARKS / "kernel_alternatives.py")
    plate = 293 + np.random.default_rng(1).normal(size=(9, 14))
    steps, mixing = 6, 0.2
    old = plate.copy()
    for _ in range(steps):
        across = (old[2:, 1:-1] + old[:-2, 1:-1]) + (old[1:-1, 2:] + old[1:-1, :-2])
        old[1:-1, 1:-1] = mixing * across + (1 - 4 * mixing) * old[1:-1, 1:-1]

    in_c = yardsticks.heat_in_c(plate, mixing, steps, threads=1)()
    in_frames = alternatives.heat_in_frames(plate, mixing, steps)()

    np.testing.assert_allclose(in_c, old, rtol=1e-14)
    np.testing.assert_allclose(in_frames, old, rtol=1e-14)


@pytest.mark.parametrize(("kind", "limit"), [("float64", 1e-13), ("float32", 1e-5)])
def test_gravity_in_c_is_the_sum_over_all_pairs(yardsticks: Any, kind: str, limit: float) -> None:
    cases = load_module(BENCHMARKS / "kernel_gravity_cases.py")
    bodies = cases.bodies_of(40, kind)

    found = yardsticks.gravity_in_c(*bodies, cases.G, 1)()

    assert found.dtype == kind
    assert cases.relative_errors(found, cases.exact(bodies, np.arange(40))).max() < limit
