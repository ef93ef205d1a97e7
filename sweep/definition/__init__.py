"""What a scientist declares: axes, coordinates, outputs, needs, and the functions between them.

Everything here is a value that is checked when it is made, so that a wrong definition never
gets as far as a run. Nothing here touches a disk or a worker.
"""

from sweep.definition.axis import Axis as Axis
from sweep.definition.needs import Needs as Needs
from sweep.definition.output import Coord as Coord
from sweep.definition.output import Inner as Inner
from sweep.definition.output import Var as Var
from sweep.definition.pipeline import Pipeline as Pipeline
from sweep.definition.stage import Parameter as Parameter
from sweep.definition.stage import Stage as Stage
