"""The commands for clusters: work, and those that speak with SLURM."""

import re
from pathlib import Path

import click

from sweep.cli.arguments import accept_changes, workers
from sweep.cli.command import command, store_argument
from sweep.cli.running import fail_fast, on, retries, timeout, where
from sweep.cli.words import finish_part
from sweep.errors import SweepError
from sweep.options import Options
from sweep.progress import make_reporter
from sweep.run import work as work_on
from sweep.running import Part
from sweep.store import store_path
from sweep.study import load_study


class Share(click.ParamType[tuple[int, int]]):
    """Which share of how many: 3/10 is the fourth."""

    name = "I/N"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the share that a text means."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", str(value))
        if not found or int(found[1]) >= int(found[2]):
            self.fail(f"'{value}': give I/N, with I from 0 to N - 1: 0/4 is the first of four.")
        return int(found[1]), int(found[2])


@command
@store_argument
@click.option("--run", type=click.IntRange(min=1), help="Run that this is a part of.")
@click.option("--share", type=Share(), default="0/1", help="Share to begin with  [default: all].")
@click.option(
    "--until",
    type=float,
    metavar="EPOCH",
    help="When this has to be over [s since 1970]; nothing is begun that would not end before.",
)
@where
@on("processes")
@workers
@timeout
@retries
@fail_fast
@accept_changes
def work(
    store: Path,
    run: int | None,
    share: tuple[int, int],
    until: float | None,
    pipeline: str | None,
    on: str,
    workers: int | None,
    timeout: float | None,
    retries: int,
    fail_fast: bool,
    accept_changes: bool,
) -> int:
    """Compute what is missing in STORE beside others: one elastic worker.

    To be started on any machine that sees the store, as often as one likes, at any time. Blocks are
    claimed one by one; what a worker that was killed had begun is taken over by the others.
    """
    from slurm.queue import has_ended

    path = store_path(store)
    if run is not None and not (path / ".sweep" / "runs" / f"{run:04d}.json").exists():
        raise SweepError(f"{path} has no run {run}. Leave out --run, or see: sweep status {path}")
    options = Options(
        on,
        workers,
        timeout=timeout,
        retries=retries,
        fail_fast=fail_fast,
        accept_changes=accept_changes,
    )
    part = Part(run, share, until, has_ended(path))
    study = load_study(pipeline) if pipeline else None
    return finish_part(work_on(path, part, options, make_reporter(), study))
