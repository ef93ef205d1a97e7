"""What is remembered within a worker, and what is forgotten."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sweep.memo import Memo


class TestMemo:
    @given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 400))
    def test_gives_what_would_be_computed(self, keys: list[int], most: int) -> None:
        memo = Memo(most)
        for key in keys:
            answer = memo.get(str(key), lambda key=key: np.full(10, key))  # type: ignore[misc]
            assert (answer == key).all()

    def test_forgets_the_oldest_beyond_its_bytes(self) -> None:
        memo, calls = Memo(100), []

        def compute_for(key: int) -> np.ndarray:
            calls.append(key)
            return np.zeros(5)  # 40 bytes

        for key in (1, 2, 1, 3, 1, 2):
            memo.get(str(key), lambda key=key: compute_for(key))  # type: ignore[misc]
        assert calls == [1, 2, 3, 2]
