from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slurm.job import ARRAY, DASK, MPI, WAYS, ByHand, Job, shape_job
from slurm.site import Price, Site
from sweep.definition.needs import Needs
from sweep.errors import SubmitError

MINUTE = 60.0
SMALL = Needs(memory="1 GiB")
PLAIN = Site()


def shaped(points, seconds, *, blocks=None, site=PLAIN, needs=SMALL, via=ARRAY, **by_hand) -> Job:
    """Shape points that all take the same time, each a block of its own."""
    blocks = points if blocks is None else blocks
    return shape_job(points, blocks, seconds, seconds, needs, site, via, ByHand(**by_hand))


def test_an_element_of_an_array_works_for_half_an_hour():
    job = shaped(1000, 1 * MINUTE)

    assert job.elements == 34  # ceil(1000 / 30), of 30 points at most
    assert job.minutes == 1.5 * 30 + 1 + 5
    assert (job.tasks, job.workers, job.cores) == (1, 1, 1)


def test_little_work_is_one_element_for_ten_minutes():
    job = shaped(1000, 0.01)

    assert (job.elements, job.minutes) == (1, 10)


def test_an_array_has_no_more_elements_than_blocks_and_the_site_allow():
    long = 40 * MINUTE

    assert shaped(12, long).elements == 12
    assert shaped(1200, long, blocks=3).elements == 3
    assert shaped(1200, long, site=Site(max_elements=100)).elements == 100


def test_work_beyond_the_time_limit_is_left_to_the_next_submission():
    job = shaped(10_000, 10 * MINUTE, site=Site(time_limit=60, max_elements=10))

    assert (job.elements, job.minutes) == (10, 60)


def test_a_short_time_limit_makes_more_elements_whose_work_fits_into_it():
    job = shaped(100, 1 * MINUTE, site=Site(time_limit=21))

    assert job.elements == 10  # (21 - 5 - 1) / 1.5 = 10 minutes each
    assert job.minutes == 21


def test_the_slowest_block_fits_beside_the_expected_work():
    job = shape_job(100, 50, 30.0, 240.0, SMALL, Site())

    assert job.elements == 2
    assert job.minutes == 1.5 * 25 + 4.5 + 5  # 25 blocks of a minute; one slow point and another


def test_a_time_set_by_hand_is_filled_with_work():
    job = shaped(100, 1 * MINUTE, minutes=81)

    assert (job.elements, job.minutes) == (2, 81)  # (81 - 5 - 1) / 1.5 = 50


def test_what_is_set_by_hand_is_taken():
    job = shaped(100, 1 * MINUTE, elements=7, workers=2, memory_mb=123, minutes=45)

    assert (job.elements, job.workers, job.cores) == (7, 2, 2)
    assert (job.memory_mb, job.minutes) == (123, 45)


def test_a_pipeline_that_says_its_minutes_need_not_be_timed():
    needs = Needs(memory="1 GiB", minutes=10)

    job = shape_job(30, 30, None, None, needs, Site())

    assert (job.elements, job.minutes) == (10, 1.5 * 30 + 10 + 5)


def test_a_time_by_hand_is_enough_where_nothing_was_timed():
    job = shape_job(30, 30, None, None, SMALL, Site(), by_hand=ByHand(minutes=20))

    assert (job.elements, job.minutes) == (30, 20)
    assert job.core_hours == job.most_core_hours == 30 * 20 / 60


def test_a_site_that_charges_whole_nodes_gets_a_worker_a_core_and_the_memory_of_all():
    site = Site(cores_per_node=16, memory_per_node=64_000, cores_per_element=16)

    job = shaped(10_000, 1 * MINUTE, site=site, needs=Needs(cores=3, memory="1 GiB"))

    assert (job.workers, job.cores) == (5, 15)
    assert job.memory_mb == 5 * 1.1 * 1024 + 300  # 5632 + 300
    assert job.elements == 67  # ceil(10000 / (5 * 30))


def test_blocks_and_not_only_points_are_shared_by_the_workers_of_an_element():
    job = shaped(10, 60 * MINUTE, site=Site(cores_per_element=4))

    assert (job.workers, job.elements) == (4, 3)


@pytest.mark.parametrize(
    ("site", "workers"),
    [(Site(), 1), (Site(gpus_per_node=4), 4), (Site(gpus_per_node=2), 2)],
)
def test_there_is_one_worker_a_gpu(site, workers):
    needs = Needs(gpus=1, cores=2, memory="1 GiB")

    job = shaped(100, 1 * MINUTE, site=replace(site, cores_per_element=64), needs=needs)

    assert (job.workers, job.gpus, job.cores) == (workers, workers, 2 * workers)


def test_a_dask_job_has_a_task_a_worker():
    job = shaped(1000, 1 * MINUTE, via=DASK, needs=Needs(cores=2, memory="1 GiB"))

    assert (job.workers, job.tasks, job.elements) == (34, 34, 1)
    assert (job.cores, job.memory_mb, job.memory_per_core_mb) == (2, 1427, 714)
    assert job.arrays == [(0, 1)]


def test_an_mpi_job_has_one_rank_more_that_feeds():
    job = shaped(1000, 1 * MINUTE, via=MPI)

    assert (job.workers, job.tasks, job.elements) == (34, 35, 1)
    assert shaped(1000, 60 * MINUTE, via=MPI).tasks == Site.max_tasks
    assert shaped(1000, 60 * MINUTE, via=MPI, workers=9).tasks == 10


def test_only_an_array_is_throttled():
    site = Site(max_running=5)

    assert shaped(9, 60 * MINUTE, site=site).max_running == 5
    assert shaped(9, 60 * MINUTE, site=site, via=MPI).max_running is None


def test_there_are_no_more_arrays_than_elements_may_run_at_once():
    site = Site(max_running=3, max_array_size=2)

    assert len(shaped(100, 60 * MINUTE, site=site).arrays) == 3
    assert shaped(100, 60 * MINUTE, site=site, elements=6).elements == 6
    with pytest.raises(SubmitError, match=r"--elements 7 are 4 arrays .* Give 6 at most"):
        shaped(100, 60 * MINUTE, site=site, elements=7)


def test_one_slow_point_in_a_block_does_not_make_them_all_slow():
    job = shape_job(10_000, 10, 0.01, 60.0, SMALL, Site())

    assert job.minutes == 10  # 1000 points of 10 ms, and one of a minute


def test_an_array_is_split_where_the_site_ends_its_indices():
    site = Site(max_elements=2500, max_array_size=1001)

    job = shaped(9000, 60 * MINUTE, site=site)

    assert job.arrays == [(0, 1001), (1001, 1001), (2002, 498)]


def test_core_hours_are_the_expected_ones_and_the_most_that_can_be_charged():
    job = shaped(120, 1 * MINUTE, needs=Needs(cores=2, memory="1 GiB"))

    assert job.elements == 4
    assert job.core_hours == 120 / 60 * 2
    assert job.most_core_hours == 4 * 2 * job.minutes / 60
    assert job.price == ""


def test_the_price_is_in_the_unit_of_the_site():
    site = Site(price=Price(core_hour=0.5, gpu_hour=3.0, unit="service units"))

    assert shaped(120, 1 * MINUTE, site=site).price == "1 service units (at most 1.7)"
    job = shaped(120, 1 * MINUTE, site=site, needs=Needs(gpus=1, memory="1 GiB"))
    assert job.price == "7 service units (at most 11.9)"


def test_short_points_fit_the_shortest_partition():
    site = Site(time_limit=5)

    assert shaped(10, 1, site=site).minutes == 5
    assert shaped(10, 1, minutes=5).minutes == 5


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"Give --time, or say it in the pipeline: needs=Needs\(minutes=...\)", {"seconds": None}),
        (
            r"A point takes up to 60 minutes \(as measured\) and a job 1 to start; time_limit of "
            r"my\.toml is 30 minutes.*longer limit",
            {"seconds": 3600, "site": Site(file="my.toml", time_limit=30)},
        ),
        (
            r"up to 50 minutes \(needs\.minutes\).*--time is 40 minutes",
            {"seconds": 1, "needs": Needs(minutes=50), "minutes": 40},
        ),
        (
            r"--time asks for 90 minutes; time_limit of my\.toml is 60\. Give less",
            {"minutes": 90, "site": Site(file="my.toml", time_limit=60)},
        ),
        (
            r"need 16 cores on one node \(a worker of 16\); cores_per_node of the site file is 8",
            {"needs": Needs(cores=16), "site": Site(cores_per_node=8)},
        ),
        (
            r"need 4497 MB of memory on one node \(4 workers \(cores_per_element\) of 1 GB, and "
            r"300 MB\); memory_per_node of the site file is 4000\. Take fewer workers",
            {"needs": Needs(), "site": Site(cores_per_element=4, memory_per_node=4000)},
        ),
        (
            r"need 5000 MB of memory on one node \(--memory\)",
            {"memory_mb": 5000, "site": Site(memory_per_node=4000)},
        ),
        (
            r"need 3 GPUs on one node \(3 workers \(--workers\) of 1\); gpus_per_node .* is 2",
            {"needs": Needs(gpus=1), "workers": 3, "site": Site(gpus_per_node=2)},
        ),
        ("--elements is for --via array; for --via dask", {"via": DASK, "elements": 3}),
        ("--via pbs: there are array, dask, mpi", {"via": "pbs"}),
        ("Nothing is left to compute", {"blocks": 0}),
    ],
)
def test_what_does_not_fit_is_told_with_the_numbers_and_what_to_do(message, arguments):
    with pytest.raises(SubmitError, match=message):
        shaped(10, **({"seconds": 1.0} | arguments))


@given(
    points=st.integers(1, 10**6),
    points_of_block=st.integers(1, 1000),
    mean=st.floats(1e-6, 1e5),
    spread=st.floats(1, 100),
    cores=st.integers(1, 8),
    limit=st.none() | st.integers(10, 10_000),
    cores_per_element=st.none() | st.integers(1, 64),
    max_array_size=st.integers(1, 300),
    via=st.sampled_from(WAYS),
)
def test_any_job_keeps_to_the_site_and_its_arrays_are_its_elements(
    points, points_of_block, mean, spread, cores, limit, cores_per_element, max_array_size, via
):
    blocks = -(-points // points_of_block)
    slowest = mean * spread
    assume(limit is None or slowest + 300 <= limit * 60)
    site = Site(
        time_limit=limit, cores_per_element=cores_per_element, max_array_size=max_array_size
    )

    job = shape_job(points, blocks, mean, slowest, Needs(cores=cores), site, via)

    assert job.minutes >= 10
    assert limit is None or job.minutes <= limit
    assert slowest < job.minutes * 60
    assert 1 <= job.elements <= min(site.max_elements, blocks)
    assert job.workers >= 1
    assert job.cores == cores * (job.workers if via == ARRAY else 1)
    assert job.tasks == {ARRAY: 1, DASK: job.workers, MPI: job.workers + 1}[via]
    assert job.tasks <= site.max_tasks
    assert job.memory_per_core_mb * job.cores >= job.memory_mb > 1000
    starts = [first for first, _ in job.arrays]
    ends = [first + count for first, count in job.arrays]
    assert starts == [0, *ends[:-1]]
    assert ends[-1] == job.elements
    assert all(1 <= count <= max_array_size for _, count in job.arrays)
