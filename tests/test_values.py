import inspect
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.definition import Axis, Parameter, Pipeline, Var
from sweep.errors import DefinitionError
from sweep.values import parse, parse_assignments

UNANNOTATED = inspect.Parameter.empty

finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=",[]"), min_size=1)


def read(text: str, annotation: Any = float) -> Any:
    return parse(text, Parameter("a", annotation, None, "fade", "1"))


def read_or_refusal(text: str, annotation: Any = float) -> Any:
    try:
        return read(text, annotation)
    except DefinitionError as error:
        return error


# --- round trips -------------------------------------------------------------------------


@given(st.integers())
def test_a_whole_number_is_itself(number):
    assert read(str(number), int) == number
    assert type(read(str(number), UNANNOTATED)) is int


@given(finite)
def test_a_number_is_itself(number):
    assert read(repr(number)) == number
    assert read(repr(number), UNANNOTATED) == number


@given(words)
def test_a_text_is_itself(word):
    assert read(word, str) == word


@given(st.lists(finite, min_size=2))
def test_a_list_of_numbers_is_itself(numbers):
    text = ",".join(map(repr, numbers))

    assert read(text) == read(f"[{text}]") == numbers


@given(st.lists(words, min_size=2))
def test_a_list_of_texts_is_itself(texts):
    assert read(",".join(texts), str) == texts


@given(finite)
def test_brackets_make_a_list_of_one(number):
    assert read(f"[{number!r}]") == [number]


@given(st.integers(), st.integers(0, 100))
def test_dots_count_from_one_end_to_the_other(low, more):
    assert read(f"{low}..{low + more}", int) == list(range(low, low + more + 1))


@given(finite, finite, st.integers(2, 50))
def test_a_range_has_its_count_and_both_ends(low, high, count):
    values = read_or_refusal(f"{low!r}:{high!r}:{count}")

    if isinstance(values, DefinitionError):
        assert low == high or "too wide" in str(values)
    else:
        assert (len(values), values[0], values[-1]) == (count, low, high)


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), st.integers(2, 50))
def test_equal_factors_have_their_count_and_both_ends(low, high, count):
    if low != high:
        values = read(f"{low!r}:{high!r}:{count}:log")
        assert (len(values), values[0], values[-1]) == (count, low, high)
        assert all(value > 0 for value in values)


@given(st.integers(-(10**6), 10**6), st.integers(1, 1000), st.integers(2, 50))
def test_a_range_of_whole_numbers_is_exact(low, step, count):
    high = low + step * (count - 1)

    assert read(f"{low}:{high}:{count}", int) == list(range(low, high + 1, step))


@given(st.text(max_size=12), st.sampled_from([int, float, bool, str, UNANNOTATED, int | None]))
def test_any_text_is_a_value_or_refused_with_the_name_in_front(text, annotation):
    value = read_or_refusal(text, annotation)

    if isinstance(value, DefinitionError):
        assert str(value).startswith("a=")
    else:
        values = value if isinstance(value, list) else [value]
        plain = (int, float, bool, str) if annotation is UNANNOTATED else annotation
        assert all(isinstance(one, plain) for one in values)
        assert all(np.isfinite(one) for one in values if isinstance(one, float))


# --- what a text stands for --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("64", int, 64),
        ("64", float, 64.0),
        ("64", str, "64"),
        ("64", UNANNOTATED, 64),
        ("0.5", UNANNOTATED, 0.5),
        ("rk4", UNANNOTATED, "rk4"),
        ("true", UNANNOTATED, True),
        ("false", bool, False),
        ("true,False", bool, [True, False]),
        ("true", str, "true"),
        ("nan", str, "nan"),
        ("1e6", int, 1_000_000),
        ("64, 128", int, [64, 128]),
        ("0.5:4:8", float, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]),
        ("4:1:4", float, [4.0, 3.0, 2.0, 1.0]),
        ("50:250:5", int, [50, 100, 150, 200, 250]),
        ("1:1000:4:log", int, [1, 10, 100, 1000]),
        ("-8:-1:4:log", float, [-8.0, -4.0, -2.0, -1.0]),
        ("1:3:3", UNANNOTATED, [1.0, 2.0, 3.0]),
        ("-2..1", int, [-2, -1, 0, 1]),
        ("0..2", float, [0.0, 1.0, 2.0]),
        ("[0..2]", int, [0, 1, 2]),
        ("0..2", str, "0..2"),
        ("1:5:9", str, "1:5:9"),
        ("a:b", UNANNOTATED, "a:b"),
        ("None", float | None, None),
        ("2", float | None, 2.0),
        ("euler,rk4", Literal["euler", "rk4"], ["euler", "rk4"]),
        ("2", Literal[1, 2], 2),
        ("auto", int | str, "auto"),
        ("3", int | str, 3),
        ("1,2", list[float], [1, 2]),
    ],
)
def test_the_annotation_decides_what_a_text_stands_for(text, annotation, expected):
    value = read(text, annotation)

    assert value == pytest.approx(expected) if ":log" in text else value == expected
    assert type(value) is type(expected)
    if isinstance(value, list):
        assert [type(one) for one in value] == [type(one) for one in expected]


@pytest.mark.parametrize(
    ("text", "annotation", "told"),
    [
        ("abc", int, "a=abc: a takes int, not 'abc'. Write a=64, a=64,128 or a=64..128."),
        ("64.5", int, "a takes int, not '64.5'. Write a=64"),
        ("abc", float, "a takes float, not 'abc'. Write a=0.5, a=0.5,1 or a=0.5:4:16."),
        ("1", bool, "a takes true or false, not '1'. Write a=true or a=true,false."),
        ("rk5", Literal["euler", "rk4"], "Did you mean 'rk4'?"),
        ("3", Literal[1, 2], "Known: 1, 2."),
        ("", int, "a=: there is no value. Write a=64"),
        ("", str, "a=: there is no value. Write a=TEXT"),
        ("[]", float, "a=[]: the list is empty. Write a=0.5"),
        ("1,,2", float, "a value of the list is empty. Write a=0.5"),
        ("1,2,", float, "a value of the list is empty."),
        ("a,", str, "a value of the list is empty."),
        ("[[1]]", int, "a takes int, not '[1]'."),
        ("[1", int, "a takes int, not '[1'."),
        ("nan", float, "a takes finite numbers."),
        ("1,-inf", float, "a takes finite numbers."),
        ("inf", UNANNOTATED, "a takes finite numbers."),
        ("1:5", float, "Give a count: a=1:5:9."),
        ("1:5:0", float, "the count is '0'; it is a whole number, at least 2"),
        ("1:5:-3", float, "the count is '-3'; it is a whole number, at least 2"),
        ("1:5:2.5", float, "the count is '2.5'; it is a whole number, at least 2"),
        ("1:5:1", float, "Write a=1:5:9, or a=[1] for one value."),
        ("5:5:3", float, "both ends are the same. Write a=[5]."),
        ("1:5:9:lin", float, "write a=FIRST:LAST:COUNT or a=FIRST:LAST:COUNT:log."),
        ("1:5:log", float, "the count is 'log'; it is a whole number"),
        ("1:b:3", float, "'b' is no finite number. Write a=0.5:4:16."),
        ("1:inf:3", float, "'inf' is no finite number."),
        ("-1:1:3:log", float, "equal factors cannot reach or cross 0. Leave out ':log': -1:1:9."),
        ("0:1:3:log", float, "equal factors cannot reach or cross 0."),
        ("-1e308:1e308:3", float, "the range is too wide"),
        ("1:5:10000001", float, "10000001 values are more than an axis holds (10000000)."),
        ("0..99999999", int, "100000000 values are more than an axis holds (10000000)."),
        ("9..0", int, "'..' counts upwards. Write a=0..9."),
        ("0.5..2", float, "'..' counts whole numbers. Write a=0..9, or"),
        (
            "50:250:4",
            int,
            "this gives 116.667, but a takes int. Take another count, or write a=50,",
        ),
        ("0:99:98", int, "or write a=0,1,2,3,4,5,6,7,8,9,..."),
    ],
)
def test_what_is_no_value_is_refused_with_a_remedy(text, annotation, told):
    with pytest.raises(DefinitionError) as caught:
        read(text, annotation)

    assert told in str(caught.value)


# --- assignments -------------------------------------------------------------------------


def fade(diffusivity: float, radius: float = 0.01, nx: int = 128) -> Annotated[float, Var(())]:
    return diffusivity * radius * nx


PIPELINE = Pipeline(fade, axes=[Axis("diffusivity", [1e-6, 1e-5])])


def test_assignments_are_what_with_values_takes():
    values = parse_assignments(["nx=64,128", "diffusivity=1e-5", "radius=[0.02]"], PIPELINE)

    assert values == {"nx": [64, 128], "diffusivity": 1e-5, "radius": [0.02]}
    assert PIPELINE.with_values(**values).dims == {"nx": 2, "radius": 1}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nx=64", "nx=128"], "nx=128: 'nx' is given twice. Write all its values at once: nx=V1,"),
        (["nx"], "'nx' sets no parameter. Write NAME=VALUE, e.g. nx=64."),
        (["=64"], "'=64' sets no parameter. Write NAME=VALUE"),
        (["radios=1"], "radios=1: there is no parameter 'radios'. Did you mean 'radius'?"),
        (["t=1"], "there is no parameter 't'. Known: diffusivity, radius, nx."),
        (["nx=abc"], "nx=abc: nx takes int, not 'abc'."),
    ],
)
def test_assignments_that_make_no_sense_are_refused_with_a_remedy(arguments, told):
    with pytest.raises(DefinitionError) as caught:
        parse_assignments(arguments, PIPELINE)

    assert told in str(caught.value)
