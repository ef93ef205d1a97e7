"""The contract that every engine keeps, and what is asked of those that have processes."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from distributed.comm import connect

import sweep.engines.dask.remote
from sweep.engines import Done, Engine, Lost, Outcome, Raised, make_engine
from sweep.engines.certificates import write_certificates
from sweep.errors import EngineError

HERE = Path(__file__).parent
WORKERS = 2
THREADS = 3  # kernel threads of a worker
DEADLINE_SECONDS = 60.0  # a machine may be busy with other things

KINDS = ["serial", "executor", "processes", "dask", "remote dask"]
WITH_PROCESSES = ["processes", "dask", "remote dask"]
OF_OUR_OWN = ["processes", "dask"]
CLOSED_EARLY = ["serial", "executor", "processes", "dask"]
if "ON_RANKS" in os.environ:  # of MPI, where on_ranks.py runs these tests: see test_mpi.py
    KINDS = WITH_PROCESSES = OF_OUR_OWN = CLOSED_EARLY = ["mpi"]
elif "IN_A_JOB" in os.environ:  # of SLURM, where slurm/test_allocation.py runs these tests
    KINDS = WITH_PROCESSES = OF_OUR_OWN = CLOSED_EARLY = ["srun"]


# --- engines, and waiting for them ---------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def importable_calls() -> Iterator[None]:
    """Let this process, and those that it starts, import `calls`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
        yield


class Cluster(NamedTuple):
    address: str
    tls_dir: Path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and workers with nannies, as a site would start them."""
    folder = tmp_path_factory.mktemp("cluster")
    with (
        running_scheduler(folder) as address,
        running_workers(folder, address, "--nworkers", str(WORKERS)),
    ):
        yield Cluster(address, folder)


@contextmanager
def running_scheduler(folder: Path) -> Iterator[str]:
    write_certificates(folder, 3600)
    file = folder / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--protocol", "tls"]
    options += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    with running("dask_scheduler", *options, "--scheduler-file", str(file), folder=folder):
        until(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        yield json.loads(file.read_text())["address"]


@contextmanager
def running_workers(
    folder: Path, address: str, *options: str, threads: str = "1"
) -> Iterator[None]:
    options += ("--nthreads", threads, "--host", "127.0.0.1")
    options += ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
    with running("dask_worker", address, *options, "--local-directory", str(folder), folder=folder):
        yield


@contextmanager
def running(tool: str, *options: str, folder: Path) -> Iterator[None]:
    tls = ["--tls-ca-file", "ca.pem", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    command = [sys.executable, "-m", f"distributed.cli.{tool}", *options, *tls]
    with (folder / f"{tool}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def engines(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Engine]]:
    """One engine of each kind for all tests: what one test does to it, it has to survive."""
    with ExitStack() as open_engines:
        yield cache(lambda kind: open_engines.enter_context(make(kind, request)))


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


@contextmanager
def make(kind: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    if kind == "executor":
        with ThreadPoolExecutor(1) as executor, started(make_engine(executor)) as engine:
            yield engine
    elif kind == "remote dask":
        address, tls_dir = request.getfixturevalue("cluster")
        with started(make_engine(address, tls_dir=tls_dir)) as engine:
            until(lambda: engine.capacity == WORKERS)
            yield engine
    else:
        with started(make_engine(kind, workers=WORKERS, threads=THREADS)) as engine:
            yield engine


@contextmanager
def started(engine: Engine) -> Iterator[Engine]:
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def until(condition: Callable[[], Any], seconds: float = DEADLINE_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)


def outcomes(engine: Engine, tickets: Iterable[int]) -> list[Outcome]:
    """Return the outcomes of calls, in the order of their tickets; there are to be no others."""
    wanted, ended = list(tickets), {}
    end = time.monotonic() + DEADLINE_SECONDS
    while len(ended) < len(wanted):
        assert time.monotonic() < end, f"no outcome of {set(wanted) - ended.keys()}"
        for ticket, outcome in engine.wait(1):
            assert ticket in wanted
            assert ticket not in ended
            ended[ticket] = outcome
    return [ended[ticket] for ticket in wanted]


def outcome(engine: Engine, function: str, **arguments: Any) -> Outcome:
    return outcomes(engine, [engine.submit(function, arguments)])[0]


def begin(engine: Engine, function: str, note: Path) -> tuple[int, int]:
    """Submit a call that never ends, and return its ticket and the pid that it tells us."""
    ticket = engine.submit(function, {"note": str(note)})
    until(note.exists)
    return ticket, int(note.read_text())


def end(engine: Engine, begun: Iterable[tuple[int, int]]) -> None:
    """Kill the workers of some calls, and see that the calls are lost."""
    for _, pid in begun:
        os.kill(pid, signal.SIGKILL)
    lost = outcomes(engine, [ticket for ticket, _ in begun])
    assert all(isinstance(one, Lost) for one in lost)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # init reaps it when it likes
    except psutil.NoSuchProcess:
        return True


# --- every engine --------------------------------------------------------------------------


class TestEngineContract:
    """What every engine keeps."""

    def test_answers_come_back_with_the_tickets_of_their_calls(self, engine: Engine) -> None:
        naps = [0.1, 0.0, 0.05, 0.0, 0.02]
        tickets = [
            engine.submit("calls:scale", {"value": value, "after": nap})
            for value, nap in enumerate(naps)
        ]

        assert len(set(tickets)) == len(tickets)
        assert outcomes(engine, tickets) == [Done(0), Done(10), Done(20), Done(30), Done(40)]

    def test_there_may_be_many_more_calls_than_workers(self, engine: Engine) -> None:
        tickets = [engine.submit("calls:scale", {"value": value}) for value in range(20)]

        assert outcomes(engine, tickets) == [Done(10 * value) for value in range(20)]

    def test_what_a_call_raises_is_told_and_hurts_no_other(self, engine: Engine) -> None:
        bad = engine.submit("calls:fail", {"text": "no grüße"})
        good = [engine.submit("calls:echo", {"value": value}) for value in range(4)]

        raised, *answers = outcomes(engine, [bad, *good])

        assert isinstance(raised, Raised)
        assert (raised.kind, raised.text) == ("ValueError", "no grüße")
        assert "calls.py" in raised.trace
        assert raised.trace.endswith("ValueError: no grüße\n")
        assert answers == [Done(0), Done(1), Done(2), Done(3)]

    def test_an_exception_need_not_survive_pickling(self, engine: Engine) -> None:
        raised = outcome(engine, "calls:fail_awkwardly")

        assert isinstance(raised, Raised)
        assert (raised.kind, raised.text) == ("AwkwardError", "rain at the picnic")

    def test_a_model_that_exits_ends_its_call_only(self, engine: Engine) -> None:
        raised = outcome(engine, "calls:leave", code=3)

        assert isinstance(raised, Raised)
        assert (raised.kind, raised.text) == ("SystemExit", "3")
        assert outcome(engine, "calls:echo", value="still here") == Done("still here")

    @pytest.mark.parametrize("function", ["calls:no_such", "no_such_module:function"])
    def test_a_function_that_is_not_there_is_an_outcome(
        self, engine: Engine, function: str
    ) -> None:
        raised = outcome(engine, function)

        assert isinstance(raised, Raised)
        assert "no_such" in raised.text

    @pytest.mark.parametrize(
        "value",
        [
            None,
            [True, False, "", "grüße 🌍\n\0", {"nested": {"and": [[], {}]}}],
            [0, -1, 2**64, 0.1, -0.0, 5e-324, 1.7976931348623157e308],
            [float("nan"), float("inf"), float("-inf")],
            "long " * 500_000,
        ],
        ids=["none", "text", "numbers", "no numbers", "long"],
    )
    def test_values_travel_intact(self, engine: Engine, value: Any) -> None:
        done = outcome(engine, "calls:echo", value=value)

        assert isinstance(done, Done)
        assert repr(done.value) == repr(value)

    def test_tuples_come_back_as_lists_and_keys_as_strings(self, engine: Engine) -> None:
        assert outcome(engine, "calls:echo", value={1: (2, 3)}) == Done({"1": [2, 3]})

    def test_an_argument_that_json_cannot_hold_is_refused_at_once(self, engine: Engine) -> None:
        with pytest.raises(TypeError, match="not JSON serializable"):
            engine.submit("calls:echo", {"value": object()})

    def test_a_value_that_json_cannot_hold_is_the_fault_of_the_call(self, engine: Engine) -> None:
        raised = outcome(engine, "calls:not_json")

        assert isinstance(raised, Raised)
        assert raised.kind == "TypeError"
        assert "not JSON serializable" in raised.text

    def test_a_call_may_use_dask_itself(self, engine: Engine) -> None:
        tickets = [engine.submit("calls:add_with_dask", {"count": 5}) for _ in range(4)]

        assert outcomes(engine, tickets) == [Done(10)] * 4

    def test_waiting_for_nothing_returns_at_once(self, engine: Engine) -> None:
        start = time.monotonic()

        assert engine.wait(0) == []
        assert time.monotonic() - start < 0.5

    def test_a_call_that_has_ended_cannot_be_killed(self, engine: Engine) -> None:
        ticket = engine.submit("calls:echo", {"value": 1})
        outcomes(engine, [ticket])

        assert engine.kill(ticket) is False


@pytest.mark.parametrize("kind", CLOSED_EARLY)
def test_an_engine_may_be_closed_twice_and_before_its_calls_have_ended(
    kind: str, request: pytest.FixtureRequest
) -> None:
    with make(kind, request) as engine:
        for value in range(3):
            engine.submit("calls:scale", {"value": value, "after": 0.1})

        engine.close()
        engine.close()


@pytest.mark.parametrize("kind", ["serial", *OF_OUR_OWN])
def test_an_engine_that_was_never_started_can_be_closed(kind: str) -> None:
    make_engine(kind).close()


# --- engines with processes ----------------------------------------------------------------


@pytest.mark.parametrize("engine", WITH_PROCESSES, indirect=True)
class TestEngineWithProcesses:
    """What the death of a process does, and whose it is."""

    def test_a_killed_worker_loses_its_call_and_no_other(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        lost, pid = begin(engine, "calls:stay", tmp_path / "note")
        others = [engine.submit("calls:scale", {"value": 1, "after": 0.1}) for _ in range(6)]

        os.kill(pid, signal.SIGKILL)

        first, *rest = outcomes(engine, [lost, *others])
        assert isinstance(first, Lost)
        assert rest == [Done(10)] * 6

    def test_killed_workers_are_replaced(self, engine: Engine, tmp_path: Path) -> None:
        begun = [begin(engine, "calls:stay", tmp_path / str(n)) for n in range(WORKERS)]
        end(engine, begun)

        again = [begin(engine, "calls:stay", tmp_path / f"again {n}") for n in range(WORKERS)]

        assert not {pid for _, pid in again} & {pid for _, pid in begun}
        end(engine, again)

    def test_a_call_that_holds_the_gil_can_be_killed(self, engine: Engine, tmp_path: Path) -> None:
        ticket, pid = begin(engine, "calls:hold", tmp_path / "note")

        assert engine.kill(ticket) is True

        assert isinstance(outcomes(engine, [ticket])[0], Lost)
        until(lambda: is_gone(pid))
        assert engine.kill(ticket) is False
        assert outcome(engine, "calls:echo", value="on") == Done("on")

    def test_a_call_that_waits_can_be_taken_back(self, engine: Engine, tmp_path: Path) -> None:
        begun = [begin(engine, "calls:stay", tmp_path / str(n)) for n in range(WORKERS)]
        waiting = engine.submit("calls:touch", {"file": str(tmp_path / "touched")})

        assert engine.kill(waiting) is True

        assert isinstance(outcomes(engine, [waiting])[0], Lost)
        end(engine, begun)
        assert outcome(engine, "calls:echo", value="on") == Done("on")
        assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("engine", OF_OUR_OWN, indirect=True)
class TestEngineWithOwnProcesses:
    """What the workers that we start ourselves are like."""

    @pytest.mark.parametrize(
        "name",
        ["NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"],
    )
    def test_a_worker_knows_its_threads(self, engine: Engine, name: str) -> None:
        assert outcome(engine, "calls:variable", name=name) == Done(str(THREADS))

    def test_ctrl_c_at_a_terminal_does_not_reach_a_worker(self, engine: Engine) -> None:
        done = outcome(engine, "calls:session")

        assert isinstance(done, Done)
        assert done.value not in (os.getsid(0), os.getpid())

    def test_a_worker_has_nothing_on_its_stdin(self, engine: Engine) -> None:
        assert outcome(engine, "calls:read_stdin") == Done("")

    def test_a_process_that_a_model_let_go_does_not_hide_the_death_of_its_worker(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        ticket, free = begin(engine, "calls:fork_and_die", tmp_path / "note")
        try:
            assert isinstance(outcomes(engine, [ticket])[0], Lost)
            assert not is_gone(free)
        finally:
            os.kill(free, signal.SIGKILL)

    def test_it_is_told_how_a_worker_ended(self, engine: Engine, tmp_path: Path) -> None:
        ticket, pid = begin(engine, "calls:stay", tmp_path / "note")
        os.kill(pid, signal.SIGKILL)
        (lost,) = outcomes(engine, [ticket])
        assert isinstance(lost, Lost)
        assert lost.reason.startswith(f"Worker {pid} was killed by SIGKILL, peak memory ")
        assert lost.cause == "unknown"

        lost = outcome(engine, "calls:drop_dead", code=7)
        assert isinstance(lost, Lost)
        assert "ended with exit code 7, peak memory " in lost.reason
        assert lost.cause == "died"

    @pytest.mark.parametrize("end", ["killed by us", "killed by another"])
    def test_what_a_call_has_started_dies_with_it(
        self, engine: Engine, end: str, tmp_path: Path
    ) -> None:
        ticket, child = begin(engine, "calls:stay_with_child", tmp_path / "note")
        worker = psutil.Process(child).ppid()

        if end == "killed by us":
            assert engine.kill(ticket)
        else:
            os.kill(worker, signal.SIGKILL)

        assert isinstance(outcomes(engine, [ticket])[0], Lost)
        until(lambda: is_gone(child) and is_gone(worker))


@pytest.fixture
def scripts(tmp_path: Path) -> Callable[[str], list[str]]:
    """Write a script and return the command that runs it, warnings being errors."""

    def command(text: str) -> list[str]:
        (tmp_path / "script.py").write_text(text)
        return [sys.executable, "-W", "error", str(tmp_path / "script.py")]

    return command


@pytest.mark.parametrize("kind", OF_OUR_OWN)
class TestDriver:
    """What the process that starts the workers may be, and what its end does."""

    def test_a_plain_script_works_and_nothing_is_added_to_what_it_prints(
        self, kind: str, scripts: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", "no_such_module")
        monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__PRELOAD", "no_such_module")
        monkeypatch.setenv("PYTHONPATH", str(HERE))
        script = scripts(f"""
import sys
sys.path.insert(0, {str(HERE.parents[1])!r})  # workers find the package where the driver does
from sweep.engines import make_engine
engine = make_engine({kind!r}, workers=2)
engine.start()
engine.submit("calls:say", {{"text": "said by a worker"}})
ended = []
while not ended:
    ended = engine.wait(10)
print(ended)
engine.close()
""")

        done = subprocess.run(script, capture_output=True, text=True, timeout=DEADLINE_SECONDS)

        assert done.stderr == ""  # what a point says is kept with it
        assert done.stdout == "[(1, Done(value=None))]\n"
        assert done.returncode == 0

    @pytest.mark.parametrize("end", ["killed", "forgets to close"])
    def test_no_process_outlives_it(
        self, kind: str, end: str, scripts: Callable[[str], list[str]], tmp_path: Path
    ) -> None:
        script = scripts(f"""
import sys
from sweep.engines import make_engine
engine = make_engine({kind!r}, workers=2)
engine.start()
engine.submit("calls:stay_with_child", {{"note": {str(tmp_path / "1")!r}}})
engine.submit("calls:stay", {{"note": {str(tmp_path / "2")!r}}})
sys.stdin.read()
""")
        driver = subprocess.Popen(script, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with driver:
            until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists())
            left = {one.pid for one in psutil.Process(driver.pid).children(recursive=True)}
            told = {int((tmp_path / note).read_text()) for note in "12"}
            if kind == "srun":  # whose workers are children of SLURM's
                left |= told | {psutil.Process(pid).ppid() for pid in told}
            assert told < left

            if end == "killed":
                driver.kill()

        until(lambda: all(is_gone(pid) for pid in left), seconds=15)

    def test_workers_that_die_at_their_start_are_given_up(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import os, sys\n"
            "if {'sweep.engines.dask', 'sweep.engines.processes'} & set(sys.orig_argv):\n"
            "    os.write(2, b'no room today')\n"
            "    os._exit(7)\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

        with (
            started(make_engine(kind, workers=WORKERS)) as engine,
            pytest.raises(EngineError, match=r"(?s)ended with exit code 7.*no room today"),
        ):
            until(lambda: engine.submit("calls:pid", {}) and engine.wait(1) is None)


# --- Dask ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["dask"], indirect=True)
class TestLocalDaskIsPrivate:
    """What nobody else on the machine may do."""

    @pytest.fixture
    def processes(self, engine: Engine) -> list[psutil.Process]:
        """This one, with the scheduler, and the workers, all of them ready."""
        ours = [psutil.Process()]
        ours += [one for one in ours[0].children() if "sweep.engines.dask" in one.cmdline()]
        until(lambda: all(listening([one]) for one in ours))
        return ours

    @pytest.fixture
    def ports(self, processes: list[psutil.Process]) -> list[int]:
        return [port for _, port in listening(processes)]

    def test_it_listens_on_the_loopback_interface_only(
        self, processes: list[psutil.Process]
    ) -> None:
        assert {host for host, _ in listening(processes)} == {"127.0.0.1"}

    def test_there_is_one_port_a_process_and_no_web_server(
        self, processes: list[psutil.Process]
    ) -> None:
        assert len(processes) == 1 + WORKERS
        until(lambda: len(listening(processes)) == 1 + WORKERS)  # one is closed at the start

    def test_who_does_not_speak_tls_is_refused(self, ports: list[int]) -> None:
        for port in ports:
            with pytest.raises(OSError, match=r"in <|Timed out"):
                asyncio.run(connect(f"tcp://127.0.0.1:{port}", timeout=1))

    @pytest.mark.parametrize("has_certificate", [False, True], ids=["none", "of another run"])
    def test_who_has_no_certificate_of_ours_is_refused(
        self, ports: list[int], has_certificate: bool, tmp_path: Path
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if has_certificate:
            write_certificates(tmp_path, 3600)
            context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

        for port in ports:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
                pytest.raises(ssl.SSLError, match="ALERT"),
                context.wrap_socket(plain) as secret,
            ):
                secret.recv(1)

    def test_a_scheduler_trusts_no_other_certificate(
        self, ports: list[int], tmp_path: Path
    ) -> None:
        write_certificates(tmp_path, 3600)

        for port in ports:
            other = make_engine(f"tls://127.0.0.1:{port}", tls_dir=tmp_path)
            with pytest.raises(EngineError, match="the certificates in"):
                other.start()


def listening(processes: Iterable[psutil.Process]) -> list[tuple[str, int]]:
    return [
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_the_keys_of_a_local_cluster_are_private_and_go_with_it() -> None:
    parent = Path(tempfile.gettempdir()) / f"sweep-{os.getuid()}"
    before = set(parent.glob("*")) if parent.exists() else set()

    with started(make_engine("dask", workers=1)):
        (folder,) = set(parent.glob(f"*-{os.getpid()}-*")) - before
        keys = list(folder.glob("*.pem"))
        assert len(keys) == 3
        assert {file.stat().st_mode & 0o777 for file in keys} == {0o600}
        assert {one.stat().st_mode & 0o777 for one in (folder, parent)} == {0o700}

    assert not folder.exists()


def test_the_dashboard_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)

    with pytest.raises(EngineError, match="pip install bokeh"):
        make_engine("dask", dashboard=True)


class TestRemoteDask:
    """What joining a cluster that runs already may come to."""

    def test_a_folder_without_the_keys_is_named(self, tmp_path: Path) -> None:
        engine = make_engine("tls://127.0.0.1:1", tls_dir=tmp_path)

        with pytest.raises(EngineError, match=r"no .*ca\.pem"):
            engine.start()

    def test_no_scheduler(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sweep.engines.dask.remote, "CONNECT_SECONDS", 0.5)
        write_certificates(tmp_path, 3600)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]

        with pytest.raises(EngineError, match="Is it running"):
            make_engine(f"tls://127.0.0.1:{port}", tls_dir=tmp_path).start()

    def test_closing_leaves_the_cluster_running(self, cluster: Cluster) -> None:
        for _ in range(2):
            with started(make_engine(cluster.address, tls_dir=cluster.tls_dir)) as engine:
                assert isinstance(outcome(engine, "calls:pid"), Done)

    def test_workers_with_several_threads_are_refused(self, tmp_path: Path) -> None:
        with (
            running_scheduler(tmp_path) as address,
            started(make_engine(address, tls_dir=tmp_path)) as engine,
            running_workers(tmp_path, address, "--no-nanny", threads="2"),
            pytest.raises(EngineError, match=r"has 2 threads.*--nthreads 1"),
        ):
            until(lambda: engine.wait(1))

    def test_without_any_worker_it_gives_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sweep.engines.dask.remote, "PATIENCE_SECONDS", 0.5)
        with (
            running_scheduler(tmp_path) as address,
            started(make_engine(address, tls_dir=tmp_path)) as engine,
        ):
            ticket = engine.submit("calls:pid", {})

            assert isinstance(outcomes(engine, [ticket])[0], Lost)
            with pytest.raises(EngineError, match=f"dask worker {address}"):
                engine.wait(1)

    def test_the_death_of_the_scheduler_loses_what_ran(self, tmp_path: Path) -> None:
        with (
            running_scheduler(tmp_path) as address,
            running_workers(tmp_path, address, "--no-nanny"),
        ):
            engine = make_engine(address, tls_dir=tmp_path)
            engine.start()
            ticket, _ = begin(engine, "calls:stay", tmp_path / "note")
        with closing(engine):
            assert isinstance(outcomes(engine, [ticket])[0], Lost)
            with pytest.raises(EngineError, match=r"scheduler at .* is gone"):
                engine.submit("calls:pid", {})
