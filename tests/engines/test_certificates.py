"""Certificates and the folders that they are kept in."""

import os
import socket
import ssl
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from sweep.engines.certificates import private_folder, write_certificates
from sweep.errors import EngineError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_folder_is_private_and_goes_in_the_end(temporary: Path) -> None:
    with private_folder() as folder:
        (folder / "file").touch()
        assert folder.parent.parent == temporary
        assert (mode(folder), mode(folder.parent)) == (0o700, 0o700)

    assert not folder.exists()


def test_what_dead_processes_left_is_removed_and_nothing_else() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    with private_folder() as ours:
        of_the_dead = ours.parent / f"{host}-{dead.pid}-abc"
        of_other_hosts = [
            ours.parent / f"{other}-{dead.pid}-abc"
            for other in (f"not-{host}", f"{host}-{dead.pid}")
        ]
        for folder in (of_the_dead, *of_other_hosts):
            folder.mkdir()
            (folder / "key.pem").touch()

        with private_folder():
            assert not of_the_dead.exists()
            assert all(folder.exists() for folder in (ours, *of_other_hosts))


def test_what_other_hosts_left_is_removed_when_its_certificate_is_over() -> None:
    with private_folder() as ours:
        over, good, empty, old = (ours.parent / f"elsewhere-{n}-abc" for n in range(1, 5))
        for folder in (over, good, empty, old):
            folder.mkdir()
        write_certificates(over, -605)  # and ten minutes more
        write_certificates(good, 3600)
        os.utime(old, (0, 0))  # killed before it had a certificate

        with private_folder():
            assert [folder.exists() for folder in (over, good, empty, old)] == [
                False,
                True,
                True,
                False,
            ]


def test_a_private_folder_may_lie_where_other_machines_see_it(tmp_path: Path) -> None:
    parent = tmp_path / "home" / ".cache" / "keys"
    with private_folder(parent) as folder:
        assert folder.parent == parent
        assert (mode(folder), mode(parent)) == (0o700, 0o700)

    parent.chmod(0o755)
    with (
        pytest.raises(EngineError, match=r"no place for keys\. Remove it\.$"),
        private_folder(parent),
    ):
        pass


def test_a_folder_that_others_can_enter_is_refused(temporary: Path) -> None:
    (temporary / f"sweep-{os.getuid()}").mkdir(mode=0o755)

    with pytest.raises(EngineError, match="Remove it, or set TMPDIR"), private_folder():
        pass


def test_a_link_to_a_folder_is_refused(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / f"sweep-{os.getuid()}").symlink_to(temporary / "elsewhere")

    with pytest.raises(EngineError, match="not a folder of yours"), private_folder():
        pass


def test_keys_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_certificates(tmp_path, 60)
    finally:
        os.umask(before)

    files = sorted(tmp_path.glob("*.pem"))
    assert [file.name for file in files] == ["ca.pem", "cert.pem", "key.pem"]
    assert {mode(file) for file in files} == {0o600}


def test_keys_are_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("somebody's")

    with pytest.raises(FileExistsError):
        write_certificates(tmp_path, 60)

    assert (tmp_path / "key.pem").read_text() == "somebody's"


def test_a_certificate_is_good_for_ten_minutes_more_than_asked(tmp_path: Path) -> None:
    write_certificates(tmp_path, 3600)

    certificate = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(minutes=69) < left <= timedelta(minutes=70)


def test_both_ends_of_a_connection_accept_it(tmp_path: Path) -> None:
    write_certificates(tmp_path, 60)

    server, client = (context(purpose, tmp_path) for purpose in (True, False))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server),
    ]
    for end in [*reversed(ends)] * 2:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue

    assert ends[0].getpeercert()["subject"] == ends[1].getpeercert()["subject"]


def context(is_server: bool, folder: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(folder / "ca.pem")
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return made
