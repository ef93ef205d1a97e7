"""What another user of the machine can do to an engine that runs: read no key, run nothing."""

import asyncio
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Security
from distributed.core import rpc

from sweep.engines import Engine, make_engine
from sweep.engines.certificates import write_certificates
from sweep.engines.dask.settings import read_security

KIND = "srun" if "IN_A_JOB" in os.environ else "dask"  # see slurm/test_allocation.py
NOBODY = 65534
inherited: set[tuple[str, int]] = set()  # ports that this process was born with, salloc's
WORKERS = 2

# The stranger. It imports first, as its owner, for its interpreter may lie in a private folder.
STRANGER = """
import asyncio, json, os, sys
import tornado.platform.asyncio
sys.path.insert(0, sys.argv[1])
from test_strangers import attempts
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(json.dumps({"uid": os.getuid(), **attempts(*json.loads(sys.argv[2]))}))
"""


def attempts(folders: list[str], ports: list[tuple[str, int]], own_keys: str) -> dict[str, Any]:
    """Read all files, ask at all ports; return what was got."""
    own = Security(require_encryption=False, tls_ca_file=f"{own_keys}/ca.pem")
    own.tls_client_cert, own.tls_client_key = f"{own_keys}/cert.pem", f"{own_keys}/key.pem"
    answers = []
    for host, port in ports:
        answers += ask(f"tcp://{host}:{port}", Security())
        answers += ask(f"tls://{host}:{port}", own)
        answers += [repr(text) for text in plain(host, port) if not is_alert(text)]
    return {"files": [text for folder in folders for text in read(folder)], "answers": answers}


def read(folder: str) -> list[str]:
    names = ["ca.pem", "cert.pem", "key.pem"]
    found = []
    try:
        names += [one.name for one in Path(folder).iterdir()]
        found.append(folder)
    except PermissionError:
        pass
    for name in names:
        try:
            found.append((Path(folder) / name).read_text())
        except PermissionError:
            continue
    return found


def ask(address: str, security: Security) -> list[str]:
    """Ask a scheduler or worker who it is, and to run something; return all that it answers."""
    function = pickle.dumps(os.getpid)
    questions = {
        "identity": {},
        "run": {"function": function},
        "run_function": {"function": function},
    }

    async def talk() -> list[str]:
        found = []
        arguments = security.get_connection_args("client")
        for question, details in questions.items():
            async with rpc(address, connection_args=arguments, timeout=3) as remote:
                try:
                    answer = getattr(remote, question)(**details)
                    found.append(repr(await asyncio.wait_for(answer, 3)))
                except (OSError, TimeoutError):  # no connection, or it was closed on us
                    continue
                except Exception as error:  # it did answer
                    found.append(repr(error))
        return found

    return asyncio.run(talk())


def plain(host: str, port: int) -> list[bytes]:
    """Say something that is not TLS."""
    with socket.create_connection((host, port), timeout=3) as connection:
        connection.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
        try:
            return [connection.recv(1000)]
        except OSError:
            return []


def is_alert(text: bytes) -> bool:
    """Tell whether an answer is TLS saying no, or none."""
    return not text or text[0] == 0x15


@pytest.fixture(params=[KIND])
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """An engine all of whose workers are at work."""
    monkeypatch.syspath_prepend(Path(__file__).parent)  # for `calls`
    inherited.update(listening([psutil.Process()]))
    with closing(make_engine(request.param, workers=WORKERS)) as engine:
        engine.start()
        notes = [tmp_path / str(number) for number in range(WORKERS)]
        for note in notes:
            engine.submit("calls:stay", {"note": str(note)})
        end = time.monotonic() + 60
        while not all(note.exists() for note in notes):
            assert time.monotonic() < end
            time.sleep(0.05)
        yield engine


def processes(engine: Engine) -> list[psutil.Process]:
    """Return all processes of the engine but srun, which is SLURM's."""
    ours = psutil.Process()
    found = [ours, *ours.children(recursive=True)]
    if engine.name == "srun":
        found += [one for one in psutil.process_iter() if is_of_this_job(one)]
    return [one for one in {one.pid: one for one in found}.values() if one.name() != "srun"]


def is_of_this_job(process: psutil.Process) -> bool:
    try:
        job = process.environ().get("SLURM_JOB_ID")
        return job == os.environ["SLURM_JOB_ID"] and "sweep.engines" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture
def ports(engine: Engine) -> list[tuple[str, int]]:
    """Where the scheduler and the workers listen."""
    found = set(listening(processes(engine))) - inherited
    assert len(found) == 1 + WORKERS
    return sorted(found)


def listening(processes: list[psutil.Process]) -> list[tuple[str, int]]:
    return [
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


@pytest.fixture
def folders(engine: Engine) -> list[str]:
    """Where the keys are, and what workers put down."""
    parents = [
        Path(tempfile.gettempdir()) / f"sweep-{os.getuid()}",
        Path.home() / ".cache" / "sweep-keys",
    ]
    found = [str(one) for parent in parents if parent.exists() for one in parent.iterdir()]
    assert found
    return found


@pytest.fixture
def strange_keys() -> Iterator[str]:
    """A key pair of another user's own, whose folder that user can get at."""
    if os.getuid() != 0:
        pytest.skip("only root can start a process of another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        write_certificates(Path(folder), 60)
        for path in (Path(folder), *Path(folder).iterdir()):
            os.chown(path, NOBODY, NOBODY)
        yield folder


def test_another_user_reads_no_key_and_runs_nothing(
    folders: list[str], ports: list[tuple[str, int]], strange_keys: str
) -> None:
    plan = json.dumps([folders, ports, strange_keys])
    command = [sys.executable, "-c", STRANGER, str(Path(__file__).parent), plan]

    stranger = subprocess.run(command, capture_output=True, text=True, cwd="/")

    assert stranger.returncode == 0, stranger.stderr
    assert json.loads(stranger.stdout) == {"uid": NOBODY, "files": [], "answers": []}


def test_who_has_the_keys_is_answered(folders: list[str], ports: list[tuple[str, int]]) -> None:
    """Else the test above would show nothing."""
    ours = [Path(folder) for folder in folders if f"-{os.getpid()}-" in folder]
    (keys,) = (folder for folder in ours if (folder / "key.pem").exists())

    for host, port in ports:
        assert "id" in ask(f"tls://{host}:{port}", read_security(keys))[0]


def test_it_listens_where_it_has_to_and_on_no_other_interface(
    ports: list[tuple[str, int]],
) -> None:
    assert {host for host, _ in ports} == {"127.0.0.1"}


def test_nothing_is_imported_from_a_folder_that_others_can_write_to() -> None:
    before = set(sys.path)

    with closing(make_engine(KIND, workers=1)) as engine:
        engine.start()
        new = [Path(entry) for entry in sys.path if entry not in before]

        assert new  # Dask's own: see `scheduler_at`
        private = Path(tempfile.gettempdir()) / f"sweep-{os.getuid()}"
        assert all(private in folder.parents for folder in new)
        assert private.stat().st_mode & 0o777 == 0o700
