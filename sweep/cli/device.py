"""--device: what a study computes on that can do so on a processor and on a GPU.

Such a study has a parameter ``device: Literal["cpu", "cuda"]``, a constant like others: the option
sets it, and what it is stands in the dataset. That it needs a GPU then is the pipeline's to say.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweep.definition import Pipeline
from sweep.definition.pipeline import CUDA, DEVICE
from sweep.engines.devices import usable_devices
from sweep.errors import DefinitionError, counted, short_path
from sweep.store import Store, exists

if TYPE_CHECKING:
    from slurm.site import Site

CPU, AUTO = "cpu", "auto"

device = click.option(
    "--device",
    type=click.Choice([CPU, CUDA, AUTO]),
    help="What to compute on, where the study has a parameter device; auto: a GPU, if there is "
    "one and it can (of the site's nodes, for SLURM).",
)


def device_values(
    asked: str | None,
    values: dict[str, Any],
    pipeline: Pipeline,
    store: Path,
    site: "Site | None" = None,
) -> dict[str, Any]:
    """Return the values of parameters with what --device says among them.

    Raises
    ------
    DefinitionError
        If the study has no such parameter, or it is set otherwise, too.
    """
    if asked is None:
        return values
    if DEVICE in values:
        raise DefinitionError(
            f"--device {asked}, and {DEVICE}={values[DEVICE]}: '{DEVICE}' is given twice. Leave "
            "one out."
        )
    parameter = pipeline.parameters.get(DEVICE)
    if parameter is None or not {CPU, CUDA} <= set(parameter.choices):
        what = f"takes {parameter.type_name or 'anything'}" if parameter else "is none of them"
        raise DefinitionError(
            f"--device {asked}: the parameters of this study are {', '.join(pipeline.parameters)}; "
            f"'{DEVICE}' {what}. A study that computes on both has one, and picks its kernels by "
            f'it: {DEVICE}: Literal["{CPU}", "{CUDA}"] = "{CPU}". Else leave --device out.'
        )
    kept = pipeline.with_values(**values).kept_from_gpus
    return {**values, DEVICE: _found(store, site, kept) if asked == AUTO else asked}


def _found(store: Path, site: "Site | None", kept_from_gpus: str) -> str:
    """Return what auto stands for, once and for all, and say why."""
    if exists(store):
        told = Store(store).header.specification["constants"].get(DEVICE, CPU)
        found, why = str(told), f"as {short_path(store)} was made"
    elif kept_from_gpus:
        found, why = CPU, f"{kept_from_gpus} is not for a GPU"
    elif site is not None:
        found = CUDA if site.gpus_per_node else CPU
        here = site.gpus_per_node or "none, it says"
        why = f"gpus_per_node of {site.file}: {here}"
    else:
        devices = usable_devices()
        found = CUDA if devices else CPU
        why = f"this machine shows {counted(len(devices), 'GPU')}" if devices else "no GPU is here"
    click.echo(f"--device {AUTO}: {found}; {why}.", err=True)
    return found
