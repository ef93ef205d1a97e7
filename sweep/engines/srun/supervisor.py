"""Supervisor: what srun starts, one a task; it keeps one worker and tells the driver of it.

The driver speaks through srun. What it says comes on stdin, to all tasks alike: the addresses of
workers that are to be killed, a line each. When stdin ends the driver has ended, however it did,
and so does this process, with its worker. What there is to tell goes to stdout.
"""

import json
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweep.engines.certificates import private_folder
from sweep.engines.death import WorkerDied
from sweep.engines.devices import share_of
from sweep.engines.memory import usable_memory
from sweep.engines.srun.job import address_towards, tasks_on_node
from sweep.engines.workers import MOST_STARTS, WorkerProcess
from sweep.errors import EngineError

MARK = "sweep-worker"  # begins each line of ours: a site's own start-up scripts may print, too
PIECE = 900  # characters: SLURM may cut lines of more than 1024, and mix those of several tasks
STDIN, STDOUT = 0, 1


class Told(dict[int, str]):
    """What tasks are telling, whose ends have not come yet."""

    def take(self, line: str) -> tuple[int, dict[str, Any]] | None:
        """Take a line of srun's output; return the task and what it told, if that is all."""
        mark, _, rest = line.rstrip("\n").partition(" ")
        if mark != MARK:
            return None
        number, _, piece = rest.partition(" ")
        task = int(number)
        if piece:
            self[task] = self.get(task, "") + piece
            return None
        return task, json.loads(self.pop(task))


def lines_that_tell(task: int, news: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines that `Told` puts together again."""
    text = json.dumps(news)
    for start in range(0, len(text), PIECE):
        yield f"{MARK} {task} {text[start : start + PIECE]}\n"
    yield f"{MARK} {task} \n"


class Supervisor:
    """Keeps one worker, until the driver ends or workers cannot be started.

    Parameters
    ----------
    order
        The driver's: the scheduler's address, the folder of the keys, a worker's threads and GPUs.
    scratch
        A folder for the worker, on this machine.
    """

    def __init__(self, order: Mapping[str, Any], scratch: Path) -> None:
        host = address_towards(order["scheduler"].rpartition(":")[0].removeprefix("tls://"))
        places = {"scheduler": order["scheduler"], "keys": order["keys"]}
        self._greeting = json.dumps(places | {"host": host, "scratch": str(scratch)})
        self._threads = order["threads"]
        self._memory_bytes = usable_memory() // tasks_on_node()
        self._devices = (
            share_of(int(os.environ["SLURM_LOCALID"]), order["gpus"]) if order["gpus"] else ()
        )
        self._address = ""  # of the worker; none before it is ready
        self._said = b""  # by the driver, a line that has not ended

    def keep(self) -> None:
        """Start a worker, and another one whenever it dies.

        Raises
        ------
        WorkerDied
            If workers die whenever they are started.
        """
        failed_starts = 0
        while failed_starts < MOST_STARTS:
            self._address = ""
            try:
                self._watch(
                    WorkerProcess(
                        "sweep.engines.dask", self._threads, self._memory_bytes, self._devices
                    )
                )
                return
            except WorkerDied as death:
                if self._address:
                    failed_starts = 0
                    tell(gone=self._address, reason=str(death), cause=death.cause)
                else:
                    failed_starts += 1
                    last = death
        raise last

    def _watch(self, worker: WorkerProcess) -> None:
        """Tell where a worker is, and kill it on demand; return when the driver has ended.

        Raises
        ------
        WorkerDied
            When the worker has.
        """
        worker.send(self._greeting)
        events = select.poll()
        events.register(STDIN, select.POLLIN)
        events.register(worker.replies, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in events.poll()}
            if worker.replies in ready:
                self._address = worker.receive()
                tell(address=self._address)
            if STDIN in ready:
                said = os.read(STDIN, 65536)
                if not said:
                    worker.say_goodbye()
                    return
                *lines, self._said = (self._said + said).split(b"\n")
                if self._address.encode() in lines:
                    worker.kill()


def tell(**news: Any) -> None:
    """Tell the driver something."""
    for line in lines_that_tell(int(os.environ["SLURM_PROCID"]), news):
        os.write(STDOUT, line.encode())


def main() -> None:
    """Be a supervisor."""
    order = json.loads(sys.argv[1])
    sys.path[:] = order["path"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # what is ours goes before we do
    try:
        with private_folder() as scratch:
            Supervisor(order, scratch).keep()
    except (EngineError, WorkerDied) as error:
        tell(failed=f"{os.environ.get('SLURMD_NODENAME', 'a node')}: {error}")


if __name__ == "__main__":
    main()
