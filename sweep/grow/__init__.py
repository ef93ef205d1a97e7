"""Growing a sweep: more values of its axes, other blocks, several stores as one.

What comes of it is ready to be gone on with: points that nobody has computed yet are pending,
and a resume computes them.
"""

from sweep.grow.compact import compacted as compacted
from sweep.grow.extend import extended as extended
from sweep.grow.growth import Growth as Growth
from sweep.grow.merge import merged as merged
