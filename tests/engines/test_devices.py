"""Which GPUs each worker has. No test here needs one: workers say which they were given."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.definition import Axis, Needs, Pipeline, Var
from sweep.engines import Engine, make_engine
from sweep.engines.devices import VARIABLE, share_of, shares, shares_here, usable_devices
from sweep.errors import EngineError
from sweep.options import Options

LISTING = """\
GPU 0: NVIDIA H200 (UUID: GPU-aaaa-0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-1)
  MIG 1g.5gb      Device  0: (UUID: MIG-cccc-2)
  MIG 3g.20gb     Device  1: (UUID: MIG-dddd-3)
GPU 2: NVIDIA H200 (UUID: GPU-eeee-4)
GPU 3: NVIDIA A100-SXM4-40GB (UUID: GPU-ffff-5)
  MIG 7g.40gb     Device  0: (UUID: MIG-GPU-gggg/7/0)
"""


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have nvidia-smi be a script that ends in this way."""

    def say(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\n[ "$*" = --list-gpus ] || exit 9\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return say


# --- which there are -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "devices"),
    [
        ("2,3", ["2", "3"]),
        ("7", ["7"]),
        ("GPU-aaaa-0, GPU-bbbb-1", ["GPU-aaaa-0", "GPU-bbbb-1"]),
        ("MIG-cccc-2,MIG-GPU-gggg/7/0", ["MIG-cccc-2", "MIG-GPU-gggg/7/0"]),
        ("1,1,0", ["1", "0"]),
        ("3,-1,4", ["3"]),
        ("NoDevFiles", []),
        ("-1", []),
        ("", []),
    ],
)
def test_what_was_given_counts_by_its_names(
    given: str,
    devices: list[str],
    monkeypatch: pytest.MonkeyPatch,
    nvidia_smi: Callable[[str], None],
) -> None:
    nvidia_smi(f"echo '{LISTING}'")
    monkeypatch.setenv(VARIABLE, given)

    assert usable_devices() == devices


def test_else_it_is_what_the_driver_shows_parts_instead_of_their_whole(
    nvidia_smi: Callable[[str], None],
) -> None:
    nvidia_smi(f"cat <<'END'\n{LISTING}END")

    assert usable_devices() == [
        "GPU-aaaa-0",
        "MIG-cccc-2",
        "MIG-dddd-3",
        "GPU-eeee-4",
        "MIG-GPU-gggg/7/0",
    ]


def test_a_driver_that_has_failed_shows_none(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi("echo 'NVIDIA-SMI has failed because it could not communicate'; exit 9")

    assert usable_devices() == []


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert usable_devices() == []


# --- how they are divided ------------------------------------------------------------------


@given(st.lists(st.text(min_size=1), unique=True, max_size=20), st.integers(1, 5))
def test_nobody_has_what_another_has_and_all_have_as_many(devices: list[str], gpus: int) -> None:
    found = shares(devices, gpus)

    assert all(len(share) == gpus for share in found)
    assert [device for share in found for device in share] == devices[: len(found) * gpus]
    assert len(devices) - len(found) * gpus < gpus


@pytest.mark.parametrize(
    ("given", "shown"), [("0,1", f"shows 0, 1 ({VARIABLE}='0,1')"), ("", "shows none")]
)
def test_too_few_are_told_with_what_was_seen(
    given: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, given)

    with pytest.raises(EngineError, match=r"needs gpus=3, and this machine shows") as told:
        shares_here(3)

    assert shown in str(told.value)


def test_workers_on_one_machine_divide_what_they_all_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "4,5,6,7")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")

    assert [share_of(number, 2) for number in range(2)] == [("4", "5"), ("6", "7")]
    with pytest.raises(EngineError, match="shows 4, 5, 6, 7: there are none for worker number 3"):
        share_of(2, 2)


def test_what_slurm_has_given_to_one_task_alone_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")  # where devices are confined, every task counts from 0
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")

    assert [share_of(number, 1) for number in range(4)] == [("0",)] * 4


# --- who has which -------------------------------------------------------------------------


@contextmanager
def running(kind: str, gpus: int) -> Iterator[Engine]:
    """Run as many workers as the devices allow."""
    engine = make_engine(kind, workers=8, gpus=gpus)
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def begin(engine: Engine, folder: Path, count: int) -> list[psutil.Process]:
    """Have so many workers compute for ever; return them."""
    folder.mkdir()
    notes = [folder / str(number) for number in range(count)]
    for note in notes:
        engine.submit("calls:stay", {"note": str(note)})
    end = time.monotonic() + 60
    while not all(note.exists() for note in notes):
        assert time.monotonic() < end
        time.sleep(0.02)
    return [psutil.Process(int(note.read_text())) for note in notes]


def devices_of(workers: list[psutil.Process]) -> list[str]:
    return [worker.environ()[VARIABLE] for worker in workers]


def test_parts_of_gpus_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "MIG-c,MIG-d")

    assert shares_here(1) == [("MIG-c",), ("MIG-d",)]
    with pytest.raises(EngineError, match=r"gpus=2.* parts of GPUs.*MIG-c, MIG-d.*whole GPUs"):
        shares_here(2)


@pytest.mark.parametrize("kind", ["processes", "dask"])
class TestWorkers:
    @pytest.fixture(autouse=True)
    def given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(Path(__file__).parent)  # for `calls`
        monkeypatch.setenv(VARIABLE, "5,GPU-b,MIG-c")

    def test_have_one_each_and_there_are_no_more_of_them(self, kind: str, tmp_path: Path) -> None:
        with running(kind, gpus=1) as engine:
            assert engine.capacity == 3

            workers = begin(engine, tmp_path / "notes", 3)

            assert sorted(devices_of(workers)) == ["5", "GPU-b", "MIG-c"]
            assert os.environ[VARIABLE] == "5,GPU-b,MIG-c"

    def test_that_take_the_place_of_dead_ones_take_over_their_devices(
        self, kind: str, tmp_path: Path
    ) -> None:
        with running(kind, gpus=1) as engine:
            dead = begin(engine, tmp_path / "notes", 3)[1]
            device = dead.environ()[VARIABLE]
            dead.kill()

            (new,) = begin(engine, tmp_path / "again", 1)

            assert new.pid != dead.pid
            assert devices_of([new]) == [device]

    def test_have_as_many_as_they_need(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(VARIABLE, "5,GPU-b,7")
        with running(kind, gpus=2) as engine:
            assert engine.capacity == 1
            assert devices_of(begin(engine, tmp_path / "notes", 1)) == ["5,GPU-b"]

    def test_that_need_none_see_what_the_driver_sees(self, kind: str, tmp_path: Path) -> None:
        with running(kind, gpus=0) as engine:
            assert engine.capacity == 8
            assert devices_of(begin(engine, tmp_path / "notes", 1)) == ["5,GPU-b,MIG-c"]


@pytest.fixture
def needy() -> Pipeline:
    def double(a: float) -> Annotated[float, Var(())]:
        return 2 * a

    axes = [Axis("a", [1.0, 2.0, 3.0])]
    return Pipeline(double, axes=axes, needs=Needs(gpus=1, memory="1 MB"))


@pytest.mark.parametrize("kind", ["serial", "processes", "dask"])
def test_without_a_device_nothing_is_started(
    kind: str, needy: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")

    with pytest.raises(EngineError, match=r"needs gpus=1, and this machine shows none"):
        Options(kind).engine(needy, 100)


def test_workers_with_devices_divide_all_of_the_memory(
    needy: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr("sweep.options.make_engine", lambda *_, **how: made.append(how))
    monkeypatch.setattr("sweep.options.usable_memory", lambda: 10**9)
    monkeypatch.setenv(VARIABLE, "0,1")

    Options("processes", 8).engine(needy, 100)

    assert (made[0]["workers"], made[0]["gpus"], made[0]["memory_bytes"]) == (2, 1, 5 * 10**8)
