"""When to run which of the waiting requests together: late-bound, earliest deadline first, one step of lookahead.

Let a batch of r rows take alpha + beta * r. Late binding gives the capacity: a batch is formed at the instant an
executor is free, so a backlog merges by itself, and behind a backlog nothing waits. Waiting pays only when the executor
is idle: with n requests in hand and one more expected in X, waiting saves alpha and costs (n + 1) * X + n * beta. The
wait that adds up is bounded by alpha, as in the TCP acknowledgement rule (Dooly et al. 2001), so that a wrong guess
costs no more than twice. A request that cannot make its deadline is told so before any work; when there is more traffic
than batches that the nearest deadlines leave room for can answer, those deadlines are given up (after Symphony, arXiv
2308.07470).

Laws: pure logic on the caller's clock, so a server and a simulator run the same code; no request is lost; a batch is
never expected to miss a deadline of its own.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from trilane.serving.arrivals import Arrivals
from trilane.serving.latency import LatencyModel

__all__ = ["Batch", "Decision", "Dispatcher", "Job", "Late", "Wait"]

T = TypeVar("T")

_SCAN = 512  # how many waiting requests are looked at to find a better batch than the first


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """A request that waits: `rows` of work, instants in seconds, a `tier` (0 goes first), and whose it is."""

    rows: int
    arrived: float
    deadline: float
    payload: T
    tier: int = 0


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Run these together now. `expected`: seconds; `reason`: why now."""

    jobs: tuple[Job[T], ...]
    rows: int
    expected: float
    reason: str


@dataclass(frozen=True, slots=True)
class Late(Generic[T]):
    """These cannot be answered in time any more; no work was done for them."""

    jobs: tuple[Job[T], ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to run before `until`, unless a request comes."""

    until: float


Decision: TypeAlias = Batch[T] | Late[T] | Wait


class Dispatcher(Generic[T]):
    """The waiting requests of one model.

    `max_rows`: the largest batch; `price`: what a second of the executor is worth, in seconds of waiting (0: latency
    alone counts); `margin`: seconds that pass between an answer and its arrival at the caller.
    """

    def __init__(
        self,
        latency: LatencyModel,
        *,
        arrivals: Arrivals | None = None,
        max_rows: int = 1_024,
        price: float = 0.0,
        margin: float = 0.0,
        aging: float = math.inf,
    ) -> None:
        self.latency = latency
        self.arrivals = arrivals or Arrivals()
        self._max_rows, self._price, self._margin, self._aging = max_rows, price, margin, aging
        self._tiers: dict[int, list[tuple[float, int, Job[T]]]] = {}
        self._numbers = itertools.count()
        self.requests = self.rows = 0

    def add(self, job: Job[T], now: float) -> None:
        """A request came."""
        self.arrivals.seen(now, job.rows)
        self._push(job)

    def _push(self, job: Job[T]) -> None:
        heapq.heappush(self._tiers.setdefault(job.tier, []), (job.deadline, next(self._numbers), job))
        self.requests += 1
        self.rows += job.rows

    def done(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took `seconds`."""
        self.latency.observe(rows, seconds)

    def next(self, now: float, *, others_busy: bool = True) -> Decision[T] | None:
        """What a free executor should do; None if nothing waits. `others_busy`: whether no other executor is free.

        Ask again after a `Late`, and at the instant of a `Wait`, or when a request comes.
        """
        if not self.requests:
            return None
        late = self.late(now)
        if late is not None:
            return late
        jobs = self._first(now)
        if len(jobs) < self.requests:
            return self._backlog(jobs, now)
        until, reason = self._worth_waiting(jobs, now, others_busy)
        if until > now:
            for job in jobs:
                self._push(job)
            return Wait(until)
        return self._batch(jobs, reason)

    def _room(self, deadline: float, now: float) -> float:
        return deadline - self._margin - now

    def late(self, now: float) -> Late[T] | None:
        """Takes out those that even alone and at once would come too late, also while no executor is free."""
        late: list[Job[T]] = []
        for tier in self._tiers.values():
            while tier and self._room(tier[0][0], now) < self.latency.upper(tier[0][2].rows):
                late.append(self._pop(tier))
        return Late(tuple(late)) if late else None

    @property
    def late_from(self) -> float:
        """The instant after which the next of those that wait are late, if none runs before; inf if none will be."""
        heads = (tier[0] for tier in self._tiers.values() if tier)
        return min((self._room(head[0], self.latency.upper(head[2].rows)) for head in heads), default=math.inf)

    def _pop(self, tier: list[tuple[float, int, Job[T]]]) -> Job[T]:
        job = heapq.heappop(tier)[2]
        self.requests -= 1
        self.rows -= job.rows
        return job

    def _order(self, now: float) -> list[list[tuple[float, int, Job[T]]]]:
        """The tiers that have requests, those first whose next has waited too long."""
        filled = [(number, tier) for number, tier in sorted(self._tiers.items()) if tier]
        aged = [tier for _, tier in filled if now - tier[0][2].arrived > self._aging]
        return aged + [tier for _, tier in filled if not any(tier is old for old in aged)]

    def _first(self, now: float) -> list[Job[T]]:
        """The batch by the order of tiers and deadlines, as large as its deadlines allow."""
        jobs: list[Job[T]] = []
        rows, nearest = 0, math.inf
        for tier in self._order(now):
            while tier:
                deadline, _, job = tier[0]
                total, limit = rows + job.rows, min(nearest, deadline)
                if jobs and (total > self._max_rows or self.latency.upper(total) > self._room(limit, now)):
                    return jobs
                jobs.append(self._pop(tier))
                rows, nearest = total, limit
        return jobs

    def _backlog(self, jobs: list[Job[T]], now: float) -> Batch[T]:
        """More waits than fits: this batch, or a larger one of later deadlines, if it takes that to keep up."""
        rows = sum(job.rows for job in jobs)
        served = rows / self.latency.expected(rows)
        full = rows + self.arrivals.rows > self._max_rows
        if full or served >= self.arrivals.rate * self.arrivals.rows:
            return self._batch(jobs, "full" if full else "backlog")
        better = self._larger(jobs, now, served)
        return self._batch(better, "overload") if better else self._batch(jobs, "backlog")

    def _larger(self, jobs: list[Job[T]], now: float, served: float) -> list[Job[T]] | None:
        """A batch of later deadlines that answers more rows a second than `served`, if there is one."""
        tier = next(iter(self._order(now)), None)
        if tier is None:
            return None
        waiting = [*jobs, *(self._pop(tier) for _ in range(min(len(tier), _SCAN)))]
        waiting.sort(key=lambda job: job.deadline)
        best, start, stop = served, 0, 0
        for first in range(0, len(waiting), max(1, len(waiting) // 32)):
            room = self.latency.rows_within(self._room(waiting[first].deadline, now), self._max_rows)
            last, rows = first, 0
            while last < len(waiting) and rows + waiting[last].rows <= room:
                rows += waiting[last].rows
                last += 1
            if rows and rows / self.latency.expected(rows) > 1.05 * best:
                best, start, stop = rows / self.latency.expected(rows), first, last
        if stop:
            jobs = waiting[start:stop]
            for job in (*waiting[:start], *waiting[stop:]):
                self._push(job)
            return jobs
        for job in waiting[len(jobs) :]:
            self._push(job)
        # The first batch must be what it was, whatever the sorting did.
        jobs[:] = waiting[: len(jobs)]
        return None

    def _worth_waiting(self, jobs: list[Job[T]], now: float, others_busy: bool) -> tuple[float, str]:
        """Until when to wait for company (at most `now`: not at all), and why not longer."""
        count, rows = len(jobs), sum(job.rows for job in jobs)
        if rows + self.arrivals.rows > self._max_rows:
            return now, "full"
        nearest = min(job.deadline for job in jobs)
        stop = now + self._room(nearest, now) - self.latency.upper(math.ceil(rows + self.arrivals.rows))
        if stop <= now:
            return now, "deadline"
        gain = self.latency.alpha * (float(others_busy) + self._price)
        waited = sum(max(now - job.arrived, 0.0) for job in jobs)
        if waited >= gain:
            return now, "waited"
        ahead = self.arrivals.residual(now)
        if gain <= (count + 1) * ahead + count * self.latency.beta * self.arrivals.rows:
            return now, "idle"
        return min(stop, now + (gain - waited) / count), "waited"

    def _batch(self, jobs: list[Job[T]], reason: str) -> Batch[T]:
        rows = sum(job.rows for job in jobs)
        return Batch(tuple(jobs), rows, self.latency.expected(rows), reason)
