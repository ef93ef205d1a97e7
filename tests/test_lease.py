"""One driver at a time on a store: who is refused, who takes over, and what no clock can change."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.durable import file_system_time
from sweep.errors import StoreBusy
from sweep.plan import Grid
from sweep.run import create_with
from sweep.store import Store, holder, lease
from sweep.store.holder import HOLD_SECONDS
from sweep.store.lease import Lease, owner
from sweep.study import Study

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells in /proc when a process began"
)
PATIENCE = 20.0  # s; everything here takes a fraction of one

# Does what it reads from stdin, one word a line, and answers each with a line.
DRIVER = """
import sys
from pathlib import Path
from sweep.errors import StoreBusy
from sweep.store import Store
from sweep.store.lease import Lease

store, held = Store(Path(sys.argv[1])), None
print("ready", flush=True)
for line in sys.stdin:
    if line == "take\\n":
        try:
            held = Lease.take(store)
            print("taken", flush=True)
        except StoreBusy as busy:
            print(busy, flush=True)
    else:
        held.release()
        print("released", flush=True)
"""


class Driver:
    """A process that takes a store and lets go of it as it is told."""

    def __init__(self, store: Store) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, store.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, word: str) -> None:
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def take(self) -> str:
        self.tell("take")
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@pytest.fixture
def store(throw: Study, tmp_path: Path) -> Store:
    return create_with(throw.pipeline, throw, tmp_path / "s.zarr", Grid((5, 4), (5, 4)))


@pytest.fixture
def start(store: Store) -> Iterator[Callable[[int], list[Driver]]]:
    """Return what starts so many drivers, which are ended after the test."""
    started: list[Driver] = []

    def begin(count: int) -> list[Driver]:
        new = [Driver(store) for _ in range(count)]
        started.extend(new)
        assert {driver.answer() for driver in new} == {"ready"}
        return new

    yield begin
    for driver in started:
        driver.end()


def lease_file(store: Store) -> Path:
    (file,) = store.private.glob("driver.*")
    return file


def forge(store: Store, number: int = 1, age: float = 0.0, **changed: Any) -> Path:
    """Write the lease of this very process, but for what is changed, renewed `age` ago [s]."""
    held = Lease.take(store)
    holder = json.loads(held.path.read_bytes()) | {"token": "forged"} | changed
    held.release()
    path = store.private / f"driver.{number}"
    path.write_text(json.dumps(holder))
    return renew_ago(path, age)


def renew_ago(path: Path, seconds: float) -> Path:
    then = file_system_time(path.parent) - seconds
    os.utime(path, (then, then))
    return path


def is_free(store: Store) -> bool:
    try:
        Lease.take(store).release()
    except StoreBusy:
        return False
    return True


def names(store: Store) -> set[str]:
    return {path.name for path in store.private.iterdir()}


class TestSecondDriver:
    def test_is_refused_with_host_pid_age_and_what_to_do(
        self, store: Store, start: Callable[[int], list[Driver]]
    ) -> None:
        (first,) = start(1)
        assert first.take() == "taken"

        with pytest.raises(StoreBusy) as refused:
            Lease.take(store)

        text = str(refused.value)
        assert re.search(rf"pid {first.pid} on {socket.gethostname()}, since \d+ s ago", text)
        assert re.search(r"last sign of life \d+ s ago", text)
        assert f"kill {first.pid}" in text
        assert "sweep run ... --join" in text

    def test_is_told_how_long_ago_the_first_came_and_was_last_seen(self, store: Store) -> None:
        began = file_system_time(store.private) - 3 * 3600
        renew_ago(forge(store, taken=began), 130)
        with pytest.raises(StoreBusy, match=r"since 3 h ago, last sign of life 2 min ago"):
            Lease.take(store)

    def test_is_refused_in_the_same_process_too(self, store: Store) -> None:
        with Lease.take(store), pytest.raises(StoreBusy, match=f"pid {os.getpid()} "):
            Lease.take(store)

    def test_may_come_when_the_first_has_let_go(
        self, store: Store, start: Callable[[int], list[Driver]]
    ) -> None:
        (first,) = start(1)
        first.take()
        first.tell("release")
        assert first.answer() == "released"
        assert is_free(store)

    @LINUX
    def test_may_come_at_once_when_the_first_was_killed(
        self, store: Store, start: Callable[[int], list[Driver]]
    ) -> None:
        first, second, third = start(3)
        assert first.take() == "taken"
        assert "has a driver already" in second.take()

        first.process.kill()
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie

        assert second.take() == "taken"
        assert f"pid {second.pid} " in third.take()
        assert lease_file(store).name == "driver.2"

    @LINUX
    def test_may_come_at_once_when_the_first_is_gone_and_its_number_is_anothers(
        self, store: Store
    ) -> None:
        forge(store, start=12345)  # this process's number, not its start
        assert owner(store) is None
        assert is_free(store)

    @LINUX
    def test_is_refused_however_long_ago_a_living_first_was_last_seen(self, store: Store) -> None:
        forge(store, age=10 * HOLD_SECONDS)
        assert not is_free(store)


def test_of_many_drivers_that_take_over_a_dead_one_at_once_exactly_one_wins(
    store: Store, start: Callable[[int], list[Driver]]
) -> None:
    drivers = start(3)
    for number in range(1, 31):
        forge(store, number, pid=2**31 - 1)
        for driver in drivers:
            driver.tell("take")
        answers = [driver.answer() for driver in drivers]
        winners = [
            driver for driver, answer in zip(drivers, answers, strict=True) if answer == "taken"
        ]
        assert len(winners) == 1, answers
        found = owner(store)
        assert found is not None
        assert found.pid == winners[0].pid
        assert lease_file(store).name == f"driver.{number + 1}"
        winners[0].tell("release")
        assert winners[0].answer() == "released"


class TestDriverElsewhere:
    """On another host, after a reboot, in a container: only the age of its file is known."""

    @pytest.fixture(params=["host", "machine"])
    def elsewhere(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        return {request.param: "far-away", "pid": 2**31 - 1, "start": 1}

    def test_keeps_its_store_while_it_renews(self, store: Store, elsewhere: dict[str, Any]) -> None:
        forge(store, age=HOLD_SECONDS - 10, **elsewhere)
        assert not is_free(store)

    def test_loses_its_store_when_it_has_not_renewed_for_five_minutes(
        self, store: Store, elsewhere: dict[str, Any]
    ) -> None:
        forge(store, age=HOLD_SECONDS + 10, **elsewhere)
        assert owner(store) is None
        with Lease.take(store) as held:
            assert held.path.name == "driver.2"
            assert lease_file(store) == held.path

    def test_loses_its_store_if_its_last_sign_of_life_is_in_the_future(
        self, store: Store, elsewhere: dict[str, Any]
    ) -> None:
        forge(store, age=-HOLD_SECONDS - 10, **elsewhere)
        assert is_free(store)

    @pytest.mark.parametrize("now", [0.0, 1e12, float("nan")])
    def test_is_judged_by_no_clock_of_this_machine(
        self, now: float, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "time", lambda: now)
        monkeypatch.setattr(time, "monotonic", lambda: now)
        for age, is_alive in ((HOLD_SECONDS - 10, True), (HOLD_SECONDS + 10, False)):
            file = forge(store, age=age, host="far-away")
            assert (owner(store) is not None) == is_alive
            assert is_free(store) != is_alive
            file.unlink(missing_ok=True)

    def test_counts_by_age_too_where_nobody_can_say_which_machine_this_is(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(holder, "_machine", lambda: "")
        forge(store, pid=2**31 - 1)
        assert not is_free(store)

    def test_counts_by_age_too_where_processes_do_not_tell_their_start(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(holder, "_life_of", lambda pid: ("", None))
        file = forge(store)
        assert not is_free(store)
        renew_ago(file, HOLD_SECONDS + 10)
        assert is_free(store)


class TestDamagedLease:
    @pytest.fixture(
        params=[
            b"",
            b"{",
            b"\xff\xfe",
            b"[]",
            b"null",
            b'{"pid": 1}',
            b'{"odd": 1}',
            "pid",
            "taken",
        ]
    )
    def damaged(self, request: pytest.FixtureRequest, store: Store) -> Path:
        if isinstance(request.param, str):
            return forge(store, **{request.param: "no number"})
        path = store.private / "driver.1"
        path.write_bytes(request.param)
        return path

    def test_keeps_others_out_while_it_is_young(self, damaged: Path, store: Store) -> None:
        with pytest.raises(StoreBusy, match=r"an unknown process, last sign of life 0 s ago"):
            Lease.take(store)

    def test_is_dead_when_it_is_old(self, damaged: Path, store: Store) -> None:
        renew_ago(damaged, HOLD_SECONDS + 10)
        assert owner(store) is None
        assert is_free(store)


class TestLease:
    def test_holds_until_it_is_released_and_leaves_nothing(self, store: Store) -> None:
        before = names(store)
        with Lease.take(store) as held:
            assert held.holds()
            assert names(store) == before | {"driver.1"}
        assert not held.holds()
        assert names(store) == before

    def test_is_let_go_of_when_something_fails_under_it(self, store: Store) -> None:
        with pytest.raises(ZeroDivisionError), Lease.take(store):
            _ = 1 / 0
        assert is_free(store)

    def test_is_young_again_when_it_is_renewed(self, store: Store) -> None:
        with Lease.take(store) as held:
            renew_ago(held.path, 200)
            held.renew()
            assert file_system_time(store.private) - held.path.stat().st_mtime < 100

    @LINUX
    def test_does_not_hold_when_it_was_taken_over(self, store: Store) -> None:
        slept = Lease.take(store)
        dead = json.loads(slept.path.read_bytes()) | {"start": 1, "token": slept._token}
        slept.path.write_text(json.dumps(dead))
        with Lease.take(store) as held:
            assert held.path.name == "driver.2"
            assert (slept.holds(), held.holds()) == (False, True)

    def test_that_was_taken_over_leaves_the_next_alone(self, store: Store) -> None:
        slept = Lease.take(store)
        slept.path.unlink()
        with Lease.take(store) as held:
            assert held.path == slept.path  # the numbers began anew
            renew_ago(held.path, 200)
            slept.renew()
            slept.release()
            assert held.holds()
            assert file_system_time(store.private) - held.path.stat().st_mtime > 100

    def test_is_given_up_if_somebody_living_has_come_with_a_lower_number_meanwhile(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = forge(store, pid=2**31 - 1).read_bytes()
        living = json.loads(old) | {"pid": os.getpid()}

        def create_late(path: Path, data: bytes) -> None:
            (store.private / "driver.1").write_text(json.dumps(living))
            path.write_bytes(data)

        monkeypatch.setattr(lease, "create_file", create_late)
        with pytest.raises(StoreBusy):
            Lease.take(store)
        assert lease_file(store).name == "driver.1"

    def test_is_given_up_if_somebody_has_come_with_a_higher_number_meanwhile(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = forge(store).read_bytes()
        (store.private / "driver.1").unlink()

        def create_late(path: Path, data: bytes) -> None:
            (store.private / "driver.2").write_bytes(raw)
            path.write_bytes(data)

        monkeypatch.setattr(lease, "create_file", create_late)
        with pytest.raises(StoreBusy):
            Lease.take(store)
        assert lease_file(store).name == "driver.2"

    def test_is_taken_though_the_file_server_says_it_was_there_when_it_had_just_made_it(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def create_twice(path: Path, data: bytes) -> None:  # NFS: the first answer was lost
            path.write_bytes(data)
            raise FileExistsError

        monkeypatch.setattr(lease, "create_file", create_twice)
        with Lease.take(store) as held:
            assert held.holds()

    def test_is_not_left_behind_by_an_interrupt_while_it_is_taken(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(lease: Lease) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(Lease, "holds", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Lease.take(store)
        assert not list(store.private.glob("driver.*"))

    def test_renews_and_ends_without_a_word_where_the_store_is_gone(self, store: Store) -> None:
        held = Lease.take(store)
        store.path.rename(store.path.with_name("moved.zarr"))
        held.renew()
        assert not held.holds()
        held.release()


class TestOwner:
    def test_is_nobody_in_a_new_store_and_nothing_is_written_to_find_out(
        self, store: Store
    ) -> None:
        before = store.private.stat().st_mtime_ns
        assert owner(store) is None
        assert store.private.stat().st_mtime_ns == before

    def test_is_who_took_the_store(self, store: Store) -> None:
        with Lease.take(store):
            found = owner(store)
        assert found is not None
        assert (found.host, found.pid) == (socket.gethostname(), os.getpid())
        assert found.text.endswith("since 0 s ago, last sign of life 0 s ago")

    def test_is_found_in_a_store_that_one_may_only_read_but_for_its_age(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(folder: Path) -> float:
            raise PermissionError(13, "Permission denied")

        forge(store, host="far-away", pid=7)
        monkeypatch.setattr(lease, "file_system_time", refuse)
        found = owner(store)
        assert found is not None
        assert found.text == "pid 7 on far-away, last sign of life at a time that is unknown"

    def test_is_not_read_from_files_with_other_names(self, store: Store) -> None:
        for name in ("driver.x", "driver.1.bak", ".driver.7.12ab34cd.partial"):
            (store.private / name).write_text("{}")
        assert owner(store) is None
        assert is_free(store)
