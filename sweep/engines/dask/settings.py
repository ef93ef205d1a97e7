"""How distributed is to behave, and who may talk to it: the same on both ends."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dask.config
from distributed import Security

from sweep.errors import EngineError

LOOPBACK = "127.0.0.1"

# Over distributed's own defaults; a user's configuration files do not change a run.
SETTINGS = {
    "scheduler": {
        "allowed-failures": 0,  # who was lost is told at once; trying again is drive.py's
        "worker-ttl": None,  # a kernel may hold the GIL, and heartbeats, for hours
    },
    "worker": {
        "memory": {"target": False, "spill": False, "pause": False, "terminate": False},
        "profile": {"enabled": False},
        "http": {"routes": []},
    },
    "comm": {"require-encryption": True},
    "admin": {"large-graph-warning-threshold": "1 GiB", "low-level-log-length": 10},
    "diagnostics": {"nvml": False},
}


def read_security(folder: Path) -> Security:
    """Return what makes a connection ours: the names of the certificates' files.

    Raises
    ------
    EngineError
        If one is not there.
    """
    ca, certificate, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    for file in (ca, certificate, key):
        if not file.is_file():
            raise EngineError(
                f"There is no {file}. The folder has to hold ca.pem, cert.pem and key.pem: those "
                "that the scheduler was started with."
            )
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=str(ca),
        **{f"tls_{role}_cert": str(certificate) for role in roles},
        **{f"tls_{role}_key": str(key) for role in roles},
    )


def settings(*, with_http: bool) -> AbstractContextManager[Any]:
    """Put distributed's own defaults and ours in the place of the user's settings."""
    defaults = dask.config.merge(*dask.config.defaults)["distributed"]
    merged = dask.config.merge(defaults, SETTINGS)
    if not with_http:
        merged["scheduler"]["http"]["routes"] = []
    return dask.config.set({"distributed": merged})


@contextmanager
def quiet() -> Iterator[None]:
    """Keep distributed from telling of comings and goings; its errors are shown."""
    names = ("distributed", "distributed.client", "distributed.scheduler")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
        logger.addFilter(_is_news)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeFilter(_is_news)
            logger.setLevel(level)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether a record is of more than a lost worker, or of more than us closing."""
    cancelled = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "marked as failed because" not in str(record.msg)
