"""Requests that wait, by tier, and whose turn it is: strict order, but for floors and for who has waited too long.

A tier that lately got less of the executors' time than its floor is owed the rest, and goes first until it has it. A
request that has waited longer than its tier's aging goes ahead of its turn, for at most a small share of the time, so
that whatever waits is served some day and whatever is critical keeps the rest.

Laws: pure logic on the caller's clock; within a tier the earliest deadline goes first; a floor is a promise under
overload and costs nothing without it; a request that is put out is always of the lowest tier that may be, and there the
one of the latest deadline.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

__all__ = ["Job", "Shares", "Turn", "Waiting"]

T = TypeVar("T")

_AGED = 0.05  # the share of the time for those who have waited too long
_SPAN = 0.5  # seconds over which shares are judged


class Job(msgspec.Struct, Generic[T], frozen=True):
    """A request that waits: `rows` of work, instants in seconds, a `tier` (0 goes first), and whose it is."""

    rows: int
    arrived: float
    deadline: float
    payload: T
    tier: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """Take from `tier` next, as long as what is taken in this turn would last `seconds`, and one request at least."""

    tier: int
    seconds: float
    aged: bool = False


class Shares:
    """How the executors' time was spent of late, tier by tier, as shares of `executors`' whole time.

    `floors`: the share that each tier is owed; `agings`: seconds after which a request of it goes ahead of its turn.
    """

    def __init__(
        self, floors: Sequence[float] = (), agings: Sequence[float] = (), *, executors: int = 1, span: float = _SPAN
    ) -> None:
        self._executors, self._span = executors, span
        self.promise(floors, agings)
        self._spent: dict[int, float] = {}
        self._aged = 0.0
        self._at = -math.inf

    def promise(self, floors: Sequence[float], agings: Sequence[float]) -> None:
        """Goes by other floors and agings from now on."""
        self.floors, self.agings = tuple(floors), tuple(agings)
        self.are_plain = not any(self.floors) and all(wait == math.inf for wait in self.agings)

    def spend(self, now: float, tier: int, seconds: float) -> None:
        """An executor works on requests of `tier` for `seconds`; where nothing is promised, nobody asks for it."""
        if self.are_plain:
            return
        self._fade(now)
        self._spent[tier] = self._spent.get(tier, 0.0) + seconds / (self._span * self._executors)

    def spend_aged(self, now: float, seconds: float) -> None:
        """Of what an executor works on, so many seconds are for those who went ahead of their turn."""
        self._fade(now)
        self._aged += seconds / (self._span * self._executors)

    def _fade(self, now: float) -> None:
        if now <= self._at:
            return
        keep = math.exp((self._at - now) / self._span)
        self._at = now
        self._aged *= keep
        for tier in self._spent:
            self._spent[tier] *= keep

    def floor(self, tier: int) -> float:
        """The share that `tier` is owed."""
        return self.floors[tier] if tier < len(self.floors) else 0.0

    def aging(self, tier: int) -> float:
        """Seconds after which a request of `tier` goes ahead of its turn."""
        return self.agings[tier] if tier < len(self.agings) else math.inf

    def turns(self, waiting: Waiting[T], now: float) -> Iterator[Turn]:
        """In which order to take from the tiers that have requests."""
        filled = waiting.filled()
        if not self.are_plain and len(filled) > 1:
            self._fade(now)
            span = self._span * self._executors
            for tier in filled:
                owed = self.floor(tier) - self._spent.get(tier, 0.0)
                if owed > 0:
                    yield Turn(tier, owed * span)
            for tier in filled:
                owed = _AGED - self._aged
                if owed > 0 and waiting.rows_of(tier) and now - waiting.first(tier).arrived > self.aging(tier):
                    yield Turn(tier, owed * span, aged=True)
        for tier in filled:
            if waiting.rows_of(tier):
                yield Turn(tier, math.inf)


class Waiting(Generic[T]):
    """The requests that wait, in one queue a tier."""

    def __init__(self) -> None:
        self._queues: dict[int, list[tuple[float, int, Job[T]]]] = {}  # the latest deadline first
        self._rows: dict[int, int] = {}
        self._numbers = itertools.count(0, -1)
        self.requests = self.rows = 0

    def add(self, job: Job[T]) -> None:
        """A request waits from now on."""
        tier, rows = job.tier, job.rows
        queue = self._queues.get(tier)
        if queue is None:
            queue = self._queues[tier] = []
            self._queues = dict(sorted(self._queues.items()))
            self._rows.setdefault(tier, 0)
        bisect.insort(queue, (-job.deadline, next(self._numbers), job))
        self.requests += 1
        self.rows += rows
        self._rows[tier] += rows

    def _out(self, job: Job[T]) -> Job[T]:
        self.requests -= 1
        self.rows -= job.rows
        self._rows[job.tier] -= job.rows
        return job

    def filled(self) -> list[int]:
        """The tiers that have requests, the highest first."""
        return [tier for tier, queue in self._queues.items() if queue]

    def rows_of(self, tier: int) -> int:
        """Rows of one tier that wait."""
        return self._rows.get(tier, 0)

    def requests_of(self, tier: int) -> int:
        """Requests of one tier that wait."""
        return len(self._queues.get(tier, ()))

    def rows_before(self, tier: int) -> int:
        """Rows that wait in `tier` and those above it."""
        total = 0
        if not self.rows:
            return total
        for other, rows in self._rows.items():
            if other <= tier:
                total += rows
        return total

    def first(self, tier: int) -> Job[T]:
        """The request of a tier that is next."""
        return self._queues[tier][-1][2]

    def heads(self) -> Iterator[Job[T]]:
        """The next request of each tier that has any."""
        return (queue[-1][2] for queue in self._queues.values() if queue)

    def take(self, tier: int) -> Job[T]:
        """Takes the request of a tier that is next."""
        return self._out(self._queues[tier].pop()[2])

    def take_all(self, tier: int) -> list[Job[T]]:
        """Takes all requests of a tier, the next one first."""
        queue = self._queues[tier]
        jobs = [entry[2] for entry in reversed(queue)]
        self.requests -= len(jobs)
        self.rows -= self._rows[tier]
        self._rows[tier] = 0
        queue.clear()
        return jobs

    def put_out(self, tier: int) -> Job[T]:
        """Takes the request of a tier whose deadline is the latest."""
        return self._out(self._queues[tier].pop(0)[2])
