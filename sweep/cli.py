"""The command line: arguments in, ``run.py`` called, messages out."""

import io
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from sweep.definition import Pipeline
from sweep.definition.stage import MISSING
from sweep.errors import (
    DiskError,
    EngineLost,
    StudyError,
    SweepError,
    WorkerError,
    resume_command,
    short_path,
)
from sweep.progress import clock_text, make_reporter
from sweep.run import Options, Summary, estimate, execute, lost_text
from sweep.run import resume as resume_store
from sweep.status import Status, age_text
from sweep.status import status as read_status
from sweep.store import store_path
from sweep.study import Study, load_study
from sweep.values import parse_assignments

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


def _command(function: Command) -> click.Command:
    """Make a command whose mistakes are told in words and whose answer is the exit code."""

    @wraps(function)
    def guarded(**arguments: Any) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are no text
        try:
            code = function(**arguments)
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


def _tell(error: SweepError) -> None:
    """Show an error; a traceback only where it is the user's own code that raised."""
    if isinstance(error, StudyError) and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    if isinstance(error, WorkerError) and error.trace:
        click.echo(error.trace, err=True)
    click.echo(f"sweep: {error}", err=True)


_on = click.option(
    "--on",
    default="dask",
    show_default=True,
    metavar="ENGINE",
    help="serial, processes, dask (a local cluster), or tls://host:port of a Dask scheduler.",
)
_workers = click.option(
    "--workers", type=click.IntRange(min=1), help="Worker processes  [default: all cores]."
)
_tls_dir = click.option(
    "--tls-dir",
    type=click.Path(path_type=Path),
    help="Folder with ca.pem, cert.pem and key.pem of that scheduler.",
)
_dashboard = click.option("--dashboard", is_flag=True, help="Serve Dask's dashboard on loopback.")
_pipeline = click.argument("pipeline")
_rest = click.argument("store_and_values", nargs=-1, metavar="[STORE] [a=VALUES]...")


@_command
@_pipeline
@_rest
@_on
@_workers
@_tls_dir
@_dashboard
def run(
    pipeline: str,
    store_and_values: tuple[str, ...],
    on: str,
    workers: int | None,
    tls_dir: Path | None,
    dashboard: bool,
) -> int:
    """Compute what is missing of a sweep.

    STORE is made if need be  [default: runs/PIPELINE.zarr].
    """
    study, bound, store = _read(pipeline, store_and_values)
    options = Options(on, workers, tls_dir, dashboard)
    return _finish(execute(bound, study, store, options, make_reporter()))


@_command
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--pipeline", metavar="PIPELINE", help="Where the pipeline is by now.")
@_on
@_workers
@_tls_dir
@_dashboard
def resume(
    store: Path,
    pipeline: str | None,
    on: str,
    workers: int | None,
    tls_dir: Path | None,
    dashboard: bool,
) -> int:
    """Compute what is missing in STORE, and nothing else."""
    study = load_study(pipeline) if pipeline else None
    options = Options(on, workers, tls_dir, dashboard)
    return _finish(resume_store(store_path(store), options, make_reporter(), study))


@_command
@_pipeline
@_rest
@_workers
def plan(pipeline: str, store_and_values: tuple[str, ...], workers: int | None) -> int:
    """Say what a sweep will cost, from a few timed points; nothing is written."""
    study, bound, store = _read(pipeline, store_and_values)
    found = estimate(bound, study, store, workers)
    block = "x".join(map(str, found.block_shape)) or "1"
    rows = {
        "store": str(store),
        "points": f"{found.points} ({_axes_text(bound)})",
        "done": f"{found.points - found.points_left - found.points_failed}, "
        f"{found.points_failed} failed",
        "blocks": f"{found.blocks} of {block} points, {found.blocks_left} left",
        "files": f"about {found.files}",
        "data": f"{_bytes_text(found.bytes)} before compression",
    }
    if found.timing is not None:
        timed, least = found.timing, "at least " if found.timing.at_least else ""
        rows |= {
            "a point": f"{least}{clock_text(timed.mean)} on average, {clock_text(timed.slowest)} "
            f"at most ({len(timed.seconds)} timed)",
            "core time": f"{least}{clock_text(found.core_seconds)}",
            "time": f"{least}{clock_text(found.seconds)} with {found.workers} at once",
        }
    _print_rows(rows)
    return ALL_DONE


@_command
@_pipeline
def describe(pipeline: str) -> int:
    """Show a pipeline's parameters, axes, outputs and needs."""
    from rich.console import Console
    from rich.table import Table

    study = load_study(pipeline)
    found = study.pipeline
    console = Console(highlight=False)
    console.print(study.title or study.name, markup=False)
    stages = ", ".join(f"{s.name}()" + " vectorized" * s.vectorized for s in found.stages)
    console.print(f"stages: {stages}", markup=False)
    table = Table("parameter", "type", "default", "here", "units", box=None, title="Parameters")
    for name, parameter in found.parameters.items():
        default = "" if parameter.default is MISSING else repr(parameter.default)
        here = _value_text(found, name)
        here = "" if here == default else here
        table.add_row(name, parameter.type_name, default, here, parameter.units)
    console.print(table)
    if found.coords:
        table = Table("coordinate", "length", "units", "meaning", box=None, title="Coordinates")
        for coord in found.coords:
            length = f"of {', '.join(coord.parameters)}"
            if not coord.parameters:
                length = str(len(coord.at({})))
            table.add_row(coord.name, length, coord.units, coord.long_name)
        console.print(table)
    table = Table("output", "dims", "type", "units", "meaning", box=None, title="Outputs")
    for name, var in found.outputs.items():
        table.add_row(name, ", ".join(var.dims), var.dtype, var.units, var.long_name)
    console.print(table)
    needs = found.needs
    minutes = f", at most {needs.minutes:g} minutes" if needs.minutes else ""
    gpus = f", {needs.gpus} GPUs" if needs.gpus else ""
    cores = f"{needs.cores} core{'s' * (needs.cores > 1)}"
    console.print(f"A point needs {cores}, {needs.memory}{gpus}{minutes}.")
    return ALL_DONE


@_command
@click.argument("store", type=click.Path(path_type=Path))
def status(store: Path) -> int:
    """Say how far the sweep in STORE is; reads the store only."""
    found = read_status(store)
    points = ", ".join(f"{count} {state}" for state, count in found.points.items() if count)
    rows = {
        "store": str(store),
        "points": f"{found.total}: {points}",
        "blocks": f"{found.blocks}, {found.blocks_left} left",
        "computed": f"{clock_text(found.compute_seconds)} in the stages",
    }
    if found.last_commit is not None:
        rows["last commit"] = f"{age_text(found.last_commit)}, {found.rate:.3g} points/s"
    for number, record in found.runs.items():
        rows[f"run {number}"] = f"{record['state']}, {record['engine']}"
    _print_rows(rows)
    _print_failures(found)
    return _status_code(found)


def _status_code(found: Status) -> int:
    if not found.complete:
        return INCOMPLETE
    return SOME_FAILED if found.points["failed"] else ALL_DONE


# --- reading arguments ---------------------------------------------------------------------


def _read(reference: str, rest: tuple[str, ...]) -> tuple[Study, Pipeline, Path]:
    """Return the study, its pipeline with the values set, and the path of the store."""
    paths = [word for word in rest if "=" not in word.partition("/")[0]]
    if len(paths) > 1:
        raise SweepError(f"Give one STORE, not {len(paths)}: {', '.join(paths)}.")
    study = load_study(reference)
    name, colon, rest_of_it = (paths or [""])[0].partition(":")
    if colon and name in study.pipeline.parameters:
        raise SweepError(f"'{paths[0]}' is no STORE. To set '{name}', write {name}={rest_of_it}.")
    values = parse_assignments([word for word in rest if word not in paths], study.pipeline)
    bound = study.pipeline.with_values(**values)
    bound.check_complete()
    return study, bound, store_path(paths[0]) if paths else _default_store(study)


def _default_store(study: Study) -> Path:
    stem = study.file.stem if study.name == "pipeline" else f"{study.file.stem}-{study.name}"
    return Path("runs") / f"{stem}.zarr"


# --- words -------------------------------------------------------------------------------


def _finish(summary: Summary) -> int:
    """Print what became of a run and return the exit code."""
    tally = summary.tally
    click.echo(f"{tally.done} of {tally.points} points done, {tally.failed} failed.")
    if summary.run is None:
        click.echo("Nothing was left to do.")
    else:
        click.echo(
            f"{clock_text(summary.seconds)} wall time; the workers ({summary.workers}) spent "
            f"{clock_text(tally.compute_seconds)} in kernels, "
            f"{clock_text(tally.compile_seconds)} compiling, "
            f"{clock_text(tally.write_seconds)} writing: efficiency {summary.efficiency:.0%}."
        )
    if summary.code_changed_since is not None:
        click.echo(summary.code_text, err=True)
    store = short_path(summary.store)
    if tally.failed:
        _print_failures(read_status(summary.store))
        click.echo("Failed points stay so in this store; to try them again, give a new STORE.")
    click.echo(f'\nimport xarray as xr\nds = xr.open_zarr("{store}")')
    if summary.interrupted:
        click.echo(f"\nStopped. Go on with: {resume_command(summary.store)}", err=True)
        return INTERRUPTED
    if tally.left:
        click.echo(f"\n{lost_text(summary)}", err=True)
        return INCOMPLETE
    return SOME_FAILED if tally.failed else ALL_DONE


def _print_failures(found: Status, most: int = 5) -> None:
    for failure in found.failures[:most]:
        click.echo(f"failed: {failure.text}")
    if len(found.failures) > most:
        click.echo(
            f"and {len(found.failures) - most} more: "
            f'xr.open_zarr("{short_path(found.store)}", group="events")'
        )


def _print_rows(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, text in rows.items():
        click.echo(f"{name:<{width}}  {text}")


def _axes_text(pipeline: Pipeline) -> str:
    return " x ".join(f"{size} {dim}" for dim, size in pipeline.dims.items()) or "no axis"


def _value_text(pipeline: Pipeline, name: str) -> str:
    for axis in pipeline.axes:
        if name in axis.names:
            values = axis.columns[axis.names.index(name)].tolist()
            shown = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values[:4])
            along = "" if axis.dim == name else f" along {axis.dim}"
            return f"{len(values)} values: {shown}{', ...' if len(values) > 4 else ''}{along}"
    return repr(pipeline.fixed[name]) if name in pipeline.fixed else "(to be set)"


def _bytes_text(count: int) -> str:
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"
