"""What became of a run, and what to say where points are left."""

from dataclasses import dataclass
from pathlib import Path

from sweep.drive import Tally
from sweep.errors import resume_command


@dataclass(frozen=True)
class Summary:
    """What became of a run."""

    store: Path
    run: int | None  # None where nothing was left to do
    tally: Tally
    seconds: float
    workers: int
    interrupted: bool
    code_changed_since: int | None  # the run that had another code
    failed_fast: bool = False  # a point failed, and the rest was left
    out_of_time: bool = False  # the rest would not have ended before this process has to
    has_end: bool = False  # it was told when it has to

    @property
    def code_text(self) -> str:
        """What to say where the code is another than that of an earlier run."""
        return (
            f"The code has changed since run {self.code_changed_since}; the points of this run "
            f"have run={self.run}."
        )

    @property
    def efficiency(self) -> float:
        """The part of the workers' time that was spent in the stages."""
        return self.tally.compute_seconds / max(self.seconds * self.workers, 1e-9)


def lost_text(summary: Summary) -> str:
    """Say why points are left: which blocks lost their workers too often, say."""
    if summary.failed_fast:
        return f"Stopped since a point failed; {summary.tally.left} points are left."
    if summary.out_of_time:
        return f"No time is left for another block; {summary.tally.left} points are left."
    if summary.tally.stale:
        return stale_text(summary.tally.stale, summary.store)
    if not summary.tally.lost_blocks:
        return f"{summary.tally.left} points are left: the engine took no more work."
    block, reason = summary.tally.lost_blocks[0]
    count = len(summary.tally.lost_blocks)
    return (
        f"{count} block{'s' * (count > 1)} lost a worker again and again and stayed pending, the "
        f"first at {block.start}: {reason}. If a point needs more memory than there is, "
        "give fewer --workers; then resume."
    )


def stale_text(points: int, store: Path) -> str:
    """Say what has become of points that did not come out as before."""
    return (
        f"{points} points that were done did not come out the same when their blocks were computed "
        "again, and are stale now: their values are those of before. /events says which. To take "
        f"the new ones: {resume_command(store)}"
    )
