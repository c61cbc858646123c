"""When to run which of the waiting requests together: late-bound, earliest deadline first, one step of lookahead.

Let a batch of r rows take alpha + beta * r. Late binding gives the capacity: a batch is formed at the instant an
executor is free, so a backlog merges by itself, and behind a backlog nothing waits. Waiting pays only when the executor
is idle: with n requests in hand and one more expected in X, waiting saves alpha and costs (n + 1) * X + n * beta. The
wait that adds up is bounded by alpha, as in the TCP acknowledgement rule (Dooly et al. 2001), so that a wrong guess
costs no more than twice. Where a row takes longer than a batch does by itself, those who could run together run one
part after the other, if that gains the first more than it costs those behind. A request that cannot make its deadline
is told so before any work; when there is more traffic than batches that the nearest deadlines leave room for can
answer, those deadlines are given up (after Symphony, arXiv 2308.07470).

Laws: pure logic on the caller's clock, so a server and a simulator run the same code; no request is lost; a batch is
never expected to miss a deadline of its own, but for one request that is tried now and then while nothing else runs:
the estimates learn from batches alone, and would else never learn that a slow time is over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, TypeAlias, TypeVar

import msgspec

from trilane.serving.arrivals import Arrivals
from trilane.serving.latency import LatencyModel
from trilane.serving.tiers import Job, Shares, Waiting
from trilane.serving.trials import TRIAL, Trials

__all__ = ["Batch", "Decision", "Dispatcher", "Job", "Late", "Wait"]

T = TypeVar("T")

_CHEAP = 9.0  # a batch of so many times alpha / beta rows spends a tenth of its time on alpha
_BRIEF = 2e-3  # seconds; where a batch takes less, what the server does for each request besides is most of its work
_SCAN = 512  # how many waiting requests are looked at to find a better batch than the first


class Batch(msgspec.Struct, Generic[T], frozen=True):
    """Run these together now. `expected`: seconds; `reason`: why now."""

    jobs: tuple[Job[T], ...]
    rows: int
    expected: float
    reason: str


class Late(msgspec.Struct, Generic[T], frozen=True):
    """These cannot be answered in time any more; no work was done for them."""

    jobs: tuple[Job[T], ...]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to run before `until`, unless a request comes."""

    until: float


Decision: TypeAlias = Batch[T] | Late[T] | Wait


class Dispatcher(Generic[T]):
    """The waiting requests of one model.

    `max_rows`: the largest batch; `price`: what a second of the executor is worth, in seconds of waiting (0: latency
    alone counts); `margin`: seconds that pass between an answer and its arrival at the caller; `shares`: how the time
    of the executors is shared among the tiers, by all dispatchers that have it.
    """

    def __init__(
        self,
        latency: LatencyModel,
        *,
        arrivals: Arrivals | None = None,
        max_rows: int = 1_024,
        price: float = 0.0,
        margin: float = 0.0,
        shares: Shares | None = None,
    ) -> None:
        self.latency = latency
        self.arrivals = arrivals or Arrivals()
        self._max_rows, self._price, self._margin = max_rows, price, margin
        self.shares = shares or Shares()
        self.waiting = Waiting[T]()
        self._trials = Trials()
        self._note(1)

    @property
    def requests(self) -> int:
        """Requests that wait."""
        return self.waiting.requests

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self.waiting.rows

    def add(self, job: Job[T], now: float) -> None:
        """A request came."""
        self.arrivals.seen(now, job.rows)
        self.waiting.add(job)

    def done(self, rows: int, seconds: float, *, tried: bool = False) -> None:
        """A batch of `rows` took `seconds`; `tried`: that was its reason."""
        if tried:
            self._trials.ended(seconds)
            self.latency.renew(rows, seconds)
        elif not self.latency.sample(rows, seconds):
            return
        self._note(rows)

    def failed(self, seconds: float) -> None:
        """What was tried ended after `seconds` with nothing to learn from."""
        self._trials.ended(seconds)

    def _note(self, rows: int) -> None:
        """Keeps by what factor a batch like the last strays from the line, as each request that comes asks for it."""
        line = self.latency.alpha + self.latency.beta * rows
        usually = self.latency.expected(rows) / max(line, 1e-9)
        self._a_batch, self._a_row = self.latency.alpha * usually, self.latency.beta * usually

    def next(self, now: float, *, others_busy: bool = True) -> Decision[T] | None:
        """What a free executor should do; None if nothing waits. `others_busy`: whether no other executor is free.

        Ask again after a `Late`, and at the instant of a `Wait`, or when a request comes.
        """
        if not self.waiting.requests:
            return None
        if self.waiting.requests == 1 and not self._is_late(only := next(self.waiting.heads()), now):
            return self._only(only, now, others_busy)
        late = self.late(now)
        if late is not None:
            return self._late_but_one(late, now)
        jobs, aged = self._first(now)
        if self.waiting.requests:
            return self._backlog(jobs, aged, now)
        first = self._ahead(jobs, now)
        if first < len(jobs):
            for job in jobs[first:]:
                self.waiting.add(job)
            return self._batch(jobs[:first], "ahead", now, min(aged, first))
        until, reason = self._worth_waiting(jobs, now, others_busy)
        if until > now:
            for job in jobs:
                self.waiting.add(job)
            return Wait(until)
        return self._batch(jobs, reason, now, aged)

    def may_try(self, deadline: float, now: float) -> bool:
        """Whether a request that seems to be late should join those that wait, to be tried as nothing else teaches
        better. Ask once for each request.
        """
        return not self.waiting.requests and self._trials.lets_in(now, self.latency, self._room(deadline, now))

    def _late_but_one(self, late: Late[T], now: float) -> Late[T] | Batch[T]:
        """Those for whom nothing is done, who hear first; then the one that may be tried, if it is all that waits."""
        best = min(late.jobs, key=lambda job: (job.rows, job.tier, -job.deadline))
        if self.waiting.requests or not self._trials.due(now, self.latency, best.rows, self._room(best.deadline, now)):
            return late
        if len(late.jobs) == 1:
            return self._batch([best], TRIAL, now)
        self.waiting.add(best)
        return Late(tuple(job for job in late.jobs if job is not best))

    def _only(self, job: Job[T], now: float, others_busy: bool) -> Decision[T]:
        """The same for one that waits alone, as nearly all do where traffic is spread over many models."""
        until, reason = self._worth_waiting((job,), now, others_busy)
        return Wait(until) if until > now else self._batch((self.waiting.take(job.tier),), reason, now)

    def _room(self, deadline: float, now: float) -> float:
        return deadline - self._margin - now

    def late(self, now: float) -> Late[T] | None:
        """Takes out those that even alone and at once would come too late, also while no executor is free."""
        late: list[Job[T]] = []
        for tier in self.waiting.filled():
            while self.waiting.requests_of(tier) and self._is_late(self.waiting.first(tier), now):
                late.append(self.waiting.take(tier))
        return Late(tuple(late)) if late else None

    def _is_late(self, job: Job[T], now: float) -> bool:
        return job.deadline < math.inf and self._room(job.deadline, now) < self.latency.upper(job.rows)

    @property
    def late_from(self) -> float:
        """The instant after which the next of those that wait are late, if none runs before; inf if none will be."""
        heads = (self._room(job.deadline, self.latency.upper(job.rows)) for job in self.waiting.heads())
        return min(heads, default=math.inf)

    def wait(self, tier: int, rows: int, now: float, busy: float = 0.0, executors: int = 1) -> float:
        """Seconds until a request of `rows` that came now would be answered, if all goes as usual.

        `busy`: seconds until the first of the `executors` is free. It is what those of its tier and above it take, or
        those of its tier at its floor.
        """
        rows_first = self.waiting.rows_before(tier) + rows
        if self.shares.are_plain and 0 < rows_first < self._max_rows:  # as nearly always
            return busy + self._a_batch + self._a_row * rows_first
        seconds, floor = self._lasts(rows_first, executors), self.shares.floor(tier)
        if floor and tier:
            # They run along with others, so that each costs its rows alone.
            own = self.waiting.rows_of(tier) * self._a_row / floor
            seconds = min(seconds, self._lasts(rows, executors) + own)
        return busy + seconds

    def _lasts(self, rows: int, executors: int) -> float:
        """Seconds that it usually takes to work on so many rows."""
        if rows < self._max_rows:
            return self._a_batch + self._a_row * rows if rows else 0.0
        full, rest = divmod(rows, self._max_rows)
        seconds = self._a_batch + self._a_row * rest if rest else 0.0
        return seconds + full * self.latency.expected(self._max_rows) / executors if full else seconds

    def unloaded(self, requests: int) -> float:
        """Seconds that an answer takes if `requests` are in and none of them waits for more than it must.

        That is the batch that runs when it comes, and its own; they are as large as makes them cheap a row, no larger.
        """
        cheap = 1 + _CHEAP * self.latency.alpha / max(self.latency.beta, 1e-9)
        rows = min(max(requests * self.arrivals.rows / 2, 1.0), cheap, self._max_rows)
        return 2 * self.latency.expected(math.ceil(rows))

    def _first(self, now: float) -> tuple[list[Job[T]], int]:
        """The batch by the order of tiers and deadlines, as large as its deadlines allow; how many are out of turn."""
        all_rows, tiers = self.waiting.rows, self.waiting.filled()
        if len(tiers) == 1 and all_rows <= self._max_rows:
            first = self.waiting.first(tiers[0])
            if self.latency.upper(all_rows) <= self._room(first.deadline, now):
                return self.waiting.take_all(tiers[0]), 0  # what follows, asked once for all
        jobs: list[Job[T]] = []
        rows, nearest, aged = 0, math.inf, 0
        for turn in self.shares.turns(self.waiting, now):
            most = rows + self._worth(turn.seconds, rows)
            tier, left = turn.tier, self.waiting.requests_of(turn.tier)
            while left and rows < most:
                job = self.waiting.first(tier)
                total = rows + job.rows
                limit = job.deadline if job.deadline < nearest else nearest
                if jobs and (total > self._max_rows or self.latency.upper(total) > self._room(limit, now)):
                    return jobs, aged
                jobs.append(self.waiting.take(tier))
                rows, nearest, aged, left = total, limit, aged + turn.aged, left - 1
        return jobs, aged

    def _worth(self, seconds: float, rows: int) -> float:
        """How many rows more than `rows` take so many seconds; one at least."""
        if seconds == math.inf:
            return math.inf
        alone = self.latency.alpha if not rows else 0.0  # a batch that runs anyway costs its rows alone
        return max(1.0, (seconds - alone) / max(self.latency.beta, 1e-9))

    def _backlog(self, jobs: list[Job[T]], aged: int, now: float) -> Batch[T]:
        """More waits than fits: this batch, or a larger one of later deadlines, if it takes that to keep up."""
        rows = sum(job.rows for job in jobs)
        served = rows / self.latency.expected(rows)
        full = rows + self.arrivals.rows > self._max_rows
        if full or served >= self.arrivals.rate * self.arrivals.rows:
            return self._batch(jobs, "full" if full else "backlog", now, aged)
        better = self._larger(jobs, now, served)
        return self._batch(better, "overload", now) if better else self._batch(jobs, "backlog", now, aged)

    def _larger(self, jobs: list[Job[T]], now: float, served: float) -> list[Job[T]] | None:
        """A batch of later deadlines that answers more rows a second than `served`, if there is one.

        Only those of the last tier in it make room: what is above them keeps its place.
        """
        tier = jobs[-1].tier
        kept = [job for job in jobs if job.tier != tier]
        kept_rows, nearest = sum(job.rows for job in kept), min((job.deadline for job in kept), default=math.inf)
        own = [job for job in jobs if job.tier == tier]
        more = min(self.waiting.requests_of(tier), _SCAN)
        own += [self.waiting.take(tier) for _ in range(more)]
        best, start, stop = served, 0, 0
        for first in range(0, len(own), max(1, len(own) // 32)):
            seconds = self._room(min(nearest, own[first].deadline), now)
            room = self.latency.rows_within(seconds, self._max_rows)
            last, rows = first, kept_rows
            while last < len(own) and rows + own[last].rows <= room:
                rows += own[last].rows
                last += 1
            # What was seen of some sizes may make fewer rows take longer than more.
            fits = last > first and self.latency.upper(rows) <= seconds
            if fits and rows / self.latency.expected(rows) > 1.05 * best:
                best, start, stop = rows / self.latency.expected(rows), first, last
        if not stop:
            stop = len(own) - more
        for job in (*own[:start], *own[stop:]):
            self.waiting.add(job)
        return [*kept, *own[start:stop]] if best > served else None

    def _ahead(self, jobs: Sequence[Job[T]], now: float) -> int:
        """How many of those that could run together should run before the others; all of them, if it does not pay.

        Of n rows b then hear (n - b) * beta earlier, most of all together where b is (n + alpha / beta) / 2. The others
        hear alpha later, and so do those who come until nobody waits: at a rate of l and in batches like this one,
        l * (alpha + n * beta) / (1 - l * (alpha / n + beta)) rows.
        """
        alpha, beta, rows = self.latency.alpha, self.latency.beta, sum([job.rows for job in jobs])
        if len(jobs) < 2 or alpha >= beta * rows or alpha + beta * rows < _BRIEF:
            return len(jobs)
        rate = self.arrivals.rate * self.arrivals.rows
        idle = 1 - rate * (alpha / rows + beta)
        if idle <= 0:
            return len(jobs)
        most, count, first = max(round((rows + alpha / beta) / 2), jobs[0].rows), 0, 0
        while first < len(jobs) and count + jobs[first].rows <= most:
            count, first = count + jobs[first].rows, first + 1
        left = rows - count
        if left * (count * beta - alpha) <= alpha * rate * (alpha + beta * rows) / idle:
            return len(jobs)
        nearest = min((job.deadline for job in jobs[first:]), default=math.inf)
        both = self.latency.upper(count) + self.latency.upper(left) if left else 0.0
        return first if nearest == math.inf or both <= self._room(nearest, now) else len(jobs)

    def _worth_waiting(self, jobs: Sequence[Job[T]], now: float, others_busy: bool) -> tuple[float, str]:
        """Until when to wait for company (at most `now`: not at all), and why not longer."""
        count, rows = len(jobs), sum([job.rows for job in jobs])
        if rows + self.arrivals.rows > self._max_rows:
            return now, "full"
        nearest = min([job.deadline for job in jobs])
        stop = math.inf
        if nearest < math.inf:
            stop = now + self._room(nearest, now) - self.latency.upper(math.ceil(rows + self.arrivals.rows))
            if stop <= now:
                return now, "deadline"
        gain = self.latency.alpha * (float(others_busy) + self._price)
        # A clock that was set back must not make anybody wait until it has caught up.
        waited = 0.0
        for job in jobs:
            waited += now - job.arrived if job.arrived <= now else gain
            if waited >= gain:
                return now, "waited"
        ahead = self.arrivals.residual(now)
        if gain <= (count + 1) * ahead + count * self.latency.beta * self.arrivals.rows:
            return now, "idle"
        return min(stop, now + (gain - waited) / count), "waited"

    def _batch(self, jobs: Sequence[Job[T]], reason: str, now: float, aged: int = 0) -> Batch[T]:
        rows = sum([job.rows for job in jobs])
        expected = self.latency.expected(rows)
        self._trials.began(now, tried=reason == TRIAL)
        if not self.shares.are_plain:
            by_tier: dict[int, int] = {}
            for job in jobs:
                by_tier[job.tier] = by_tier.get(job.tier, 0) + job.rows
            for tier, own in by_tier.items():
                self.shares.spend(now, tier, expected * own / rows)
        if aged:
            self.shares.spend_aged(now, expected * aged / len(jobs))
        return Batch(tuple(jobs), rows, expected, reason)
