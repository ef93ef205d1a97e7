"""Where is it computed? A study for tests that can do so on a processor and on a GPU."""

import os
from typing import Annotated, Literal

from sweep import Axis, Needs, Pipeline, Var


def place(
    n: int, device: Literal["cpu", "cuda"] = "cpu"
) -> Annotated[int, Var((), "", "the GPU that a worker has, or -1")]:
    """Return the first GPU that this process was given."""
    return int(os.environ["CUDA_VISIBLE_DEVICES"].partition(",")[0]) if device == "cuda" else -1


pipeline = Pipeline(place, axes=[Axis("n", range(6))], needs=Needs(memory="10 MB", minutes=1))
