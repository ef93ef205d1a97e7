"""Deadlines: how long a point may take, as a person says, or as the other points show."""

from dataclasses import dataclass

ENOUGH_POINTS = 10  # before anything is learned
LEARNED_TIMES = 100.0  # of the slowest point so far: costs differ much over a grid
LEARNED_AT_LEAST = 60.0  # s
NEEDS_TIMES = 2.0  # of what the pipeline says that a point takes at most
GRACE_SECONDS, GRACE_SHARE = 2.0, 0.25  # beyond a person's: a point may just be coming to its end


def block_seconds(points: int, mean: float, slowest: float) -> float:
    """Return how long a block may take: one point as long as the slowest, the others the mean.

    As if all were the slowest, one slow point among many would keep all that is left from beginning
    where a job's time is limited.
    """
    return (points - 1) * mean + slowest


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
    seconds_in_all: float = 0.0  # of these

    def learn(self, points: int, slowest: float, seconds: float) -> None:
        """Take note of how long some points took: the slowest, and all of them."""
        self.points += points
        self.slowest = max(self.slowest, slowest)
        self.seconds_in_all += seconds

    def block_seconds(self, points: int) -> float:
        """Return how long so many points may take, as far as anything is known.

        What the pipeline says is of the one that takes longest; of the others it says nothing.
        """
        if not self.points:
            return self.needs_seconds
        return block_seconds(points, self.seconds_in_all / self.points, self.slowest)

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
