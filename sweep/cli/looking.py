"""The commands that look and change nothing: plan, describe, status."""

from pathlib import Path
from typing import Any

import click

from sweep.cli.arguments import read_arguments, rest
from sweep.cli.clusters import at_work_rows, by_hand, plan_for
from sweep.cli.command import (
    ALL_DONE,
    INCOMPLETE,
    SOME_FAILED,
    command,
    pipeline_argument,
    store_argument,
)
from sweep.cli.device import device
from sweep.cli.words import axes_text, print_failures, print_rows, value_text
from sweep.definition.stage import MISSING
from sweep.errors import SweepError
from sweep.progress import clock_text
from sweep.run import estimate
from sweep.status import Status, age_text
from sweep.status import status as read_status
from sweep.store import Store, store_path
from sweep.store.lease import owner
from sweep.store.room import size_text
from sweep.study import load_study


@command
@pipeline_argument
@rest
@device
@click.option(
    "--site",
    "site_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A cluster to plan for, and to check: slurm/sites/NAME.toml.",
)
@by_hand
def plan(
    pipeline: str,
    store_and_values: tuple[str, ...],
    device: str | None,
    site_file: Path | None,
    workers: int | None,
    **wishes: Any,
) -> int:
    """Say what a sweep will cost, from a few timed points; nothing is written."""
    if site_file:
        words = (pipeline, store_and_values, device)
        return plan_for(site_file, words, {"workers": workers, **wishes})
    study, bound, store = read_arguments(pipeline, store_and_values, device)
    if given := [name for name, value in wishes.items() if value and value != "array"]:
        raise SweepError(f"--{given[0]} goes with --site FILE: it is about a cluster's jobs.")
    found = estimate(bound, study, store, workers)
    block = "x".join(map(str, found.block_shape)) or "1"
    rows = {
        "store": str(store),
        "points": f"{found.points} ({axes_text(bound)})",
        "done": f"{found.points - found.points_left - found.points_failed}, "
        f"{found.points_failed} failed",
        "blocks": f"{found.blocks} of {block} points, {found.blocks_left} left",
        "files": f"about {found.files}",
        "data": f"{size_text(found.bytes)} before compression",
    }
    if found.timing is not None:
        timed, least = found.timing, "at least " if found.timing.at_least else ""
        rows |= {
            "a point": f"{least}{clock_text(timed.mean)} on average, {clock_text(timed.slowest)} "
            f"at most ({len(timed.seconds)} timed)",
            "core time": f"{least}{clock_text(found.core_seconds)}",
            "time": f"{least}{clock_text(found.seconds)} with {found.workers} at once",
        }
    print_rows(rows)
    return ALL_DONE


@command
@pipeline_argument
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
        here = value_text(found, name)
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


@command
@store_argument
def status(store: Path) -> int:
    """Say how far the sweep in STORE is: from the store, and from SLURM where there is one."""
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
    if driver := owner(Store(store_path(store))):
        rows["driver"] = driver.text
    rows |= at_work_rows(Store(store_path(store)))
    for number, record in found.runs.items():
        rows[f"run {number}"] = f"{record['state']}, {record['engine']}"
    print_rows(rows)
    print_failures(found)
    return _status_code(found)


def _status_code(found: Status) -> int:
    if not found.complete:
        return INCOMPLETE
    return SOME_FAILED if found.points["failed"] else ALL_DONE
