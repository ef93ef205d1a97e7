"""What can go wrong with a throw-away SLURM."""

from sweep.errors import SweepError


class ThrowawayError(SweepError):
    """What was asked of a throw-away SLURM makes no sense."""


class CannotStart(ThrowawayError):
    """A daemon did not start, or the nodes did not come up."""


class ProgramsMissing(CannotStart):
    """SLURM or munge is not installed."""
