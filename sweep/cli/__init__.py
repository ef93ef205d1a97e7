"""The command line: arguments in, ``run.py`` called, messages out."""

import sweep.cli.clusters
import sweep.cli.keeping
import sweep.cli.looking
import sweep.cli.running  # noqa: F401 - each adds its commands
from sweep.cli.command import main as main
