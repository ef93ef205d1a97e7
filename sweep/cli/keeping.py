"""The commands that look after stores: verify, compact, merge."""

import random
from pathlib import Path

import click

from sweep.changes import refuse_changed_code, refuse_stores_of_other_code
from sweep.cli.arguments import accept_changes
from sweep.cli.command import ALL_DONE, INCOMPLETE, command, store_argument
from sweep.errors import counted, short_path
from sweep.grow import Growth, compacted, merged
from sweep.options import Options
from sweep.run import remembered_study
from sweep.store import Store, store_path
from sweep.store.claims import refuse_while_claimed
from sweep.store.lease import Lease
from sweep.study import load_study
from sweep.verify import rerun
from sweep.verify import verify as check

new_argument = click.argument("new", type=click.Path(path_type=Path))


@command
@store_argument
@click.option(
    "--rerun", "count", type=click.IntRange(min=1), metavar="K", help="Compute K points again."
)
@click.option("--pipeline", metavar="PIPELINE", help="Where the pipeline is by now, for --rerun.")
def verify(store: Path, count: int | None, pipeline: str | None) -> int:
    """Check all that is committed in STORE against its checksums.

    Damaged blocks become stale: `sweep resume` computes them again. With --rerun, K random
    points that are done are computed again and compared, value for value.
    """
    found = Store(store_path(store))
    study = (load_study(pipeline) if pipeline else remembered_study(found)) if count else None
    bound = None
    if study:
        refuse_changed_code(found, study.source)
        bound = found.bind(study.pipeline)
        Options("serial").engine(bound, 1)  # refuses where a GPU is missing
    with Lease.take(found):
        refuse_while_claimed(found)
        report = check(found)
        click.echo(report.text())
        is_sound = report.is_sound
        if bound and count:
            seed = random.SystemRandom().getrandbits(32)
            again = rerun(found, bound, count, seed)
            click.echo(again.text())
            is_sound &= again.is_sound
    return ALL_DONE if is_sound else INCOMPLETE


@command
@store_argument
@new_argument
def compact(store: Path, new: Path) -> int:
    """Copy STORE to NEW with chunks of a size for reading.

    NEW is a store, or a file: one that ends in .nc becomes netCDF, one in .zip a zipped Zarr.
    """
    return _grown(compacted(Store(store_path(store)), store_path(new)))


@command
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@new_argument
@accept_changes
def merge(stores: tuple[Path, ...], new: Path, accept_changes: bool) -> int:
    """Make one store NEW of several STORES that hold the same study."""
    found = [Store(store_path(store)) for store in stores]
    if not accept_changes:
        refuse_stores_of_other_code(found)
    return _grown(merged(found, store_path(new)))


def _grown(made: Growth) -> int:
    """Say what became of a store."""
    chunks = f"{made.linked} chunks linked, {made.written} written"
    click.echo(f"{short_path(made.path)}: {chunks}.")
    if made.damaged:
        click.echo(f"{made.damaged} points are pending: a chunk of theirs is damaged.", err=True)
    if made.new_points:
        click.echo(f"{counted(made.new_points, 'point')} pending: no store had computed them.")
    return INCOMPLETE if made.damaged or made.new_points else ALL_DONE
