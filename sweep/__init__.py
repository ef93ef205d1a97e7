"""Sweep an ordinary function over parameters, into one labelled dataset.

>>> from typing import Annotated
>>> import sweep
>>> def height(speed: float, time: float) -> Annotated[float, sweep.Var((), "m")]:
...     return speed * time - 9.81 * time**2 / 2
>>> thrown = sweep.Pipeline(
...     height, axes=[sweep.Axis("speed", [10, 20], "m s-1"), sweep.Axis("time", [0.5, 1], "s")]
... )
>>> dataset = sweep.run(thrown, on="serial")
>>> float(dataset.height.sel(speed=20, time=1))
15.095
"""

from sweep.api import extend as extend
from sweep.api import plan as plan
from sweep.api import run as run
from sweep.api import submit as submit
from sweep.compiling.hook import follow_numba
from sweep.dataset import open_dataset as open_dataset
from sweep.definition import Axis as Axis
from sweep.definition import Coord as Coord
from sweep.definition import Needs as Needs
from sweep.definition import Pipeline as Pipeline
from sweep.definition import Stage as Stage
from sweep.definition import Var as Var
from sweep.errors import SweepError as SweepError
from sweep.status import status as status

follow_numba()
