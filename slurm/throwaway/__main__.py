"""The command line of the throw-away SLURM."""

import sys
from pathlib import Path

import click

from slurm.throwaway.cluster import Throwaway
from slurm.throwaway.errors import CannotStart
from sweep.errors import SweepError

MISTAKE, CANNOT = 2, 3

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
node_argument = click.argument("node")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Run a real SLURM on this machine, to try batch jobs on and to throw away.

    All that it writes lies in DIR, a folder that `start` makes: /tmp/slurm say. Its nodes n1, n2,
    ... are virtual.
    """


@main.command()
@folder_argument
@click.option("--nodes", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option(
    "--cpus",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="CPUs that each node says it has; they may be more than the machine's.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=8000,
    show_default=True,
    metavar="MB",
    help="Memory that each node says it has; likewise, and nothing enforces it.",
)
@click.option(
    "--line",
    "lines",
    multiple=True,
    metavar="NAME=VALUE",
    help="A line of slurm.conf; it replaces a setting of the same name. May be repeated.",
)
def start(folder: Path, nodes: int, cpus: int, memory: int, lines: tuple[str, ...]) -> None:
    """Start a SLURM in DIR; one that runs there is left as it is."""
    cluster = Throwaway.start(folder, nodes, cpus, memory, lines)
    click.echo(f". {cluster.folder}/env.sh; sinfo")


@main.command()
@folder_argument
@click.option("--purge", is_flag=True, help="Remove its files too, and DIR if nothing else is in.")
def stop(folder: Path, purge: bool) -> None:
    """Cancel the jobs of the SLURM in DIR and end all its processes."""
    Throwaway(folder).stop(purge=purge)


@main.command()
@folder_argument
@node_argument
def crash(folder: Path, node: str) -> None:
    """Kill all processes of NODE at once, as the loss of its power would."""
    killed = Throwaway(folder).crash(node)
    click.echo(f"{node} is dead (processes killed: {killed}).")


@main.command()
@folder_argument
@node_argument
def revive(folder: Path, node: str) -> None:
    """Start NODE again."""
    Throwaway(folder).revive(node)


if __name__ == "__main__":
    try:
        main(prog_name="python -m slurm.throwaway")
    except SweepError as error:
        click.echo(f"throwaway: {error}", err=True)
        sys.exit(CANNOT if isinstance(error, CannotStart) else MISTAKE)
