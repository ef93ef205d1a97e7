"""Who is to blame for the death of a worker: attempts at a block, and what is known of its points.

A worker that dies was at some point, but a death may have other causes: a person, the system out
of memory, a point before it. So the point is suspected. The block is tried again with the suspect
first, in a worker that has computed nothing else of it, and only who is at work again and again
when workers die is condemned: it fails, with the reason, and the rest of the block is computed.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sweep.engines import Lost
from sweep.marks import WHOLE_BLOCK
from sweep.plan import Block

ENOUGH_DEATHS = 2  # at one point, to condemn it
ENOUGH_UNKNOWN = 3  # where somebody else may have killed the worker
LONGEST_REASON = 1500  # characters
ERROR_TYPES = {"timeout": "Timeout", "memory": "OutOfMemory"}


@dataclass
class Attempt:
    """An attempt at a block; points are counted in C order.

    `first` is the suspect, `condemned` are those that are not computed any more, with an error's
    type and text; `deaths` counts the workers that died at each point, `unexplained` those that
    died nobody knows at which, and `ends` how often all of a process and its workers died while a
    point was at work.
    """

    block: Block
    number: int = 1
    first: int | None = None
    condemned: dict[int, tuple[str, str]] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    unexplained: int = 0
    ends: Counter[int] = field(default_factory=Counter)

    @classmethod
    def after(cls, block: Block, attempts: int, ends: Counter[int]) -> "Attempt":
        """Return the attempt at a block that follows on so many, by processes that are gone."""
        found = cls(block, attempts + 1, ends=Counter(ends))
        for point, count in ends.most_common():
            if count >= ENOUGH_UNKNOWN:
                reason = f"{count} times all that ran it was killed, its driver, too."
                found.condemned[point] = ("WorkerDied", reason)
            elif found.first is None:
                found.first = point
        return found

    @property
    def suspicion(self) -> int:
        """How often all that ran it died at the same point, of those that are computed still."""
        counts = (count for point, count in self.ends.items() if point not in self.condemned)
        return max(counts, default=0)

    @property
    def is_suspect(self) -> bool:
        """Tell whether a point of it may be why all that ran it died."""
        return self.suspicion > 0

    @property
    def needs_quiet(self) -> bool:
        """Tell whether nothing else may be at work: else an innocent point would be blamed."""
        return self.suspicion + 1 >= ENOUGH_UNKNOWN

    def message(self) -> list[Any]:
        """Return what a worker is told: see ``worker.run_batch``."""
        if self.number == 1:
            return [self.block.number, 1]
        condemned = [[point, *error] for point, error in self.condemned.items()]
        return [self.block.number, self.number, self.first, condemned]

    def take_death(self, point: int | None, lost: Lost) -> None:
        """Take note that a worker died at `point`, and make it the next attempt."""
        self.number += 1
        self.first = None
        if point is None or point < 0:
            self.unexplained += point != WHOLE_BLOCK  # the points will be alone the next time
            return
        self.deaths[point] += 1
        enough = ENOUGH_UNKNOWN if lost.cause == "unknown" else ENOUGH_DEATHS
        if lost.cause == "timeout" or self.deaths[point] >= enough:
            kind = ERROR_TYPES.get(lost.cause, "WorkerDied")
            self.condemned[point] = (kind, lost.reason[:LONGEST_REASON])
        else:
            self.first = point
