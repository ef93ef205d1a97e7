"""Is what lies on disk still what was computed? Its checksums say so, or computing it again.

What is damaged becomes stale, and the next run computes it again; the chunks stay as they are
until then. Whoever marks holds the store's lease.
"""

from sweep.verify.checksums import Damage as Damage
from sweep.verify.checksums import Report as Report
from sweep.verify.checksums import verify as verify
from sweep.verify.recompute import Mismatch as Mismatch
from sweep.verify.recompute import RerunReport as RerunReport
from sweep.verify.recompute import rerun as rerun
