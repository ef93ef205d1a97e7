"""Dask: a cluster of our own on this machine, or one that runs already; TLS always.

Dask is a courier here. Every call is pinned to one worker that has nothing to do: so a worker
runs one call at a time, its death takes one call and no innocent one, and nothing queues in
the cluster that a death of the scheduler could take along.

Run as a module this is a worker of the local cluster.
"""

import asyncio
import concurrent.futures
import importlib.util
import json
import logging
import ssl
import sys
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import dask.config
from distributed import Client, KilledWorker, Scheduler, Security, Worker

from sweep.engines import Arguments, Lost, Outcome
from sweep.engines.certificates import write_certificates
from sweep.engines.messages import answer, call_message, read_answer
from sweep.engines.private import private_folder
from sweep.engines.workers import MOST_STARTS, Driver, WorkerDied, WorkerProcess
from sweep.errors import EngineError
