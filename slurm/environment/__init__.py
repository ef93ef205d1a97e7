"""Environment: what can be found out before anybody submits, each finding a line of a table.

Nothing here raises for what a person can mend: a check that fails, or could not be made, says why.
What stands before Python in a batch script is run here as it is there; Python and the launcher are
looked at in the environment that it leaves. The nodes themselves are out of reach.
"""

from slurm.environment.check import Check as Check
from slurm.environment.check import checks_text as checks_text
from slurm.environment.checks import checks as checks
