"""The words of a command line: a pipeline, a store, values of parameters."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweep.cli.device import device_values
from sweep.definition import Pipeline
from sweep.errors import SweepError
from sweep.store import store_path
from sweep.study import Study, load_study
from sweep.values import parse_assignments

if TYPE_CHECKING:
    from slurm.site import Site

rest = click.argument("store_and_values", nargs=-1, metavar="[STORE] [a=VALUES]...")
workers = click.option(
    "--workers", type=click.IntRange(min=1), help="Worker processes  [default: all cores]."
)
accept_changes = click.option(
    "--accept-changes", is_flag=True, help="Go on although the study's code has changed."
)


def read_arguments(
    reference: str, rest: tuple[str, ...], device: str | None, site: "Site | None" = None
) -> tuple[Study, Pipeline, Path]:
    """Return the study, its pipeline with the values set, and the path of the store.

    `device` is what --device says, and `site` the cluster where it will be, if it is not here.
    """
    paths = [word for word in rest if "=" not in word.partition("/")[0]]
    if len(paths) > 1:
        raise SweepError(f"Give one STORE, not {len(paths)}: {', '.join(paths)}.")
    study = load_study(reference)
    name, colon, rest_of_it = (paths or [""])[0].partition(":")
    if colon and name in study.pipeline.parameters:
        raise SweepError(f"'{paths[0]}' is no STORE. To set '{name}', write {name}={rest_of_it}.")
    values = parse_assignments([word for word in rest if word not in paths], study.pipeline)
    store = store_path(paths[0]) if paths else _default_store(study)
    values = device_values(device, values, study.pipeline, store, site)
    bound = study.pipeline.with_values(**values)
    bound.check_complete()
    return study, bound, store


def _default_store(study: Study) -> Path:
    stem = study.file.stem if study.name == "pipeline" else f"{study.file.stem}-{study.name}"
    return Path("runs") / f"{stem}.zarr"


def read_values(words: tuple[str, ...], pipeline: Pipeline) -> dict[str, Any]:
    """Return the values that words like a=1,2 give to parameters."""
    return parse_assignments(list(words), pipeline)
