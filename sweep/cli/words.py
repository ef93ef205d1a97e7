"""What commands print: what became of a run, failures, rows of names and texts."""

import click

from sweep.cli.command import ALL_DONE, INCOMPLETE, INTERRUPTED, SOME_FAILED
from sweep.definition import Pipeline
from sweep.errors import counted, resume_command, short_path
from sweep.progress import clock_text
from sweep.status import Status
from sweep.status import status as read_status
from sweep.store import Store
from sweep.store.claims import claimed_names
from sweep.summary import Summary, lost_text


def finish(summary: Summary) -> int:
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
    if tally.noted:
        click.echo(
            f"{counted(tally.noted, 'point')} warned, logged or printed: "
            f'xr.open_zarr("{store}", group="events")',
            err=True,
        )
    if tally.failed:
        print_failures(read_status(summary.store))
        click.echo(f"To try them again: {resume_command(summary.store)} --retry-failed")
    click.echo(f'\nimport xarray as xr\nds = xr.open_zarr("{store}")')
    if summary.interrupted:
        click.echo(f"\nStopped. Go on with: {resume_command(summary.store)}", err=True)
        return INTERRUPTED
    if tally.left:
        click.echo(f"\n{lost_text(summary)}", err=True)
        return SOME_FAILED if summary.failed_fast else INCOMPLETE
    return SOME_FAILED if tally.failed else ALL_DONE


def finish_part(summary: Summary) -> int:
    """Print what became of one process's part in a sweep and return the exit code."""
    tally = summary.tally
    if summary.run is not None:
        click.echo(
            f"{tally.computed} points computed, {tally.failed} failed, in "
            f"{clock_text(summary.seconds)}; the workers ({summary.workers}) spent "
            f"{clock_text(tally.compute_seconds)} in kernels, "
            f"{clock_text(tally.write_seconds)} writing: efficiency {summary.efficiency:.0%}."
        )
    click.echo(f"{short_path(summary.store)}: {_left_text(summary)}.")
    if summary.interrupted:
        return INTERRUPTED
    if not tally.left:
        return SOME_FAILED if tally.failed else ALL_DONE
    is_short = summary.out_of_time or tally.stale > 0
    if is_short or tally.lost_blocks:
        click.echo(lost_text(summary), err=True)
    if tally.lost_blocks or (is_short and not summary.has_end):
        return INCOMPLETE
    return ALL_DONE  # for others, or for the job after this one


def _left_text(summary: Summary) -> str:
    tally = summary.tally
    if not tally.left:
        return "nothing is left"
    left = f"{tally.left} of {tally.points} points are left"
    if summary.interrupted or summary.out_of_time or tally.lost_blocks or tally.stale:
        return left  # and why is told
    if claimed_names(Store(summary.store)):
        return f"{left}, which others are at"
    return f"{left}, but not of this run; to compute them: sweep submit, or sweep work alone"


def print_failures(found: Status, most: int = 5) -> None:
    """Print the first failures, and where the others stand."""
    for failure in found.failures[:most]:
        click.echo(f"failed: {failure.text.splitlines()[0]}")
    if len(found.failures) > most:
        click.echo(
            f"and {len(found.failures) - most} more: "
            f'xr.open_zarr("{short_path(found.store)}", group="events")'
        )


def print_rows(rows: dict[str, str]) -> None:
    """Print names and texts in two columns."""
    width = max(map(len, rows))
    for name, text in rows.items():
        click.echo(f"{name:<{width}}  {text}")


def axes_text(pipeline: Pipeline) -> str:
    """Return the lengths of the axes as a person would say them."""
    return " x ".join(f"{size} {dim}" for dim, size in pipeline.dims.items()) or "no axis"


def value_text(pipeline: Pipeline, name: str) -> str:
    """Return what a parameter is in this pipeline: its values, its constant, or neither."""
    for axis in pipeline.axes:
        if name in axis.names:
            values = axis.columns[axis.names.index(name)].tolist()
            shown = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values[:4])
            along = "" if axis.dim == name else f" along {axis.dim}"
            return f"{len(values)} values: {shown}{', ...' if len(values) > 4 else ''}{along}"
    return repr(pipeline.fixed[name]) if name in pipeline.fixed else "(to be set)"
