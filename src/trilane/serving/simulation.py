"""Requests on a virtual clock through the policy that the server runs: what would happen, without waiting for it.

Law: the policy's own code decides, and the outcome depends on the requests, the costs and the seed alone.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np

from trilane.features.algebra import Floats
from trilane.serving.admission import PUT_OUT, Admission, Entry
from trilane.serving.dispatch import Batch, Decision, Dispatcher, Job, Late, Wait
from trilane.serving.trials import TRIAL

__all__ = ["Door", "Outcome", "Policy", "Request", "poisson", "simulate"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it comes (seconds), its rows, how long it may take, its tier, and who asks."""

    at: float
    rows: int = 1
    patience: float = math.inf
    tier: int = 0
    caller: str = ""


class Policy(Protocol):
    """What decides; a `Dispatcher` is one."""

    def add(self, job: Job[int], now: float) -> None: ...
    def next(self, now: float, *, others_busy: bool = True) -> Decision[int] | None: ...
    def done(self, rows: int, seconds: float, *, tried: bool = False) -> None: ...


@dataclass(slots=True)
class Outcome:
    """`latencies` [requests] in seconds, inf for those not answered in time; the batches' rows; the executor's time."""

    latencies: Floats
    batches: list[int] = field(default_factory=list)
    busy: float = 0.0
    worked: set[int] = field(default_factory=set)  # numbers of the requests that an executor worked on
    last: float = -math.inf  # the instant at which the last batch ended

    def began(self, batch: Batch[int], lasts: float) -> None:
        """An executor works on a batch."""
        self.worked.update(job.payload for job in batch.jobs)
        self.batches.append(batch.rows)
        self.busy += lasts

    def ended(self, batch: Batch[int], now: float) -> None:
        """A batch is answered."""
        self.last = max(self.last, now)
        for job in batch.jobs:
            if now <= job.deadline:
                self.latencies[job.payload] = now - job.arrived

    def quantile(self, q: float) -> float:
        """The latency, in seconds, that a part `q` of all requests stays below; those not answered count as inf."""
        return float(np.quantile(self.latencies, q, method="higher"))

    @property
    def answered(self) -> float:
        """The part of the requests that was answered in time."""
        return float(np.isfinite(self.latencies).mean())


def poisson(rate: float, seconds: float, *, seed: int, rows: int = 1, patience: float = math.inf) -> list[Request]:
    """Requests that come independently, `rate` a second on average."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, int(rate * seconds * 1.2) + 64)
    return [Request(at, rows, patience) for at in np.cumsum(gaps).tolist() if at < seconds]


class Door:
    """The line before a dispatcher as `admission` sees it, whose entries are the numbers of requests.

    `ladder`: whether who cannot be in time gets a worse answer instead of none; `apart`: whether the executors leave
    the event loop free, so that who waits in vain hears of it while they work. Attributes: `refused`, why, by the
    number of the request; `instead`: those who got a worse answer, in time.
    """

    def __init__(
        self,
        admission: Admission,
        dispatcher: Dispatcher[int],
        *,
        executors: int = 1,
        ladder: bool = False,
        apart: bool = False,
    ) -> None:
        self._admission, self._dispatcher, self._executors = admission, dispatcher, executors
        self._ladder, self._apart = ladder, apart
        self.lateness = admission.lateness
        self.refused: dict[int, str] = {}
        self.instead: set[int] = set()
        self._entries: dict[int, Entry] = {}
        self._ends: list[float] = []  # when the batches that run are expected to end
        admission.watch([self])

    def wait(self, tier: int, rows: int, now: float) -> float:
        """See `Line`."""
        busy = max(self._ends[0] - now, 0.0) if len(self._ends) >= self._executors else 0.0
        return self._dispatcher.wait(tier, rows, now, busy, self._executors)

    def unloaded(self, requests: int) -> float:
        """See `Line`."""
        return self._dispatcher.unloaded(requests)

    def may_try(self, deadline: float, now: float) -> bool:
        """See `Line`."""
        return len(self._ends) < self._executors and self._dispatcher.may_try(deadline, now)

    def waiting(self, tier: int) -> int:
        """See `Line`."""
        return self._dispatcher.waiting.requests_of(tier)

    def put_out(self, tier: int) -> bool:
        """See `Line`."""
        if not self.waiting(tier):
            return False
        job = self._dispatcher.waiting.put_out(tier)
        self._admission.put_out(tier, 0.0)
        self.refused[job.payload] = PUT_OUT
        self.leave(job, None)
        return True

    def lets_in(self, job: Job[int], caller: str) -> Job[int] | None:
        """A request as it joins those that wait; None if it may not."""
        admission = self._admission
        entry = admission.admit(self, job.tier, job.arrived, job.deadline, caller=caller, ladder=self._ladder)
        if not isinstance(entry, Entry):
            self.refused[job.payload] = entry.reason
            return None
        self._entries[job.payload] = entry
        admission.charge(caller, job.rows, job.arrived)
        return msgspec.structs.replace(job, deadline=entry.due) if entry.hopeless else job

    def leave(self, job: Job[int], answered: float | None) -> None:
        """A request is out."""
        self._admission.leave(self._entries.pop(job.payload), answered)

    def misses(self, jobs: Sequence[Job[int]], now: float) -> None:
        """They cannot be in time any more."""
        for job in jobs:
            if job.deadline > -math.inf:  # else it was let in without hope
                self._admission.missed(self, job.tier, now)
            if self._ladder and now <= self._entries[job.payload].deadline:
                self.instead.add(job.payload)
            self.leave(job, now if self._ladder else None)

    def while_busy(self, now: float) -> float:
        """No executor is free: who waits in vain is told so, if somebody can; when to look again."""
        if not self._apart:
            return math.inf
        late = self._dispatcher.late(now)
        if late is not None:
            self.misses(late.jobs, now)
        return self._dispatcher.late_from

    def begins(self, batch: Batch[int], now: float) -> None:
        """An executor works on a batch."""
        bisect.insort(self._ends, now + batch.expected)

    def ends(self, batch: Batch[int], now: float) -> None:
        """A batch is answered."""
        self._ends.pop(0)
        for job in batch.jobs:
            self.leave(job, now)


def simulate(
    requests: Sequence[Request],
    policy: Policy,
    cost: Callable[[int], float],
    *,
    executors: int = 1,
    door: Door | None = None,
) -> Outcome:
    """Runs `requests`, sorted by time, on `executors`; `cost` gives the seconds that a batch of so many rows takes.

    `door`: what lets them in; without it, everybody joins those that wait.
    """
    outcome = Outcome(np.full(len(requests), np.inf))
    running: list[tuple[float, int, Batch[int], float]] = []  # ends at, number, batch, lasted
    now, coming, alarm, started = 0.0, 0, math.inf, 0
    while coming < len(requests) or running or alarm < math.inf:
        arrival = requests[coming].at if coming < len(requests) else math.inf
        now = min(arrival, running[0][0] if running else math.inf, alarm)
        alarm = math.inf
        while running and running[0][0] <= now:
            ended, _, batch, lasted = heapq.heappop(running)
            policy.done(batch.rows, lasted, tried=batch.reason == TRIAL)
            if door is not None:
                door.ends(batch, ended)
            outcome.ended(batch, ended)
        while coming < len(requests) and requests[coming].at <= now:
            one = requests[coming]
            job = Job(one.rows, one.at, one.at + one.patience, coming, one.tier)
            waits = job if door is None else door.lets_in(job, one.caller)
            if waits is not None:
                policy.add(waits, now)
            coming += 1
        while len(running) < executors:
            decision = policy.next(now, others_busy=len(running) == executors - 1)
            if isinstance(decision, Late):
                if door is not None:
                    door.misses(decision.jobs, now)
                continue
            if isinstance(decision, Wait):
                alarm = max(decision.until, math.nextafter(now, math.inf))
            if not isinstance(decision, Batch):
                break
            if door is not None:
                door.begins(decision, now)
            lasted = cost(decision.rows)
            started += 1
            heapq.heappush(running, (now + lasted, started, decision, lasted))
            outcome.began(decision, lasted)
        if door is not None and len(running) == executors:
            alarm = max(door.while_busy(now), math.nextafter(now, math.inf))
    return outcome


def _is_a_policy(dispatcher: Dispatcher[int]) -> Policy:
    return dispatcher
