"""The commands that compute: run, resume, extend."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sweep.cli.arguments import accept_changes, read_arguments, read_values, rest, workers
from sweep.cli.command import Command, command, pipeline_argument, store_argument
from sweep.cli.device import device
from sweep.cli.words import finish
from sweep.options import Options
from sweep.progress import make_reporter
from sweep.run import execute
from sweep.run import extend as extend_store
from sweep.run import resume as resume_store
from sweep.store import store_path
from sweep.study import load_study


def on(default: str) -> Callable[[Command], Command]:
    """Return the option for the engine."""
    return click.option(
        "--on",
        default=default,
        show_default=True,
        metavar="ENGINE",
        help="serial, processes, dask (a local cluster), mpi (under mpiexec), srun (inside a SLURM "
        "job), or the tls://host:port of a Dask scheduler.",
    )


_tls_dir = click.option(
    "--tls-dir",
    type=click.Path(path_type=Path),
    help="Folder with ca.pem, cert.pem and key.pem of that scheduler.",
)
_dashboard = click.option("--dashboard", is_flag=True, help="Serve Dask's dashboard on loopback.")
timeout = click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="How long a point may take; then it has failed  [default: far longer than the others].",
)
retries = click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=0,
    help="How often a point that raises is tried again  [default: not at all].",
)
fail_fast = click.option("--fail-fast", is_flag=True, help="Stop when a point has failed.")
_join = click.option(
    "--join", is_flag=True, help="Help the driver that the store has, if it has one."
)
where = click.option("--pipeline", metavar="PIPELINE", help="Where the pipeline is by now.")


def _how_to_run(command: Command) -> Command:
    """Add the options that say where and how points are computed."""
    for option in (
        *(_join, accept_changes, fail_fast, retries, timeout),
        *(_dashboard, _tls_dir, workers, on("dask")),
    ):
        command = option(command)
    return command


def _options(store: Path, how: dict[str, Any]) -> Options:
    from slurm.queue import has_ended

    return Options(**how, has_ended=has_ended(store))


@command
@pipeline_argument
@rest
@device
@_how_to_run
def run(pipeline: str, store_and_values: tuple[str, ...], device: str | None, **how: Any) -> int:
    """Compute what is missing of a sweep.

    STORE is made if need be  [default: runs/PIPELINE.zarr].
    """
    study, bound, store = read_arguments(pipeline, store_and_values, device)
    return finish(execute(bound, study, store, _options(store, how), make_reporter()))


@command
@store_argument
@where
@click.option("--retry-failed", is_flag=True, help="Compute failed points again, too.")
@_how_to_run
def resume(store: Path, pipeline: str | None, **how: Any) -> int:
    """Compute what is missing or stale in STORE, and nothing else."""
    study = load_study(pipeline) if pipeline else None
    path = store_path(store)
    return finish(resume_store(path, _options(path, how), make_reporter(), study))


@command
@store_argument
@click.argument("values", nargs=-1, metavar="a=VALUES...", required=True)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="NEW",
    help="Make a new store, sorted, with the points of STORE copied.",
)
@where
@_how_to_run
def extend(
    store: Path, values: tuple[str, ...], into: Path | None, pipeline: str | None, **how: Any
) -> int:
    """Add values to the axes of the sweep in STORE, and compute the new points.

    In place where that touches no chunk that is there: after the last value, and where blocks
    end. Else --into NEW.
    """
    study = load_study(pipeline) if pipeline else None
    target = store_path(into) if into else None
    summary = extend_store(
        store_path(store),
        lambda known: read_values(values, known),
        target,
        _options(store_path(store), how),
        make_reporter(),
        study,
    )
    return finish(summary)
