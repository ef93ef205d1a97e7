import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.frames import frame_numbers, kept_steps


def test_kept_steps_are_evenly_spread_and_rounded():
    assert kept_steps(10, 5).tolist() == [0, 2, 5, 8, 10]


def test_no_steps_leave_one_frame():
    assert kept_steps(0, 1).tolist() == [0]


@given(st.integers(1, 2000), st.data())
def test_any_allowed_number_of_frames_rises_from_the_first_step_to_the_last(steps, data):
    frames = data.draw(st.integers(2, steps + 1))

    kept = kept_steps(steps, frames)

    assert kept.shape == frame_numbers(frames).shape
    assert (kept[0], kept[-1]) == (0, steps)
    assert (np.diff(kept) > 0).all()


@pytest.mark.parametrize(
    ("steps", "frames", "remedy"),
    [
        (10, 12, "frames = 12 cannot be kept of steps = 10: take 2 to 11 frames"),
        (10, 1, "take 2 to 11 frames"),
        (0, 2, "take 1 to 1 frames"),
        (-1, 1, "steps = -1: take 0 or more"),
    ],
)
def test_a_refusal_says_what_to_take(steps, frames, remedy):
    with pytest.raises(ValueError, match=remedy):
        kept_steps(steps, frames)
