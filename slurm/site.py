"""Site: what one cluster is like, read from a file that its users write, and checked.

What stands in a site file ends up in batch scripts: `setup` as written, all else only after it
was checked here and quoted there.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from slurm import keys
from sweep.errors import SiteError, did_you_mean, short_path

SITES = Path(__file__).parent / "sites"
OURS = (  # what a script of ours may have on its #SBATCH lines
    *("--job-name", "--chdir", "--output", "--open-mode", "--requeue", "--signal", "--time"),
    *("--partition", "--account", "--qos", "--constraint", "--nodes", "--ntasks"),
    *("--cpus-per-task", "--mem", "--mem-per-cpu", "--gres", "--gpus-per-task"),
)
GIVEN_LATER = ("--array", "--dependency", "--job-name", "--wrap", "--parsable")


@dataclass(frozen=True)
class Price:
    """What a site charges, in a unit of its own: "EUR", "service units"."""

    core_hour: float
    gpu_hour: float
    unit: str


@dataclass(frozen=True)
class Site:
    """What one cluster is like; the names are the keys of a site file, all may be left out.

    Parameters
    ----------
    file
        Where it was read from, for messages.
    partition, account, qos, constraint
        As sbatch has them; empty: the site's default.
    time_limit
        The longest that a job may take [minutes]; None: no limit.
    cores_per_node, memory_per_node, gpus_per_node
        What the smallest node has [-, MiB, -]; None: unknown, and not checked.
    cores_per_element
        Cores that an element of an array takes; None: those that one point needs.
    max_elements
        The most elements of a sweep's arrays.
    max_array_size
        SLURM's MaxArraySize: the index of an element is below it.
    max_running
        Elements of an array that run at once; None: as many as there is room for.
    max_tasks
        The most tasks of a ``dask`` or ``mpi`` job.
    launcher
        The words that start the ranks of an MPI job.
    modules, setup
        What is loaded, and the lines of shell that are run, before Python starts.
    scratch
        Folder for temporary files on a node; may hold ``$NAMES``. Empty: /tmp.
    memory, memory_per_core
        The directive for a job on one node, and for one on several; ``{megabytes}`` is filled in.
    gpu, gpu_per_task
        The same for GPUs, with ``{gpus}``.
    directives
        Further ``--name=value`` for sbatch.
    remove
        Directives of ours that this site refuses, by name.
    price
        None: unknown.

    Raises
    ------
    SiteError
        If a value is wrong.
    """

    file: str = "the site file"
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    time_limit: int | None = None
    cores_per_node: int | None = None
    memory_per_node: int | None = None
    gpus_per_node: int | None = None
    cores_per_element: int | None = None
    max_elements: int = 200
    max_array_size: int = 1001
    max_running: int | None = None
    max_tasks: int = 64
    launcher: tuple[str, ...] = ("srun", "--mpi=pmi2")
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    scratch: str = ""
    memory: str = "--mem={megabytes}M"
    memory_per_core: str = "--mem-per-cpu={megabytes}M"
    gpu: str = "--gres=gpu:{gpus}"
    gpu_per_task: str = "--gpus-per-task={gpus}"
    directives: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    price: Price | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in CHECKS and value is not None:
                object.__setattr__(self, field.name, self._checked(field.name, value))
        self._check_removed()
        for directive in self.directives:
            self._check_directive(directive)

    def _checked(self, key: str, value: Any) -> Any:
        try:
            return CHECKS[key](value)
        except ValueError as error:
            raise SiteError(f"{self.file}: {key} = {value!r} {error}") from None

    def _check_removed(self) -> None:
        resources = (self.memory, self.memory_per_core, self.gpu, self.gpu_per_task)
        names = [*OURS, *map(keys.directive_name, resources)]
        removable = [name for name in dict.fromkeys(names) if name not in ("--job-name", "")]
        for name in self.remove:
            if name not in removable:
                raise SiteError(
                    f"{self.file}: remove = {name!r} is no directive that can be left out. "
                    f"{_suggestion(name, removable)}"
                )

    def _check_directive(self, directive: str) -> None:
        name = keys.directive_name(directive)
        if name in GIVEN_LATER:
            raise SiteError(
                f"{self.file}: directives = {directive!r} is not for a site to say; it is given "
                "when a sweep is submitted. Leave it out."
            )
        if name in OURS and name not in self.remove:
            raise SiteError(
                f"{self.file}: directives = {directive!r}, but the scripts have a {name} of "
                f"their own. Set the key that it comes from, or add {name!r} to remove."
            )


def _suggestion(name: str, possible: list[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known one, and all."""
    everything = f"Possible: {', '.join(possible)}."
    near = did_you_mean(name, possible)
    return f"{near} {everything}" if near.startswith("Did") else everything


def _price(value: Any) -> Price:
    """Return the table `price` checked."""
    if isinstance(value, Price):
        return value
    if not isinstance(value, dict):
        raise ValueError('is no table. Write [price], and core_hour = 0.01, unit = "EUR" below it.')
    known = [field.name for field in fields(Price)]
    for key in value:
        if key not in known:
            raise ValueError(f"has the unknown key {key!r}. {_suggestion(key, known)}")
    if not value.get("unit"):
        raise ValueError('has no unit. Write e.g. unit = "EUR".')
    core, gpu = (keys.rate(value.get(name, 0.0)) for name in ("core_hour", "gpu_hour"))
    return Price(core, gpu, keys.text(value["unit"]))


CHECKS: dict[str, Callable[[Any], Any]] = {
    "partition": keys.word,
    "account": keys.word,
    "qos": keys.word,
    "constraint": keys.constraint,
    "time_limit": keys.minutes,
    "cores_per_node": keys.count,
    "memory_per_node": keys.megabytes,
    "gpus_per_node": keys.count,
    "cores_per_element": keys.count,
    "max_elements": keys.count,
    "max_array_size": keys.count,
    "max_running": keys.count,
    "max_tasks": keys.count,
    "launcher": keys.command,
    "modules": keys.texts,
    "setup": keys.shell_lines,
    "scratch": keys.folder,
    "memory": keys.directive_with("{megabytes}"),
    "memory_per_core": keys.directive_with("{megabytes}"),
    "gpu": keys.directive_with("{gpus}"),
    "gpu_per_task": keys.directive_with("{gpus}"),
    "directives": keys.directives,
    "remove": keys.texts,
    "price": _price,
}


def load_site(path: str | Path) -> Site:
    """Return the site that a file describes.

    Raises
    ------
    SiteError
        If there is no such file, it is no TOML, or a key or a value is wrong.
    """
    path = Path(path)
    file = short_path(path.absolute())
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SiteError(
            f"There is no site file {file}. Copy {short_path(SITES / 'generic.toml')}, which has "
            "every key, and write into it what your site says."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SiteError(f"The site file {file} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{file}:{line[1]}" if line else file
        raise SiteError(f"{where}: this is not TOML: {error}. Texts stand in quotes.") from None
    for key in found:
        if key not in CHECKS:
            raise SiteError(f"{file}: unknown key {key!r}. {_suggestion(key, list(CHECKS))}")
    return Site(file=file, **found)
