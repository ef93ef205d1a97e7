"""Claims: of several that want a block one gets it, the dead hold nothing, heirs know of them."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pytest

from sweep import Axis, Pipeline, Var
from sweep.durable import encode_json, file_system_time, make_folders
from sweep.errors import StoreBusy
from sweep.marks import NO_POINT, WHOLE_BLOCK, Marker
from sweep.plan import Block, Grid
from sweep.run import create_with
from sweep.store import Store, claims
from sweep.store.claims import (
    Claim,
    Claims,
    claimants,
    clear_the_dead,
    refuse_while_claimed,
)
from sweep.store.holder import HOLD_SECONDS, Holder, JobEnded, nobody_knows
from sweep.study import load_study

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells in /proc when a process began"
)
PATIENCE = 20.0  # s; everything here takes a fraction of one
NOBODY = 2**31 - 1  # a process number that none has
RUN = 3

# Does what it reads from stdin, a word and a block's number a line; answers each with a line.
CLAIMANT = """
import sys
from pathlib import Path
from sweep.store import Store
from sweep.store.claims import Claims

store = Store(Path(sys.argv[1]))
with Claims(store, int(sys.argv[2])).open() as claims:
    print(claims.name, flush=True)
    for line in sys.stdin:
        word, number = line.split()
        block = store.grid.block(int(number))
        if word == "take":
            claim = claims.take(block)
            print("-" if claim is None else f"{claim.attempts} {dict(claim.deaths)}", flush=True)
        else:
            claims.release(block)
            print("released", flush=True)
"""


class Claimant:
    """A process that claims blocks as it is told."""

    def __init__(self, store: Store) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLAIMANT, store.path, str(RUN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name = ""

    def tell(self, word: str, block: Block) -> None:
        self.process.stdin.write(f"{word} {block.number}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def ask(self, word: str, block: Block) -> str:
        self.tell(word, block)
        return self.answer()

    def kill(self) -> None:
        """Leave a zombie: it is not asked how it ended."""
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of twenty blocks of a point each."""
    study = load_study(str(Path(__file__).parent / "studies" / "throw.py"))
    path = tmp_path_factory.mktemp("new") / "s.zarr"
    return create_with(study.pipeline, study, path, Grid((5, 4), (1, 1))).path


@pytest.fixture
def store(new_store: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(new_store, tmp_path / "s.zarr"))


@pytest.fixture
def block(store: Store) -> Block:
    return store.grid.block(7)


@pytest.fixture
def start(store: Store) -> Iterator[Callable[[int], list[Claimant]]]:
    """Return what starts so many claimants, which are ended after the test."""
    started: list[Claimant] = []

    def begin(count: int) -> list[Claimant]:
        new = [Claimant(store) for _ in range(count)]
        started.extend(new)
        for claimant in new:
            claimant.name = claimant.answer()
        return new

    yield begin
    for claimant in started:
        claimant.end()


def forge(
    store: Store, block: Block, *, claimant: str = "gone", run: int = RUN, **told: Any
) -> Path:
    """Write the lowest claim on a block; its claimant has no file."""
    path = next(claims._files(store, block.name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(Claim(claimant, run, **told).encode())
    return path


def forge_claimant(store: Store, name: str, *, age: float = 0.0, **changed: Any) -> Path:
    """Write a claimant's file: of this very process, but for what is changed, renewed `age` ago."""
    path = store.private / "claimants" / name
    now = file_system_time(path.parent)
    path.write_bytes(encode_json(asdict(Holder.here(now, name)) | changed))
    return renew_ago(path, age)


def renew_ago(path: Path, seconds: float) -> Path:
    then = file_system_time(path.parent) - seconds
    os.utime(path, (then, then))
    return path


def mark(store: Store, claimant: str, block: Block, attempt: int, point: int, run: int) -> None:
    """Leave the mark of a worker, of which each attempt has another."""
    folder = store.mark_folder / claimant
    folder.mkdir(exist_ok=True)
    marker = Marker(folder, f"worker-{attempt}-{block.number}-{run}")
    marker.begin(run, block.number, attempt)
    marker.put(point)


def taken_by(store: Store, block: Block, has_ended: JobEnded = nobody_knows) -> Claim | None:
    """Return the claim that another process would have."""
    with Claims(store, RUN, has_ended).open() as claims:
        return claims.take(block)


def left(store: Store) -> list[str]:
    """Return the files of all claims, claimants and marks."""
    folders = [store.private / name for name in ("claims", "claimants", "marks")]
    return sorted(path.name for folder in folders for path in folder.rglob("*") if path.is_file())


class TestBlock:
    def test_is_one_claimants_until_it_lets_go(self, store: Store, block: Block) -> None:
        with Claims(store, RUN).open() as first, Claims(store, RUN).open() as second:
            assert first.take(block) == Claim(first.name, RUN)
            assert second.take(block) is None
            assert first.take(block) is None
            assert second.taken() == {block.name}
            first.release(block)
            assert second.take(block) == Claim(second.name, RUN)

    def test_is_told_from_others_of_the_same_folder(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claims, "FOLDERS", 1)
        with Claims(store, RUN).open() as held:
            blocks = [store.grid.block(number) for number in range(store.grid.blocks)]
            assert all(held.take(block) for block in blocks)
            assert held.taken() == {block.name for block in blocks}

    def test_that_is_the_only_one_has_a_claim_though_it_has_no_name(self, tmp_path: Path) -> None:
        def once(a: float) -> Annotated[float, Var(())]:
            return a

        pipeline = Pipeline(once, axes=[Axis("a", [1.0])]).having([], {"a": 1.0})
        store = create_with(pipeline, None, tmp_path / "s.zarr", Grid((), ()))
        only = store.grid.block(0)
        forge(store, only, attempts=1)
        with Claims(store, RUN).open() as first, Claims(store, RUN).open() as second:
            assert first.take(only) == Claim(first.name, RUN, 2)
            assert second.take(only) is None
            assert second.taken() == {only.name} == {""}
        assert left(store) == []

    def test_is_claimed_in_a_store_whose_empty_folders_were_lost_on_the_way(
        self, store: Store, block: Block
    ) -> None:
        for name in ("claims", "claimants", "marks"):
            (store.private / name).rmdir()
        assert taken_by(store, block) is not None

    def test_is_claimed_by_no_file_of_another_kind(self, store: Store, block: Block) -> None:
        forge(store, block).rename(store.private / "claims" / ".nfs000000000000a1b200000001")
        with Claims(store, RUN).open() as held:
            assert held.taken() == set()
            clear_the_dead(store)
            assert held.take(block) is not None


class TestAtTheSameMoment:
    def test_exactly_one_of_many_gets_a_block(
        self, store: Store, start: Callable[[int], list[Claimant]]
    ) -> None:
        many = start(3)
        for number in range(store.grid.blocks):
            block = store.grid.block(number)
            for claimant in many:
                claimant.tell("take", block)
            assert sorted(claimant.answer() for claimant in many) == ["-", "-", "0 {}"]

    def test_exactly_one_of_many_inherits_a_block_and_knows_what_was_before(
        self, store: Store, start: Callable[[int], list[Claimant]]
    ) -> None:
        many = start(3)
        for number in range(5 * store.grid.blocks):
            block = store.grid.block(number % store.grid.blocks)
            forge(store, block, attempts=number, deaths=Counter({0: 2}))
            for claimant in many:
                claimant.tell("take", block)
            answers = [claimant.answer() for claimant in many]
            heir = f"{number + 1} {{0: 2}}"
            assert sorted(answers) == ["-", "-", heir]
            assert many[answers.index(heir)].ask("release", block) == "released"
        assert all(path.is_dir() for path in (store.private / "claims").rglob("*"))

    def test_who_has_judged_by_what_is_gone_gets_nothing(
        self, store: Store, block: Block, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forge(store, block)
        create = claims._is_created

        def late(path: Path, data: bytes) -> bool:
            """Have another heir come and go, and a third one come, before the first one acts."""
            if path.name.endswith("~1"):
                monkeypatch.setattr(claims, "_is_created", create)
                assert first.take(block)
                first.release(block)
                assert second.take(block)
            return create(path, data)

        with (
            Claims(store, RUN).open() as slow,
            Claims(store, RUN).open() as first,
            Claims(store, RUN).open() as second,
        ):
            monkeypatch.setattr(claims, "_is_created", late)
            assert slow.take(block) is None
            assert second.take(block) is None
            assert left(store).count(block.name) == 1
            second.release(block)
            assert slow.take(block) is not None

    def test_a_claim_is_whole_when_it_is_there(
        self, store: Store, block: Block, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = Path.hardlink_to

        def killed(path: Path, target: Path) -> None:
            raise KeyboardInterrupt

        with Claims(store, RUN).open() as first, Claims(store, RUN).open() as second:
            monkeypatch.setattr(Path, "hardlink_to", killed)
            with pytest.raises(KeyboardInterrupt):
                first.take(block)
            monkeypatch.setattr(Path, "hardlink_to", link)
            assert second.take(block) is not None

    def test_a_claim_is_ones_own_though_the_file_server_says_it_was_there_when_it_had_just_made_it(
        self, store: Store, block: Block, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = Path.hardlink_to

        def link_twice(path: Path, target: Path) -> None:  # NFS: the first answer was lost
            link(path, target)
            link(path, target)

        with Claims(store, RUN).open() as held:
            monkeypatch.setattr(Path, "hardlink_to", link_twice)
            assert held.take(block) is not None


class TestDead:
    @LINUX
    def test_claimant_loses_its_blocks_at_once_even_as_a_zombie(
        self, store: Store, block: Block, start: Callable[[int], list[Claimant]]
    ) -> None:
        dead, heir = start(2)
        assert dead.ask("take", block) == "0 {}"
        dead.kill()
        assert heir.ask("take", block) == "1 {}"

    @LINUX
    def test_claimants_number_may_be_anothers_by_now(self, store: Store, block: Block) -> None:
        forge_claimant(store, "gone", start=12345)
        forge(store, block)
        assert taken_by(store, block) is not None

    def test_claimant_tells_its_heir_how_often_and_at_which_point_it_tried(
        self, store: Store, block: Block
    ) -> None:
        forge_claimant(store, "gone", pid=NOBODY)
        forge(store, block, attempts=1, deaths=Counter({3: 1, 4: 1}))
        mark(store, "gone", block, 2, 3, RUN)
        claim = taken_by(store, block)
        assert claim is not None
        assert (claim.attempts, claim.deaths) == (2, {3: 2, 4: 1})

    def test_claimant_is_inherited_from_again_and_again(
        self, store: Store, block: Block, start: Callable[[int], list[Claimant]]
    ) -> None:
        many = start(3)
        for number, claimant in enumerate(many):
            assert claimant.ask("take", block) == f"{number} { ({0: number} if number else {}) }"
            claimant.kill()
            mark(store, claimant.name, block, number + 1, 0, RUN)
        claim = taken_by(store, block)
        assert claim is not None
        assert (claim.attempts, claim.deaths) == (3, {0: 3})

    def test_claimants_last_attempt_counts_and_not_those_of_workers_that_died_before_it(
        self, store: Store, block: Block
    ) -> None:
        forge(store, block)
        mark(store, "gone", block, 1, 5, RUN)
        mark(store, "gone", block, 2, 6, RUN)
        claim = taken_by(store, block)
        assert claim is not None
        assert (claim.attempts, claim.deaths) == (2, {6: 1})

    @pytest.mark.parametrize("point", [NO_POINT, WHOLE_BLOCK])
    def test_claimant_blames_no_point_where_none_was_at_work(
        self, point: int, store: Store, block: Block
    ) -> None:
        forge(store, block)
        mark(store, "gone", block, 4, point, RUN)
        claim = taken_by(store, block)
        assert claim is not None
        assert (claim.attempts, claim.deaths) == (4, {})

    def test_claimant_of_another_run_tells_nothing(self, store: Store, block: Block) -> None:
        forge(store, block, run=RUN - 1, attempts=2, deaths=Counter({0: 2}))
        mark(store, "gone", block, 3, 0, RUN - 1)
        claim = taken_by(store, block)
        assert claim is not None
        assert (claim.attempts, claim.deaths) == (0, {})

    def test_claimant_tells_nothing_of_other_blocks_and_runs(
        self, store: Store, block: Block
    ) -> None:
        forge(store, block)
        mark(store, "gone", store.grid.block(8), 3, 0, RUN)
        mark(store, "gone", block, 3, 0, RUN + 1)
        mark(store, "another", block, 3, 0, RUN)
        claim = taken_by(store, block)
        assert claim is not None
        assert (claim.attempts, claim.deaths) == (1, {})

    def test_claimants_suspects_are_left_alone_by_who_wants_none(
        self, store: Store, block: Block
    ) -> None:
        forge(store, block)
        mark(store, "gone", block, 1, 0, RUN)
        forge(store, store.grid.block(8), deaths=Counter({0: 1}))
        forge(store, store.grid.block(9))
        with Claims(store, RUN).open() as wary, Claims(store, RUN).open() as other:
            assert wary.take(block, suspects=False) is None
            assert wary.take(store.grid.block(8), suspects=False) is None
            assert wary.take(store.grid.block(9), suspects=False) is not None
            assert other.take(block) is not None


class TestElsewhere:
    """On another host, after a reboot, in a container: only the age of its file is known."""

    @pytest.fixture(params=["host", "machine"])
    def elsewhere(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        return {request.param: "far-away", "pid": NOBODY, "start": 1}

    @pytest.mark.parametrize(
        ("age", "is_void"),
        [(HOLD_SECONDS - 10, False), (HOLD_SECONDS + 10, True), (-HOLD_SECONDS - 10, True)],
    )
    def test_a_claimant_loses_its_blocks_when_it_has_not_renewed_its_file_for_five_minutes(
        self, age: float, is_void: bool, store: Store, block: Block, elsewhere: dict[str, Any]
    ) -> None:
        forge_claimant(store, "far", age=age, **elsewhere)
        forge(store, block, claimant="far")
        assert (taken_by(store, block) is not None) == is_void

    @pytest.mark.parametrize("now", [0.0, 1e12, float("nan")])
    def test_no_clock_of_this_machine_is_asked(
        self, now: float, store: Store, block: Block, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "time", lambda: now)
        for age, is_void in ((HOLD_SECONDS - 10, False), (HOLD_SECONDS + 10, True)):
            forge_claimant(store, "far", age=age, host="far-away")
            forge(store, block, claimant="far")
            assert (taken_by(store, block) is not None) == is_void

    def test_a_claimant_is_looked_at_again_after_a_while(
        self, store: Store, block: Block, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = forge_claimant(store, "far", host="far-away")
        forge(store, block, claimant="far")
        with Claims(store, RUN).open() as held:
            assert held.take(block) is None
            renew_ago(file, HOLD_SECONDS + 10)
            assert held.take(block) is None  # that it is at work was seen just now
            monkeypatch.setattr(claims, "TRUST_SECONDS", -1.0)
            assert held.take(block) is not None


class TestJob:
    def test_that_was_requeued_takes_over_from_itself_at_once(
        self, store: Store, block: Block, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
        for job, restart, is_void in (("77", 1, True), ("77", 2, False), ("78", 1, False)):
            forge_claimant(store, "far", host="far-away", job=job, restart=restart)
            forge(store, block, claimant="far")
            assert (taken_by(store, block) is not None) == is_void

    def test_stands_in_the_file_of_its_claimants(
        self, store: Store, block: Block, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        with Claims(store, RUN).open() as held:
            found = claimants(store)[held.name]
        assert found is not None
        assert (found.job, found.restart, found.uid) == ("77", 0, os.getuid())
        assert found.text == f"pid {os.getpid()} on {socket.gethostname()}, SLURM job 77"

    def test_that_is_known_to_have_ended_holds_nothing(self, store: Store, block: Block) -> None:
        asked = []

        def has_ended(holder: Holder) -> bool | None:
            asked.append((holder.job, holder.taken))
            return holder.job == "77"

        for job, is_void in (("78", False), ("77", True)):
            forge_claimant(store, "far", host="far-away", job=job, taken=12.5)
            forge(store, block, claimant="far")
            assert (taken_by(store, block, has_ended) is not None) == is_void
        assert asked == [("78", 12.5), ("77", 12.5)]

    def test_that_slurm_lists_is_at_work_however_old_its_file(
        self, store: Store, block: Block
    ) -> None:
        far = forge_claimant(store, "far", host="far-away", job="77")
        forge(store, block, claimant="far")
        renew_ago(far, 10 * HOLD_SECONDS)
        assert taken_by(store, block, lambda holder: False) is None
        assert taken_by(store, block) is not None

    def test_of_which_only_age_speaks_leaves_no_death(self, store: Store, block: Block) -> None:
        for says, deaths in ((None, 0), (True, 1)):
            far = forge_claimant(store, "far", host="far-away", job="77")
            forge(store, block, claimant="far")
            mark(store, "far", block, 1, 2, RUN)
            renew_ago(far, 10 * HOLD_SECONDS)
            claim = taken_by(store, block, lambda holder, says=says: says)
            assert claim is not None
            assert claim.deaths[2] == deaths

    def test_is_asked_for_only_if_there_is_one(self, store: Store, block: Block) -> None:
        forge_claimant(store, "far", host="far-away", job="")
        forge(store, block, claimant="far")
        assert taken_by(store, block, lambda holder: pytest.fail("it was asked for")) is None


class TestDamagedClaim:
    @pytest.fixture(
        params=[
            b"",
            b"{",
            b"\xff\xfe",
            b"[]",
            b"null",
            b'{"claimant": "gone"}',
            {"claimant": 7},
            {"claimant": "../claimants"},
            {"claimant": ""},
            {"run": "one"},
            {"attempts": None},
            {"deaths": [1]},
            {"odd": 1},
        ],
        ids=str,
    )
    def damaged(self, request: pytest.FixtureRequest, store: Store, block: Block) -> Path:
        path = forge(store, block)
        if isinstance(request.param, bytes):
            path.write_bytes(request.param)
        else:
            path.write_text(json.dumps(json.loads(path.read_bytes()) | request.param))
        return path

    def test_counts_while_it_is_young_and_not_when_it_is_old(
        self, damaged: Path, store: Store, block: Block
    ) -> None:
        assert taken_by(store, block) is None
        clear_the_dead(store)
        assert damaged.exists()
        renew_ago(damaged, HOLD_SECONDS + 10)
        claim = taken_by(store, block)
        assert claim is not None
        assert (claim.attempts, claim.deaths) == (0, {})

    def test_is_cleared_away_when_it_is_old(
        self, damaged: Path, store: Store, block: Block
    ) -> None:
        renew_ago(damaged, HOLD_SECONDS + 10)
        clear_the_dead(store)
        assert left(store) == []

    @pytest.mark.parametrize("content", [b"", b"{", {"pid": "7"}, {"restart": "1"}], ids=str)
    def test_claimant_counts_by_the_age_of_its_file(
        self, content: bytes | dict[str, Any], store: Store, block: Block
    ) -> None:
        file = forge_claimant(store, "gone")
        forge(store, block)
        told = content if isinstance(content, dict) else {}
        file.write_bytes(
            encode_json(json.loads(file.read_bytes()) | told) if told else bytes(content)
        )
        assert taken_by(store, block) is None
        renew_ago(file, HOLD_SECONDS + 10)
        assert taken_by(store, block) is not None


class TestFullDisk:
    @pytest.mark.parametrize("room", [0, 10])
    def test_leaves_no_claim(self, room: int, store: Store, block: Block) -> None:
        with Claims(store, RUN).open() as held, Claims(store, RUN).open() as other:
            with full_disk(room), pytest.raises(OSError, match=r"too large|No space"):
                held.take(block)
            assert other.take(block) is not None

    @pytest.mark.parametrize("room", [0, 10])
    def test_leaves_no_claimant(self, room: int, store: Store) -> None:
        with (
            full_disk(room),
            pytest.raises(OSError, match=r"too large|No space"),
            Claims(store, RUN).open(),
        ):
            pass
        assert left(store) == []


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestClaimant:
    def test_leaves_nothing_when_it_has_let_go_of_its_blocks(
        self, store: Store, block: Block
    ) -> None:
        forge(store, block)
        with Claims(store, RUN).open() as held:
            for number in range(store.grid.blocks):
                assert held.take(store.grid.block(number))
            for number in range(store.grid.blocks):
                held.release(store.grid.block(number))
            assert left(store) == [held.name]
        assert left(store) == []

    def test_leaves_nothing_when_it_ends_whatever_it_holds(
        self, store: Store, block: Block
    ) -> None:
        forge(store, block)

        def fail() -> None:
            with Claims(store, RUN).open() as held:
                held.take(block)
                Marker(held.mark_folder, "worker")
                assert len(left(store)) == 4
                _ = 1 / 0

        with pytest.raises(ZeroDivisionError):
            fail()
        assert left(store) == []
        assert not list(store.mark_folder.iterdir())

    def test_is_young_again_when_it_is_renewed(self, store: Store) -> None:
        with Claims(store, RUN).open() as held:
            renew_ago(held._file, 200)
            held._renew()
            assert file_system_time(store.private) - held._file.stat().st_mtime < 100

    def test_that_was_taken_for_dead_is_back_with_its_next_renewal(
        self, store: Store, block: Block, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claims, "TRUST_SECONDS", -1.0)
        with Claims(store, RUN).open() as slept, Claims(store, RUN).open() as heir:
            assert slept.take(block)
            slept._file.unlink()
            assert heir.take(block) is not None
            slept._renew()
            assert set(claimants(store)) == {slept.name, heir.name}
            assert slept.take(store.grid.block(8)) is not None
            assert heir.take(store.grid.block(8)) is None

    def test_that_was_taken_for_dead_leaves_its_heirs_claims_alone(
        self, store: Store, block: Block
    ) -> None:
        with (
            Claims(store, RUN).open() as slept,
            Claims(store, RUN).open() as heir,
            Claims(store, RUN).open() as third,
        ):
            assert slept.take(block)
            slept._file.unlink()
            assert heir.take(block) is not None
            slept.release(block)
            assert third.take(block) is None
            heir.release(block)
            assert third.take(block) == Claim(third.name, RUN)

    def test_renews_and_ends_without_a_word_where_the_store_is_gone(
        self, store: Store, block: Block
    ) -> None:
        with Claims(store, RUN).open() as held:
            assert held.take(block)
            store.path.rename(store.path.with_name("moved.zarr"))
            held._renew()


class TestClearing:
    def test_removes_what_the_dead_left_and_nothing_of_the_living(
        self, store: Store, block: Block
    ) -> None:
        blocks = [store.grid.block(number) for number in range(4)]
        forge_claimant(store, "gone", pid=NOBODY)
        forge_claimant(store, "far", host="far-away", age=HOLD_SECONDS - 10)
        forge_claimant(store, "lost", host="far-away", age=HOLD_SECONDS + 10)
        mark(store, "gone", blocks[0], 1, 0, RUN)
        mark(store, "far", blocks[1], 1, 0, RUN)
        mark(store, "of old", blocks[1], 1, 0, RUN)
        forge(store, blocks[0], claimant="gone")
        forge(store, blocks[1], claimant="far")
        forge(store, blocks[2], claimant="lost")
        with Claims(store, RUN).open() as held:
            forge(store, blocks[3], claimant="gone")
            assert held.take(blocks[3])  # above the one of the dead
            Marker(held.mark_folder, "worker")
            clear_the_dead(store)
            assert {p.name for p in store.mark_folder.iterdir()} == {"far", held.name}
            assert set(claimants(store)) == {"far", held.name}
            own = [blocks[1].name, blocks[3].name, f"{blocks[3].name}~1"]
            assert left(store) == sorted([*own, "far", held.name, "worker", "worker-1-1-3"])
            assert taken_by(store, blocks[3]) is None
        clear_the_dead(store)
        assert left(store) == sorted([blocks[1].name, "far", "worker-1-1-3"])

    def test_removes_all_claims_on_a_block_or_none(self, store: Store, block: Block) -> None:
        lowest = forge(store, block)
        lowest.with_name(f"{block.name}~1").write_bytes(lowest.read_bytes())
        lowest.with_name(f"{block.name}~2").write_bytes(b"")
        clear_the_dead(store)
        assert len(left(store)) == 3
        renew_ago(lowest.with_name(f"{block.name}~2"), HOLD_SECONDS + 10)
        clear_the_dead(store)
        assert left(store) == []

    def test_asks_what_is_known_of_jobs(self, store: Store, block: Block) -> None:
        forge_claimant(store, "far", host="far-away", job="77")
        forge(store, block, claimant="far")
        clear_the_dead(store)
        assert len(left(store)) == 2
        clear_the_dead(store, lambda holder: holder.job == "77")
        assert left(store) == []

    def test_of_a_new_store_finds_nothing(self, store: Store) -> None:
        (store.private / "claimants").rmdir()
        clear_the_dead(store)
        assert left(store) == []


class TestRefusal:
    def test_names_who_is_at_work_and_what_to_do(self, store: Store) -> None:
        with Claims(store, RUN).open():
            with pytest.raises(StoreBusy) as refused:
                refuse_while_claimed(store)
            text = str(refused.value)
        assert f"1 process at work on {store.path}" in text
        assert f"(pid {os.getpid()} on {socket.gethostname()})" in text
        assert "sweep cancel" in text
        assert "5 minutes" in text

    def test_counts_them(self, store: Store) -> None:
        forge_claimant(store, "far", host="far-away")
        with (
            Claims(store, RUN).open(),
            pytest.raises(StoreBusy, match="2 processes at work on"),
        ):
            refuse_while_claimed(store)

    def test_does_not_come_for_the_dead(self, store: Store, block: Block) -> None:
        forge_claimant(store, "gone", pid=NOBODY)
        forge(store, block)
        refuse_while_claimed(store)

    def test_comes_for_one_whose_file_is_damaged(self, store: Store) -> None:
        make_folders(store.private / "claimants")
        (store.private / "claimants" / "odd").write_bytes(b"{")
        with pytest.raises(StoreBusy, match="an unknown one"):
            refuse_while_claimed(store)
