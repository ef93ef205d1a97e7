"""Job: the shape that what is left of a sweep takes on a site. Pure arithmetic.

A job has tasks, as SLURM calls them: an element of an array is one task with some workers; in a
``dask`` job each task is a worker; in an ``mpi`` job rank 0 feeds the others.
"""

import math
from dataclasses import dataclass, replace

from slurm.site import Site
from sweep.deadline import block_seconds
from sweep.definition.needs import Needs
from sweep.errors import SubmitError, counted

ARRAY, DASK, MPI = "array", "dask", "mpi"
WAYS = (ARRAY, DASK, MPI)

TARGET_SECONDS = 1800.0  # of work in a task: long beside its start, short beside a day's queue
START_SECONDS = 300.0  # modules, imports from a busy disk, compilers: what is planned for
LEAST_START_SECONDS = 60.0  # what it takes at least
SLACK = 1.5  # nodes differ, and a few timed points are not all
LEAST_MINUTES = 10
MEMORY_SLACK = 1.1
SUPERVISOR_MB = 300  # a task's own Python, beside what its workers compute


@dataclass(frozen=True)
class ByHand:
    """What a person set: None is for us to choose.

    Parameters
    ----------
    minutes
        Walltime [min].
    memory_mb
        Memory of a task: an element of an array, a worker of the others [MiB].
    elements
        Elements of an array.
    workers
        Processes that compute: of an element, or of a ``dask`` or ``mpi`` job.
    """

    minutes: int | None = None
    memory_mb: int | None = None
    elements: int | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Job:
    """The shape of what is submitted.

    Parameters
    ----------
    via
        One of `WAYS`.
    workers
        Processes that compute in one job (one element of an array).
    elements
        Length of the array; 1 for ``dask`` and ``mpi``.
    tasks
        Tasks of one job: 1 for an array's element.
    cores, memory_mb, gpus
        Of each task [-, MiB, -].
    minutes
        Walltime [min].
    max_running
        Elements that run at once; None: as many as there is room for.
    max_array_size
        The most elements of one array.
    core_hours
        What the work is expected to take; all that is reserved where that is unknown [h].
    most_core_hours
        What is reserved: the most that can be charged [h].
    price
        Both in the site's unit; empty where it gives no price.
    """

    via: str
    workers: int
    elements: int
    tasks: int
    cores: int
    memory_mb: int
    gpus: int
    minutes: int
    max_running: int | None
    max_array_size: int
    core_hours: float
    most_core_hours: float
    price: str

    @property
    def arrays(self) -> list[tuple[int, int]]:
        """The arrays that the elements are submitted as: the first element and the count of each.

        The indices of each begin at 0, because the site's limit is on them and not on the count.
        """
        starts = range(0, self.elements, self.max_array_size)
        return [(first, min(self.max_array_size, self.elements - first)) for first in starts]

    @property
    def memory_per_core_mb(self) -> int:
        """Memory of a task divided by its cores [MiB]."""
        return -(-self.memory_mb // self.cores)


@dataclass(frozen=True)
class _Times:
    """What is known of the work [s]."""

    block: float  # the mean
    slowest_block: float
    longest_point: float


def shape_job(
    points: int,
    blocks: int,
    mean_seconds: float | None,
    slowest_seconds: float | None,
    needs: Needs,
    site: Site,
    via: str = ARRAY,
    by_hand: ByHand = ByHand(),
) -> Job:
    """Return the shape of the jobs that finish a sweep.

    Parameters
    ----------
    points, blocks
        What is left.
    mean_seconds, slowest_seconds
        Of a point, on one worker; None if unknown.

    Raises
    ------
    SubmitError
        If nothing is left, nothing says how long it takes, or it does not fit the site: with the
        numbers.
    """
    if via not in WAYS:
        raise SubmitError(f"--via {via}: there are {', '.join(WAYS)}.")
    if blocks < 1:
        raise SubmitError("Nothing is left to compute, so there is nothing to submit.")
    if via != ARRAY and by_hand.elements is not None:
        raise SubmitError(f"--elements is for --via {ARRAY}; for --via {via} give --workers.")
    times = _times(points / blocks, mean_seconds, slowest_seconds, needs)
    limit = _limit(times, needs, site, by_hand)
    each = _workers_of_element(needs, site, by_hand) if via == ARRAY else 1
    groups = _groups(blocks, each, times, limit, site, via, by_hand)
    workers, elements, tasks = (each, groups, 1) if via == ARRAY else (groups, 1, groups)
    tasks += via == MPI  # rank 0 feeds
    cores, gpus = each * needs.cores, each * needs.gpus
    memory = by_hand.memory_mb or SUPERVISOR_MB + math.ceil(
        each * needs.memory_bytes * MEMORY_SLACK / 2**20
    )
    _check_node(cores, memory, gpus, each, needs, site, by_hand)
    expected = _expected(blocks, groups * each, times) if times else None
    minutes = by_hand.minutes or _walltime(expected or 0.0, times, limit)
    most = elements * tasks * cores * minutes / 60
    core_hours = most if expected is None else elements * tasks * cores * expected / 3600
    return Job(
        via=via,
        workers=workers,
        elements=elements,
        tasks=tasks,
        cores=cores,
        memory_mb=memory,
        gpus=gpus,
        minutes=minutes,
        max_running=site.max_running if via == ARRAY else None,
        max_array_size=site.max_array_size,
        core_hours=core_hours,
        most_core_hours=most,
        price=_price(core_hours, most, gpus / cores, site),
    )


def _times(
    points_of_block: float, mean: float | None, slowest: float | None, needs: Needs
) -> _Times | None:
    """Return what is known of the work; the pipeline's own word where nothing was measured."""
    told = needs.minutes * 60
    slowest = slowest if slowest is not None else told or None
    if slowest is None:
        return None
    longest = max(slowest, told)
    mean = slowest if mean is None else mean
    return _Times(
        block=mean * points_of_block,
        slowest_block=block_seconds(math.ceil(points_of_block), mean, longest),
        longest_point=longest,
    )


def _limit(times: _Times | None, needs: Needs, site: Site, by_hand: ByHand) -> int | None:
    """Return the longest walltime [min] after checking that a point fits; None: no limit."""
    if times is None and by_hand.minutes is None:
        raise SubmitError(
            "Nothing says how long a point takes: none was timed. Give --time, or say it in the "
            "pipeline: needs=Needs(minutes=...), the longest that a point takes."
        )
    limit, whose = site.time_limit, f"time_limit of {site.file}"
    if by_hand.minutes is not None:
        if limit is not None and by_hand.minutes > limit:
            raise SubmitError(
                f"--time asks for {by_hand.minutes} minutes; {whose} is {limit}. Give less: what "
                "is not done by then is submitted again."
            )
        limit, whose = by_hand.minutes, "--time"
    if times is None or limit is None:
        return limit
    if times.longest_point + LEAST_START_SECONDS > limit * 60:
        source = "needs.minutes" if times.longest_point == needs.minutes * 60 else "as measured"
        raise SubmitError(
            f"A point takes up to {times.longest_point / 60:.3g} minutes ({source}) and a job "
            f"{LEAST_START_SECONDS / 60:.0f} to start; {whose} is {limit} minutes, so no job could "
            "finish one. Take a partition with a longer limit, give the point more cores, or "
            "make it smaller."
        )
    return limit


def _workers_of_element(needs: Needs, site: Site, by_hand: ByHand) -> int:
    """Return how many processes compute in an element of an array."""
    if by_hand.workers is not None:
        return by_hand.workers
    workers = max(1, (site.cores_per_element or 1) // needs.cores)
    if needs.gpus:  # one worker a GPU, or a set of them
        workers = min(workers, max(1, (site.gpus_per_node or 1) // needs.gpus))
    return workers


def _groups(
    blocks: int,
    each: int,
    times: _Times | None,
    limit: int | None,
    site: Site,
    via: str,
    by_hand: ByHand,
) -> int:
    """Return the number of elements (of `each` workers), or of workers of one job."""
    asked = by_hand.elements if via == ARRAY else by_hand.workers
    if via == ARRAY and site.max_running:  # one of each array runs at least
        at_once = site.max_running * site.max_array_size
        if asked is not None and asked > at_once:
            raise SubmitError(
                f"--elements {asked} are {math.ceil(asked / site.max_array_size)} arrays of "
                f"max_array_size = {site.max_array_size}, so that more than max_running = "
                f"{site.max_running} would run at once. Give {at_once} at most."
            )
        site = replace(site, max_elements=min(site.max_elements, at_once))
    if asked is not None:
        return asked
    most = {ARRAY: site.max_elements, DASK: site.max_tasks, MPI: max(1, site.max_tasks - 1)}[via]
    most = min(most, math.ceil(blocks / each))
    if times is None:
        return most
    target = TARGET_SECONDS
    if limit is not None:
        room = (limit * 60 - START_SECONDS - times.slowest_block) / SLACK
        target = max(60.0, room if by_hand.minutes else min(target, room))
    return max(1, min(most, math.ceil(blocks * times.block / (each * target))))


def _expected(blocks: int, workers: int, times: _Times) -> float:
    """Return how long the worker with the most blocks computes [s]."""
    return math.ceil(blocks / workers) * times.block


def _walltime(expected: float, times: _Times | None, limit: int | None) -> int:
    """Return the walltime [min]; what does not fit the limit is submitted again."""
    assert times is not None  # else --time was given
    found = math.ceil((SLACK * expected + times.slowest_block + START_SECONDS) / 60)
    found = max(LEAST_MINUTES, found)
    return found if limit is None else min(found, limit)


def _check_node(
    cores: int, memory: int, gpus: int, each: int, needs: Needs, site: Site, by_hand: ByHand
) -> None:
    """See that a task fits on a node."""
    source = "--workers" if by_hand.workers is not None else "cores_per_element"
    why = f"{counted(each, 'worker')} ({source}) of" if each > 1 else "a worker of"
    of_memory = f"{why} {needs.memory}, and {SUPERVISOR_MB} MB"
    if by_hand.memory_mb:
        of_memory = "--memory"
    for what, asked, has, key, reason in (
        ("cores", cores, site.cores_per_node, "cores_per_node", f"{why} {needs.cores}"),
        ("MB of memory", memory, site.memory_per_node, "memory_per_node", of_memory),
        ("GPUs", gpus, site.gpus_per_node, "gpus_per_node", f"{why} {needs.gpus}"),
    ):
        if has is not None and asked > has:
            raise SubmitError(
                f"A job would need {asked} {what} on one node ({reason}); {key} of {site.file} is "
                f"{has}. Take fewer workers, lower what a point needs, or take a partition with "
                "larger nodes."
            )


def _price(core_hours: float, most: float, gpus_per_core: float, site: Site) -> str:
    """Return the price in words."""
    if site.price is None:
        return ""
    hour = site.price.core_hour + gpus_per_core * site.price.gpu_hour
    return f"{core_hours * hour:.3g} {site.price.unit} (at most {most * hour:.3g})"
