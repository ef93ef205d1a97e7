"""What every command has in common: mistakes told in words, and an exit code for an answer."""

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import click

from sweep.errors import DiskError, EngineLost, StudyError, SweepError, WorkerError

ALL_DONE, SOME_FAILED, MISTAKE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
NOT_HEARD = 141  # as a shell has it for SIGPIPE

Command = Callable[..., int]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sweepzarr")
def main() -> None:
    """Sweep an ordinary Python function over parameters, into one labelled Zarr dataset.

    PIPELINE is a file (pipelines/heat_flow.py), a module, or either with :name. Values are
    written a=0.5 (a constant), a=0.5,1,2 (a list), a=0:1:11 (11 points, linearly),
    a=1e-6:1e-4:16:log, n=0..9 (integers), a=[64] (an axis of one point).
    """


def command(function: Command) -> click.Command:
    """Make a command whose mistakes are told in words and whose answer is the exit code."""

    @wraps(function)
    def guarded(**arguments: Any) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are no text
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        try:
            code = _called(function, arguments)
        except SweepError as error:
            _tell(error)
            is_ours = isinstance(error, (WorkerError, DiskError, EngineLost))
            code = INCOMPLETE if is_ours else MISTAKE
        except KeyboardInterrupt:
            click.echo("sweep: stopped.", err=True)
            code = INTERRUPTED
        except BrokenPipeError:  # of `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = NOT_HEARD
        except SystemExit:  # rich's answer to it
            code = NOT_HEARD
        except Exception:
            traceback.print_exc()
            click.echo("sweep: this is a mistake of the program, not yours.", err=True)
            code = INCOMPLETE
        sys.exit(code)

    return main.command()(guarded)


def _called(function: Command, arguments: dict[str, Any]) -> int:
    """Call a command; where all ranks of MPI have been started with it, on the first of them."""
    if arguments.get("on") != "mpi":
        return function(**arguments)
    from sweep.cli.ranks import on_ranks

    return on_ranks(lambda: function(**arguments))


def _tell(error: SweepError) -> None:
    """Show an error; a traceback only where it is the user's own code that raised."""
    if isinstance(error, StudyError) and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    if isinstance(error, WorkerError) and error.trace:
        click.echo(error.trace, err=True)
    click.echo(f"sweep: {error}", err=True)


pipeline_argument = click.argument("pipeline")
store_argument = click.argument("store", type=click.Path(path_type=Path))
