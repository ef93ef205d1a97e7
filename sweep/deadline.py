"""Deadlines: how long a point may take, as a person says, or as the other points show."""

from dataclasses import dataclass

ENOUGH_POINTS = 10  # before anything is learned
LEARNED_TIMES = 100.0  # of the slowest point so far: costs differ much over a grid
LEARNED_AT_LEAST = 60.0  # s
NEEDS_TIMES = 2.0  # of what the pipeline says that a point takes at most
GRACE_SECONDS, GRACE_SHARE = 2.0, 0.25  # beyond a person's: a point may just be coming to its end


@dataclass
class Deadline:
    """How long a point may take.

    There are two. A point that took longer than the soft one has failed, though it came to its
    end. At the hard one its worker is ended. What is learned is only a hard one.

    Parameters
    ----------
    seconds
        What a person says; None if nobody does.
    needs_seconds
        What the pipeline says that a point takes at most; 0 if it does not know.
    """

    seconds: float | None = None
    needs_seconds: float = 0.0
    slowest: float = 0.0  # of the points so far [s]
    points: int = 0

    def learn(self, points: int, slowest: float) -> None:
        """Take note of how long some points took."""
        self.points += points
        self.slowest = max(self.slowest, slowest)

    @property
    def hard_seconds(self) -> float | None:
        """When a worker is ended; None while nothing is known."""
        if self.seconds is not None:
            return self.seconds + max(GRACE_SECONDS, GRACE_SHARE * self.seconds)
        if self.needs_seconds:
            return NEEDS_TIMES * self.needs_seconds
        if self.points < ENOUGH_POINTS:
            return None
        return max(LEARNED_AT_LEAST, LEARNED_TIMES * self.slowest)
