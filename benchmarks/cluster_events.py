"""A sweep on a cluster, event by event: who hands out blocks, their workers, a file server.

What a driver, a feed of shares and a worker do is written down as generators. They follow
`sweep.drive`, `sweep.feed`, `sweep.store.claims` and `sweep.worker`, and yield what a step costs:
operations on metadata, then seconds; or `SLEEP`, until somebody wakes them. Nobody dies here.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from cluster_costs import Cost, Costs, Message

from sweep.drive import BATCH_SECONDS, LONG_SECONDS, LOOK_SECONDS, SMOOTHING
from sweep.feed import MOST_DOUBTS
from sweep.store.claims import TRUST_SECONDS
from sweep.store.holder import RENEW_SECONDS

TRIES = 100  # at blocks, that are one step at most, or a third of all: others go on meanwhile
NOTHING, SLEEP = Cost(0.0, 0.0), Cost(-1.0, 0.0)
FREE, CLAIMED, RELEASED = range(3)  # states of a block

Step = tuple[float, float]
Process = Iterator[Step]


class Rules(NamedTuple):
    """What could be otherwise in the engine."""

    look_seconds: float = LOOK_SECONDS  # between two looks at what workers are at
    doubts: int = MOST_DOUBTS  # claims of others that are tried after a look


class Server(NamedTuple):
    """The file server: operations on metadata that it does in a second, and how long one takes."""

    rate: float = math.inf
    trip_seconds: float = 1e-6


class Team(NamedTuple):
    """Who hands out blocks: processes with so many workers each.

    With `is_passive`, a worker's next call waits until its process looks for messages.
    """

    processes: int
    workers: int
    message: Message
    is_passive: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a simulation shows; `makespan` is the time until the last commit [s].

    `operations` are those on metadata until then, `peak` the most in a second, of all.
    """

    makespan: float
    operations: float
    all_operations: float
    peak: float
    commits: int
    is_done: bool


def perfect(seconds: np.ndarray, workers: int) -> float:
    """Return the makespan where each block, in order, goes to who is idle, at no cost."""
    ends = [0.0] * workers
    for one in seconds.tolist():
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


class Traffic:
    """The operations under way: one of each process, and all get the same of the file server.

    `watchers` sleep, and look at marks again and again meanwhile: `look` is what that costs.
    """

    def __init__(self, server: Server, look: Cost, pause: float) -> None:
        self.watchers = 0
        self.next_exit = math.inf  # when the next of those under way is through, if nobody comes
        self._is_free = server.rate == math.inf
        self._server, self._look, self._pause = server, look, pause + look.seconds
        self._under_way: list[tuple[float, int, Process, float]] = []
        self._count = 0
        self._now = self._turns = 0.0  # turns: operations that each has had so far
        self._counts = [0.0]  # operations in each second
        self._adapt()

    def enter(self, now: float, process: Process, operations: float, seconds: float) -> None:
        """Begin operations; `seconds` are kept for when they are through."""
        self._advance(now)
        self._count += 1
        row = (self._turns + operations, self._count, process, seconds)
        heapq.heappush(self._under_way, row)
        self._adapt()

    def is_short(self, operations: float) -> bool:
        """Tell whether operations need not enter: the server does any number, in this second."""
        return self._is_free and operations * self._turn_seconds < 1.0

    def take(self, now: float, operations: float) -> float:
        """Return how long operations take that need not enter."""
        self._advance(now)
        self._counts[-1] += operations
        return operations * self._turn_seconds

    def leave(self) -> tuple[float, Process, float]:
        """Return when the next is through, and what was kept."""
        now = self.next_exit
        self._advance(now)
        _, _, process, seconds = heapq.heappop(self._under_way)
        self._adapt()
        return now, process, seconds

    def watch(self, now: float, change: int) -> None:
        """Take note that some more watch marks, or some less."""
        self._advance(now)
        self.watchers += change
        self._adapt()

    def rest_of_look(self, chance: float, part: float) -> float:
        """Return how long one who is woken is still busy with its look; by chance."""
        takes = self._look.operations * self._turn_seconds + self._look.seconds
        return part * takes if chance * (self._pause + takes) < takes else 0.0

    def seen(self, until: float) -> tuple[float, float, float]:
        """Return how many operations there were until then, in all, and the most in a second."""
        whole = int(until)
        last = sum(self._counts[whole : whole + 1]) * (until - whole)
        return sum(self._counts[:whole]) + last, sum(self._counts), max(self._counts)

    def _adapt(self) -> None:
        """Find how long an operation takes now: its trip, or more if the server has too many.

        Of the watchers, the part look * turn / (pause + look * turn) is at it at any time. A turn
        is as long as the server needs for all who are at it.
        """
        rate, turn = self._server
        look, count = self._look.operations / self._pause, len(self._under_way)
        if count + self.watchers * look * turn > rate * turn:
            b = rate - look * (count + self.watchers)
            full = (math.sqrt(b * b + 4 * rate * look * count) - b) / (2 * rate * look)
            turn = max(turn, full)
        self._turn_seconds = turn
        looks = self.watchers * look / (1.0 + look * turn)
        self._speed = count / turn + looks  # operations a second
        if count:
            self.next_exit = self._now + (self._under_way[0][0] - self._turns) * turn
        else:
            self.next_exit = math.inf

    def _advance(self, now: float) -> None:
        """Count what is done until now."""
        begin, self._now = self._now, now
        self._turns += (now - begin) / self._turn_seconds
        while (end := len(self._counts)) < now:
            self._counts[-1] += (end - begin) * self._speed
            self._counts.append(0.0)
            begin = end
        self._counts[-1] += (now - begin) * self._speed


class Blocks:
    """The blocks of a sweep, and which are free."""

    def __init__(self, seconds: np.ndarray) -> None:
        self.seconds: list[float] = seconds.tolist()
        self.state = bytearray(len(self.seconds))
        self.free, self.claimed, self.commits = len(self.seconds), 0, 0
        self.left = len(self.seconds)  # to commit
        self.last_commit = 0.0
        self._order = list(range(self.free))  # the free ones come first
        self._place = list(range(self.free))

    def some_free(self, chance: float) -> int:
        """Return one of those that are free: `chance` from 0 to 1 says which."""
        return self._order[int(chance * self.free)]

    def claim(self, block: int) -> None:
        """Give a free block to somebody."""
        self.free -= 1
        self.claimed += 1
        last, here = self._order[self.free], self._place[block]
        self._order[here], self._order[self.free] = last, block
        self._place[last], self._place[block] = here, self.free
        self.state[block] = CLAIMED

    def commit(self, now: float) -> None:
        """Take note that a block is committed."""
        self.commits += 1
        self.left -= 1
        self.last_commit = now

    def release(self, block: int) -> None:
        """Let go of a block that is committed."""
        self.claimed -= 1
        self.state[block] = RELEASED


@dataclass(eq=False, slots=True)
class Element:
    """A process that hands out blocks: its `Drive`, its `ShareFeed`, its workers."""

    own: int  # the next block of its share
    idle: int  # workers
    waiting: deque[list[int]] = field(default_factory=deque)  # batches, for a worker
    ended: list[list[int]] = field(default_factory=list)
    live: int = 0  # batches
    block_seconds: float | None = None
    looked: float = 0.0
    driver: Process | None = None
    is_asleep: bool = False
    holds: int = 0  # blocks
    untried: int = 0  # blocks that were free at the last look, and were not tried since
    doubtful: int = 0
    commits_then: int = 0
    claimed_then: int = 0
    known: float = 0.0  # claimants, of whom it is known that they are at work,
    known_since: float = 0.0
    has_looked: bool = False
    has_taken: bool = False
    is_over: bool = False


class Sweep:
    """A simulation.

    Parameters
    ----------
    seconds
        That each block takes.
    team, costs, server, rules
        Who hands out blocks, what each step costs, where, and by which rules.
    came
        When each process is there; None: all at once.
    held
        So many blocks, the last ones, are somebody else's all the time.
    seed
        Of what is drawn by chance.
    """

    def __init__(
        self,
        seconds: np.ndarray,
        team: Team,
        costs: Costs,
        server: Server,
        rules: Rules = Rules(),  # noqa: B008
        came: Sequence[float] | None = None,
        held: int = 0,
        seed: int = 0,
    ) -> None:
        self.blocks, self._costs, self._team, self._rules = Blocks(seconds), costs, team, rules
        self._random = random.Random(seed).random
        look: Cost = costs.marks + costs.mark * (team.workers - 1)
        look += costs.renew * (rules.look_seconds / RENEW_SECONDS)
        self._look_at_marks = look
        self.traffic = Traffic(server, look, rules.look_seconds)
        self._now = 0.0
        self._count = 0
        self._events: list[tuple[float, int, Process]] = []
        for block in range(len(seconds) - held, len(seconds)):
            self.blocks.claim(block)
        self.blocks.left -= held
        for number in range(team.processes):
            one = Element(number, team.workers)
            one.driver = self._drive(one)
            self._at(came[number] if came else 0.0, one.driver)

    def run(self, until: float = math.inf) -> Outcome:
        """Let it go on until some time, and return what becomes of it."""
        events, traffic = self._events, self.traffic
        while True:
            through = traffic.next_exit
            next_event = events[0][0] if events else math.inf
            if min(through, next_event) >= until:
                break
            if through <= next_event:
                now, process, seconds = traffic.leave()
                if seconds:
                    self._at(now + seconds, process)
                    continue
            else:
                now, _, process = heapq.heappop(events)
            self._now = now
            self._go_on(process)
        is_done = not self.blocks.left
        makespan = self.blocks.last_commit if is_done else until
        if not is_done:
            traffic.watch(until, 0)  # counts what is done until then
        return Outcome(makespan, *traffic.seen(makespan), self.blocks.commits, is_done)

    def _at(self, when: float, process: Process) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, process))

    def _go_on(self, process: Process) -> None:
        """Have a process do its next step, or more if they cost nothing."""
        for operations, seconds in process:
            if operations > 0.0:
                if self.traffic.is_short(operations):
                    seconds += self.traffic.take(self._now, operations)
                    self._at(self._now + seconds, process)
                else:
                    self.traffic.enter(self._now, process, operations, seconds)
                return
            if operations < 0.0:  # it sleeps
                return
            if seconds:
                self._at(self._now + seconds, process)
                return

    # --- a driver ------------------------------------------------------------------------

    def _drive(self, one: Element) -> Process:
        """Fill the window, take back what has ended, look at marks: what `Drive.run` does."""
        yield self._costs.join
        handing = Cost(0.0, self._costs.drive.seconds + self._team.message.seconds / 2)
        owed = NOTHING  # is paid for with the next step: each is an event
        while True:
            if not one.is_over and one.live < self._window(one):
                batch: list[int] = []
                wanted = self._batch_blocks(one)
                while len(batch) < wanted and not one.is_over:
                    claimed = len(batch)
                    owed += self._next(one, batch)
                    if len(batch) == claimed:  # others go on meanwhile
                        yield owed
                        owed = NOTHING
                if batch:
                    yield owed + handing
                    owed = NOTHING
                    one.live += 1
                    one.waiting.append(batch)
                    if one.idle:
                        one.idle -= 1
                        self._send(one, self._team.message.rest_seconds)
            elif owed != NOTHING:
                yield owed
                owed = NOTHING
            elif one.ended:
                owed = self._take_back(one)
                if self._now - one.looked > self._rules.look_seconds:
                    one.looked = self._now
                    owed += self._look_at_marks
            elif one.live:
                yield from self._sleep(one)
            else:
                break
        yield self._costs.leave + self._costs.name * self.blocks.commits

    def _sleep(self, one: Element) -> Process:
        """Wait for a worker, but look at marks meanwhile: what comes then has to wait."""
        self.traffic.watch(self._now, 1)
        one.is_asleep = True
        yield SLEEP
        self.traffic.watch(self._now, -1)
        one.looked = self._now
        yield 0.0, self.traffic.rest_of_look(self._random(), self._random())

    def _window(self, one: Element) -> int:
        is_short = one.block_seconds is not None and one.block_seconds <= LONG_SECONDS
        return self._team.workers * (2 if is_short else 1)

    def _batch_blocks(self, one: Element) -> int:
        if one.block_seconds is None:
            return 1
        own = -(-(len(self.blocks.seconds) - one.own) // self._team.processes)
        left = own if own > 0 else one.untried + one.doubtful
        balanced = math.ceil(left / (2 * self._team.workers))
        return max(1, min(int(BATCH_SECONDS / one.block_seconds), balanced))

    def _take_back(self, one: Element) -> Cost:
        batches, one.ended = one.ended, []
        one.live -= len(batches)
        if self._team.is_passive:
            for _ in batches:
                self._send_next(one)
        blocks = [block for batch in batches for block in batch]
        for block in blocks:
            self.blocks.release(block)
            took = self.blocks.seconds[block] + self._costs.commit.seconds
            known = took if one.block_seconds is None else one.block_seconds
            one.block_seconds = known + SMOOTHING * (took - known)
        one.holds -= len(blocks)
        messages = Cost(0.0, len(batches) * self._team.message.seconds / 2)
        return self._costs.release * len(blocks) + messages

    # --- its feed ------------------------------------------------------------------------

    def _next(self, one: Element, batch: list[int]) -> Cost:
        """Try blocks of the own share, then what was free at the last look, then what was not."""
        block = one.own
        if block < len(self.blocks.seconds):
            one.own += self._team.processes
            state = self.blocks.state[block]
            if state == FREE:
                return self._claim(one, batch, block)
            return self._fail(one, float(state == CLAIMED), float(state == RELEASED))
        if one.untried:
            return self._walk(one, batch)
        if one.doubtful:
            tried, one.doubtful = one.doubtful, 0
            since = self.blocks.commits - one.commits_then
            released = tried * min(1.0, since / one.claimed_then)
            return self._fail(one, tried - released, released)
        if one.has_looked and not one.has_taken:
            one.is_over = True
            return NOTHING
        return self._look(one)

    def _look(self, one: Element) -> Cost:
        others = self.blocks.claimed - one.holds
        one.untried, one.doubtful = self.blocks.free, min(others, self._rules.doubts)
        one.commits_then, one.claimed_then = self.blocks.commits, others
        one.has_looked, one.has_taken = True, False
        return self._costs.look + self._costs.name * (self.blocks.commits + self.blocks.claimed)

    def _claim(self, one: Element, batch: list[int], block: int) -> Cost:
        self.blocks.claim(block)
        batch.append(block)
        one.holds += 1
        one.has_taken = True
        return self._costs.claim

    def _walk(self, one: Element, batch: list[int]) -> Cost:
        """Go on through what was free at the last look, in an order drawn, to what still is."""
        free, failed = self.blocks.free, 0
        most = max(TRIES, one.untried // 3)
        gone = one.untried - free
        if gone:
            drawn = (
                math.log(1.0 - self._random()) / math.log1p(-free / one.untried) if free else gone
            )
            failed = min(gone, most, int(drawn))
        one.untried -= failed
        claimed = failed * min(1.0, (self.blocks.claimed - one.holds) / max(1, gone))
        cost = self._fail(one, claimed, failed - claimed)
        if free and failed < most:
            one.untried -= 1
            cost += self._claim(one, batch, self.blocks.some_free(self._random()))
        return cost

    def _fail(self, one: Element, claimed: float, released: float) -> Cost:
        """Fail at blocks that others have claimed, and at some that they have done with.

        Of each claimant it has to be found out if it is at work, once in some seconds.
        """
        if self._now > one.known_since + TRUST_SECONDS:
            one.known_since, one.known = self._now, 0.0
        others = max(1, self._team.processes - 1)
        new: float = (others - one.known) * (1.0 - (1.0 - 1.0 / others) ** claimed)
        one.known += new
        one.has_taken |= self._random() < released
        doubts = self._costs.doubt * new + self._costs.doubt_again * (claimed - new)
        return doubts + (self._costs.claim + self._costs.release) * released

    # --- its workers ---------------------------------------------------------------------

    def _send(self, one: Element, after: float) -> None:
        self._at(self._now + after, self._work(one, one.waiting.popleft()))

    def _send_next(self, one: Element) -> None:
        if one.waiting:
            self._send(one, self._team.message.seconds)
        else:
            one.idle += 1

    def _work(self, one: Element, batch: list[int]) -> Process:
        """Compute and commit: what `run_batch` does."""
        begin = self._costs.begin
        yield 0.0, begin.seconds + self.blocks.seconds[batch[0]]
        yield begin.operations + self._costs.commit.operations, self._costs.commit.seconds
        self.blocks.commit(self._now)
        for block in batch[1:]:
            yield 0.0, self.blocks.seconds[block]
            yield self._costs.commit
            self.blocks.commit(self._now)
        one.ended.append(batch)
        if not self._team.is_passive:
            self._send_next(one)
        if one.is_asleep:
            one.is_asleep = False
            assert one.driver
            self._at(self._now, one.driver)
