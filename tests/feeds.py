"""A feed for tests of what asks one."""

from collections.abc import Iterable

from sweep.blame import Attempt
from sweep.plan import Block


class PlanFeed:
    """Every block of a plan, in order, as if nobody else were at work.

    Parameters
    ----------
    blocks
        Those that are left.
    left
        How many these are.
    """

    def __init__(self, blocks: Iterable[Block], left: int) -> None:
        self._blocks = iter(blocks)
        self.left = left

    def next(self, *, suspects: bool = True) -> Attempt | None:
        """Return the next block."""
        block = next(self._blocks, None)
        self.left -= block is not None
        return Attempt(block) if block else None

    def is_over(self) -> bool:
        """Tell whether all were handed out."""
        return self.left == 0

    def release(self, block: Block) -> None:
        """Do nothing: there are no claims."""
