"""Which block comes next: all of a plan, those that nobody else is at, or a share of a sweep.

A drive asks its feed for one block after the other. What a feed hands out is claimed, so that
several drives on one store do not compute the same.
"""

import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from sweep.blame import Attempt
from sweep.plan import Block, Plan
from sweep.store import fingerprint, is_settled
from sweep.store.claims import Claims

LOOK_SECONDS = 1.0  # between two looks at what others are at
MOST_DOUBTS = 200  # claims of others that are looked into at a time


class Feed(Protocol):
    """What a drive asks of a feed."""

    left: int  # blocks that may come still, about

    def next(self, *, suspects: bool = True) -> Attempt | None:
        """Return a block to compute; None if there is none now.

        Without `suspects`, none at which all of a process died: others may take it, too.
        """

    def is_over(self) -> bool:
        """Tell whether none will come any more, unless one is released."""

    def release(self, block: Block) -> None:
        """Let go of a block, which is committed or given up."""


class ClaimedFeed:
    """Every block of a plan that nobody else is at; others' blocks are waited for.

    The drive counts what others have committed meanwhile.

    Parameters
    ----------
    claims
        Of this process.
    plan
        What is left.
    backwards
        Whether to begin with the last block: somebody else is at the first ones.
    """

    def __init__(self, claims: Claims, plan: Plan, *, backwards: bool = False) -> None:
        self._claims = claims
        self._blocks = plan.remaining(backwards=backwards)
        self._passed: list[Block] = []  # others are at these
        self._look_at = 0.0
        self.left = plan.blocks_left

    def next(self, *, suspects: bool = True) -> Attempt | None:
        """Return the next block that nobody is at."""
        for _ in range(2):  # what comes next, then once what others were at
            for block in self._blocks:
                claim = self._claims.take(block, suspects=suspects)
                if claim is not None:
                    self.left -= 1
                    return Attempt.after(block, claim.attempts, claim.deaths)
                self._passed.append(block)
            if not self._passed or time.monotonic() < self._look_at:
                break
            self._look_at = time.monotonic() + LOOK_SECONDS
            self._blocks, self._passed = iter(self._passed), []
        return None

    def is_over(self) -> bool:
        """Tell whether no block is left that others are at."""
        return self.left == 0

    def release(self, block: Block) -> None:
        """Let go of a block."""
        self._claims.release(block)


class ShareFeed:
    """A strided share of what is left, then what others have not begun; nobody is waited for.

    Parameters
    ----------
    claims
        Of this process.
    share
        Which one, from 0, of how many.
    """

    def __init__(self, claims: Claims, share: tuple[int, int]) -> None:
        self._claims = claims
        self._store = claims.store
        self._rng = np.random.default_rng()
        self._reopened = {
            self._store.grid.block_named(name): told
            for name, told in self._store.reopened(claims.run).items()
        }
        self._has_had = np.zeros(self._store.grid.blocks, bool)  # what was handed out by this feed
        number, count = share
        mine = self._left()[number::count]
        self._blocks, self.left = self._made(mine), len(mine)
        self._has_looked = self._is_over = False
        self._has_taken = self._has_seen_all = False  # since the last look

    def next(self, *, suspects: bool = True) -> Attempt | None:
        """Return the next block, of the own share or, when that is done, of others'."""
        while not self._is_over:
            self._has_seen_all &= suspects
            for block in self._blocks:
                self.left -= 1
                claim = self._claims.take(block, suspects=suspects)
                if claim is not None:
                    self._has_taken = self._has_had[block.number] = True
                    return Attempt.after(block, claim.attempts, claim.deaths)
            if self._has_looked and not self._has_taken:
                self._is_over = self._has_seen_all
                if not suspects:
                    break
            if not self._is_over:
                self._look_again()
        return None

    def is_over(self) -> bool:
        """Tell whether others are at all that is left."""
        return self._is_over

    def release(self, block: Block) -> None:
        """Let go of a block."""
        self._claims.release(block)

    def points_left(self) -> int:
        """Return how many points are left of the sweep, by a look into one folder."""
        return int(self._store.grid.block_points()[self._left(or_stale=True)].sum())

    def _look_again(self) -> None:
        """Look for blocks that others have not begun, or have died at.

        What was handed out here before is in flight, or was given up.
        """
        left = self._left()
        left = left[~self._has_had[left]]
        taken = {self._store.grid.block_named(name).number for name in self._claims.taken()}
        is_taken = np.isin(left, list(taken))
        free = self._rng.permutation(left[~is_taken])  # who looks now is not to want the same
        doubtful = self._rng.permutation(left[is_taken])[:MOST_DOUBTS]
        found = np.concatenate([free, doubtful])
        self._blocks, self.left = self._made(found), len(found)
        self._has_looked, self._has_taken, self._has_seen_all = True, False, True

    def _left(self, *, or_stale: bool = False) -> np.ndarray:
        """Return the numbers of the blocks that are left: one look into one folder.

        What was computed again in this run and became stale is not, unless asked for.
        """
        is_left = np.ones(self._store.grid.blocks, bool)
        is_left[self._store.numbers_with_status()] = False
        for block, before in self._reopened.items():
            status = self._store.read_status(block)
            is_settled_now = status is not None and is_settled(status)
            is_as_before = fingerprint(status) == before
            is_left[block.number] = not is_settled_now and (is_as_before or or_stale)
        return np.flatnonzero(is_left)

    def _made(self, numbers: np.ndarray) -> Iterator[Block]:
        return (self._store.grid.block(int(number)) for number in numbers)
