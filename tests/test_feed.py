"""Which block comes next: nothing is left out, nothing is two's at once, and there is an end."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep import feed
from sweep.feed import ClaimedFeed, ShareFeed
from sweep.marks import Marker
from sweep.plan import Block, Grid
from sweep.run import create_with
from sweep.store import Store, claims
from sweep.store.chunks import chunk_name
from sweep.store.claims import Claims
from sweep.study import load_study
from sweep.template import DONE, PENDING, STALE

RUN, BLOCKS = 1, 10
NOBODY = 2**31 - 1  # a process number that none has
MOST_STEPS = 200  # to the end, of anybody


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run, and ten blocks of three points and of one."""
    study = load_study(str(Path(__file__).parent / "studies" / "throw.py"))
    path = tmp_path_factory.mktemp("new") / "s.zarr"
    store = create_with(study.pipeline, study, path, Grid((5, 4), (1, 3)))
    assert (store.grid.blocks, store.begin_run({})) == (BLOCKS, RUN)
    return path


@pytest.fixture(scope="module")
def used_store(new_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for examples, each of which takes everything out first."""
    return shutil.copytree(new_store, tmp_path_factory.mktemp("used") / "s.zarr")


@pytest.fixture
def store(new_store: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(new_store, tmp_path / "s.zarr"))


@pytest.fixture
def crowd(store: Store) -> Iterator["Crowd"]:
    with ExitStack() as held:
        yield Crowd(store, held)


class Worker:
    """Who asks a feed for blocks; what it is at is not committed yet."""

    def __init__(self, claims: Claims, feed: ShareFeed | ClaimedFeed) -> None:
        self.claims, self.feed = claims, feed
        self.is_alive = True
        self.at: list[Block] = []


class Crowd:
    """Workers on one store, who take their steps in any order."""

    def __init__(self, store: Store, held: ExitStack) -> None:
        self.store, self._held = store, held
        self.workers: list[Worker] = []
        self.handed_out: Counter[int] = Counter()

    def open(self) -> Claims:
        return self._held.enter_context(Claims(self.store, RUN).open())

    def join(self, share: tuple[int, int] = (0, 1)) -> Worker:
        claims = self.open()
        self.workers.append(Worker(claims, ShareFeed(claims, share)))
        return self.workers[-1]

    def drive(self, *, backwards: bool = False) -> Worker:
        claims = self.open()
        self.workers.append(
            Worker(claims, ClaimedFeed(claims, self.store.plan(), backwards=backwards))
        )
        return self.workers[-1]

    def ask(self, worker: Worker, *, suspects: bool = True) -> int | None:
        """Have a worker begin its next block, and return its number."""
        attempt = worker.feed.next(suspects=suspects)
        if attempt is None:
            return None
        block = attempt.block
        if self.status_file(block).exists():  # as a drive does
            worker.feed.release(block)
            return None
        living = [other for other in self.workers if other.is_alive]
        assert not [other for other in living if block in other.at], "two are at it"
        worker.at.append(block)
        self.handed_out[block.number] += 1
        return block.number

    def commit(self, worker: Worker) -> None:
        block = worker.at.pop(0)
        self.status_file(block).touch()
        worker.feed.release(block)

    def give_up(self, worker: Worker) -> None:
        worker.feed.release(worker.at.pop(0))

    def die(self, worker: Worker) -> None:
        worker.is_alive = False
        for block in worker.at[:1]:  # the others wait in line
            marker = Marker(worker.claims.mark_folder, f"worker-{block.number}")
            marker.begin(RUN, block.number, 1)
            marker.put(0)
        file = worker.claims._file
        file.write_text(json.dumps(json.loads(file.read_bytes()) | {"pid": NOBODY}))

    def go_on_to_the_end(self, worker: Worker) -> list[int]:
        """Have a worker compute all that it gets, and return that."""
        found = []
        for _ in range(MOST_STEPS):
            while worker.at:
                found.append(worker.at[0].number)
                self.commit(worker)
            if self.ask(worker) is None and worker.feed.is_over():
                return found
        raise AssertionError("there is no end")

    def status_file(self, block: Block) -> Path:
        return self.store.path / "status" / chunk_name(block.index, 0)

    @property
    def committed(self) -> set[int]:
        return set(self.store.numbers_with_status().tolist())


ALL = set(range(BLOCKS))
SHARES = st.integers(1, 4).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n)))
STEPS = st.tuples(
    st.sampled_from(["join", "ask", "ask", "ask without suspects", "commit", "give up", "die"]),
    st.integers(0, 4),
)


@settings(max_examples=50)
@given(shares=st.lists(SHARES, min_size=1, max_size=5), steps=st.lists(STEPS, max_size=60))
def test_shares_hand_out_every_block_and_none_to_two_that_live_and_come_to_an_end(
    used_store: Path, shares: list[tuple[int, int]], steps: list[tuple[str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as held:
        patch.setattr(claims, "TRUST_SECONDS", -1.0)
        crowd = Crowd(as_new(used_store), held)
        crowd.join(shares.pop())
        for step, number in steps:
            if step == "join":
                crowd.join(shares.pop()) if shares else None
                continue
            living = [worker for worker in crowd.workers if worker.is_alive]
            if not living:
                break
            worker = living[number % len(living)]
            match step:
                case "ask":
                    crowd.ask(worker)
                case "ask without suspects":
                    crowd.ask(worker, suspects=False)
                case "commit" if worker.at:
                    crowd.commit(worker)
                case "give up" if worker.at:
                    crowd.give_up(worker)
                case "die":
                    crowd.die(worker)
        survivors = [worker for worker in crowd.workers if worker.is_alive]
        for worker in survivors:
            crowd.go_on_to_the_end(worker)
        if survivors:
            assert set(crowd.handed_out) == ALL
        if "die" not in dict(steps) and "give up" not in dict(steps):
            assert set(crowd.handed_out.values()) == {1}
            assert crowd.committed == ALL

        left = ALL - crowd.committed
        assert set(crowd.go_on_to_the_end(crowd.join())) == left
        assert crowd.committed == ALL


def as_new(path: Path) -> Store:
    """Take everything out of a store that came into it."""
    for name in ("claims", "claimants", "marks"):
        shutil.rmtree(path / ".sweep" / name)
        (path / ".sweep" / name).mkdir()
    for chunk in (path / "status").glob("c*"):
        chunk.unlink()
    return Store(path)


class TestShare:
    def test_begins_with_its_blocks_in_order_and_goes_on_with_those_of_others(
        self, crowd: Crowd
    ) -> None:
        found = crowd.go_on_to_the_end(crowd.join((1, 3)))
        assert found[:3] == [1, 4, 7]
        assert sorted(found) == sorted(ALL)

    def test_is_one_of_what_is_left(self, crowd: Crowd) -> None:
        for number in (1, 4, 5):
            crowd.status_file(crowd.store.grid.block(number)).touch()
        found = crowd.go_on_to_the_end(crowd.join((1, 3)))
        assert found[:2] == [2, 7]
        assert sorted(found) == [0, 2, 3, 6, 7, 8, 9]

    def test_waits_for_nobody(self, crowd: Crowd) -> None:
        other, worker = crowd.join(), crowd.join()
        crowd.ask(other)
        assert crowd.go_on_to_the_end(worker) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert worker.feed.left == 0

    def test_that_is_empty_is_a_share_all_the_same(self, crowd: Crowd) -> None:
        assert sorted(crowd.go_on_to_the_end(crowd.join((99, 100)))) == sorted(ALL)

    def test_holds_a_block_that_was_given_up_for_no_second_try(self, crowd: Crowd) -> None:
        worker, other = crowd.join(), crowd.join()
        assert crowd.ask(worker) == 0
        crowd.give_up(worker)
        assert crowd.go_on_to_the_end(worker) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert crowd.go_on_to_the_end(other) == [0]

    def test_hands_out_what_has_a_status_if_it_was_left_when_the_run_began(
        self, crowd: Crowd
    ) -> None:
        block = crowd.store.grid.block
        for number, status in ((2, STALE), (3, PENDING), (5, DONE), (6, PENDING)):
            shape = block(number).shape
            crowd.store.write_status(block(number), np.full(shape, status, np.uint8))
        names = [block(number).name for number in (2, 6)]
        before = crowd.store.unsettled()
        crowd.store.update_run(RUN, {"reopened": {name: before[name] for name in names}})
        worker = crowd.join()
        assert worker.feed.points_left() == 20 - crowd.store.grid.block_points()[[3, 5]].sum()
        found = []
        while (attempt := worker.feed.next()) is not None:
            crowd.store.write_status(attempt.block, np.full(attempt.block.shape, DONE, np.uint8))
            worker.feed.release(attempt.block)
            found.append(attempt.block.number)
        assert found == [0, 1, 2, 4, 6, 7, 8, 9]
        assert worker.feed.is_over()
        assert worker.feed.points_left() == 0

    def test_leaves_alone_what_came_out_otherwise_in_its_run(self, crowd: Crowd) -> None:
        block = crowd.store.grid.block(2)
        crowd.store.write_status(block, np.full(block.shape, PENDING, np.uint8))
        crowd.store.update_run(RUN, {"reopened": crowd.store.unsettled()})
        crowd.store.write_status(block, np.full(block.shape, STALE, np.uint8))
        worker = crowd.join()
        assert worker.feed.points_left() == 20
        assert 2 not in crowd.go_on_to_the_end(worker)
        assert worker.feed.points_left() == block.points

    def test_tells_whoever_tries_next_at_which_point_a_process_ended(self, crowd: Crowd) -> None:
        dead = crowd.join()
        crowd.ask(dead)
        crowd.ask(dead)
        crowd.die(dead)
        first, second = (crowd.join().feed.next() for _ in range(2))
        assert first is not None
        assert second is not None
        assert (first.block.number, first.number, first.first) == (0, 2, 0)
        assert (second.block.number, second.number, second.first) == (1, 2, None)
        assert (first.is_suspect, second.is_suspect) == (True, False)

    def test_passes_over_suspects_where_none_is_wanted_until_one_is(self, crowd: Crowd) -> None:
        dead = crowd.join()
        crowd.ask(dead)
        crowd.die(dead)
        worker = crowd.join()
        found = []
        while (number := crowd.ask(worker, suspects=False)) is not None:
            found.append(number)
            crowd.commit(worker)
        assert found == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert not worker.feed.is_over()
        assert crowd.ask(worker, suspects=False) is None
        assert crowd.go_on_to_the_end(worker) == [0]

    def test_looks_into_so_many_claims_of_others_at_most(
        self, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feed, "MOST_DOUBTS", 3)
        other, worker = crowd.join(), crowd.join((99, 100))
        while crowd.ask(other) is not None:
            pass
        assert crowd.ask(worker) is None
        assert len(worker.claims._known) == 1
        assert worker.feed.is_over()


class TestPlanOfADriver:
    @pytest.mark.parametrize("backwards", [False, True])
    def test_is_handed_out_in_order(self, backwards: bool, crowd: Crowd) -> None:
        crowd.status_file(crowd.store.grid.block(3)).write_bytes(b"")  # damaged: it is left
        worker = crowd.drive(backwards=backwards)
        found = []
        while (attempt := worker.feed.next()) is not None:
            found.append(attempt.block.number)
        assert found == sorted(ALL, reverse=backwards)
        assert worker.feed.is_over()

    def test_is_over_when_others_are_done_with_what_they_were_at(
        self, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feed, "LOOK_SECONDS", 0.0)
        other, driver = crowd.join(), crowd.drive()
        assert [crowd.ask(other) for _ in range(2)] == [0, 1]
        assert [crowd.ask(driver) for _ in range(BLOCKS)] == [2, 3, 4, 5, 6, 7, 8, 9, None, None]
        assert (driver.feed.left, driver.feed.is_over()) == (2, False)

        crowd.commit(other)
        crowd.give_up(other)

        handed_out = [driver.feed.next(), driver.feed.next()]
        assert [attempt and attempt.block.number for attempt in handed_out] == [0, 1]
        assert (driver.feed.left, driver.feed.is_over()) == (0, True)
        assert driver.feed.next() is None

    def test_looks_at_what_others_are_at_once_in_a_while(
        self, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feed, "LOOK_SECONDS", 1000.0)
        other, driver = crowd.join(), crowd.drive()
        crowd.ask(other)
        while crowd.ask(driver) is not None:
            pass
        crowd.give_up(other)
        assert crowd.ask(driver) is None
        driver.feed._look_at = 0.0
        assert crowd.ask(driver) == 0

    def test_takes_over_from_the_dead(self, crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feed, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(claims, "TRUST_SECONDS", -1.0)
        other, driver = crowd.join(), crowd.drive()
        crowd.ask(other)
        while crowd.ask(driver) is not None:
            pass
        crowd.die(other)
        assert driver.feed.next(suspects=False) is None
        attempt = driver.feed.next()
        assert attempt is not None
        assert (attempt.block.number, attempt.number, attempt.first) == (0, 2, 0)
