"""Certificates: a key pair for one run's connections, in a private folder that goes with the run.

Whoever can read the folder can join the cluster and run code as its owner. So the folder is
readable by its owner alone, stands outside any store, and is removed at the end; what a run
that was killed left behind is removed by the next.
"""

import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from sweep.errors import EngineError

SPARE = timedelta(minutes=10)  # for what comes after the computing
LONGEST_TO_WRITE = timedelta(days=1)  # a certificate, on a file system with a clock of its own


@contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that only this user can enter, and remove it in the end.

    It is called ``HOST-PID-RANDOM``. Those of dead processes of this machine are removed, too,
    and those of other machines whose certificate is good no more.

    Parameters
    ----------
    parent
        The folder to make it in, made if it is not there. None: one of this user's in the
        temporary directory, which other machines do not see.

    Raises
    ------
    EngineError
        If the folder above it is not this user's alone.
    """
    remedy = "Remove it." if parent else "Remove it, or set TMPDIR to a folder of your own."
    parent = parent or Path(tempfile.gettempdir()) / f"sweep-{os.getuid()}"
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EngineError(
            f"{parent} is not a folder of yours alone, so it is no place for keys. {remedy}"
        )
    host = socket.gethostname()
    for old in parent.iterdir():
        if _is_left_over(old, host):
            shutil.rmtree(old, ignore_errors=True)  # another run may be at the same
    with tempfile.TemporaryDirectory(prefix=f"{host}-{os.getpid()}-", dir=parent) as folder:
        yield Path(folder)


def _is_left_over(folder: Path, host: str) -> bool:
    """Tell whether the run is over that a private folder was made for."""
    made_by = re.fullmatch(r"(.+)-(\d+)-[^-]+", folder.name)
    if not made_by:
        return False
    if made_by[1] == host:
        return not _is_running(int(made_by[2]))
    with suppress(OSError):  # it goes just now
        return datetime.now(UTC) > _last_moment(folder)
    return False


def _last_moment(folder: Path) -> datetime:
    """Return until when a folder of another machine, whose processes we cannot see, is of use."""
    file = folder / "cert.pem"
    if file.exists():
        with suppress(ValueError):  # half of it is written
            return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    return datetime.fromtimestamp(folder.stat().st_mtime, UTC) + LONGEST_TO_WRITE


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's: ours is gone and its number was used again
        return False
    return True


def write_certificates(folder: Path, seconds: float) -> None:
    """Write ca.pem, cert.pem and key.pem, readable by this user alone.

    The certificate signs itself and is its own authority: who has no copy of its key is
    refused, whoever signed theirs.

    Parameters
    ----------
    folder
        Where none of the three exists yet.
    seconds
        How long the run takes at most; the certificate is valid for ten minutes more.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sweep")])
    now = datetime.now(UTC)
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SPARE)  # the clocks of a cluster differ
        .not_valid_after(now + timedelta(seconds=seconds) + SPARE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identity, critical=False)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, content in [("ca.pem", public), ("cert.pem", public), ("key.pem", private)]:
        with open(folder / file, "xb", opener=_open_private) as pem:
            pem.write(content)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
